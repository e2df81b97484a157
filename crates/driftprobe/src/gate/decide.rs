//! What a gate decides, and by what.

use super::GuardrailVerdict;
use super::apply::PresetResult;
use super::baseline;
use super::guardrail::Overall;
use super::matrix;
use crate::analysis::Analysis;
use crate::pair::place::describe_row;
use crate::verdict::{SubVerdict, Verdict};
use driftprobe_trace::Mode;

/// One of the things that can decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deciding {
    /// The noise model's verdict.
    Noise,
    /// The presets that were asked for, all of them.
    Presets,
    /// No worse than the baseline.
    Baseline,
}

impl Deciding {
    /// As it is spelled on the command line.
    pub const fn id(self) -> &'static str {
        match self {
            Deciding::Noise => "noise",
            Deciding::Presets => "preset",
            Deciding::Baseline => "baseline",
        }
    }
}

/// The noise model's verdict on a run, both modes together.
#[derive(Clone, Debug, PartialEq)]
pub struct Noise {
    /// The verdict.
    pub verdict: Verdict,
    /// What kind of PASS.
    pub sub_verdict: Option<SubVerdict>,
    /// The code of the cause.
    pub root_cause: Option<&'static str>,
    /// Why, in a sentence.
    pub why: String,
    /// The first failure's place.
    pub first_failure: Option<String>,
    /// Codes of the reasons, each with its count.
    pub reasons: Vec<(&'static str, u64)>,
}

impl Noise {
    /// What an analysis says.
    pub fn of(analysis: &Analysis) -> Noise {
        let run = &analysis.verdict;
        let place = run.first_failure.as_ref().map(|first| {
            let phase = first.phase.map_or_else(String::new, |phase| format!(" of {phase}"));
            describe_row(&first.prompt_id, first.pos_id, first.layer, &first.point_spelling) + &phase
        });
        Noise {
            verdict: run.verdict,
            sub_verdict: run.sub_verdict,
            root_cause: run.root_cause,
            why: run.root_cause_why.clone(),
            first_failure: place,
            reasons: run.reasons.iter().map(|reason| (reason.code.id(), reason.count)).collect(),
        }
    }

    /// The verdict with what kind of PASS, or the cause.
    pub fn said(&self) -> String {
        let sub = self.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", sub.id()));
        let cause = self.root_cause.map_or_else(String::new, |code| format!(" · {code}"));
        format!("{}{sub}{cause}", self.verdict.id())
    }

    /// The first failure, why, and the reasons' codes; empty for a PASS without any.
    pub fn details(&self) -> String {
        let first = self.first_failure.as_ref().map(|place| format!("first failure: {place}"));
        let reasons = self.reasons.iter().map(|(code, count)| format!("{code} ({count})"));
        let reasons = Some(reasons.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty());
        let why = Some(self.why.clone()).filter(|_| self.verdict != Verdict::Pass);
        [first, why, reasons].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// One mode of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectMode {
    /// The mode, if recorded.
    pub mode: Option<Mode>,
    /// What each preset came to.
    pub presets: Vec<PresetResult>,
}

/// A run, or two dumps of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// What it is called.
    pub name: String,
    /// The noise model's verdict; `None`: there are logits alone, which have no stages to judge.
    pub noise: Option<Noise>,
    /// Its modes.
    pub modes: Vec<SubjectMode>,
    /// How it compares with the baseline, if there is one.
    pub baseline: Option<baseline::Outcome>,
}

impl Subject {
    /// The presets' verdicts that count; of none, INCONCLUSIVE.
    fn presets(&self) -> Verdict {
        let all = self.modes.iter().flat_map(|mode| &mode.presets);
        Verdict::worst(all.filter(|result| result.counts).map(|result| result.verdict))
    }

    /// What one of the things that can decide says of it.
    pub fn verdict(&self, deciding: Deciding) -> Verdict {
        match deciding {
            Deciding::Noise => self.noise.as_ref().map_or(Verdict::Inconclusive, |noise| noise.verdict),
            Deciding::Presets => self.presets(),
            Deciding::Baseline => self.baseline.as_ref().map_or(Verdict::Inconclusive, |baseline| baseline.verdict),
        }
    }
}

/// What a gate came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// The runs.
    pub subjects: Vec<Subject>,
    /// What decides; of runs that are logits alone the presets, whatever it is.
    pub deciding: Vec<Deciding>,
    /// The matrix, if there is one.
    pub matrix: Option<matrix::Outcome>,
    /// The guardrail on all of them, if it was asked for.
    pub guardrail: Option<Overall>,
    /// The worst of what decides; INCONCLUSIVE if a cell of the matrix is missing and nothing fails.
    pub verdict: Verdict,
    /// One sentence for each thing that decided.
    pub why: Vec<String>,
}

impl Gate {
    /// Decides.
    pub fn decide(subjects: Vec<Subject>, deciding: &[Deciding], matrix: Option<matrix::Outcome>) -> Gate {
        let mut verdicts = Vec::new();
        let mut why = Vec::new();
        for subject in &subjects {
            for deciding in deciding_for(subject, deciding) {
                let verdict = subject.verdict(deciding);
                why.push(format!("{}: {} by {}", subject.name, verdict.id(), deciding.id()));
                verdicts.push(verdict);
            }
        }
        if subjects.is_empty() {
            why.push("INCONCLUSIVE: there is no run".to_owned());
        }
        let complete = matrix.as_ref().map(matrix::Outcome::is_complete);
        if let (Some(false), Some(matrix)) = (complete, &matrix) {
            why.push(format!(
                "matrix: INCOMPLETE, {} of {} cells are missing",
                matrix.missing().count(),
                matrix.cells.len()
            ));
            verdicts.push(Verdict::Inconclusive);
        }
        let all = subjects.iter().flat_map(|subject| &subject.modes).flat_map(|mode| &mode.presets);
        let named: Vec<GuardrailVerdict> = all.filter_map(|result| result.guardrail).collect();
        let asked = !named.is_empty();
        Gate {
            verdict: Verdict::worst(verdicts),
            guardrail: asked.then(|| Overall::of(&named, complete)),
            deciding: deciding.to_vec(),
            subjects,
            matrix,
            why,
        }
    }

    /// What decided, of all runs together.
    pub fn decided_by(&self) -> Vec<Deciding> {
        let mut all: Vec<Deciding> =
            self.subjects.iter().flat_map(|subject| deciding_for(subject, &self.deciding)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Exit status of a program that reports this gate.
    pub fn exit_code(&self) -> u8 {
        self.verdict.exit_code()
    }
}

/// What decides on one run: of logits alone, which have no stages, the presets in place of the noise model.
pub fn deciding_for(subject: &Subject, deciding: &[Deciding]) -> Vec<Deciding> {
    let mut all: Vec<Deciding> = deciding.to_vec();
    if subject.noise.is_none() {
        all.iter_mut().filter(|one| **one == Deciding::Noise).for_each(|one| *one = Deciding::Presets);
    }
    all.sort_unstable();
    all.dedup();
    all
}

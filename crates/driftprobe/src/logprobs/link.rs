//! From a token whose log-probabilities part to the first tensor that does: what a trace of that token says.

use super::Pair;
use crate::analysis::Analysis;
use crate::judge::PairVerdict;
use crate::pair::place::describe_row;
use crate::report::suspects::cause_in_words;
use crate::verdict::{FirstFailure, SubVerdict, Verdict};
use std::sync::Arc;

/// What a trace of one token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The token's sequence.
    pub sequence: Arc<str>,
    /// Its index.
    pub index: u64,
    /// Where the run lies.
    pub run: String,
    /// The verdict on it.
    pub verdict: Verdict,
    /// What kind of PASS.
    pub sub_verdict: Option<SubVerdict>,
    /// The first tensor that drifts, or is at fault: prompt, position, layer and point. `None`: all are bit-equal.
    pub first: Option<String>,
    /// Layer of it; −1 where the point has none.
    pub layer: Option<i32>,
    /// Point of it.
    pub point: Option<String>,
    /// The phase at fault, where the evidence says which.
    pub phase: Option<&'static str>,
    /// `FAULT`, `STRUCTURAL` (rounding), or what else is said of the pair there.
    pub kind: Option<&'static str>,
    /// Bugs that explain the first fault of each phase, in words.
    pub causes: Vec<String>,
    /// Ids of the first one.
    pub cause_ids: Vec<&'static str>,
    /// In a sentence.
    pub says: String,
    /// Δ of the token by the logits that the run holds; `None`: not recorded.
    pub delta: Option<f64>,
}

impl Link {
    /// What an analysis says of the run that lies at `run` and was recorded of this token, whose Δ is there `delta`.
    pub fn of(pair: &Pair, analysis: &Analysis, run: String, delta: Option<f64>) -> Link {
        let verdict = &analysis.verdict;
        let first = verdict.first_failure.as_ref().or(verdict.first_difference.as_ref());
        let kind = first.and_then(|first| kind(analysis, first));
        let place = first.map(|first| describe_row(&first.prompt_id, first.pos_id, first.layer, &first.point_spelling));
        let phase = first.and_then(|first| first.phase).map(|phase| phase.id());
        let causes = || crate::report::terminal::found_causes(analysis);
        let ids = causes().next().map(|cause| cause.candidates.iter().map(|candidate| candidate.id).collect());
        let mut link = Link {
            sequence: pair.sequence.clone(),
            index: pair.index,
            run,
            verdict: verdict.verdict,
            sub_verdict: verdict.sub_verdict,
            layer: first.map(|first| first.layer),
            point: first.map(|first| first.point_spelling.to_string()),
            first: place,
            phase,
            kind,
            causes: causes().map(cause_in_words).collect(),
            cause_ids: ids.unwrap_or_default(),
            says: String::new(),
            delta,
        };
        link.says = link.sentence(&verdict.root_cause_why);
        link
    }

    fn sentence(&self, why: &str) -> String {
        let Some(first) = &self.first else {
            return "every tensor is bit-equal in both phases".to_owned();
        };
        let of = self.phase.map_or_else(String::new, |phase| format!(" of {phase}"));
        match (self.verdict, self.kind) {
            (Verdict::Pass, _) => format!("the first tensor that drifts is {first}; all drift of the run is rounding"),
            (Verdict::Fail, Some("FAULT")) => format!(
                "the first tensor at fault is {first}{of}: not what its own inputs and the model give, by more than rounding"
            ),
            (Verdict::Fail, _) => format!("the first tensor at fault is {first}{of}: {why}"),
            (Verdict::Inconclusive, _) => format!("the first tensor that drifts is {first}{of}; {why}"),
        }
    }

    /// Whether the run shows what was measured; `None`: it holds no logits.
    pub fn reproduces(&self, pair: &Pair) -> Option<bool> {
        self.delta.map(|delta| shows(Some(delta), pair.delta()))
    }
}

/// Whether a run in which Δ is `found` shows the Δ that was measured: a half of it at least; or that it is no number.
pub fn shows(found: Option<f64>, measured: f64) -> bool {
    found.is_some_and(|found| match measured.is_finite() {
        true => found * measured > 0.0 && found.abs() >= measured.abs() / 2.0,
        false => !found.is_finite(),
    })
}

/// What is said of the pair at which a run first parts.
fn kind(analysis: &Analysis, first: &FirstFailure) -> Option<&'static str> {
    use crate::verdict::Parting;
    match first.parting {
        Parting::Fault => Some(PairVerdict::Fault.id()),
        Parting::NonFinite => Some(PairVerdict::NonFinite.id()),
        Parting::Unpaired => Some(PairVerdict::Missing.id()),
        Parting::Differs => first.pair.and_then(|at| analysis.pairs.get(at)).map(|pair| pair.verdict.id()),
    }
}

#[cfg(test)]
mod tests {
    use super::shows;

    #[test]
    fn a_run_shows_what_was_measured_if_it_has_a_half_of_it_and_its_sign() {
        let cases = [(1.0, 1.0, true), (0.5, 1.0, true), (0.49, 1.0, false), (-1.0, 1.0, false), (3.0, 1.0, true)];
        for (found, measured, expected) in cases {
            assert_eq!(shows(Some(found), measured), expected, "{found} {measured}");
        }
        assert!(!shows(None, 1.0) && !shows(Some(0.0), 1.0) && !shows(Some(f64::NAN), 1.0));
        assert!(shows(Some(f64::NAN), f64::NAN) && !shows(Some(1.0), f64::NAN));
    }
}

//! The table of false alarms: clean runs, every judgement of them counted.

use super::case::{Shape, judged, recorded};
use super::contracts::{Contract, STORAGES};
use super::gates::{Gates, pairs};
use super::{Bench, work};
use anyhow::Result;
use driftprobe::judge::attribute::in_words;
use driftprobe::oracle::stats::Limits;
use driftprobe::oracle::{Outcome, StageJudgement};
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{Analysis, Verdict};
use driftprobe_engine::EmbeddedEngine;
use driftprobe_trace::Point;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What clean runs of one storage gave.
#[derive(Default)]
pub struct Clean {
    pub runs: usize,
    pub passes: usize,
    /// Runs that were not simulated, and have nothing else against them.
    pub open: usize,
    pub judged: u64,
    pub exact: u64,
    pub flagged: u64,
    pub unjudged: BTreeMap<String, u64>,
    pub findings: u64,
    pub scores: u64,
    pub scores_flagged: u64,
    pub tokens: u64,
    pub tokens_flagged: u64,
    pub gaps: u64,
    pub gaps_flagged: u64,
    pub skipped: u64,
    /// Largest RMS of a cell, |z|, E3 and E2, as shares of their limits.
    pub largest: [f64; 4],
    pub alarms: Vec<String>,
    pub gates: Gates,
}

impl Clean {
    pub fn is_silent(&self) -> bool {
        self.alarms.is_empty()
    }

    fn merge(&mut self, other: Clean) {
        for (mine, theirs) in [
            (&mut self.judged, other.judged),
            (&mut self.exact, other.exact),
            (&mut self.flagged, other.flagged),
            (&mut self.findings, other.findings),
            (&mut self.scores, other.scores),
            (&mut self.scores_flagged, other.scores_flagged),
            (&mut self.tokens, other.tokens),
            (&mut self.tokens_flagged, other.tokens_flagged),
            (&mut self.gaps, other.gaps),
            (&mut self.gaps_flagged, other.gaps_flagged),
            (&mut self.skipped, other.skipped),
        ] {
            *mine += theirs;
        }
        self.runs += other.runs;
        self.passes += other.passes;
        self.open += other.open;
        for (why, count) in other.unjudged {
            *self.unjudged.entry(why).or_default() += count;
        }
        for (mine, theirs) in self.largest.iter_mut().zip(other.largest) {
            *mine = mine.max(theirs);
        }
        self.alarms.extend(other.alarms);
        self.gates.merge(other.gates);
    }
}

/// A run's limits are those of its kind of stage. Q and K that enter the rotary embedding are norms' only where a model has such.
fn limits(point: Point, qk_norm: bool) -> Limits {
    use Point::*;
    match point {
        QPostRope | KPostRope => Limits::ROPE,
        AttnOut => Limits::ATTENTION,
        QPreRope | KPreRope if !qk_norm => Limits::PLAIN,
        AttnNormOut | FfnNormOut | FinalNormOut | AttnPostNormOut | MlpPostNormOut | QPreRope | KPreRope
        | AttnProbs => Limits::NORM,
        _ => Limits::PLAIN,
    }
}

fn count(analysis: &Analysis, what: &str, qk_norm: bool) -> Clean {
    let mut all = Clean { runs: 1, ..Clean::default() };
    let not_simulated = analysis.examination.iter().any(|e| !e.study.skipped.is_empty());
    let open = [ReasonCode::Differs, ReasonCode::NotJudged];
    let is_open = analysis.verdict.reasons.iter().all(|r| open.contains(&r.code));
    match analysis.verdict.verdict {
        Verdict::Pass => all.passes = 1,
        // Of a prompt that was not simulated, cached rows of earlier positions are not known.
        Verdict::Inconclusive if not_simulated && is_open => all.open = 1,
        verdict => {
            let reasons: Vec<String> = analysis.verdict.reasons.iter().map(|r| format!("{r:?}")).collect();
            all.alarms.push(format!("{what}: {}: {}", verdict.id(), reasons.join("; ")));
        }
    }
    let Some(examination) = &analysis.examination else { return all };
    for stage in examination.phases.iter().flat_map(|phase| &phase.stages) {
        match &stage.outcome {
            Outcome::Unjudged(why) => {
                let why = format!("{}: {why}", stage.point);
                let why = why.split(" of layer").next().unwrap_or_default().to_owned();
                *all.unjudged.entry(why).or_default() += 1;
                continue;
            }
            Outcome::Exact { .. } => all.exact += 1,
            Outcome::Clean(s) | Outcome::Flagged { statistics: s, .. } => {
                let limits = limits(stage.point, qk_norm);
                let shares = [
                    s.cell.1 / limits.rms,
                    s.element.1 / limits.max,
                    s.unrounded.1 / limits.unrounded,
                    s.score / driftprobe::oracle::stats::ScoreTest::LIMIT,
                ];
                all.largest.iter_mut().zip(shares).for_each(|(largest, share)| *largest = largest.max(share));
            }
            Outcome::Mismatch { .. } => {}
        }
        all.judged += 1;
        if stage.outcome.is_fault() {
            all.flagged += 1;
            let StageJudgement { point, layer, phase, pos, outcome, .. } = stage;
            all.alarms.push(format!("{what}: {point} of layer {layer}, {phase}, {pos}: {}", in_words(outcome)));
        }
    }
    for test in examination.phases.iter().flat_map(|phase| &phase.systematic) {
        all.scores += 1;
        if test.test.is_flagged() {
            all.scores_flagged += 1;
            all.alarms.push(format!("{what}: {test:?}"));
        }
        all.largest[3] = all.largest[3].max(test.test.score() / driftprobe::oracle::stats::ScoreTest::LIMIT);
    }
    all.findings = examination.contract_findings.len() as u64;
    all.alarms.extend(examination.contract_findings.iter().map(|f| format!("{what}: {f:?}")));
    let study = &examination.study;
    (all.tokens, all.gaps) = (study.tokens.len() as u64, study.gaps.len() as u64);
    all.tokens_flagged = study.tokens.iter().filter(|t| t.flagged).count() as u64;
    all.gaps_flagged = study.gaps.iter().filter(|g| g.flagged).count() as u64;
    all.skipped = study.skipped.len() as u64;
    all
}

/// Prompts of clean runs: two ordinary recordings, and long contexts.
fn shapes(quick: bool) -> Vec<Shape> {
    let shape = |lengths: &[usize], steps, seed| Shape { lengths: lengths.to_vec(), steps, seed };
    if quick {
        return vec![shape(&[9, 40], 2, 1)];
    }
    vec![shape(&[5, 24], 6, 1), shape(&[60], 8, 5), shape(&[33, 130], 8, 2), shape(&[350], 16, 3)]
}

/// Operations that a clean run's simulation may take.
const BUDGET_FLOPS: f64 = 1.5e9;

/// Every contract on each of its models.
pub fn table(bench: &Bench) -> Result<Vec<(String, Clean)>> {
    let mut jobs = Vec::new();
    for (number, contract) in bench.contracts().into_iter().enumerate() {
        for (at, model) in contract.models.iter().copied().enumerate() {
            jobs.extend(shapes(bench.quick).into_iter().map(|shape| (contract.clone(), model, shape)));
            // Models take turns, but for the trained one, whose context is shorter.
            let turn = if contract.models.len() == 1 { 0 } else { 1 + number % (contract.models.len() - 1) };
            if !bench.quick && at == turn {
                jobs.push((contract.clone(), model, Shape { lengths: vec![2040], steps: 8, seed: 4 }));
            }
        }
    }
    let done = work::each("clean runs", &jobs, |(contract, model, shape)| {
        Ok((contract.storage, one(bench, contract, model, shape)?))
    })?;
    let mut by_storage: BTreeMap<&str, Clean> = BTreeMap::new();
    for (storage, clean) in done {
        by_storage.entry(storage).or_default().merge(clean);
    }
    Ok(STORAGES.iter().filter_map(|s| Some(((*s).to_owned(), by_storage.remove(s)?))).collect())
}

fn one(bench: &Bench, contract: &Contract, name: &str, shape: &Shape) -> Result<Clean> {
    let model = bench.model(name);
    let engine = EmbeddedEngine::new(model, contract.settings.clone())?;
    let recorded = recorded(&engine, shape, bench.scratch())?;
    let analysis = judged(model, &recorded.run, &recorded.run, BUDGET_FLOPS);
    let what = format!("{name}, {}, prompts of {:?}", contract.name(), shape.lengths);
    let mut all = count(&analysis, &what, model.config.qk_norm);
    all.gates.clean(&pairs(&analysis, &recorded.run));
    Ok(all)
}

pub fn text(rows: &[(String, Clean)]) -> String {
    let mut text = String::new();
    let mut total = Clean::default();
    text += "| contract | runs | PASS | not simulated | stages judged | of them exact | flagged | score tests | flagged | contract findings | rows against tokens | flagged | largest cell RMS, z, E3, E2 (shares of the limit) |\n";
    text += "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for (name, c) in rows {
        let _ = writeln!(text, "{}", line(name, c));
    }
    for (_, c) in rows {
        for (mine, theirs) in [
            (&mut total.judged, c.judged),
            (&mut total.exact, c.exact),
            (&mut total.flagged, c.flagged),
            (&mut total.scores, c.scores),
            (&mut total.scores_flagged, c.scores_flagged),
            (&mut total.findings, c.findings),
            (&mut total.tokens, c.tokens),
            (&mut total.tokens_flagged, c.tokens_flagged),
            (&mut total.gaps, c.gaps),
            (&mut total.gaps_flagged, c.gaps_flagged),
            (&mut total.skipped, c.skipped),
        ] {
            *mine += theirs;
        }
        (total.runs, total.passes, total.open) = (total.runs + c.runs, total.passes + c.passes, total.open + c.open);
        for (mine, theirs) in total.largest.iter_mut().zip(c.largest) {
            *mine = mine.max(theirs);
        }
        for (why, count) in &c.unjudged {
            *total.unjudged.entry(why.clone()).or_default() += count;
        }
    }
    let _ = writeln!(text, "{}", line("**all**", &total));
    let unjudged: u64 = total.unjudged.values().sum();
    let _ = writeln!(
        text,
        "\nNot judged: {unjudged} stages{}. Prompts too long to simulate here: {}.",
        total.unjudged.iter().map(|(why, n)| format!("; {n}: {why}")).collect::<String>(),
        total.skipped
    );
    let alarms: Vec<&String> = rows.iter().flat_map(|(_, c)| &c.alarms).collect();
    if !alarms.is_empty() {
        let _ = writeln!(text, "\nAlarms ({}):\n", alarms.len());
        alarms
            .iter()
            .take(20)
            .for_each(|alarm| text += &format!("- `{}`\n", alarm.chars().take(400).collect::<String>()));
    }
    text
}

fn line(name: &str, c: &Clean) -> String {
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.2}, {:.2}, {:.2}, {:.2} |",
        c.runs,
        c.passes,
        c.open,
        c.judged,
        c.exact,
        c.flagged,
        c.scores,
        c.scores_flagged,
        c.findings,
        c.tokens,
        c.tokens_flagged,
        c.largest[0],
        c.largest[1],
        c.largest[2],
        c.largest[3]
    )
}

//! No worse than a baseline: each stage of each phase against the same rows of another run.
//!
//! What is worse is ordered or statistical, never a bare ratio. *Ordered*: a run's verdict, or a stage's worst row, stands lower
//! (bit-equal, clean, clean by an undeclared arithmetic, not judged, at fault). *Statistical*: noise units (the mean square of
//! z of a row) or drift (the relative L2 distance of a pair) have risen: Student's t of ln(run/baseline) over witnesses, each
//! p held against α by the number of tests (Holm–Bonferroni). Of noise units, which are made anew at each stage, a witness
//! is a row, by layer and over all layers; rows alike in both numbers are one. Drift is handed on from row to row, so that a
//! prompt is one witness.

use crate::analysis::Analysis;
use crate::judge::{JudgedPair, PairVerdict};
use crate::oracle::{Outcome as StageOutcome, StageJudgement};
use crate::simulate::student::upper_tail;
use crate::verdict::Verdict;
use driftprobe_trace::{Manifest, Phase, Point};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Chance of calling a run worse that is not, over all tests together.
pub const ALPHA: f64 = 1e-3;
/// Rows below which a stage is not tested.
const WITNESSES_MIN: usize = 3;

/// How a stage's worst row stands, from the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Bit-equal in both phases.
    Identical,
    /// Within rounding.
    Clean,
    /// Within the rounding of an arithmetic that is not declared.
    Contract,
    /// Not judged, or not comparable.
    Undecided,
    /// At fault, or not finite.
    Fault,
}

impl Grade {
    const fn of(verdict: PairVerdict) -> Grade {
        match verdict {
            PairVerdict::Identical => Grade::Identical,
            PairVerdict::Structural | PairVerdict::Inherited => Grade::Clean,
            PairVerdict::Contract => Grade::Contract,
            PairVerdict::Missing | PairVerdict::Undecided => Grade::Undecided,
            PairVerdict::Fault | PairVerdict::NonFinite => Grade::Fault,
        }
    }

    /// In words.
    pub const fn id(self) -> &'static str {
        match self {
            Grade::Identical => "bit-equal",
            Grade::Clean => "clean",
            Grade::Contract => "undeclared arithmetic",
            Grade::Undecided => "not judged",
            Grade::Fault => "at fault",
        }
    }
}

/// One thing in which the run is worse.
#[derive(Clone, Debug, PartialEq)]
pub struct Worse {
    /// The stage: layer (none: all layers), point and phase (none: the pair).
    pub place: String,
    /// What is worse.
    pub what: String,
}

/// How a run compares with its baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// PASS: no worse; FAIL: worse; INCONCLUSIVE: the two cannot be compared, and why.
    pub verdict: Verdict,
    /// What is worse, in the order of the computation.
    pub worse: Vec<Worse>,
    /// Why the two cannot be compared.
    pub reasons: Vec<String>,
    /// Stages compared.
    pub stages: usize,
    /// Tests made.
    pub tests: usize,
}

/// Compares a run with its baseline, mode by mode: (run, baseline). `lacking` says which mode one of them does not have.
pub fn compare(modes: &[(&Analysis, &Analysis)], lacking: Vec<String>) -> Outcome {
    let mut outcome = Outcome { verdict: Verdict::Inconclusive, worse: vec![], reasons: lacking, stages: 0, tests: 0 };
    for (run, baseline) in modes {
        outcome.reasons.extend(unlike(run, baseline));
    }
    outcome.reasons.dedup();
    if modes.is_empty() {
        outcome.reasons.push("no mode of the run is in the baseline".to_owned());
    }
    if outcome.reasons.is_empty() {
        let mut tests = Vec::new();
        for (run, baseline) in modes {
            ordered(run, baseline, &mut outcome);
            collect(run, baseline, &mut tests);
        }
        outcome.tests = tests.len();
        outcome.worse.extend(risen(tests));
    }
    outcome.verdict = match (outcome.worse.is_empty(), outcome.reasons.is_empty() && outcome.stages > 0) {
        (false, _) => Verdict::Fail,
        (true, true) => Verdict::Pass,
        (true, false) => Verdict::Inconclusive,
    };
    outcome
}

/// In what two runs are not of the same thing.
fn unlike(run: &Analysis, baseline: &Analysis) -> Vec<String> {
    let (Some(ours), Some(theirs)) = (&run.manifest, &baseline.manifest) else {
        return vec!["one of the two has no manifest: whether they are of the same thing is not known".to_owned()];
    };
    let fingerprint = |manifest: &Manifest| manifest.model.as_ref().and_then(|model| model.fingerprint.clone());
    let prompts = |manifest: &Manifest| -> Option<BTreeMap<String, Vec<u32>>> {
        let prompts = manifest.prompts.as_ref()?;
        Some(prompts.iter().map(|prompt| (prompt.id.clone(), prompt.tokens.clone())).collect())
    };
    let layers = |manifest: &Manifest| manifest.layers.as_ref().map(|all| all.iter().copied().collect::<BTreeSet<_>>());
    let points = |manifest: &Manifest| {
        let points = manifest.points.as_ref()?;
        Some(Phase::ALL.map(|phase| points.of(phase).iter().copied().collect::<BTreeSet<Point>>()))
    };
    let mut out = Vec::new();
    let mut tell = |what: &str, same: bool, known: bool| match (known, same) {
        (false, _) => out.push(format!("the {what} of one of the two is not known")),
        (true, false) => out.push(format!("the {what} differs")),
        (true, true) => {}
    };
    let (a, b) = (fingerprint(ours), fingerprint(theirs));
    tell("model (its fingerprint)", a == b, a.is_some() && b.is_some());
    let (a, b) = (prompts(ours), prompts(theirs));
    tell("set of prompts (ids and tokens)", a == b, a.is_some() && b.is_some());
    tell("number of steps", ours.steps == theirs.steps, ours.steps.is_some() && theirs.steps.is_some());
    let (a, b) = (layers(ours), layers(theirs));
    tell("set of layers", a == b, a.is_some() && b.is_some());
    let (a, b) = (points(ours), points(theirs));
    tell("set of points", a == b, a.is_some() && b.is_some());
    tell("mode", ours.mode == theirs.mode, true);
    // Noise units are those of the declared arithmetic: under another one they are another unit.
    tell("contract", ours.contract == theirs.contract, true);
    for (name, analysis) in [("run", run), ("baseline", baseline)] {
        if !ours.complete
            || !theirs.complete
            || analysis.coverage.missing > 0
            || analysis.coverage.unpaired > analysis.one_phase_rows()
        {
            out.push(format!("the {name} is not complete, or rows of it are missing or unpaired"));
        }
        if analysis.examination.is_none() {
            out.push(format!("the {name} was not held against its model"));
        }
    }
    out
}

type StageKey = (Point, i32);

fn mode_of(analysis: &Analysis) -> &'static str {
    analysis.manifest.as_ref().and_then(|manifest| manifest.mode).map_or("", |mode| mode.id())
}

fn place(mode: &str, layer: Option<i32>, point: Point, phase: Option<Phase>) -> String {
    let layer = match layer {
        Some(layer) if layer >= 0 => format!(" of layer {layer}"),
        Some(_) => String::new(),
        None if point.layered() => " of all layers".to_owned(),
        None => String::new(),
    };
    let phase = phase.map_or_else(String::new, |phase| format!(", {phase}"));
    let mode = if mode.is_empty() { String::new() } else { format!(" ({mode})") };
    format!("{point}{layer}{phase}{mode}")
}

/// Verdicts that stand lower than the baseline's.
fn ordered(run: &Analysis, baseline: &Analysis, outcome: &mut Outcome) {
    let mode = mode_of(run);
    let rank = |verdict: Verdict| match verdict {
        Verdict::Pass => 0,
        Verdict::Inconclusive => 1,
        Verdict::Fail => 2,
    };
    let (ours, theirs) = (run.verdict.verdict, baseline.verdict.verdict);
    if rank(ours) > rank(theirs) {
        let what = format!("{}, the baseline {}", ours.id(), theirs.id());
        outcome.worse.push(Worse {
            place: format!("the verdict{}", if mode.is_empty() { String::new() } else { format!(" ({mode})") }),
            what,
        });
    }
    // The worst row of each stage, by the phase at fault where only one is.
    let grades = |analysis: &Analysis| {
        let mut grades: BTreeMap<(StageKey, Option<Phase>), Grade> = BTreeMap::new();
        for pair in &analysis.pairs {
            let key = (pair.prefill.point, pair.prefill.layer);
            let grade = Grade::of(pair.verdict);
            let phases = match (grade, pair.phase) {
                (Grade::Fault, Some(phase)) => vec![Some(phase)],
                (Grade::Fault, None) => vec![Some(Phase::Prefill), Some(Phase::Decode)],
                _ => vec![],
            };
            for phase in phases.into_iter().chain([None]) {
                let worst = grades.entry((key, phase)).or_insert(grade);
                *worst = grade.max(*worst);
            }
        }
        grades
    };
    let (ours, theirs) = (grades(run), grades(baseline));
    outcome.stages += ours.keys().filter(|(_, phase)| phase.is_none()).count();
    for ((key, phase), grade) in &ours {
        let before = theirs.get(&(*key, *phase)).copied();
        // A fault of one phase that the baseline does not have is told by its phase; the pair's own grade then says no more.
        let told = phase.is_none() && *grade == Grade::Fault;
        let was = before.unwrap_or(Grade::Clean);
        if *grade > was && !told {
            let what = format!("{}, in the baseline {}", grade.id(), before.map_or("not at fault", Grade::id));
            outcome.worse.push(Worse { place: place(mode, Some(key.1), key.0, *phase), what });
        }
    }
}

/// ln(run/baseline) of one stage's rows.
struct Test {
    place: String,
    what: &'static str,
    logs: Vec<f64>,
    /// Rows that are above zero in the run and zero in the baseline.
    from_zero: usize,
}

/// A row: prompt, index of the token, layer and point.
type RowKey = (Arc<str>, u64, i32, Point);

/// The tests of one mode: of noise units by phase, and of drift, by layer and over all layers.
fn collect(run: &Analysis, baseline: &Analysis, tests: &mut Vec<Test>) {
    let mode = mode_of(run);
    for side in [Some(Phase::Prefill), Some(Phase::Decode), None] {
        let measure = |analysis: &Analysis| -> BTreeMap<RowKey, f64> {
            let of = |pair: &JudgedPair| Some((row_key(pair)?, number(pair, side)?));
            analysis.pairs.iter().filter_map(of).collect()
        };
        let (ours, theirs) = (measure(run), measure(baseline));
        let mut groups: BTreeMap<(Point, Option<i32>), Vec<Row>> = BTreeMap::new();
        for (key, ours) in &ours {
            let Some(theirs) = theirs.get(key) else { continue };
            let (layer, point) = (key.2, key.3);
            let row = (key.0.clone(), *ours, *theirs);
            if point.layered() && side.is_some() {
                groups.entry((point, None)).or_default().push(row.clone());
            }
            groups.entry((point, Some(layer))).or_default().push(row);
        }
        let what = if side.is_some() { "noise units" } else { "drift" };
        for ((point, layer), rows) in groups {
            let from_zero = rows.iter().filter(|(_, ours, theirs)| *ours > 0.0 && *theirs == 0.0).count();
            let logs = if side.is_some() { by_row(rows) } else { by_prompt(&rows) };
            tests.push(Test { place: place(mode, layer, point, side), what, logs, from_zero });
        }
    }
}

/// A row's prompt, its number in the run and in the baseline.
type Row = (Arc<str>, f64, f64);

fn log((_, ours, theirs): &Row) -> Option<f64> {
    (*ours > 0.0 && *theirs > 0.0).then(|| (ours / theirs).ln())
}

/// One witness a row; rows that are the same over and over are one.
fn by_row(mut rows: Vec<Row>) -> Vec<f64> {
    rows.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.2.total_cmp(&b.2)));
    rows.dedup_by(|a, b| (a.1.to_bits(), a.2.to_bits()) == (b.1.to_bits(), b.2.to_bits()));
    rows.iter().filter_map(log).collect()
}

/// One witness a prompt: the mean over its rows.
fn by_prompt(rows: &[Row]) -> Vec<f64> {
    let mut prompts: BTreeMap<&Arc<str>, (f64, usize)> = BTreeMap::new();
    for row in rows {
        if let Some(log) = log(row) {
            let (sum, count) = prompts.entry(&row.0).or_default();
            (*sum, *count) = (*sum + log, *count + 1);
        }
    }
    prompts.into_values().map(|(sum, count)| sum / count as f64).collect()
}

fn row_key(pair: &JudgedPair) -> Option<RowKey> {
    let event = &pair.prefill;
    Some((event.prompt_id.clone(), event.token_index()?, event.layer, event.point))
}

/// Mean z² of one phase's row, or the pair's relative L2 distance.
fn number(pair: &JudgedPair, side: Option<Phase>) -> Option<f64> {
    let units = |stage: &StageJudgement| match &stage.outcome {
        StageOutcome::Clean(statistics) | StageOutcome::Flagged { statistics, .. } => Some(statistics.rms.powi(2)),
        _ => None,
    };
    match side {
        Some(Phase::Prefill) => pair.stages[0].as_ref().and_then(units),
        Some(Phase::Decode) => pair.stages[1].as_ref().and_then(units),
        None => pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2),
    }
}

/// The tests that say that something has risen, by Holm's procedure.
fn risen(tests: Vec<Test>) -> Vec<Worse> {
    let p_value = |test: &Test| {
        let n = test.logs.len();
        if n < WITNESSES_MIN {
            return 1.0;
        }
        let mean = test.logs.iter().sum::<f64>() / n as f64;
        let squares = test.logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>();
        let error = (squares / (n as f64 * (n as f64 - 1.0))).sqrt();
        let t = if error > 0.0 { mean / error } else { mean.signum() * f64::INFINITY };
        // All of them unchanged.
        if mean == 0.0 { 1.0 } else { upper_tail(t, n as f64 - 1.0) }
    };
    let mut ps: Vec<(usize, f64)> = tests.iter().map(p_value).enumerate().collect();
    ps.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let total = ps.len();
    let count = ps.iter().enumerate().take_while(|(rank, (_, p))| *p <= ALPHA / (total - rank) as f64).count();
    let mut chosen: Vec<(usize, f64)> = ps.into_iter().take(count).collect();
    chosen.sort_unstable_by_key(|(at, _)| *at);
    let text = |(at, p): (usize, f64)| {
        let test = tests.get(at)?;
        let factor = (test.logs.iter().sum::<f64>() / test.logs.len().max(1) as f64).exp();
        let what = format!(
            "{} {factor:.3} times the baseline's over {} witnesses, p = {p:.1e}{}",
            test.what,
            test.logs.len(),
            if test.from_zero > 0 { format!(", and {} that were zero", test.from_zero) } else { String::new() }
        );
        Some(Worse { place: test.place.clone(), what })
    };
    chosen.into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftprobe_testkit::Dice;

    /// About normal: the sum of twelve uniform numbers less six.
    fn normal(dice: &mut Dice) -> f64 {
        (0..12).map(|_| dice.below(1 << 24) as f64 / f64::from(1 << 24)).sum::<f64>() - 6.0
    }

    fn tests_of(dice: &mut Dice, count: usize, rows: usize, shift: f64) -> Vec<Test> {
        let logs = |dice: &mut Dice| (0..rows).map(|_| 0.2 * normal(dice) + shift).collect();
        let test = |at: usize, logs| Test { place: at.to_string(), what: "noise units", logs, from_zero: 0 };
        (0..count).map(|at| test(at, logs(dice))).collect()
    }

    #[test]
    fn chance_is_not_called_a_rise() {
        let mut dice = Dice(3);
        let called: usize = (0..100).map(|_| risen(tests_of(&mut dice, 100, 8, 0.0)).len()).sum();
        assert_eq!(called, 0, "of 10,000 tests in 100 families");
        assert!(risen(tests_of(&mut dice, 100, 8, -0.5)).is_empty(), "a fall is no rise");
    }

    #[test]
    fn a_rise_is_found_and_only_where_it_is() {
        let mut dice = Dice(4);
        let mut all = tests_of(&mut dice, 100, 12, 0.0);
        let raised = tests_of(&mut dice, 1, 12, 0.7).remove(0);
        all[37].logs = raised.logs;
        let found = risen(all);
        assert_eq!(found.iter().map(|one| one.place.as_str()).collect::<Vec<_>>(), ["37"]);
        assert!(found[0].what.contains("times the baseline's"), "{}", found[0].what);
    }

    #[test]
    fn equal_rows_and_few_witnesses_are_no_evidence() {
        let test = |logs: Vec<f64>| Test { place: "p".into(), what: "drift", logs, from_zero: 0 };
        assert!(risen(vec![test(vec![0.0; 50]), test(vec![]), test(vec![5.0, 5.1])]).is_empty());
        // Rows alike in both numbers are one witness, whatever their number.
        let row = |n: f64| (Arc::from("p"), 2.0 * n, n);
        assert_eq!(by_row(vec![row(1.0), row(1.0), row(3.0)]).len(), 2);
        assert_eq!(by_prompt(&[row(1.0), row(3.0), (Arc::from("q"), 1.0, 0.0)]), [2f64.ln()]);
    }
}

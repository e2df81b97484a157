//! A run's analysis, or two runs compared, as cases: one for each stage, and one for the verdict.

use super::{Case, Outcome, Suite};
use crate::analysis::Analysis;
use crate::compare::Comparison;
use crate::judge::{JudgedPair, PairVerdict};
use crate::pair::place::{Part, describe};
use crate::verdict::Verdict;
use crate::verdict::reason::Reason;
use driftprobe_trace::Point;
use std::collections::BTreeMap;

/// The verdict, and each point of each layer: failed where a row is at fault or not finite, an error where one is open.
pub fn of_analysis(analysis: &Analysis) -> Vec<Suite> {
    let name = |analysis: &Analysis| {
        let mode = analysis.manifest.as_ref().and_then(|manifest| manifest.mode);
        mode.map_or_else(|| "run".to_owned(), |mode| mode.id().to_owned())
    };
    let run = &analysis.verdict;
    let verdict = verdict(run.verdict, &run.root_cause_why, &run.reasons);
    let mut suites = vec![Suite { name: "verdict".to_owned(), cases: vec![verdict] }];
    for mode in std::iter::once(analysis).chain(analysis.aligned.as_deref()) {
        suites.push(Suite { name: name(mode), cases: stages(&mode.pairs) });
    }
    suites
}

/// The verdict on each phase, and each point of each layer.
pub fn of_comparisons(comparisons: &[Comparison]) -> Vec<Suite> {
    let suite = |one: &Comparison| {
        let mut cases = vec![verdict(one.verdict, &one.why, &one.reasons)];
        cases.extend(stages(&one.pairs));
        Suite { name: format!("{} against {}, {}", one.names[0], one.names[1], one.phase), cases }
    };
    comparisons.iter().map(suite).collect()
}

fn verdict(verdict: Verdict, why: &str, reasons: &[Reason]) -> Case {
    let message: Vec<String> = std::iter::once(why.to_owned()).chain(reasons.iter().map(Reason::to_string)).collect();
    let message = message.join("\n");
    let outcome = match verdict {
        Verdict::Pass => Outcome::Passed,
        Verdict::Fail => Outcome::Failed { kind: "FAIL", message },
        Verdict::Inconclusive => Outcome::Error { kind: "INCONCLUSIVE", message },
    };
    Case { class: "verdict".to_owned(), name: "verdict".to_owned(), outcome, details: String::new() }
}

fn stages(pairs: &[JudgedPair]) -> Vec<Case> {
    let mut stages: BTreeMap<(Part, i32, Point), Vec<&JudgedPair>> = BTreeMap::new();
    for pair in pairs {
        stages.entry((pair.place.part, pair.prefill.layer, pair.prefill.point)).or_default().push(pair);
    }
    let case = |((_, layer, point), pairs): ((Part, i32, Point), Vec<&JudgedPair>)| {
        let class = if layer < 0 { "model".to_owned() } else { format!("layer {layer}") };
        let worst = pairs.iter().max_by_key(|pair| (rank(pair.verdict), std::cmp::Reverse(pair.place)));
        let count = |least: u8| pairs.iter().filter(|pair| rank(pair.verdict) >= least).count();
        let outcome = match worst {
            Some(pair) if rank(pair.verdict) > 0 => {
                let findings = pair.findings.iter().map(|finding| format!("{}: {}", finding.code.id(), finding.detail));
                let of = format!(
                    "{} of {} pairs; first {}",
                    count(rank(pair.verdict)),
                    pairs.len(),
                    describe(&pair.prefill)
                );
                let message = std::iter::once(of).chain(findings).collect::<Vec<_>>().join("\n");
                let kind = pair.verdict.id();
                if rank(pair.verdict) > 1 {
                    Outcome::Failed { kind, message }
                } else {
                    Outcome::Error { kind, message }
                }
            }
            _ => Outcome::Passed,
        };
        Case { class, name: point.id().to_owned(), outcome, details: String::new() }
    };
    stages.into_iter().map(case).collect()
}

/// 2: wrong, 1: open, 0: well.
const fn rank(verdict: PairVerdict) -> u8 {
    match verdict {
        PairVerdict::Fault | PairVerdict::NonFinite => 2,
        PairVerdict::Missing | PairVerdict::Undecided => 1,
        _ => 0,
    }
}

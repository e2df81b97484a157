//! Finishing the search: a fault between two recorded layers is looked for again with those layers recorded.

use crate::analysis::Analysis;
use crate::verdict::Parting;
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Layers that one round of the search records at most.
const LAYERS_A_ROUND: usize = 8;

/// Layers that were not recorded and in which a fault lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// The phase that leaves what the model gives.
    pub phase: Phase,
    /// The prompt in which it was seen.
    pub prompt_id: Arc<str>,
    /// The first of the layers.
    pub first: usize,
    /// The last of them.
    pub last: usize,
}

impl Between {
    /// The layers to record: all of them, or as many as one round takes, evenly spread.
    pub fn layers(&self) -> BTreeSet<usize> {
        let count = self.last + 1 - self.first;
        let wanted = count.min(LAYERS_A_ROUND);
        (0..wanted).map(|at| self.first + (at * count + count / 2) / wanted.max(1)).map(|l| l.min(self.last)).collect()
    }
}

/// Where the first fault of an analysis lies between recorded layers, if it does. `layers` is how many the model has.
pub fn between(analysis: &Analysis, layers: usize) -> Option<Between> {
    let examination = analysis.examination.as_ref()?;
    let first = analysis.verdict.first_failure.as_ref().filter(|first| first.parting == Parting::Fault)?;
    let here = |gap: &&crate::simulate::Gap| {
        gap.flagged && gap.prompt_id == first.prompt_id && (gap.to.point, gap.to.layer) == (first.point, first.layer)
    };
    let gap = examination.study.gaps.iter().find(here)?;
    let start = usize::try_from(gap.from.layer + 1).ok()?;
    let end = if gap.to.layer < 0 { layers } else { usize::try_from(gap.to.layer).ok()? };
    // Within a recorded layer nothing is gained by recording it again.
    let whole = gap.from.point == Point::ResidualPostMlp || gap.from.point == Point::EmbedOut;
    (whole && start < end).then(|| Between {
        phase: gap.phase,
        prompt_id: gap.prompt_id.clone(),
        first: start,
        last: end - 1,
    })
}

/// The layers that a run was asked to record.
pub fn recorded_layers(analysis: &Analysis) -> BTreeSet<i32> {
    analysis.manifest.iter().flat_map(|manifest| manifest.layers.iter().flatten().copied()).collect()
}

/// An analysis with the rounds of the search that followed it; the last one's finding is its own.
pub fn with_search(mut analysis: Analysis, rounds: Vec<Arc<Analysis>>) -> Analysis {
    let open = analysis.verdict.first_failure.as_ref().is_some_and(|first| first.parting == Parting::Fault);
    if let Some(last) = rounds.last().filter(|_| open)
        && let Some(found) = &last.verdict.first_failure
        && found.parting == Parting::Fault
    {
        let names: Vec<String> = recorded_layers(last).iter().map(i32::to_string).collect();
        analysis.verdict.root_cause = last.verdict.root_cause;
        analysis.verdict.root_cause_why =
            format!("recorded again with layers {}: {}", names.join(", "), last.verdict.root_cause_why);
        let mut first = found.clone();
        (first.pair, first.last_equal) = (None, None);
        analysis.verdict.first_failure = Some(first);
    }
    analysis.search = rounds;
    if open {
        analysis.advice = crate::advice::advise(&analysis);
    }
    analysis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_layers_are_all_recorded_and_many_evenly() {
        let between = |first, last| Between { phase: Phase::Decode, prompt_id: Arc::from("p"), first, last };
        assert_eq!(between(3, 3).layers(), BTreeSet::from([3]));
        assert_eq!(between(5, 7).layers(), BTreeSet::from([5, 6, 7]));
        let many = between(9, 79).layers();
        assert_eq!(many.len(), LAYERS_A_ROUND);
        assert!(many.iter().all(|layer| (9..=79).contains(layer)));
    }
}

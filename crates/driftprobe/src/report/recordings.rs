//! The recordings that a report is about: the run as designed, with prefill's cache, and the rounds of its search.

use crate::analysis::Analysis;
use crate::search::recorded_layers;
use crate::verdict::hypotheses::modes;

/// One recording of a run.
#[derive(Clone, Debug)]
pub struct Recording<'a> {
    /// Its mode, or which round of the search it is.
    pub name: String,
    /// What is said of it.
    pub analysis: &'a Analysis,
    /// Whether it is a round of the search.
    pub is_search: bool,
}

/// Every recording of a run: its modes, then the rounds of its search.
pub fn recordings(analysis: &Analysis) -> Vec<Recording<'_>> {
    let modes = modes(analysis).into_iter();
    let modes = modes.map(|(name, analysis)| Recording { name: name.to_owned(), analysis, is_search: false });
    let rounds = (1..).zip(&analysis.search).map(|(number, round)| {
        let layers: Vec<String> = recorded_layers(round).iter().map(i32::to_string).collect();
        let name = format!("search {number}: layers {}", layers.join(", "));
        Recording { name, analysis: round.as_ref(), is_search: true }
    });
    modes.chain(rounds).collect()
}

/// The recording whose rows show the first failure; this one where no other does.
pub fn showing_failure(analysis: &Analysis) -> &Analysis {
    let Some(first) = analysis.verdict.first_failure.as_ref().filter(|first| first.pair.is_none()) else {
        return analysis;
    };
    let is_it = |other: &&Analysis| {
        other.verdict.first_failure.as_ref().is_some_and(|found| {
            let place = |one: &crate::verdict::FirstFailure| (one.pos_id, one.layer, one.point);
            found.pair.is_some() && found.prompt_id == first.prompt_id && place(found) == place(first)
        })
    };
    let rounds = analysis.search.iter().rev().map(|round| round.as_ref());
    // Where the other mode's verdict is the worse one, its rows show the failure, if any do.
    let worse = analysis.own_verdict.is_some_and(|own| own != analysis.verdict.verdict);
    let aligned = analysis.aligned.as_deref();
    rounds.chain(aligned).find(is_it).or(aligned.filter(|_| worse)).unwrap_or(analysis)
}

//! Rows that were recorded twice, by a run and by a round of its search: are they the same?

use crate::analysis::Analysis;
use crate::pair::place::describe;
use driftprobe_trace::{Event, HashAlgo, Mode, Phase, Point, RowHash};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows that a run and a round of its search have both recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differing {
    /// How many have another hash the second time.
    pub rows: u64,
    /// How many both have, with hashes over the whole row.
    pub of: u64,
    /// The first that differs: phase, place and mode.
    pub first: Option<String>,
}

type Key = (Phase, Arc<str>, i32, Point, Option<u64>, Option<u64>);

/// Holds the rows of a round against those that the run has of the same places, mode by mode.
pub fn differing(analysis: &Analysis, round: &Analysis) -> Differing {
    let mut found = Differing::default();
    let of_run = [Some(analysis), analysis.aligned.as_deref()];
    let of_round = [Some(round), round.aligned.as_deref()];
    for (ours, theirs) in
        of_run.into_iter().flatten().flat_map(|ours| of_round.into_iter().flatten().map(move |t| (ours, t)))
    {
        if mode(ours) == mode(theirs) {
            hold(&mut found, ours, theirs);
        }
    }
    found
}

fn mode(analysis: &Analysis) -> Option<Mode> {
    analysis.manifest.as_ref().and_then(|manifest| manifest.mode)
}

fn hold(found: &mut Differing, ours: &Analysis, theirs: &Analysis) {
    let known: BTreeMap<Key, RowHash> = events(ours).filter_map(|event| Some((key(event), whole(event)?))).collect();
    for event in events(theirs) {
        let (Some(before), Some(now)) = (known.get(&key(event)), whole(event)) else { continue };
        found.of += 1;
        if *before != now {
            found.rows += 1;
            let place = || format!("{} {}", event.phase, describe(event));
            found.first.get_or_insert_with(place);
        }
    }
}

/// Every event, of both phases, that has a partner or none.
fn events(analysis: &Analysis) -> impl Iterator<Item = &Event> {
    let pairs = analysis.pairs.iter().flat_map(|pair| [&pair.prefill, &pair.decode]);
    pairs.chain(analysis.unpaired.iter().map(|one| &one.event))
}

fn key(event: &Event) -> Key {
    (event.phase, event.prompt_id.clone(), event.layer, event.point, event.logical_tok_idx, event.pos_id)
}

fn whole(event: &Event) -> Option<RowHash> {
    event.hash.filter(|hash| hash.algo == HashAlgo::Xxh3_64)
}

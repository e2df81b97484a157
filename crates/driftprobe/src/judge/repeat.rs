//! Self-repeats: does the engine give the same bits when it runs the same phase again, and if not, how far apart?
//!
//! The distance between a phase and its repeat is the engine's own noise floor: a difference between the phases below it
//! says nothing of them.

use crate::evidence::{Bits, Side, compare};
use crate::pair::pair;
use crate::pair::place::Places;
use driftprobe_trace::{Event, Phase, Rows, Run};

/// One phase of a run against the same phase of a repeat.
#[derive(Clone, Debug, PartialEq)]
pub struct RepeatOutcome {
    /// Number of the repeat, from 1.
    pub repeat: u32,
    /// The phase.
    pub phase: Phase,
    /// Rows that pair.
    pub paired: u64,
    /// Rows that are bit-equal over their whole length.
    pub equal: u64,
    /// Rows that are equal as far as they were sampled.
    pub equal_as_sampled: u64,
    /// Rows that differ.
    pub differing: u64,
    /// Rows that could not be compared.
    pub not_comparable: u64,
    /// Rows of the run that the repeat lacks, and rows of the repeat that the run lacks.
    pub without_partner: [u64; 2],
    /// The first row that differs, as `prompt, position, layer, point`.
    pub first_differing: Option<String>,
    /// How far differing rows are apart at most, where payloads or samples show it.
    pub noise: Option<NoiseFloor>,
}

/// Largest distances between rows and their repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseFloor {
    /// Rows measured.
    pub rows: u64,
    /// Largest max |d − p|.
    pub max_abs: f64,
    /// Largest relative L2 distance; `None` where every reference row is all zero.
    pub rel_l2: Option<f64>,
}

/// Compares both phases of `run` with each of its repeats, in order.
pub fn compare_repeats(run: &Run, rows: &dyn Rows, places: &Places) -> Vec<RepeatOutcome> {
    let mut out = vec![];
    for (number, repeat) in (1u32..).zip(&run.repeats) {
        let number = repeat.manifest.as_ref().map_or(number, |manifest| manifest.repeat.max(1));
        for phase in Phase::ALL {
            out.push(compare_phase(run, rows, repeat, (number, phase), places));
        }
    }
    out
}

fn compare_phase(
    run: &Run,
    rows: &dyn Rows,
    repeat: &Run,
    (number, phase): (u32, Phase),
    places: &Places,
) -> RepeatOutcome {
    let of = |events: &'_ [Event]| -> Vec<usize> {
        (0..events.len()).filter(|&index| events.get(index).is_some_and(|event| event.phase == phase)).collect()
    };
    let select = |events| -> Vec<&Event> { of(events).into_iter().filter_map(|index| events.get(index)).collect() };
    let (ours, theirs) = (select(&run.events), select(&repeat.events));
    let pairing = pair(&ours, &theirs);
    let mut links: Vec<(&Event, &Event)> = (pairing.links.iter())
        .filter_map(|link| Some((*ours.get(link.reference)?, *theirs.get(link.candidate)?)))
        .collect();
    links.sort_by_key(|(event, _)| (places.of(event), event.logical_tok_idx, event.token_id));
    let mut out = RepeatOutcome {
        repeat: number,
        phase,
        paired: links.len() as u64,
        equal: 0,
        equal_as_sampled: 0,
        differing: 0,
        not_comparable: 0,
        without_partner: [pairing.reference_loose.len() as u64, pairing.candidate_loose.len() as u64],
        first_differing: None,
        noise: None,
    };
    for (ours, theirs) in links {
        let (reference, candidate) = (Side::load(ours, rows), Side::load(theirs, repeat));
        if reference.damage.is_some() || candidate.damage.is_some() {
            out.not_comparable += 1;
            continue;
        }
        let comparison = compare(&reference, &candidate);
        match comparison.bits {
            Bits::Equal { .. } => out.equal += 1,
            Bits::EqualAsSampled { .. } => out.equal_as_sampled += 1,
            Bits::Incomparable { .. } => out.not_comparable += 1,
            Bits::Differ { .. } => {
                out.differing += 1;
                out.first_differing.get_or_insert_with(|| crate::pair::place::describe(ours));
                if let Some(numbers) = comparison.numbers {
                    widen(&mut out.noise, numbers.max_abs, numbers.rel_l2);
                }
            }
        }
    }
    out
}

/// Takes one more distance into the floor; NaN stays.
fn widen(noise: &mut Option<NoiseFloor>, max_abs: f64, rel_l2: Option<f64>) {
    let larger = |one: f64, other: f64| if one.is_nan() || other <= one { one } else { other };
    *noise = Some(match *noise {
        None => NoiseFloor { rows: 1, max_abs, rel_l2 },
        Some(floor) => NoiseFloor {
            rows: floor.rows + 1,
            max_abs: larger(floor.max_abs, max_abs),
            rel_l2: match (floor.rel_l2, rel_l2) {
                (Some(one), Some(other)) => Some(larger(one, other)),
                (one, other) => one.or(other),
            },
        },
    });
}

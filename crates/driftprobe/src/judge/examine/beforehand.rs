//! Some stages of a prompt judged by themselves, so that several machines can share a long one.

use super::{Oracle, Sound, same_model};
use crate::oracle::Input;
use crate::oracle::replay::Beforehand;
use crate::pair::spelling;
use driftprobe_trace::{Event, Rows, Run};
use std::collections::BTreeSet;

/// Judges the wanted stages of a run of one prompt, as [`crate::analyze_against`] would: what goes into
/// [`Oracle::beforehand`]. None where the model is not that of the run: whoever judges the prompt will say so.
pub fn beforehand(
    (run, rows): (&Run, &dyn Rows),
    oracle: &Oracle<'_>,
    wanted: &(dyn Fn(Input) -> bool + Sync),
) -> Option<Beforehand> {
    let merged = spelling::merge(run);
    let run = merged.as_ref().map_or(run, |merged| &merged.run);
    same_model(run, oracle.model).ok()?;
    let replay = oracle.replay(run);
    let places = replay.reads(wanted);
    let is_read = |event: &&Event| places.contains(&Input { point: event.point, layer: event.layer });
    let payload = |event: &Event| event.payload.clone().map(|payload| (payload.file, payload.key));
    let read: BTreeSet<_> = run.events.iter().filter(is_read).filter_map(payload).collect();
    // Any event that says where a row lies may show that it is not what was recorded.
    let of_read = |event: &&Event| payload(event).is_some_and(|payload| read.contains(&payload));
    let sound = Sound::of(rows, run.events.iter().filter(of_read));
    Some(replay.beforehand(&run.events, &sound, wanted).unwrap_or_default())
}

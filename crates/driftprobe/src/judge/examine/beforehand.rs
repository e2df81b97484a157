//! Some stages of a prompt judged by themselves, so that several machines can share a long one.

use super::{Oracle, Sound, same_model};
use crate::oracle::Input;
use crate::oracle::replay::Beforehand;
use crate::pair::spelling;
use driftprobe_trace::{Event, Rows, Run};

/// Judges the wanted stages of a run of one prompt, as [`crate::analyze_against`] would: what goes into
/// [`Oracle::beforehand`]. None, where the model is not that of the run, or a payload cannot be read; whoever judges the
/// prompt will say so.
pub fn beforehand(
    (run, rows): (&Run, &dyn Rows),
    oracle: &Oracle<'_>,
    wanted: &(dyn Fn(Input) -> bool + Sync),
) -> Beforehand {
    let merged = spelling::merge(run);
    let run = merged.as_ref().map_or(run, |merged| &merged.run);
    if same_model(run, oracle.model).is_err() {
        return Beforehand::default();
    }
    let replay = oracle.replay(run);
    let places = replay.reads(wanted);
    let is_read = |event: &&Event| places.contains(&Input { point: event.point, layer: event.layer });
    let sound = Sound::of(rows, run.events.iter().filter(is_read));
    replay.beforehand(&run.events, &sound, wanted).unwrap_or_default()
}

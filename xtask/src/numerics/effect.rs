//! How large a fault's own effect is: D = √(Σd²/σ²) of what it changes at its own stage, d against the clean run.

use driftprobe::oracle::{Outcome, Replay};
use driftprobe_model::Model;
use driftprobe_trace::{ContractFields, Dtype, Event, Phase, Point, Row, Rows, Run, TraceError};

/// A stage of one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub phase: Phase,
    pub point: Point,
    pub layer: i32,
}

impl Place {
    pub fn of(event: &Event) -> Place {
        Place { phase: event.phase, point: event.point, layer: event.layer }
    }
}

/// So many times the effect is enlarged, so that the clean row's own rounding does not count.
const ENLARGED: f64 = 1e6;

/// The clean run's rows, at one place with the enlarged difference.
struct Enlarged<'a> {
    clean: &'a Run,
    faulty: &'a Run,
    place: Place,
}

impl Enlarged<'_> {
    /// The clean row and the faulty one.
    fn both(&self, event: &Event) -> Result<Option<(Row, Row)>, TraceError> {
        let is_same = |other: &&Event| {
            Place::of(other) == self.place
                && other.prompt_id == event.prompt_id
                && other.logical_tok_idx == event.logical_tok_idx
        };
        let Some(other) = self.faulty.events.iter().find(is_same) else { return Ok(None) };
        Ok(self.clean.row(event)?.zip(self.faulty.row(other)?))
    }
}

impl Rows for Enlarged<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        if Place::of(event) != self.place {
            return self.clean.row(event);
        }
        let Some((clean, faulty)) = self.both(event)? else { return Ok(None) };
        let moved = clean.values().zip(faulty.values()).map(|(x, y)| if x == y { x } else { x + ENLARGED * (y - x) });
        let bytes = moved.flat_map(f64::to_le_bytes).collect();
        Ok(Row::new(Dtype::F64, clean.shape.clone(), bytes).ok())
    }
}

/// D over all rows of the place; infinite where the stage has no freedom, where rows are not finite or of other lengths,
/// and where nothing judges it.
pub fn effect(model: &Model, (clean, faulty): (&Run, &Run), place: Place) -> f64 {
    let enlarged = Enlarged { clean, faulty, place };
    let replay = Replay::new(model, clean.manifest.as_ref());
    let only = replay.only(place.point, place.phase, &ContractFields::default());
    let Ok(judged) = only.phase(&clean.events, &enlarged, place.phase) else { return f64::INFINITY };
    let mut squares = 0.0;
    for stage in judged.stages.iter().filter(|stage| stage.layer == place.layer) {
        squares += match &stage.outcome {
            // The elements of a norm's row have their largest error in common: they are one witness and not many.
            Outcome::Clean(s) | Outcome::Flagged { statistics: s, .. } if is_norm(place.point) => s.rms * s.rms,
            Outcome::Clean(s) | Outcome::Flagged { statistics: s, .. } => s.rms * s.rms * s.compared as f64,
            Outcome::Exact { .. } => 0.0,
            Outcome::Mismatch { .. } | Outcome::Unjudged(_) => f64::INFINITY,
        };
    }
    if squares.is_finite() { squares.sqrt() / ENLARGED } else { f64::INFINITY }
}

fn is_norm(point: Point) -> bool {
    use Point::*;
    matches!(point, AttnNormOut | AttnPostNormOut | FfnNormOut | MlpPostNormOut | FinalNormOut)
}

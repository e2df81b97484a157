//! Stretches of the computation that are not recorded: a jump in one is found where the record begins again.
//!
//! From the recorded residual before the stretch the exact computation goes on through the model's own stages, over cached
//! rows of earlier positions that come from the tokens. How far the next recorded residual is from that is held against the
//! same distance of draws, each replayed from its own residual.

use super::measure::{Limits, Measure};
use super::record::View;
use super::study::Scene;
use super::token::{Tokens, says_more};
use crate::oracle::stage::Input;
use driftprobe_trace::{Phase, Point, TraceError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A stretch that is not recorded, at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The phase.
    pub phase: Phase,
    /// Index of the token.
    pub pos: usize,
    /// The last recorded residual; `embed_out` where there is none.
    pub from: Input,
    /// The next recorded row.
    pub to: Input,
    /// Whether that row is recorded whole; else a sample or statistics of it were looked at.
    pub whole: bool,
    /// Distance from the replayed row, in units of the RMS of the draws'.
    pub ratio: f64,
    /// By how many standard deviations of the draws' its logarithm is larger than theirs.
    pub score: f64,
    /// The cached rows of earlier positions are known to be wrong in this phase already, so that a jump is inherited.
    pub inherited: bool,
    /// Whether there is a jump that is not inherited.
    pub flagged: bool,
}

/// Where the replay of one position stands.
#[derive(Clone, Copy)]
struct Since {
    from: Input,
    /// Something between there and here is not recorded.
    hole: bool,
    /// The cached rows of earlier positions were known to be wrong there.
    inherited: bool,
}

/// Gaps of one prompt, as they come.
#[derive(Default)]
pub struct Gaps {
    since: BTreeMap<(Phase, usize), Since>,
    all: Vec<Gap>,
}

impl Gaps {
    /// Looks at a place: measures where a residual is recorded, and goes on from there.
    pub fn look(&mut self, place: Input, scene: &mut Scene<'_, '_>, tokens: &Tokens) -> Result<(), TraceError> {
        for phase in Phase::ALL {
            for pos in scene.record.all_positions(phase) {
                let start = Since { from: Input { point: Point::EmbedOut, layer: -1 }, hole: false, inherited: false };
                let since = *self.since.entry((phase, pos)).or_insert(start);
                let views = scene.record.views(phase, place, pos)?;
                let row = views.first().and_then(View::row);
                let is_hole = row.is_none() && !is_spared(place.point);
                if since.hole && !views.is_empty() && ends_stretch(place.point) {
                    self.measure(scene, (phase, place, pos), &views, since);
                }
                let mut next = Since { hole: since.hole || is_hole, ..since };
                if let Some(row) = row.filter(|row| is_residual(place.point) && row.iter().all(|x| x.is_finite())) {
                    restart(scene, (phase, place.point, pos), row);
                    next = Since { from: place, hole: false, inherited: is_context_wrong(scene, tokens, phase) };
                }
                self.since.insert((phase, pos), next);
            }
        }
        Ok(())
    }

    fn measure(
        &mut self,
        scene: &Scene<'_, '_>,
        (phase, place, pos): (Phase, Input, usize),
        views: &[View],
        since: Since,
    ) {
        let row = |lane: &usize| scene.lockstep.row(*lane, place.point, pos);
        let cast = scene.cast;
        let (Some(replayed), Some(draws), Some(replays)) =
            (cast.replay.get(&phase).and_then(row), cast.draws.get(&phase), cast.replayed_draws.get(&phase))
        else {
            return;
        };
        let unit = scene.unit(phase);
        let measures = views.iter().map(|view| {
            let pairs = draws.iter().zip(replays);
            // Rounding is in proportion to what is rounded, and a fault before the stretch may have made that larger.
            let scale = size(replayed);
            let one = |(draw, replay)| {
                let replay = row(replay)?;
                Some(view.distance_of(row(draw)?, replay) * scale / size(replay))
            };
            let of_draws: Vec<f64> = pairs.filter_map(one).collect();
            (Measure::of(view.distance(replayed), &of_draws, view.floor(replayed, unit)), view.len())
        });
        let worst = measures.reduce(|worst, other| if says_more(other, worst) { other } else { worst });
        let Some((measure, values)) = worst else { return };
        let exceeds = measure.exceeds(Limits::of(values));
        let inherited = since.inherited && exceeds;
        self.all.push(Gap {
            prompt_id: scene.prompt_id.clone(),
            phase,
            pos,
            from: since.from,
            to: place,
            whole: views.first().is_some_and(|view| view.row().is_some()),
            ratio: measure.ratio,
            score: measure.score,
            inherited,
            flagged: exceeds && !inherited,
        });
    }

    /// The gaps.
    pub fn finish(self) -> Vec<Gap> {
        self.all
    }
}

/// Sum of squares; never 0.
fn size(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().max(f64::MIN_POSITIVE)
}

/// Whether the cached rows that a phase reads of positions which are not its own are flagged: in prefill all, in decode
/// those before its first step.
fn is_context_wrong(scene: &Scene<'_, '_>, tokens: &Tokens, phase: Phase) -> bool {
    let first = match phase {
        Phase::Prefill => usize::MAX,
        Phase::Decode => scene.record.all_positions(phase).first().copied().unwrap_or(0),
    };
    tokens.is_context_flagged(phase, first)
}

/// The replays of a position go on from what is recorded, and those of the draws from the draws.
fn restart(scene: &mut Scene<'_, '_>, (phase, point, pos): (Phase, Point, usize), recorded: &[f64]) {
    let cast = scene.cast;
    if let Some(replay) = cast.replay.get(&phase) {
        scene.lockstep.replace((*replay, point, pos), recorded);
    }
    let pairs = cast.draws.get(&phase).zip(cast.replayed_draws.get(&phase));
    for (draw, replay) in pairs.into_iter().flat_map(|(draws, replays)| draws.iter().zip(replays)) {
        if let Some(row) = scene.lockstep.row(*draw, point, pos).map(<[f64]>::to_vec) {
            scene.lockstep.replace((*replay, point, pos), &row);
        }
    }
}

/// Points that hold all that the later computation of a position needs, beside the cache.
fn is_residual(point: Point) -> bool {
    use Point::*;
    matches!(point, EmbedOut | ResidualPreAttn | ResidualPostAttn | ResidualPostMlp | FinalNormIn)
}

/// Points at which a jump is looked for.
fn ends_stretch(point: Point) -> bool {
    is_residual(point) || matches!(point, Point::FinalNormOut | Point::Logits | Point::AttnNormOut)
}

/// Points that may be missing without a loss: copies, and what a fused attention does not have.
fn is_spared(point: Point) -> bool {
    use Point::*;
    matches!(point, ResidualPreAttn | FinalNormIn | AttnScores | AttnProbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_as_large_as_its_squares() {
        assert_eq!((size(&[3.0, -4.0]), size(&[0.0])), (25.0, f64::MIN_POSITIVE));
    }

    #[test]
    fn a_replay_goes_on_from_residuals_and_ends_there_or_at_norms_of_them_and_logits() {
        use Point::*;
        let which = |is: fn(Point) -> bool| Point::ALL.iter().copied().filter(|point| is(*point)).collect::<Vec<_>>();
        let residuals = [EmbedOut, ResidualPreAttn, ResidualPostAttn, ResidualPostMlp, FinalNormIn];
        assert_eq!(which(is_residual), residuals);
        let others = [AttnNormOut, FinalNormOut, Logits];
        assert!(Point::ALL.iter().all(|p| ends_stretch(*p) == (residuals.contains(p) || others.contains(p))));
        // Copies of a residual, and what a fused attention does not have, may be missing.
        assert_eq!(which(is_spared), [ResidualPreAttn, AttnScores, AttnProbs, FinalNormIn]);
    }
}

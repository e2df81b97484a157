//! The expected matrix: what a run must hold by its own manifest.

use crate::manifest::Manifest;
use crate::{Phase, Point};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One pair that both phases must give.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExpectedKey {
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The row: index of the token in the prompt (`logical_tok_idx`).
    pub logical_tok_idx: u64,
    /// The token fed there.
    pub token_id: u32,
    /// The layer; −1 for unlayered points.
    pub layer: i32,
    /// The point.
    pub point: Point,
}

/// Most rows that a run may promise which is read as a whole; each is held in memory. A larger one is judged prompt by
/// prompt.
pub const PROMISED_ROWS_MAX: u64 = 1 << 25;

impl Manifest {
    /// How many keys [`Manifest::expected`] has, without making them.
    pub fn expected_count(&self) -> Option<u64> {
        let steps = u64::from(self.steps?);
        let places = self.expected_places()?.len() as u64;
        let rows = self.prompts.as_ref()?.iter().map(|prompt| steps.min(prompt.tokens.len() as u64));
        Some(rows.fold(0u64, u64::saturating_add).saturating_mul(places))
    }

    /// The pairs that the run must hold, each in both phases: prompts × k positions × ((layered points × layers) +
    /// unlayered points). Rows are n − 1 … n + k − 2 of a prompt with n + k − 1 tokens. Points that only one phase can give are expected of neither: see
    /// [`Manifest::one_sided_points`].
    ///
    /// Ordered by prompt as in the manifest, then row, layer (unlayered first) and point. `None` if prompts, layers,
    /// points or steps are not known.
    pub fn expected(&self) -> Option<Vec<ExpectedKey>> {
        let prompts = self.prompts.as_ref()?;
        let steps = u64::from(self.steps?);
        let places = self.expected_places()?;
        let mut keys = Vec::new();
        for prompt in prompts {
            let prompt_id: Arc<str> = Arc::from(prompt.id.as_str());
            let skipped = (prompt.tokens.len() as u64).saturating_sub(steps);
            for (row, token) in (0u64..).zip(&prompt.tokens).filter(|(row, _)| *row >= skipped) {
                keys.extend(places.iter().map(|&(layer, point)| ExpectedKey {
                    prompt_id: prompt_id.clone(),
                    logical_tok_idx: row,
                    token_id: *token,
                    layer,
                    point,
                }));
            }
        }
        Some(keys)
    }

    /// The points that were asked of one phase only, with the phase that gives them.
    pub fn one_sided_points(&self) -> Vec<(Point, Phase)> {
        let Some(points) = &self.points else { return Vec::new() };
        let of = |phase| points.of(phase).iter().copied().collect::<BTreeSet<Point>>();
        let (prefill, decode) = (of(Phase::Prefill), of(Phase::Decode));
        let phase_of = |p: &Point| if prefill.contains(p) { Phase::Prefill } else { Phase::Decode };
        prefill.symmetric_difference(&decode).map(|p| (*p, phase_of(p))).collect()
    }

    /// Layer and point of everything expected of one position, unlayered points first; `None` if layers or points are not
    /// known.
    pub fn expected_places(&self) -> Option<Vec<(i32, Point)>> {
        let points = self.points.as_ref()?;
        let layers: BTreeSet<i32> = self.layers.as_ref()?.iter().copied().collect();
        let decode: BTreeSet<Point> = points.of(Phase::Decode).iter().copied().collect();
        let both: BTreeSet<Point> = points.of(Phase::Prefill).iter().copied().filter(|p| decode.contains(p)).collect();
        let unlayered = both.iter().filter(|p| !p.layered()).map(|p| (-1, *p));
        let layered = layers.iter().flat_map(|l| both.iter().filter(|p| p.layered()).map(|p| (*l, *p)));
        Some(unlayered.chain(layered).collect())
    }
}

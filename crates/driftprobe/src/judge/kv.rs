//! What attention works on: the projections' hashes, the scores and probabilities, and whether both phases hold one cache.
//!
//! Nothing here is a verdict: these are the measurements that people ask for first when attention is in doubt.

mod indicators;
mod projections;
mod scores;

pub use indicators::{Consistency, KvIndicator};
pub use projections::{Projection, ProjectionHash, RowOfHash};
pub use scores::{AttentionStatistics, Distribution, Measured, ProbsSummary};

use crate::judge::JudgedPair;
use crate::pair::place::Places;
use driftprobe_model::Config;
use driftprobe_trace::{Event, Rows};

/// The attention evidence of one mode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionEvidence {
    /// Hashes of what the Q, K and V matrices gave: by layer, prompt and tensor.
    pub projections: Vec<ProjectionHash>,
    /// Scores and probabilities: by layer and phase.
    pub statistics: Vec<AttentionStatistics>,
    /// Whether both phases hold the same K and V rows: by layer.
    pub indicators: Vec<KvIndicator>,
}

impl AttentionEvidence {
    /// Of the events of a run, its pairs and, if a model is there, its config. Rows are read one at a time.
    pub fn of(
        events: &[&Event],
        (rows, places): (&dyn Rows, &Places),
        pairs: &[JudgedPair],
        config: Option<&Config>,
    ) -> AttentionEvidence {
        AttentionEvidence {
            projections: projections::of(events, rows, places),
            statistics: scores::of(events, rows, config),
            indicators: indicators::of(pairs),
        }
    }

    /// Whether a projection's hashes tell prompts apart, over all layers and phases: (rows of unlike tokens compared with
    /// another prompt's, of them those whose hash is the other's as well).
    pub fn across_prompts(&self, projection: Projection) -> (u64, u64) {
        projections::across_prompts(&self.projections, projection)
    }
}

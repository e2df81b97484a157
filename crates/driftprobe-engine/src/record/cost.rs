//! What rows take on disk at most: their events, their samples and their payloads, summed over prompts, steps and phases.

use super::Plan;
use super::sizes::Sizes;
use driftprobe_trace::{
    Event, HashAlgo, LogitsTop, Phase, Point, PromptInfo, RowHash, RowStats, SAMPLE_VALUES, Source, element_count,
    sampled_at,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest decimal number, with the comma behind it.
const NUMBER_BYTES: u64 = 25;
/// A tensor's entry in the header of its file beside name and shape, and what its event says beside name and file.
const ENTRY_BYTES: u64 = 130;
/// Longest file name that is made from a prompt's id, and what it says beside the id.
const NAME_BYTES: (u64, u64) = (140, 60);
/// A file's own header, by prompt and phase.
const FILE_BYTES: u64 = 32;

/// What the rows of one place take, over all prompts, steps and phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Rows.
    pub(super) rows: u64,
    /// Bytes of their events with their first values.
    pub(super) event: u64,
    /// What samples spread over the row take beyond that.
    pub(super) sample: u64,
    /// Bytes of their payloads, and of what names them.
    pub(super) payload: u64,
}

/// The costs of every place (layer and point) of a plan for these prompts.
pub(super) fn costs(
    (plan, prompts): (&Plan, &[PromptInfo]),
    sizes: &Sizes,
    samples: u64,
) -> BTreeMap<(i32, Point), Cost> {
    let mut all: BTreeMap<(i32, Point), Cost> = BTreeMap::new();
    let extra = plan.chosen();
    for place in sizes.places() {
        let (phase, layer, point) = place;
        let line = line_bytes(phase, layer, point);
        let cost = all.entry((layer, point)).or_default();
        for prompt in prompts {
            let tokens = prompt.tokens.len() + extra;
            let (id, name) = id_bytes(prompt);
            for end in (tokens + 1).saturating_sub(plan.steps)..=tokens {
                let Some((dtype, shape)) = sizes.row(place, end) else { continue };
                let values = element_count(&shape).unwrap_or(u64::MAX);
                let first = values.min(SAMPLE_VALUES as u64) * NUMBER_BYTES;
                let at = sampled_at(point, &shape, samples);
                let index = values.checked_ilog10().map_or(2, |digits| u64::from(digits) + 2);
                let spread = at.len() as u64 * (NUMBER_BYTES + index) + 16;
                let text = shape_bytes(&shape);
                cost.rows += 1;
                cost.event = cost.event.saturating_add(line + id + text + first);
                cost.sample = cost.sample.saturating_add(spread.saturating_sub(first));
                let bytes = values.saturating_mul(dtype.size_bytes() as u64);
                let key = point.id().len() as u64 + 24;
                cost.payload = cost.payload.saturating_add(bytes).saturating_add(ENTRY_BYTES + name + 2 * key + text);
            }
            cost.payload = cost.payload.saturating_add(FILE_BYTES);
        }
    }
    all
}

/// A prompt's id as JSON, and a file's name made from it.
fn id_bytes(prompt: &PromptInfo) -> (u64, u64) {
    let id = serde_json::to_string(&prompt.id).map_or(u64::MAX, |id| id.len() as u64);
    (id, (3 * prompt.id.len() as u64).min(NAME_BYTES.0) + NAME_BYTES.1)
}

fn shape_bytes(shape: &[u64]) -> u64 {
    shape.iter().map(|size| size.checked_ilog10().map_or(2, |digits| u64::from(digits) + 2)).sum()
}

/// The longest line of an event of this place, without the prompt's id, its shape, sample and payload.
fn line_bytes(phase: Phase, layer: i32, point: Point) -> u64 {
    let number = Some(-f64::MIN_POSITIVE * 1.1);
    let count = Some(u64::from(u32::MAX));
    let longest = if phase == Phase::Prefill { "prefill_last" } else { "decode4294967295" };
    let top = LogitsTop {
        top1_id: Some(u32::MAX),
        top1_logit: number,
        top2_id: Some(u32::MAX),
        top2_logit: number,
        gap: number,
        vocab: count,
    };
    let event = Event {
        prompt_id: Arc::from(""),
        phase,
        phase_spelling: Arc::from(longest),
        point,
        point_spelling: Arc::from(point.id()),
        layer,
        step: count,
        pos_id: count,
        logical_tok_idx: count,
        token_id: Some(u32::MAX),
        seq_len: count,
        kv_len: count,
        dtype: Some(driftprobe_trace::Dtype::Bf16),
        stored_dtype: None,
        shape: Some(vec![]),
        hash: Some(RowHash { algo: HashAlgo::Xxh3_64, value: u64::MAX }),
        stats: RowStats {
            min: number,
            max: number,
            mean: number,
            abs_sum: number,
            nan: count,
            inf: count,
            nz_count: count,
        },
        sample: None,
        payload: None,
        logits: (point == Point::Logits).then_some(top),
        source: Source { file: Arc::from(""), line: 0 },
    };
    // And what names the sample.
    serde_json::to_string(&event).map_or(u64::MAX / 4, |line| line.len() as u64) + 16
}

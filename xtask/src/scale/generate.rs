//! A run of many prompts, written event by event: hashes, statistics and samples of rows that nobody keeps.

use anyhow::Result;
use driftprobe_trace::{
    Event, HashAlgo, MANIFEST_FILE, Manifest, Phase, Point, PointSet, PromptInfo, Row, Sample, TRACES_DIR,
};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Layers that every prompt is traced at.
const LAYERS: i32 = 8;
/// Decode steps.
const STEPS: usize = 30;
/// Tokens before the first traced one.
pub const BEFORE: usize = 40;
/// Values of a row.
const VALUES: usize = 32;
/// Values of a row that its event holds.
const SAMPLE: usize = 8;
/// Prompts whose lines stand in turns in one file, as a server that batches them writes them.
const TOGETHER: usize = 4;
/// Prompts a file.
const A_FILE: usize = 512;
/// Points that layers have.
const LAYERED: [Point; 4] = [Point::ResidualPreAttn, Point::AttnOut, Point::MlpOut, Point::ResidualPostMlp];
/// And those that they do not.
const UNLAYERED: [Point; 2] = [Point::FinalNormOut, Point::Logits];

/// How large it came out.
pub struct Made {
    pub events: u64,
    pub prompts: u64,
    pub bytes: u64,
}

/// Writes a run of about so many events into `dir`, whose two phases agree bit for bit.
pub fn run(dir: &Path, events: u64) -> Result<Made> {
    let places = LAYERED.len() * LAYERS as usize + UNLAYERED.len();
    let of_prompt = (places * STEPS * 2) as u64;
    let count = usize::try_from(events.div_ceil(of_prompt))?;
    let traces = dir.join(TRACES_DIR);
    std::fs::create_dir_all(&traces)?;
    let prompts: Vec<PromptInfo> = (0..count).map(prompt).collect();
    let mut bytes = 0;
    for (number, of_file) in prompts.chunks(A_FILE).enumerate() {
        let path = traces.join(format!("trace-{number:04}.jsonl"));
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        for group in of_file.chunks(TOGETHER) {
            for phase in Phase::ALL {
                for position in BEFORE..BEFORE + STEPS {
                    for prompt in group {
                        position_rows(&mut out, prompt, phase, position)?;
                    }
                }
            }
        }
        out.flush()?;
        bytes += path.metadata()?.len();
    }
    let manifest = Manifest {
        complete: true,
        prompts: Some(prompts),
        layers: Some((0..LAYERS).collect()),
        points: Some(PointSet::Both(LAYERED.into_iter().chain(UNLAYERED).collect())),
        steps: u32::try_from(STEPS).ok(),
        ..Manifest::default()
    };
    std::fs::write(dir.join(MANIFEST_FILE), serde_json::to_vec(&manifest)?)?;
    Ok(Made { events: count as u64 * of_prompt, prompts: count as u64, bytes })
}

fn prompt(number: usize) -> PromptInfo {
    let tokens = (0..BEFORE + STEPS).map(|at| ((number * 31 + at * 7919) % 32_000) as u32).collect();
    PromptInfo { id: format!("prompt-{number:06}"), tokens, ..Default::default() }
}

/// Every row of one token in one phase.
fn position_rows(out: &mut impl Write, prompt: &PromptInfo, phase: Phase, position: usize) -> Result<()> {
    let layered = (0..LAYERS).flat_map(|layer| LAYERED.into_iter().map(move |point| (layer, point)));
    for (layer, point) in layered.chain(UNLAYERED.into_iter().map(|point| (-1, point))) {
        let row = row(prompt, point, layer, position);
        serde_json::to_writer(&mut *out, &event(prompt, phase, (point, layer, position), &row))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Values that no other row has.
fn row(prompt: &PromptInfo, point: Point, layer: i32, position: usize) -> Row {
    let token = prompt.tokens.get(position).copied().unwrap_or_default();
    let mut state = prompt.id.bytes().fold(u64::from(token) << 20, |all, b| all.rotate_left(7) ^ u64::from(b));
    state ^= ((position as u64) << 32) ^ ((layer + 1) as u64 * 0x9e37_79b9) ^ ((point as u64) << 48);
    let values = (0..VALUES).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    });
    Row::from_f32(&values.collect::<Vec<_>>())
}

pub fn event(prompt: &PromptInfo, phase: Phase, (point, layer, position): (Point, i32, usize), row: &Row) -> Event {
    let step = position - BEFORE;
    let (step, seq_len) = match phase {
        Phase::Prefill => (0, prompt.tokens.len()),
        Phase::Decode => (step + 1, 1),
    };
    let sample = row.values().take(SAMPLE).collect();
    Event {
        phase_spelling: phase.spelling(step as u64),
        step: Some(step as u64),
        pos_id: Some(position as u64),
        logical_tok_idx: Some(position as u64),
        token_id: prompt.tokens.get(position).copied(),
        seq_len: Some(seq_len as u64),
        kv_len: Some(position as u64 + 1),
        dtype: Some(row.dtype),
        shape: Some(row.shape.clone()),
        hash: Some(row.hash(HashAlgo::Xxh3_64)),
        stats: row.stats(),
        sample: Some(Sample { values: sample, idx: None }),
        logits: (point == Point::Logits).then(|| row.logits_top()),
        ..Event::at(Arc::from(prompt.id.as_str()), phase, point, layer)
    }
}

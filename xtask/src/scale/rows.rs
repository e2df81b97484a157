//! Runs whose payloads are made when asked for: judged as any other, and larger than any disk.

use super::generate;
use anyhow::{Result, ensure};
use driftprobe::digest::{Digest, Merging, Promise};
use driftprobe::{Options, Verdict, analyze};
use driftprobe_trace::{
    Dtype, Event, HashAlgo, HashCheck, Manifest, PayloadRef, Phase, Point, PointSet, PromptInfo, Row, Rows, Run,
    Source, TraceError,
};
use std::sync::Arc;
use std::time::Instant;

/// Points of every layer.
const POINTS: [Point; 4] = [Point::ResidualPreAttn, Point::AttnOut, Point::MlpOut, Point::ResidualPostMlp];

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub prompts: usize,
    pub layers: usize,
    /// Traced tokens of each prompt.
    pub tokens: usize,
    /// Tokens before them.
    pub context: usize,
    /// Values of a row, f32.
    pub values: usize,
}

impl Shape {
    /// Events of both phases.
    pub fn events(self) -> u64 {
        (self.prompts * self.layers * self.tokens * POINTS.len() * 2) as u64
    }

    /// Bytes of all payloads.
    pub fn bytes(self) -> u64 {
        self.events() * self.values as u64 * 4
    }
}

/// What judging took.
pub struct Judged {
    pub seconds: f64,
    /// Of all threads.
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
}

/// Rows cut out of one buffer, at places that their keys say; the same in both phases.
struct Cut {
    buffer: Vec<u8>,
    values: usize,
}

impl Cut {
    fn new(values: usize) -> Cut {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0).to_le_bytes()
        };
        Cut { buffer: std::iter::repeat_with(next).take(2 * values + (1 << 16)).flatten().collect(), values }
    }

    fn cut(&self, event: &Event) -> Result<Row, TraceError> {
        let place = (event.pos_id.unwrap_or_default() << 24) ^ ((event.layer as u64) << 8) ^ event.point as u64;
        let place = place.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) as usize % (self.values + (1 << 16));
        let bytes = self.buffer.get(4 * place..4 * (place + self.values)).unwrap_or_default().to_vec();
        let refused = |_| TraceError::NotARun { path: "generated".into() };
        Row::new(Dtype::F32, vec![self.values as u64], bytes).map_err(refused)
    }
}

impl Rows for Cut {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        self.cut(event).map(Some)
    }

    fn verify(&self, event: &Event) -> Result<HashCheck, TraceError> {
        event.verify(&self.cut(event)?)
    }
}

/// Judges a run of this shape prompt by prompt, as `analyze --by-prompt` does, and merges.
pub fn judge(shape: Shape) -> Result<Judged> {
    let rows = Cut::new(shape.values);
    let (started, worked) = (Instant::now(), cpu_seconds());
    let mut merging = Merging::default();
    for number in 0..shape.prompts {
        let run = one_prompt(number, shape, &rows)?;
        let analysis = analyze(&run, &rows, Options::default());
        ensure!(analysis.counts.identical == shape.events() / shape.prompts as u64 / 2, "{:?}", analysis.counts);
        merging.take(Digest::of("generated", &id(number), &analysis))?;
    }
    let mut promise = Promise::default();
    promise.add("generated", &(0..shape.prompts).map(id).collect::<Vec<_>>())?;
    let merged = merging.end(&promise);
    ensure!(merged.verdict == Verdict::Pass, "{:?}: {:?}", merged.verdict, merged.reasons);
    let rss_bytes = super::high_water("/proc/self/status").unwrap_or_default();
    let seconds = [started.elapsed().as_secs_f64(), cpu_seconds() - worked];
    Ok(Judged { seconds: seconds[0], cpu_seconds: seconds[1], rss_bytes })
}

/// What this process's threads have computed, whatever else the machine did.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let worked = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    worked.sum::<f64>() / 1e9
}

fn id(number: usize) -> String {
    format!("prompt-{number:06}")
}

fn one_prompt(number: usize, shape: Shape, rows: &Cut) -> Result<Run> {
    let tokens: Vec<u32> =
        (0..shape.context + shape.tokens).map(|at| ((number * 31 + at * 7919) % 32_000) as u32).collect();
    let prompt = PromptInfo { id: id(number), tokens, ..Default::default() };
    let file: Arc<str> = Arc::from("tensors/generated.safetensors");
    let mut events = Vec::new();
    for phase in Phase::ALL {
        for position in shape.context..shape.context + shape.tokens {
            for layer in 0..shape.layers as i32 {
                for point in POINTS {
                    // One payload under two names would be no comparison, and is noticed.
                    let key = Arc::from(format!("{phase}.{point}.{layer}.{position}"));
                    let payload = Some(PayloadRef { file: file.clone(), key });
                    let unread = Event { payload, ..blank(&prompt, phase, (point, layer, position)) };
                    let row = rows.cut(&unread)?;
                    let source = Source { file: file.clone(), line: events.len() as u64 + 1 };
                    events.push(Event {
                        dtype: Some(row.dtype),
                        shape: Some(row.shape.clone()),
                        hash: Some(row.hash(HashAlgo::Xxh3_64)),
                        stats: row.stats(),
                        source,
                        ..unread
                    });
                }
            }
        }
    }
    let manifest = Manifest {
        complete: true,
        prompts: Some(vec![prompt]),
        layers: Some((0..shape.layers as i32).collect()),
        points: Some(PointSet::Both(POINTS.to_vec())),
        steps: u32::try_from(shape.tokens).ok(),
        ..Manifest::default()
    };
    let mut run = Run::default();
    run.manifest = Some(manifest);
    run.events = events;
    Ok(run)
}

fn blank(prompt: &PromptInfo, phase: Phase, place: (Point, i32, usize)) -> Event {
    let nothing = Row::from_f32(&[]);
    Event {
        dtype: None,
        shape: None,
        hash: None,
        sample: None,
        logits: None,
        ..generate::event(prompt, phase, place, &nothing)
    }
}

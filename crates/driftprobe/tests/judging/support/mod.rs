//! Runs built in memory, for tests.

use driftprobe_trace::{
    Dtype, Event, HashAlgo, Manifest, PayloadRef, Phase, Point, PointSet, PromptInfo, Row, Rows, Run, Source,
    TraceError,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A fully keyed event without a hash: `seq_len` is the prompt's in prefill and 1 in decode.
pub fn event(prompt: &str, phase: Phase, point: Point, layer: i32, position: u64, token: u32) -> Event {
    let (spelling, step, seq_len) = match phase {
        Phase::Prefill => ("prefill_last", 0, position + 1),
        Phase::Decode => ("decode0", 1, 1),
    };
    Event {
        phase_spelling: Arc::from(spelling),
        step: Some(step),
        pos_id: Some(position),
        logical_tok_idx: Some(position),
        token_id: Some(token),
        seq_len: Some(seq_len),
        source: Source { file: Arc::from("traces/memory.jsonl"), line: 1 },
        ..Event::at(Arc::from(prompt), phase, point, layer)
    }
}

/// A complete manifest that promises these rows.
pub fn manifest(prompts: &[(&str, &[u32])], layers: &[i32], points: &[Point], steps: u32) -> Manifest {
    let prompt = |(id, tokens): &(&str, &[u32])| PromptInfo {
        id: (*id).to_owned(),
        tokens: tokens.to_vec(),
        ..PromptInfo::default()
    };
    Manifest {
        complete: true,
        prompts: Some(prompts.iter().map(prompt).collect()),
        layers: Some(layers.to_vec()),
        points: Some(PointSet::Both(points.to_vec())),
        steps: Some(steps),
        ..Manifest::default()
    }
}

/// A run and its payloads, in memory.
#[derive(Clone, Default)]
pub struct Memory {
    pub run: Run,
    pub rows: BTreeMap<(Arc<str>, Arc<str>), Row>,
}

impl Rows for Memory {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let Some(payload) = &event.payload else { return Ok(None) };
        Ok(self.rows.get(&(payload.file.clone(), payload.key.clone())).cloned())
    }
}

impl Memory {
    /// Adds an event with hash, statistics and payload of this row.
    pub fn record(&mut self, mut event: Event, row: Row) {
        self.describe(&mut event, &row);
        let file: Arc<str> = Arc::from(format!("tensors/{}.{}.safetensors", event.prompt_id, event.phase));
        let position = event.logical_tok_idx.unwrap_or_default();
        let key: Arc<str> = Arc::from(format!("{}.{}.{position}", event.point, event.layer));
        self.rows.insert((file.clone(), key.clone()), row);
        event.payload = Some(PayloadRef { file, key });
        self.run.events.push(event);
    }

    /// Adds an event with hash and statistics of this row, and no payload.
    pub fn describe_only(&mut self, mut event: Event, row: &Row) {
        self.describe(&mut event, row);
        self.run.events.push(event);
    }

    fn describe(&self, event: &mut Event, row: &Row) {
        event.dtype = Some(row.dtype);
        event.shape = Some(row.shape.clone());
        event.hash = Some(row.hash(HashAlgo::Xxh3_64));
        event.stats = row.stats();
        event.logits = (event.point == Point::Logits).then(|| row.logits_top());
        event.source.line = self.run.events.len() as u64 + 1;
    }

    /// The events of one phase, by index.
    pub fn of(&self, phase: Phase) -> Vec<usize> {
        (0..self.run.events.len()).filter(|&index| self.run.events[index].phase == phase).collect()
    }

    /// Puts another row where an event's payload lies, and lets the event describe it.
    pub fn change(&mut self, index: usize, row: Row) {
        let payload = self.run.events[index].payload.clone().unwrap();
        let mut event = self.run.events[index].clone();
        let line = event.source.line;
        self.describe(&mut event, &row);
        event.source.line = line;
        self.run.events[index] = event;
        self.rows.insert((payload.file, payload.key), row);
    }
}

/// The points of [`clean`].
pub const POINTS: [Point; 5] = [Point::EmbedOut, Point::ResidualPreAttn, Point::AttnOut, Point::MlpOut, Point::Logits];

/// A complete run of two prompts, two layers and two steps whose phases agree bit for bit.
pub fn clean() -> Memory {
    let prompts: [(&str, &[u32]); 2] = [("p0", &[3, 1, 4]), ("p1", &[1, 5, 9, 2])];
    let mut memory = Memory::default();
    memory.run.manifest = Some(manifest(&prompts, &[0, 1], &POINTS, 2));
    for (prompt, tokens) in prompts {
        for position in tokens.len() - 2..tokens.len() {
            for point in POINTS {
                for layer in if point.layered() { 0..2 } else { -1..0 } {
                    for phase in Phase::ALL {
                        let row = row_of(prompt, point, layer, position);
                        let mut event = event(prompt, phase, point, layer, position as u64, tokens[position]);
                        if phase == Phase::Prefill {
                            event.seq_len = Some(tokens.len() as u64);
                        }
                        memory.record(event, row);
                    }
                }
            }
        }
    }
    memory
}

/// A row of eight values that no other key of the run has.
pub fn row_of(prompt: &str, point: Point, layer: i32, position: usize) -> Row {
    let seed = prompt.len() * 7 + usize::from(prompt.ends_with('1')) * 31 + position * 5 + point as usize * 3;
    let seed = seed as f32 + layer as f32 * 0.37;
    Row::from_f32(&(0..8).map(|i| (seed + i as f32 * 1.7).sin()).collect::<Vec<_>>())
}

/// An f32 row of this shape.
pub fn shaped(shape: &[u64], values: &[f32]) -> Row {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Row::new(Dtype::F32, shape.to_vec(), bytes).unwrap()
}

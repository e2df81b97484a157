//! Rows that were not computed by an engine: one recorded row altered, and two stages in float64.

use driftprobe_trace::{Dtype, Event, Row, Rows, Run, TraceError};

/// A run of which one row has other values.
pub struct Altered<'a> {
    pub run: &'a Run,
    pub event: &'a Event,
    pub values: Vec<f64>,
}

impl Rows for Altered<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        let row = self.run.row(event)?;
        if event.source != self.event.source {
            return Ok(row);
        }
        Ok(row.and_then(|row| encode(row.dtype, &row.shape, &self.values)))
    }
}

fn encode(dtype: Dtype, shape: &[u64], values: &[f64]) -> Option<Row> {
    let bytes = values.iter().flat_map(|v| match dtype {
        Dtype::F64 => v.to_le_bytes().to_vec(),
        Dtype::F32 => (*v as f32).to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f64(*v).to_le_bytes().to_vec(),
        Dtype::Bf16 => half::bf16::from_f64(*v).to_le_bytes().to_vec(),
    });
    Row::new(dtype, shape.to_vec(), bytes.collect()).ok()
}

/// Output and probabilities of one head: q `[head_dim]`, k and v `[rows, head_dim]`.
pub fn attention_head(q: &[f64], (k, v): (&[f64], &[f64]), scale: f64) -> (Vec<f64>, Vec<f64>) {
    let dot = |row: &[f64]| scale * row.iter().zip(q).map(|(k, q)| k * q).sum::<f64>();
    let scores: Vec<f64> = k.chunks(q.len()).map(dot).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    let probs: Vec<f64> = exps.iter().map(|e| e / sum).collect();
    let mut out = vec![0.0; q.len()];
    for (p, row) in probs.iter().zip(v.chunks(q.len())) {
        out.iter_mut().zip(row).for_each(|(out, v)| *out += p * v);
    }
    (out, probs)
}

/// W·x, W `[outputs, inputs]`.
pub fn linear_row(weight: &[f32], x: &[f64]) -> Vec<f64> {
    weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
}

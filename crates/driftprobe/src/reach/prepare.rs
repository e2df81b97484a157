//! From a recorded row to what it is computed from in f32, or to why it cannot be searched.

use super::attend::Head;
use super::catalogue;
use super::order::Cap;
use super::row::{Dots, Keys, Row, RowName, Stage};
use super::sum::Sum;
use super::terms::Products;
use crate::oracle::evaluate::{Layer, Task};
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use crate::oracle::{Float, Unjudged};
use driftprobe_model::reference::{AttentionShape, RopePrecision, RopeTable, norm_weight};
use driftprobe_model::{Model, WeightId};
use std::ops::Range;

/// Values of a row of dot products that are computed at most, evenly spread over it.
const VALUES_MAX: usize = 192;

/// Makes a row ready. `pass`: tokens of its forward pass; `scores`: the recorded scores of the same row, for attention.
///
/// # Errors
/// In words, why nothing is searched.
pub fn prepare(model: &Model, case: &Case, pass: Option<u64>, scores: Option<&Case>) -> Result<Row, String> {
    plain(case).map_err(|why: Unjudged| why.to_string())??;
    let finite = |y: &f64| y.is_finite() || *y == f64::NEG_INFINITY;
    if !case.recorded.iter().all(finite) {
        return Err("the row is not finite".to_owned());
    }
    let first = case.recorded.first().copied().unwrap_or(0.0);
    if case.recorded.iter().all(|y| *y == first) {
        return Err("the row is constant, so that any order gives it".to_owned());
    }
    let keys = keys_of_pass(case.task.pos, pass);
    let stage = match case.op {
        Op::Linear { weight, bias, softcap } => linear(model, case, (weight, bias, softcap)),
        Op::Norm { weight, per_head } => norm(model, case, weight, per_head),
        Op::Rope => Ok(Stage::Turn {
            x: f32s(case.task.input(0)),
            table: RopeTable::new(&model.config, case.task.pos_id, RopePrecision::F32),
            layout: model.config.rope.layout,
        }),
        Op::Gated => Ok(Stage::Gate {
            gate: f32s(case.task.input(0)),
            up: f32s(case.task.input(1)),
            activation: model.config.activation,
        }),
        Op::Scores => Attention::new(model, case)?.scores(case, keys),
        Op::Softmax => Attention::new(model, case)?.softmax(case, keys),
        Op::Weigh => Attention::new(model, case)?.weigh(case, keys),
        Op::Attention => Attention::new(model, case)?.whole(case, scores, keys),
        Op::ScoresSoftmax => Err("its scores are not recorded; record attn_scores".to_owned()),
        Op::Embed | Op::Copy | Op::KvWrite | Op::Add => Err("the stage has one result in any order".to_owned()),
    }?;
    let name = RowName { prompt_id: case.prompt_id.clone(), layer: case.layer, pos: case.pos };
    let store = case.task.arithmetic.output().map_err(|e| e.to_string())?;
    Ok(Row { name, pass, store, recorded: case.recorded.clone(), stage })
}

/// Whether the stage's sums are plain f32, as far as the contract says.
fn plain(case: &Case) -> Result<Result<(), String>, Unjudged> {
    let arithmetic = &case.task.arithmetic;
    let refuse = |what: &str| Ok(Err(format!("the contract says {what}")));
    if arithmetic.recorded() == Float::F64 {
        return Ok(Err("recorded in f64".to_owned()));
    }
    let accumulate = arithmetic.accumulate()?;
    if accumulate != Float::F32 {
        return refuse(&format!("that sums are kept in {}", accumulate.id()));
    }
    if arithmetic.input_variance() > 0.0 {
        return refuse("that products take TF32");
    }
    if arithmetic.partials()?.is_some() || arithmetic.value_sums()?.is_some() {
        return refuse("that partial sums are stored");
    }
    if arithmetic.inner()?.is_some_and(|format| format < Float::F32) {
        return refuse("that the stage rounds within");
    }
    let attends = matches!(case.op, Op::Scores | Op::Softmax | Op::ScoresSoftmax | Op::Weigh | Op::Attention);
    if attends && (arithmetic.softmax()? != Float::F32 || arithmetic.scores()? < Float::F32) {
        return refuse("that scores or softmax are kept in another format than f32");
    }
    if case.op == Op::Attention && arithmetic.probs()? < Float::F32 {
        return refuse("that probabilities are stored");
    }
    if case.op == Op::Rope && arithmetic.rope_table()? < Float::F32 {
        return refuse("that the rotary table is stored");
    }
    Ok(Ok(()))
}

/// Keys over which the pass of a row computes: a prompt fed at once, or in chunks of equal size.
fn keys_of_pass(pos: usize, pass: Option<u64>) -> usize {
    let tokens = pass.and_then(|tokens| usize::try_from(tokens).ok()).unwrap_or(1).max(1);
    if tokens == 1 { pos + 1 } else { (pos / tokens + 1) * tokens }
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|x| *x as f32).collect()
}

/// At most so many of `count` places, evenly spread, the first and the last among them.
fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let wanted = count.min(most);
    (0..wanted).map(move |at| if wanted < 2 { 0 } else { at * (count - 1) / (wanted - 1) })
}

type Parameters = (WeightId, Option<WeightId>, Option<f64>);

fn linear(model: &Model, case: &Case, parameters: Parameters) -> Result<Stage, String> {
    let layer = Layer::new(model, parameters).map_err(|e| e.to_string())?;
    let x = layer.as_floats(&case.task).map_err(|e| e.to_string())?;
    let x = x.ok_or("activations are quantised and multiplied as integers")?;
    if case.recorded.len() != layer.weight.rows() {
        return Err(format!("the row has {} values, the weight {} rows", case.recorded.len(), layer.weight.rows()));
    }
    let mut dots =
        Dots { right: vec![f32s(&x)], count: x.len(), seen: 0..x.len(), softcap: layer.softcap, ..Dots::default() };
    for (at, output) in spread(layer.weight.rows(), VALUES_MAX).enumerate() {
        let mut row = vec![0f32; layer.weight.cols()];
        layer.weight.dequantise_rows(output..output + 1, &mut row);
        dots.left.push(row);
        dots.cells.push((output, at, 0, layer.bias.get(output).map(|b| *b as f32)));
    }
    Ok(Stage::Dots(dots))
}

fn norm(model: &Model, case: &Case, id: WeightId, per_head: bool) -> Result<Stage, String> {
    let weight = model.weights.get(&id.name()).map_err(|e| e.to_string())?;
    let weight = f32s(&norm_weight(&weight, model.config.norm_weight_plus_one));
    let x = case.task.input(0);
    if x.len() != case.recorded.len() || weight.is_empty() || (!per_head && x.len() != weight.len()) {
        return Err(format!("the row has {} values, its input {}", case.recorded.len(), x.len()));
    }
    let x = x.chunks(weight.len()).map(f32s).collect();
    Ok(Stage::Norm { x, weight, eps: model.config.rms_norm_eps })
}

/// Attention's sizes, and which keys a row sees.
struct Attention {
    shape: AttentionShape,
    seen: Range<usize>,
    columns: usize,
}

impl Attention {
    fn new(model: &Model, case: &Case) -> Result<Attention, String> {
        let shape = AttentionShape::of(&model.config, case.layer_index());
        let columns = case.task.pos + 1;
        let seen = columns.saturating_sub(shape.window.unwrap_or(columns))..columns;
        Ok(Attention { shape, seen, columns })
    }

    /// The rows of a key head in a cache that holds all positions up to the row's own.
    fn cached(&self, values: &[f64], head: usize) -> Result<Vec<Vec<f32>>, String> {
        let width = self.shape.head_dim.max(1);
        if values.len() != self.shape.kv_heads * self.columns * width {
            let rows = values.len() / (self.shape.kv_heads * width).max(1);
            return Err(format!("the cache has {rows} rows, the row sees keys up to {}", self.columns));
        }
        let own = values.chunks(self.columns * width).nth(self.shape.kv_head(head)).unwrap_or_default();
        Ok(own.chunks(width).map(f32s).collect())
    }

    /// The channels of the values of a head: `[head_dim][keys]`.
    fn channels(&self, values: &[f64], head: usize) -> Result<Vec<Vec<f32>>, String> {
        let rows = self.cached(values, head)?;
        let channel = |c: usize| rows.iter().filter_map(|row| row.get(c).copied()).collect();
        Ok((0..self.shape.head_dim).map(channel).collect())
    }

    /// `[heads][columns]`.
    fn by_head(&self, values: &[f64]) -> Result<Vec<Vec<f32>>, String> {
        if values.len() != self.shape.heads * self.columns {
            return Err(format!("{} values for {} heads and {} keys", values.len(), self.shape.heads, self.columns));
        }
        Ok(values.chunks(self.columns).map(f32s).collect())
    }

    fn scores(&self, case: &Case, pass: usize) -> Result<Stage, String> {
        let q = case.task.input(0);
        let width = self.shape.head_dim;
        let mut dots = Dots {
            left: q.chunks(width.max(1)).map(f32s).collect(),
            count: width,
            seen: 0..width,
            scale: Some(self.shape.scale),
            softcap: self.shape.softcap,
            keys: Some(Keys { columns: self.columns, pass, seen: self.seen.clone() }),
            ..Dots::default()
        };
        self.by_head(&case.recorded)?;
        for head in 0..self.shape.kv_heads {
            let sharing = (0..self.shape.heads).find(|h| self.shape.kv_head(*h) == head).unwrap_or(0);
            dots.right.extend(self.cached(case.task.input(1), sharing)?);
        }
        let visible: Vec<usize> = self.seen.clone().collect();
        for head in 0..self.shape.heads {
            let own = self.shape.kv_head(head) * self.columns;
            for key in spread(visible.len(), VALUES_MAX / self.shape.heads.max(1) + 1) {
                let key = visible.get(key).copied().unwrap_or(0);
                dots.cells.push((head * self.columns + key, head, own + key, None));
            }
        }
        Ok(Stage::Dots(dots))
    }

    fn softmax(&self, case: &Case, keys: usize) -> Result<Stage, String> {
        Ok(Stage::Softmax { heads: self.by_head(case.task.input(0))?, seen: self.seen.clone(), keys })
    }

    fn weigh(&self, case: &Case, keys: usize) -> Result<Stage, String> {
        let width = self.shape.head_dim;
        let mut dots =
            Dots { left: self.by_head(case.task.input(0))?, count: keys, seen: self.seen.clone(), ..Dots::default() };
        dots.keys = Some(Keys { columns: self.columns, pass: keys, seen: self.seen.clone() });
        if case.recorded.len() != self.shape.heads * width {
            return Err(format!("the row has {} values, not {}", case.recorded.len(), self.shape.heads * width));
        }
        for head in 0..self.shape.heads {
            let at = dots.right.len();
            dots.right.extend(self.channels(case.task.input(1), head)?);
            dots.cells.extend((0..width).map(|c| (head * width + c, head, at + c, None)));
        }
        Ok(Stage::Dots(dots))
    }

    fn whole(&self, case: &Case, scores: Option<&Case>, keys: usize) -> Result<Stage, String> {
        if case.recorded.len() != self.shape.heads * self.shape.head_dim {
            return Err(format!("the row has {} values", case.recorded.len()));
        }
        let recorded = scores.map(|scores| self.by_head(&scores.recorded)).transpose()?;
        let sets = if recorded.is_some() { Vec::new() } else { catalogue::common(self.shape.head_dim) };
        if recorded.is_none() && self.shape.softcap.is_some() {
            return Err("its scores are capped and not recorded; record attn_scores".to_owned());
        }
        let mut heads = Vec::new();
        for head in 0..self.shape.heads {
            let scores = match &recorded {
                Some(all) => vec![all.get(head).cloned().unwrap_or_default()],
                None => self.computed(&case.task, head, &sets)?,
            };
            heads.push(Head { scores, seen: self.seen.clone(), values: self.channels(case.task.input(2), head)? });
        }
        Ok(Stage::Attend { heads, keys, sets, width: self.shape.head_dim })
    }

    /// A head's scores by each order.
    fn computed(&self, task: &Task, head: usize, sets: &[Sum]) -> Result<Vec<Vec<f32>>, String> {
        let q = task.input(0).chunks(self.shape.head_dim.max(1)).nth(head).map(f32s).unwrap_or_default();
        let keys = self.cached(task.input(1), head)?;
        let scale = self.shape.scale as f32;
        let one = |sum: &Sum, (at, key): (usize, &Vec<f32>)| match self.seen.contains(&at) {
            true => sum.of(q.len(), &Products(&q, key)) * scale,
            false => f32::NEG_INFINITY,
        };
        Ok(sets.iter().map(|sum| keys.iter().enumerate().map(|key| one(sum, key)).collect()).collect())
    }
}

/// Ways in which a soft cap may divide: one where there is none.
pub fn caps(softcap: Option<f64>) -> &'static [Cap] {
    if softcap.is_some() { &[Cap::Quotient, Cap::Reciprocal] } else { &[Cap::Quotient] }
}

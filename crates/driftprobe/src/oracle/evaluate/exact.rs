//! Stages without freedom: their correctly rounded result is known.

use super::{Expectation, Task, sized};
use crate::oracle::arithmetic::Arithmetic;
use crate::oracle::float::Float;
use crate::oracle::judgement::Unjudged;
use driftprobe_model::reference;
use driftprobe_model::{Config, Model, WeightId};

/// The token's row, by the factor. Engines hold the factor in f32 or in the storage format.
pub fn embed(model: &Model, task: &Task) -> Result<Expectation, Unjudged> {
    let token = task.token.filter(|t| (*t as usize) < model.config.vocab_size).ok_or(Unjudged::Token)?;
    let weight = model.weights.get(&WeightId::Embed.name())?;
    let output = task.arithmetic.output()?;
    let row = |factor| -> Result<Vec<f64>, Unjudged> {
        let row = reference::embed(&weight, token, factor)?;
        sized("the row", task.recorded_len, row.len())?;
        let product = product_format(output);
        Ok(row.into_iter().map(|x| output.round(product.round(x))).collect())
    };
    let candidates = match model.config.embed_scale {
        None => vec![row(None)?],
        Some(factor) => {
            let formats = [output, Float::F32, Float::F64].into_iter();
            formats.map(|f| row(Some(f.round(factor)))).collect::<Result<_, _>>()?
        }
    };
    Ok(Expectation::Exact { candidates, judged: Vec::new() })
}

/// Format in which two stored values are combined before the result is stored: f32, or f64 where that is stored.
fn product_format(output: Float) -> Float {
    output.max(Float::F32)
}

/// The input, in the storage format.
pub fn copy(task: &Task) -> Result<Expectation, Unjudged> {
    let x = task.sized(0, task.recorded_len)?;
    let recorded = task.arithmetic.recorded();
    Ok(Expectation::Exact { candidates: vec![x.iter().map(|x| recorded.round(*x)).collect()], judged: Vec::new() })
}

/// a + b, correctly rounded: at once, or first to f32.
pub fn add(task: &Task) -> Result<Expectation, Unjudged> {
    let (a, b) = (task.sized(0, task.recorded_len)?, task.sized(1, task.recorded_len)?);
    let output = task.arithmetic.output()?;
    let sums = reference::add(a, b);
    let once = sums.iter().map(|s| output.round(*s)).collect();
    let twice = sums.iter().map(|s| output.round(product_format(output).round(*s))).collect();
    Ok(Expectation::Exact { candidates: vec![once, twice], judged: Vec::new() })
}

/// Cache rows `[kv_heads, rows, head_dim]` whose sources `[kv_heads, head_dim]` are recorded, rounded to the cache's
/// format, or quantised in blocks over all heads. The last row is this position's own.
pub fn kv_write(config: &Config, task: &Task) -> Result<Expectation, Unjudged> {
    let (heads, width) = (config.num_key_value_heads, config.head_dim);
    let rows = task.recorded_len / (heads * width).max(1);
    sized("the row", task.recorded_len, rows * heads * width)?;
    let own = task.sized(0, heads * width)?;
    let recorded = task.arithmetic.recorded();
    let held = held(&task.arithmetic, recorded)?;
    let first_pos = super::attention::first_position(task.pos, rows);
    let mut candidates: Vec<Vec<f64>> = held.iter().map(|_| vec![f64::NAN; task.recorded_len]).collect();
    let mut judged = vec![false; task.recorded_len];
    let others = task.others.iter().map(|(pos, row)| (*pos, row.as_slice()));
    for (pos, source) in others.chain([(task.pos, own)]) {
        let Some(row) = pos.checked_sub(first_pos).filter(|row| *row < rows && source.len() == own.len()) else {
            continue;
        };
        for (candidate, held) in candidates.iter_mut().zip(&held) {
            for (head, source) in held(source).chunks_exact(width).enumerate() {
                let at = (head * rows + row) * width;
                for (i, x) in source.iter().enumerate() {
                    candidate[at + i] = recorded.round(*x);
                    judged[at + i] = true;
                }
            }
        }
    }
    Ok(Expectation::Exact { candidates, judged })
}

type Held = Box<dyn Fn(&[f64]) -> Vec<f64>>;

/// The ways in which the cache may hold a row.
fn held(arithmetic: &Arithmetic, recorded: Float) -> Result<Vec<Held>, Unjudged> {
    let Some(blocks) = arithmetic.kv_cache_blocks() else {
        let format = arithmetic.kv_cache()?.unwrap_or(recorded);
        return Ok(vec![Box::new(move |row| row.iter().map(|x| format.round(*x)).collect())]);
    };
    let other = move |row: &[f64]| {
        let quantised = blocks.apply(row);
        quantised.values.iter().zip(&quantised.doubts).map(|(value, doubt)| value - doubt).collect()
    };
    Ok(vec![Box::new(move |row| blocks.apply(row).values), Box::new(other)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftprobe_trace::{Contract, ContractFields, Dtype, Phase, Point};

    #[test]
    fn a_cache_of_blocks_holds_what_the_quantiser_gives_and_nothing_else() {
        let mut config = Model::demo().unwrap().config;
        (config.num_key_value_heads, config.head_dim) = (2, 16);
        let fields = ContractFields { kv_cache: Some("q8_0".to_owned()), ..Default::default() };
        let contract = Contract { flat: fields, ..Contract::default() };
        let row: Vec<f64> = (0..32).map(|i| f64::from((i as f32 * 0.37).sin())).collect();
        let task = Task {
            inputs: vec![row.clone()],
            others: Vec::new(),
            pos: 0,
            pos_id: 0,
            token: None,
            recorded_len: 32,
            arithmetic: Arithmetic::resolve(Some(&contract), Phase::Decode, Point::KCache, Dtype::F32),
        };
        let Expectation::Exact { candidates, judged } = kv_write(&config, &task).unwrap() else { panic!("not exact") };
        assert!(judged.iter().all(|j| *j) && candidates.len() == 2);
        // max is sin(0.37·4) … of 32 values together: one block over both heads.
        let largest = row.iter().fold(0f64, |m, x| m.max(x.abs()));
        let scale = half::f16::from_f64(largest / 127.0).to_f64();
        assert!(candidates[0].iter().zip(&row).all(|(held, x)| (held - x).abs() <= 0.51 * scale));
        assert!(candidates[0].iter().zip(&row).any(|(held, x)| (held - x).abs() > 0.2 * scale));
        assert!(candidates[0].iter().all(|held| (held / scale).fract() == 0.0));
    }
}

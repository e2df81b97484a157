//! Linear layers, many rows in one pass over the weight.

use super::{Expectation, Task, noisy, sized};
use crate::oracle::judgement::Unjudged;
use crate::oracle::noise::{relative_rms, softcap_variance, sum_variance};
use crate::oracle::quantise::Quantiser;
use crate::oracle::stats::{CELL_CHANNELS, Limits};
use driftprobe_model::reference::{self, softcap};
use driftprobe_model::{Model, Weight, WeightId};

/// Rows that share a pass; bounds the memory.
const ROWS_A_PASS: usize = 32;
/// An integer kernel rounds once a block, at least of this many products.
const INTEGER_BLOCK: f64 = 32.0;

/// W, bias and soft cap of a linear stage.
type Parameters = (WeightId, Option<WeightId>, Option<f64>);

/// Evaluates a linear stage for some rows, in order.
pub fn linear(model: &Model, parameters: Parameters, tasks: &[Task]) -> Vec<Result<Expectation, Unjudged>> {
    let layer = match Layer::new(model, parameters) {
        Ok(layer) => layer,
        Err(e) => return tasks.iter().map(|_| Err(e.clone())).collect(),
    };
    tasks.chunks(ROWS_A_PASS).flat_map(|tasks| layer.pass(tasks)).collect()
}

struct Layer {
    weight: Weight,
    bias: Vec<f64>,
    softcap: Option<f64>,
}

/// A row as the kernel multiplies it.
struct Prepared {
    x: Vec<f64>,
    terms: f64,
    shifts: Vec<f64>,
}

impl Layer {
    fn new(model: &Model, (weight, bias, softcap): Parameters) -> Result<Layer, Unjudged> {
        let weight = model.weights.get(&weight.name())?;
        let bias = match bias {
            None => Vec::new(),
            Some(id) => model.weights.get(&id.name())?.to_f32().iter().map(|b| f64::from(*b)).collect(),
        };
        Ok(Layer { weight, bias, softcap })
    }

    fn pass(&self, tasks: &[Task]) -> Vec<Result<Expectation, Unjudged>> {
        let prepared: Vec<Result<Prepared, Unjudged>> = tasks.iter().map(|t| self.prepare(t)).collect();
        let x: Vec<f64> = prepared.iter().flatten().flat_map(|p| p.x.iter().copied()).collect();
        let outputs = self.weight.rows();
        let products = match reference::linear(&self.weight, 0..outputs, &x) {
            Ok(products) => products,
            Err(e) => return tasks.iter().map(|_| Err(e.clone().into())).collect(),
        };
        let mut rows = products.sums.chunks(outputs.max(1)).zip(products.squares.chunks(outputs.max(1)));
        let finish = |(task, prepared): (&Task, Result<Prepared, Unjudged>)| {
            let prepared = prepared?;
            let (sums, squares) = rows.next().unwrap_or_default();
            self.finish(task, &prepared, sums, squares)
        };
        tasks.iter().zip(prepared).map(finish).collect()
    }

    fn prepare(&self, task: &Task) -> Result<Prepared, Unjudged> {
        let x = task.sized(0, self.weight.cols())?;
        let terms = x.len() as f64;
        let names = task.arithmetic.activation_quant();
        let Some(quantiser) = Quantiser::of(self.weight.dtype()).filter(|_| !names.is_empty()) else {
            return Ok(Prepared { x: x.to_vec(), terms, shifts: Vec::new() });
        };
        if !names.contains(&quantiser.id()) {
            let value = names.join(",");
            return Err(crate::oracle::arithmetic::Unsupported { field: "activation_quant", value }.into());
        }
        let quantised = quantiser.apply(x);
        let shifts = quantised.shifts(&self.weight);
        Ok(Prepared { x: quantised.values, terms: (terms / INTEGER_BLOCK).max(1.0), shifts })
    }

    fn finish(&self, task: &Task, row: &Prepared, sums: &[f64], squares: &[f64]) -> Result<Expectation, Unjudged> {
        sized(format!("the bias of {}", self.weight.name()), self.bias.len(), self.bias.len().min(sums.len()))?;
        let cu = relative_rms(task.arithmetic.accumulate()?);
        let cu_after = relative_rms(task.arithmetic.elementwise()?);
        let one = |(out, (sum, squares)): (usize, (&f64, &f64))| {
            let sum = sum + row.shifts.get(out).copied().unwrap_or(0.0);
            let mut variance = sum_variance(row.terms, *squares, sum, cu);
            let mut y = sum;
            if let Some(bias) = self.bias.get(out) {
                y += bias;
                variance += (cu * y).powi(2);
            }
            if let Some(cap) = self.softcap {
                y = softcap(y, cap);
                variance = softcap_variance(y, cap, variance, cu_after);
            }
            (y, variance)
        };
        let (y, variance) = sums.iter().zip(squares).enumerate().map(one).unzip();
        noisy(task, y, variance, (CELL_CHANNELS, Limits::PLAIN))
    }
}

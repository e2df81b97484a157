//! Linear layers, many rows in one pass over the weight.

use super::{Expectation, Task, independent, noisy};
use crate::oracle::float::Float;
use crate::oracle::judgement::Unjudged;
use crate::oracle::minima::Minima;
use crate::oracle::noise::{ordered_sum_variance, relative_rms, softcap_variance};
use crate::oracle::quantise::Quantiser;
use crate::oracle::stats::{CELL_CHANNELS, Limits};
use driftprobe_model::reference::{self, softcap};
use driftprobe_model::{Model, Weight, WeightId};

/// Rows that share a pass; bounds the memory.
const ROWS_A_PASS: usize = 32;

/// W, bias and soft cap of a linear stage.
type Parameters = (WeightId, Option<WeightId>, Option<f64>);

/// Evaluates a linear stage for some rows, in order.
pub fn linear(model: &Model, parameters: Parameters, tasks: &[Task]) -> Vec<Result<Expectation, Unjudged>> {
    let layer = match Layer::new(model, parameters) {
        Ok(layer) => layer,
        Err(e) => return tasks.iter().map(|_| Err(e.clone())).collect(),
    };
    layer.evaluate(tasks)
}

/// A linear layer.
pub struct Layer {
    /// W.
    pub weight: Weight,
    /// The bias; empty if there is none.
    pub bias: Vec<f64>,
    /// cap·tanh(y/cap).
    pub softcap: Option<f64>,
}

/// A row as the kernel multiplies it.
#[derive(Default)]
struct Prepared {
    x: Vec<f64>,
    terms: f64,
    /// Roundings a product: 1, or less where blocks of products are summed exactly.
    shrink: f64,
    /// Whether it is multiplied as integers.
    quantised: bool,
    shifts: Vec<f64>,
    /// Variance that integers in doubt add, by output; empty if none is.
    doubts: Vec<f64>,
}

/// The squares of a row's products, by output; see [`reference::Projection`].
pub struct Spread {
    squares: Vec<f64>,
    partials: Vec<f64>,
}

impl Layer {
    /// What the layer gives for some rows, in order.
    pub fn evaluate(&self, tasks: &[Task]) -> Vec<Result<Expectation, Unjudged>> {
        tasks.chunks(ROWS_A_PASS).flat_map(|tasks| self.pass(tasks)).collect()
    }

    /// The layer of these weights.
    ///
    /// # Errors
    /// When the model lacks a tensor.
    pub fn new(model: &Model, (weight, bias, softcap): Parameters) -> Result<Layer, Unjudged> {
        let weight = model.weights.get(&weight.name())?;
        let bias = match bias {
            None => Vec::new(),
            Some(id) => model.weights.get(&id.name())?.to_f32().iter().map(|b| f64::from(*b)).collect(),
        };
        Ok(Layer { weight, bias, softcap })
    }

    /// The input as the kernel multiplies it, as floats; none where it is multiplied as integers.
    pub fn as_floats(&self, task: &Task) -> Result<Option<Vec<f64>>, Unjudged> {
        let prepared = self.prepare(task)?;
        Ok(Some(prepared.x).filter(|_| !prepared.quantised))
    }

    fn pass(&self, tasks: &[Task]) -> Vec<Result<Expectation, Unjudged>> {
        self.pass_with_spread(tasks).into_iter().map(|one| one.map(|(expectation, _)| expectation)).collect()
    }

    /// As [`Layer::evaluate`], with the squares of each row's products beside it.
    pub fn pass_with_spread(&self, tasks: &[Task]) -> Vec<Result<(Expectation, Spread), Unjudged>> {
        let (prepared, x) = self.prepare_all(tasks);
        let outputs = self.weight.rows();
        let products = match reference::linear(&self.weight, 0..outputs, &x) {
            Ok(products) => products,
            Err(e) => return tasks.iter().map(|_| Err(e.clone().into())).collect(),
        };
        let mut rows = 0..;
        let finish = |(task, prepared): (&Task, Result<Prepared, Unjudged>)| {
            let prepared = prepared?;
            let at = rows.next().unwrap_or_default() * outputs;
            let of = |all: &[f64]| all.get(at..at + outputs).unwrap_or_default().to_vec();
            let spread = Spread { squares: of(&products.squares), partials: of(&products.partials) };
            Ok((self.finish(task, &prepared, (&of(&products.sums), &spread))?, spread))
        };
        tasks.iter().zip(prepared).map(finish).collect()
    }

    /// As [`Layer::evaluate`], where the squares of the products are known well enough from rows that are almost the same:
    /// the sums alone are a matter of fast matrix products.
    pub fn evaluate_like(&self, tasks: &[Task], spreads: &[&Spread]) -> Vec<Result<Expectation, Unjudged>> {
        let (prepared, x) = self.prepare_all(tasks);
        let outputs = self.weight.rows();
        let sums = match reference::sums(&self.weight, &x) {
            Ok(sums) => sums,
            Err(e) => return tasks.iter().map(|_| Err(e.clone().into())).collect(),
        };
        let mut rows = sums.chunks(outputs.max(1));
        let finish = |((task, spread), prepared): ((&Task, &&Spread), Result<Prepared, Unjudged>)| {
            let prepared = prepared?;
            self.finish(task, &prepared, (rows.next().unwrap_or_default(), spread))
        };
        tasks.iter().zip(spreads).zip(prepared).map(finish).collect()
    }

    /// The rows as the kernel multiplies them, and all of them that can be, one behind the other.
    fn prepare_all(&self, tasks: &[Task]) -> (Vec<Result<Prepared, Unjudged>>, Vec<f64>) {
        let prepared: Vec<Result<Prepared, Unjudged>> = tasks.iter().map(|t| self.prepare(t)).collect();
        let x = prepared.iter().flatten().flat_map(|p| p.x.iter().copied()).collect();
        (prepared, x)
    }

    fn prepare(&self, task: &Task) -> Result<Prepared, Unjudged> {
        let x = task.sized(0, self.weight.cols())?;
        let terms = x.len() as f64;
        let names = task.arithmetic.activation_quant();
        // `q5_0=none`: weights of this type are multiplied as floats here.
        let spared = format!("{}=none", self.weight.dtype().id().to_lowercase());
        let is_quantised = !names.is_empty() && !names.iter().any(|name| *name == spared);
        if Quantiser::of(self.weight.dtype()).is_none() || !is_quantised {
            // `f16`: activations take the type of the floats that they meet.
            let own = self.weight.dtype().id().to_lowercase();
            let format = Float::parse(&own).filter(|_| names.iter().any(|name| *name == own));
            let x = x.iter().map(|x| format.map_or(*x, |format| format.round(*x))).collect();
            return Ok(Prepared { x, terms, shrink: 1.0, ..Prepared::default() });
        }
        let Some(quantiser) = Quantiser::named(self.weight.dtype(), &names) else {
            let value = names.join(",");
            return Err(crate::oracle::arithmetic::Unsupported { field: "activation_quant", value }.into());
        };
        let quantised = quantiser.apply(x);
        let doubts = self.doubts(&quantised.doubts)?;
        let shifts = quantised.shifts(self.weight.dtype(), self.weight.bytes(), self.weight.row_size_bytes());
        let shrink = 1.0 / Quantiser::products_a_rounding(self.weight.dtype());
        let terms = (terms * shrink).max(1.0);
        Ok(Prepared { x: quantised.values, terms, shrink, quantised: true, shifts, doubts })
    }

    /// What integers in doubt add to the variance of each output; empty where none is.
    fn doubts(&self, doubts: &[f64]) -> Result<Vec<f64>, Unjudged> {
        if doubts.iter().all(|doubt| *doubt == 0.0) {
            return Ok(Vec::new());
        }
        Ok(reference::linear(&self.weight, 0..self.weight.rows(), doubts)?.squares)
    }

    fn finish(&self, task: &Task, row: &Prepared, (sums, spread): (&[f64], &Spread)) -> Result<Expectation, Unjudged> {
        let cu = relative_rms(task.arithmetic.accumulate()?);
        let cu_after = relative_rms(task.arithmetic.elementwise()?);
        let inputs = task.arithmetic.input_variance();
        let parts = task.arithmetic.partials()?;
        let steps = task.arithmetic.inner()?.filter(|f| *f < Float::F32);
        let minima = if row.quantised { Minima::of(&self.weight) } else { None };
        let one = |(out, ((sum, squares), partials)): (usize, ((&f64, &f64), &f64))| {
            let sum = sum + row.shifts.get(out).copied().unwrap_or(0.0);
            let mut variance = ordered_sum_variance(row.terms, *squares, (sum, partials * row.shrink), cu);
            variance += inputs * squares + row.doubts.get(out).copied().unwrap_or(0.0);
            if let Some(minima) = &minima {
                variance += minima.variance(&row.x, (out, sum), *squares, cu);
            }
            if let Some(format) = parts {
                // A part is as large as a partial sum in the mean, or as its products' random sum.
                let part = squares.max(2.0 * partials * row.shrink / row.terms);
                variance += 2.0 * relative_rms(format).powi(2) * part;
            }
            let mut y = sum;
            if let Some(bias) = self.bias.get(out) {
                if let Some(format) = steps {
                    let (rounded, doubt) = format.round_doubtful(y, 4.0 * variance.sqrt());
                    // However wide the doubt: rounding moves a sum by an ulp at most.
                    (y, variance) = (rounded, (doubt * doubt).min(variance + format.ulp(rounded).powi(2)));
                }
                y += bias;
                variance += (cu * y).powi(2);
            }
            if let Some(cap) = self.softcap {
                let before = y;
                y = softcap(y, cap);
                if let Some(format) = steps {
                    // The product, its quotient by the cap, and the tanh are each stored.
                    variance += format.rounding_variance(before) + cap * cap * format.rounding_variance(before / cap);
                }
                variance = softcap_variance(y, cap, variance, cu_after);
                if let Some(format) = steps {
                    variance += cap * cap * format.rounding_variance(y / cap);
                }
            }
            (y, variance)
        };
        let (y, variance) = sums.iter().zip(&spread.squares).zip(&spread.partials).enumerate().map(one).unzip();
        independent(noisy(task, y, variance, (CELL_CHANNELS, Limits::PLAIN))?)
    }
}

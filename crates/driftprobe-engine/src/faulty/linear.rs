//! Faults of the matrices.

mod products;

use super::fault::{Group, Scope, Subject, Workshop};
use super::names::Parameters;
use crate::embedded::interference::{Interference, Matrix};
use crate::embedded::linear::{Linear, is_integer};
use crate::error::EngineError;
use driftprobe_model::{Config, ModelError, Weight, WeightId};
use driftprobe_trace::{Phase, Point};
use products::{Dense, Narrow, Rebiased, Replaced, Shortened, Unbiased, transposed, with_neighbours_scales};

/// Faults of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum LinearFault {
    /// `WEIGHT_TRANSPOSED`: a square matrix is read by columns.
    Transposed(Matrix),
    /// `BIAS_MISSING`: the bias is not added.
    BiasMissing(Matrix),
    /// `BIAS_REPEATED`: the bias is added so often.
    BiasRepeated(Matrix, usize),
    /// `WEIGHT_OTHER_LAYER`: the next layer's matrix; the first one's in the last layer.
    OtherLayer(Matrix),
    /// `TAIL_DROPPED`: the last so many columns are left out of the sums.
    TailDropped(Matrix, usize),
    /// `QUANT_SCALE`: every block has its neighbour's scale.
    QuantScale(Matrix),
    /// `ACCUMULATOR_SATURATED`: sums are kept in f16, and stay within this limit.
    AccumulatorSaturated(Matrix, f32),
}

use LinearFault::{AccumulatorSaturated, BiasMissing, BiasRepeated, OtherLayer, QuantScale, TailDropped, Transposed};

/// The largest finite f16.
const F16_MAX: f32 = 65504.0;

impl LinearFault {
    fn matrix(&self) -> Matrix {
        match self {
            Transposed(m) | BiasMissing(m) | OtherLayer(m) | TailDropped(m, _) => *m,
            BiasRepeated(m, _) | QuantScale(m) | AccumulatorSaturated(m, _) => *m,
        }
    }
}

/// The tensor of a matrix; `layer` is ignored for the output matrix.
pub(super) fn weight_id(config: &Config, matrix: Matrix, layer: usize) -> WeightId {
    match matrix {
        Matrix::Q => WeightId::QProj(layer),
        Matrix::K => WeightId::KProj(layer),
        Matrix::V => WeightId::VProj(layer),
        Matrix::O => WeightId::OProj(layer),
        Matrix::Gate => WeightId::Gate(layer),
        Matrix::Up => WeightId::Up(layer),
        Matrix::Down => WeightId::Down(layer),
        Matrix::LmHead if config.tie_word_embeddings => WeightId::Embed,
        Matrix::LmHead => WeightId::LmHead,
    }
}

fn has_bias(config: &Config, matrix: Matrix) -> bool {
    match matrix {
        Matrix::Q | Matrix::K | Matrix::V => config.qkv_bias,
        Matrix::O => config.o_bias,
        Matrix::Gate | Matrix::Up | Matrix::Down => config.mlp_bias,
        Matrix::LmHead => false,
    }
}

/// The point that shows a matrix's result.
pub(super) fn point_of(config: &Config, matrix: Matrix) -> Point {
    match matrix {
        Matrix::Q if config.qk_norm => Point::QProjOut,
        Matrix::K if config.qk_norm => Point::KProjOut,
        Matrix::Q => Point::QPreRope,
        Matrix::K => Point::KPreRope,
        Matrix::V => Point::VProj,
        Matrix::O => Point::AttnProjOut,
        Matrix::Gate => Point::MlpGate,
        Matrix::Up => Point::MlpUp,
        Matrix::Down => Point::MlpOut,
        Matrix::LmHead => Point::Logits,
    }
}

impl Subject<'_> {
    pub(super) fn weight(&self, matrix: Matrix, layer: usize) -> Result<Weight, ModelError> {
        self.model.weights.get(&weight_id(self.config(), matrix, layer).name())
    }

    /// Whether the matrix is multiplied as integers.
    fn is_integer(&self, weight: &Weight) -> bool {
        self.settings.device.is_cpu() && is_integer(weight, self.settings.quantised_matmul)
    }
}

/// Values that share a scale of the quantised activations which a weight is multiplied with.
fn activation_block(weight: &Weight) -> usize {
    if weight.dtype().block().0 == 256 { 256 } else { 32 }
}

impl Group for LinearFault {
    fn id(&self) -> &'static str {
        match self {
            Transposed(_) => "WEIGHT_TRANSPOSED",
            BiasMissing(_) => "BIAS_MISSING",
            BiasRepeated(..) => "BIAS_REPEATED",
            OtherLayer(_) => "WEIGHT_OTHER_LAYER",
            TailDropped(..) => "TAIL_DROPPED",
            QuantScale(_) => "QUANT_SCALE",
            AccumulatorSaturated(..) => "ACCUMULATOR_SATURATED",
        }
    }

    fn parameters(&self) -> Vec<String> {
        let mut parameters = vec![self.matrix().to_string()];
        match self {
            BiasRepeated(_, times) => parameters.push(times.to_string()),
            TailDropped(_, columns) => parameters.push(columns.to_string()),
            AccumulatorSaturated(_, limit) => parameters.push(limit.to_string()),
            Transposed(_) | BiasMissing(_) | OtherLayer(_) | QuantScale(_) => {}
        }
        parameters
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        Ok(Some(match id {
            "WEIGHT_TRANSPOSED" => Transposed(p.take("matrix", Matrix::O)?),
            "BIAS_MISSING" => BiasMissing(p.take("matrix", Matrix::Q)?),
            "BIAS_REPEATED" => BiasRepeated(p.take("matrix", Matrix::Q)?, p.take("times", 2)?),
            "WEIGHT_OTHER_LAYER" => OtherLayer(p.take("matrix", Matrix::Q)?),
            "TAIL_DROPPED" => TailDropped(p.take("matrix", Matrix::Down)?, p.take("columns", 1)?),
            "QUANT_SCALE" => QuantScale(p.take("matrix", Matrix::Q)?),
            "ACCUMULATOR_SATURATED" => AccumulatorSaturated(p.take("matrix", Matrix::Down)?, p.take("limit", F16_MAX)?),
            _ => return Ok(None),
        }))
    }

    fn all(subject: &Subject<'_>) -> Vec<Self> {
        let each = |matrix: &Matrix| {
            let matrix = *matrix;
            // A block of quantised activations goes as a whole.
            let weight = subject.weight(matrix, 0).ok().filter(|w| subject.is_integer(w));
            let columns = weight.map_or(1, |w| activation_block(&w));
            let biases = [BiasMissing(matrix), BiasRepeated(matrix, 2), BiasRepeated(matrix, 4)];
            let others = [Transposed(matrix), OtherLayer(matrix), TailDropped(matrix, columns), QuantScale(matrix)];
            biases.into_iter().chain(others).chain([AccumulatorSaturated(matrix, F16_MAX)])
        };
        Matrix::ALL.iter().flat_map(each).collect()
    }

    fn layered(&self) -> bool {
        self.matrix() != Matrix::LmHead
    }

    fn check(&self, subject: &Subject<'_>, scope: &Scope) -> Result<(), String> {
        let (config, matrix) = (subject.config(), self.matrix());
        let layers = if self.layered() { scope.layers(config) } else { 0..1 };
        for layer in layers {
            let weight = subject.weight(matrix, layer).map_err(|e| e.to_string())?;
            let (integer, cols) = (subject.is_integer(&weight), weight.cols());
            match self {
                Transposed(_) if weight.rows() != cols => {
                    return Err(format!("{matrix} is {} × {cols}, not square", weight.rows()));
                }
                Transposed(_) if weight.dtype().is_quantised() => {
                    return Err(format!("{matrix} is quantised along its rows, and cannot be read by columns"));
                }
                BiasMissing(_) | BiasRepeated(..) if !has_bias(config, matrix) => {
                    return Err(format!("{matrix} has no bias"));
                }
                BiasRepeated(_, times) if *times < 2 => return Err(format!("{times} times is not more than once")),
                OtherLayer(Matrix::LmHead) => return Err("the output matrix is not in a layer".to_owned()),
                OtherLayer(_) if config.num_hidden_layers == 1 => return Err("there is no other layer".to_owned()),
                TailDropped(_, 0) => return Err("0 columns are none".to_owned()),
                TailDropped(_, columns) if *columns >= cols => return Err(format!("{matrix} has {cols} columns")),
                TailDropped(_, columns) if integer && !columns.is_multiple_of(activation_block(&weight)) => {
                    let block = activation_block(&weight);
                    return Err(format!("activations are quantised {block} at a time: drop whole blocks"));
                }
                QuantScale(_) if !weight.dtype().is_quantised() => return Err(format!("{matrix} has no scales")),
                AccumulatorSaturated(..) if integer => return Err(format!("{matrix} is multiplied as integers")),
                AccumulatorSaturated(_, limit) if !(*limit > 0.0 && *limit <= F16_MAX) => {
                    return Err(format!("a limit of {limit}: expected up to {F16_MAX}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn point(&self, subject: &Subject<'_>, _: Phase) -> Point {
        point_of(subject.config(), self.matrix())
    }

    fn build(&self, workshop: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        let (matrix, subject) = (self.matrix(), &workshop.subject);
        let layers = if self.layered() { workshop.scope.layers(subject.config()) } else { 0..1 };
        let key = |layer| Some(layer).filter(|_| self.layered());
        Ok(match self {
            BiasMissing(_) => Box::new(Unbiased(matrix)),
            BiasRepeated(_, times) => Box::new(Rebiased(matrix, *times)),
            TailDropped(_, columns) => Box::new(Shortened(matrix, *columns)),
            AccumulatorSaturated(_, limit) => {
                let held = |layer| Ok((key(layer), Dense::of(&subject.weight(matrix, layer)?)));
                let by_layer = layers.map(held).collect::<Result<_, EngineError>>()?;
                Box::new(Narrow { matrix, by_layer, limit: *limit })
            }
            Transposed(_) | OtherLayer(_) | QuantScale(_) => {
                let replaced = |layer| Ok((key(layer), self.replaced(subject, layer)?));
                Box::new(Replaced { matrix, by_layer: layers.map(replaced).collect::<Result<_, EngineError>>()? })
            }
        })
    }
}

impl LinearFault {
    /// What stands in one layer in the matrix's place, without a bias.
    fn replaced(&self, subject: &Subject<'_>, layer: usize) -> Result<Linear, EngineError> {
        let weight = subject.weight(self.matrix(), layer)?;
        let held = match self {
            Transposed(_) => transposed(&weight),
            QuantScale(_) => with_neighbours_scales(&weight),
            _ => {
                let other = (layer + 1) % subject.config().num_hidden_layers;
                return Linear::new(subject.weight(self.matrix(), other)?, None, subject.settings);
            }
        };
        Linear::held(held, None, subject.settings)
    }
}

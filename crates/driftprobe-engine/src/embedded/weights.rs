//! The model's tensors as the engine uses them: matrices mapped, vectors as tensors.

use super::linear::{Linear, is_integer};
use crate::error::EngineError;
use crate::settings::Settings;
use candle_core::Tensor;
use driftprobe_model::{Config, Model, Weight, WeightDtype, WeightId, expected_weights};
use driftprobe_trace::Point;
use std::collections::{BTreeMap, BTreeSet};

pub struct LayerWeights {
    pub input_norm: Tensor,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub qk_norms: Option<(Tensor, Tensor)>,
    pub o: Linear,
    /// After attention, before the residual add (Gemma 2).
    pub attn_post_norm: Option<Tensor>,
    pub ffn_norm: Tensor,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
    /// After the MLP, before the residual add (Gemma 2).
    pub mlp_post_norm: Option<Tensor>,
}

pub struct EngineWeights {
    pub embed: Weight,
    pub layers: Vec<LayerWeights>,
    pub norm: Tensor,
    pub lm_head: Linear,
    /// Storage types of the matrices.
    dtypes: BTreeSet<WeightDtype>,
    /// Of those that are multiplied as integers.
    integer: BTreeSet<WeightDtype>,
    /// Quantised types that are multiplied as floats, by the point that shows the product.
    floats: BTreeMap<Point, BTreeSet<WeightDtype>>,
}

struct Loader<'a> {
    model: &'a Model,
    settings: &'a Settings,
}

impl Loader<'_> {
    fn weight(&self, id: WeightId) -> Result<Weight, EngineError> {
        Ok(self.model.weights.get(&id.name())?)
    }

    fn vector(&self, id: WeightId) -> Result<Tensor, EngineError> {
        let weight = self.weight(id)?;
        Ok(Tensor::from_vec(weight.to_f32(), weight.cols(), &self.settings.device)?)
    }

    /// A norm's weight, with Gemma's one added where the config says so.
    fn norm(&self, id: WeightId) -> Result<Tensor, EngineError> {
        let weight = self.vector(id)?;
        if self.model.config.norm_weight_plus_one { Ok((weight + 1.0)?) } else { Ok(weight) }
    }

    fn linear(&self, id: WeightId, bias: Option<WeightId>) -> Result<Linear, EngineError> {
        let bias = bias.map(|b| self.vector(b)).transpose()?;
        Linear::new(self.weight(id)?, bias, self.settings)
    }

    fn layer(&self, l: usize, c: &Config) -> Result<LayerWeights, EngineError> {
        use WeightId::*;
        let qkv = |id| Some(id).filter(|_| c.qkv_bias);
        let mlp = |id| Some(id).filter(|_| c.mlp_bias);
        let qk_norms = if c.qk_norm { Some((self.norm(QNorm(l))?, self.norm(KNorm(l))?)) } else { None };
        // Gemma 2 has a norm after attention too, and it bears the name that others give to the one before the MLP.
        let (attn_post_norm, ffn_norm) = if c.post_norms {
            (Some(self.norm(PostAttentionNorm(l))?), self.norm(PreFeedforwardNorm(l))?)
        } else {
            (None, self.norm(PostAttentionNorm(l))?)
        };
        Ok(LayerWeights {
            input_norm: self.norm(InputNorm(l))?,
            q: self.linear(QProj(l), qkv(QBias(l)))?,
            k: self.linear(KProj(l), qkv(KBias(l)))?,
            v: self.linear(VProj(l), qkv(VBias(l)))?,
            qk_norms,
            o: self.linear(OProj(l), Some(OBias(l)).filter(|_| c.o_bias))?,
            attn_post_norm,
            ffn_norm,
            gate: self.linear(Gate(l), mlp(GateBias(l)))?,
            up: self.linear(Up(l), mlp(UpBias(l)))?,
            down: self.linear(Down(l), mlp(DownBias(l)))?,
            mlp_post_norm: if c.post_norms { Some(self.norm(PostFeedforwardNorm(l))?) } else { None },
        })
    }
}

/// The point that shows a matrix's result.
fn point_of(id: WeightId, config: &Config) -> Option<Point> {
    use WeightId::*;
    Some(match id {
        QProj(_) => {
            if config.qk_norm {
                Point::QProjOut
            } else {
                Point::QPreRope
            }
        }
        KProj(_) => {
            if config.qk_norm {
                Point::KProjOut
            } else {
                Point::KPreRope
            }
        }
        VProj(_) => Point::VProj,
        OProj(_) => Point::AttnProjOut,
        Gate(_) => Point::MlpGate,
        Up(_) => Point::MlpUp,
        Down(_) => Point::MlpOut,
        LmHead => Point::Logits,
        Embed if config.tie_word_embeddings => Point::Logits,
        _ => return None,
    })
}

impl EngineWeights {
    pub fn new(model: &Model, settings: &Settings) -> Result<EngineWeights, EngineError> {
        let loader = Loader { model, settings };
        let config = &model.config;
        let head = if config.tie_word_embeddings { WeightId::Embed } else { WeightId::LmHead };
        let matrices = expected_weights(config).into_iter().filter(|(_, shape)| shape.len() == 2);
        let matrices = matrices.map(|(id, _)| loader.weight(id)).collect::<Result<Vec<_>, _>>()?;
        let integer = matrices.iter().filter(|w| is_integer(w, settings.quantised_matmul));
        let mut floats: BTreeMap<Point, BTreeSet<WeightDtype>> = BTreeMap::new();
        for (id, _) in expected_weights(config).into_iter().filter(|(_, shape)| shape.len() == 2) {
            let weight = loader.weight(id)?;
            if let Some(point) = point_of(id, config)
                && weight.dtype().is_quantised()
                && !is_integer(&weight, settings.quantised_matmul)
            {
                floats.entry(point).or_default().insert(weight.dtype());
            }
        }
        Ok(EngineWeights {
            embed: loader.weight(WeightId::Embed)?,
            layers: (0..config.num_hidden_layers).map(|l| loader.layer(l, config)).collect::<Result<_, _>>()?,
            norm: loader.norm(WeightId::Norm)?,
            lm_head: loader.linear(head, None)?,
            dtypes: matrices.iter().map(Weight::dtype).collect(),
            integer: integer.map(Weight::dtype).collect(),
            floats,
        })
    }

    /// Storage types of the matrices, joined by commas.
    pub fn matrix_dtypes(&self) -> String {
        self.dtypes.iter().map(|d| d.id().to_lowercase()).collect::<Vec<_>>().join(",")
    }

    /// Points at which some weights of a quantised type are multiplied as floats all the same, and which types.
    pub fn floats(&self) -> impl Iterator<Item = (Point, String)> {
        let names = |types: &BTreeSet<WeightDtype>| {
            types.iter().map(|d| format!("{}=none", d.id().to_lowercase())).collect::<Vec<_>>().join(",")
        };
        self.floats.iter().map(move |(point, types)| (*point, names(types)))
    }

    /// How activations are quantised before they meet integer weights.
    pub fn activation_quant(&self) -> Option<String> {
        let kinds: BTreeSet<&str> = self
            .integer
            .iter()
            .map(|d| match d {
                WeightDtype::Q4_1 | WeightDtype::Q5_1 => "q8_1",
                d if d.block().0 == 256 => "q8_k",
                _ => "q8_0",
            })
            .collect();
        (!kinds.is_empty()).then(|| kinds.into_iter().collect::<Vec<_>>().join(","))
    }
}

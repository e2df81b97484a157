//! The embedded engine: Llama-family models on candle, by two really different paths.
//!
//! Prefill multiplies matrices (GEMM) and attends naively or in blocks; decode multiplies a vector (another kernel, another
//! order of summation) and attends naively or over split keys. Weights are used where they are mapped. All arithmetic is in
//! f32; what a contract stores in f16 or bf16 is rounded to it once, where it is stored.

pub(crate) mod attention;
pub(crate) mod bytes;
mod cache;
pub(crate) mod interference;
pub(crate) mod kernels;
mod layer;
pub(crate) mod linear;
pub(crate) mod ops;
pub(crate) mod session;
pub(crate) mod values;
mod weights;

use crate::error::EngineError;
use crate::points::points_of;
use crate::settings::{DecodeAttention, PrefillAttention, QuantisedMatmul, Settings};
use crate::{Engine, Session};
use driftprobe_model::{Config, Model};
use driftprobe_trace::{AttentionInfo, Contract, ContractFields, EngineInfo, Phase, Point};
use interference::{Interference, NoInterference};
use session::EmbeddedSession;
use weights::EngineWeights;

/// A model made ready to run.
pub struct EmbeddedEngine {
    config: Config,
    settings: Settings,
    weights: EngineWeights,
}

impl EmbeddedEngine {
    /// Readies a model. On the CPU the matrices stay mapped; only vectors (norms, biases) are copied.
    ///
    /// # Errors
    /// When a setting counts to zero, a tensor cannot be had or the device fails.
    pub fn new(model: &Model, settings: Settings) -> Result<EmbeddedEngine, EngineError> {
        settings.check()?;
        let weights = EngineWeights::new(model, &settings)?;
        Ok(EmbeddedEngine { config: model.config.clone(), settings, weights })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Engine for EmbeddedEngine {
    fn info(&self) -> EngineInfo {
        let device = match &self.settings.device {
            candle_core::Device::Cpu => "cpu",
            candle_core::Device::Cuda(_) => "cuda",
            candle_core::Device::Metal(_) => "metal",
        };
        EngineInfo {
            name: Some("driftprobe-embedded".to_owned()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            backend: Some("candle".to_owned()),
            device: Some(device.to_owned()),
            threads: u32::try_from(rayon::current_num_threads()).ok(),
            batch: u32::try_from(self.settings.batch).ok(),
            chunk_tokens: self.settings.prefill_chunk_tokens.map(|tokens| tokens as u64),
            attention: Some(AttentionInfo {
                prefill: Some(self.settings.prefill_attention.to_string()),
                decode: Some(self.settings.decode_attention.to_string()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn contract(&self) -> Contract {
        let f32 = || Some("f32".to_owned());
        let mut contract = Contract {
            flat: ContractFields {
                weights: Some(self.weights.matrix_dtypes()),
                activations: Some(self.settings.storage.to_string()),
                accumulate: f32(),
                residual: Some(self.settings.residual().to_string()),
                kv_cache: Some(self.settings.kv_cache.to_string()),
                softmax: f32(),
                activation_quant: self.activation_quant(),
                scores: f32(),
                probs: f32(),
                rope_table: f32(),
                ..Default::default()
            },
            ..Default::default()
        };
        let unrounded = ContractFields { activations: f32(), ..Default::default() };
        contract.by_point.insert(Point::Logits.id().to_owned(), unrounded);
        if let Some(quantisers) = self.activation_quant() {
            for (point, floats) in self.weights.floats() {
                let fields = contract.by_point.entry(point.id().to_owned()).or_default();
                fields.activation_quant = Some(format!("{quantisers},{floats}"));
            }
        }
        contract
    }

    fn points(&self, phase: Phase) -> Vec<Point> {
        let holds_probs = match phase {
            Phase::Prefill => self.settings.prefill_attention == PrefillAttention::Naive,
            Phase::Decode => self.settings.decode_attention == DecodeAttention::Naive,
        };
        points_of(&self.config).filter(|point| holds_probs || *point != Point::AttnProbs).collect()
    }

    fn layers(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    fn session(&self) -> Result<Box<dyn Session + '_>, EngineError> {
        Ok(Box::new(self.session_with(&NoInterference)?))
    }
}

impl EmbeddedEngine {
    /// A new sequence whose stages are those of `interference`.
    pub(crate) fn session_with<'m>(
        &'m self,
        interference: &'m dyn Interference,
    ) -> Result<EmbeddedSession<'m>, EngineError> {
        EmbeddedSession::new((&self.config, &self.settings), &self.weights, interference)
    }

    fn activation_quant(&self) -> Option<String> {
        let integer = self.settings.quantised_matmul == QuantisedMatmul::Integer && self.settings.device.is_cpu();
        if integer { self.weights.activation_quant() } else { None }
    }
}

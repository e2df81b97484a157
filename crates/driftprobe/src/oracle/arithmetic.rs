//! What an engine's contract says of one stage's arithmetic.
//!
//! The most special word counts: what the contract says of the point, else of the phase, else of all. What it does not
//! say is not guessed silently: it is assumed, and the assumption is on record in [`Arithmetic::assumed`].

use super::float::Float;
use super::key_parts::KeyParts;
use super::noise::ROUNDING_RMS;
use super::quantise::Quantiser;
use driftprobe_trace::{Contract, ContractFields, Dtype, Phase, Point};
use std::sync::atomic::{AtomicU32, Ordering};

/// u of NVIDIA's TF32: 10 stored bits of mantissa.
const TF32_UNIT_ROUNDOFF: f64 = 1.0 / 2048.0;

/// A contract's field has a value that the oracle has no arithmetic for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the contract says {field} is {value:?}, which the oracle cannot compute")]
pub struct Unsupported {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
}

/// The roundings of one stage.
#[derive(Clone, Debug)]
pub struct Arithmetic {
    point: Point,
    fields: ContractFields,
    /// Accumulator that the contract names for this very point.
    own_accumulator: bool,
    dtype: Dtype,
    assumed: Assumed,
}

/// The field of a contract that has this name.
pub(crate) fn field(name: &str) -> Option<&'static str> {
    ContractFields::NAMED.iter().copied().find(|field| *field == name)
}

/// Which fields of a contract were assumed: a bit for each of [`ContractFields::NAMED`].
#[derive(Debug, Default)]
struct Assumed(AtomicU32);

const _: () = assert!(ContractFields::NAMED.len() <= u32::BITS as usize);

impl Assumed {
    fn add(&self, field: &str) {
        let bit = ContractFields::NAMED.iter().position(|one| *one == field).map_or(0, |at| 1 << at);
        self.0.fetch_or(bit, Ordering::Relaxed);
    }

    /// By name.
    fn all(&self) -> Vec<&'static str> {
        let bits = self.0.load(Ordering::Relaxed);
        let named = ContractFields::NAMED.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0);
        let mut all: Vec<&str> = named.map(|(_, field)| *field).collect();
        all.sort_unstable();
        all
    }
}

impl Clone for Assumed {
    fn clone(&self) -> Assumed {
        Assumed(AtomicU32::new(self.0.load(Ordering::Relaxed)))
    }
}

impl Arithmetic {
    /// The arithmetic of `point` in `phase`, whose rows are recorded in `dtype`.
    pub fn resolve(contract: Option<&Contract>, phase: Phase, point: Point, dtype: Dtype) -> Arithmetic {
        let mut fields = ContractFields::default();
        let mut own_accumulator = false;
        if let Some(contract) = contract {
            let own = std::iter::once(point.id()).chain(point.aliases().iter().copied());
            let own = own.filter_map(|name| contract.by_point.get(name)).next();
            own_accumulator = own.is_some_and(|f| f.accumulate.is_some());
            for layer in [own, contract.by_phase.get(&phase), Some(&contract.flat)].into_iter().flatten() {
                fields.fill(layer);
            }
        }
        Arithmetic { point, fields, own_accumulator, dtype, assumed: Assumed::default() }
    }

    /// What the contract says, the most special word of each field.
    pub fn into_fields(self) -> ContractFields {
        self.fields
    }

    /// The same in a forward pass of so many tokens.
    #[must_use]
    pub fn of_pass(self, tokens: u64) -> Arithmetic {
        match self.fields.few_rows.clone().filter(|few| tokens < few.below) {
            Some(few) => self.with(&few.fields),
            None => self,
        }
    }

    /// The same with these fields in place of the contract's.
    #[must_use]
    pub fn with(mut self, fields: &ContractFields) -> Arithmetic {
        let mut own = fields.clone();
        self.own_accumulator |= own.accumulate.is_some();
        own.fill(&self.fields);
        self.fields = own;
        self
    }

    /// The same where an event says in which format the cache holds its row: more special than any contract.
    #[must_use]
    pub fn holding(self, stored: Option<Dtype>) -> Arithmetic {
        let Some(stored) = stored else { return self };
        self.with(&ContractFields { kv_cache: Some(stored.id().to_owned()), ..Default::default() })
    }

    /// What was not declared and had to be assumed, of what has been asked so far.
    pub fn assumed(&self) -> Vec<&'static str> {
        self.assumed.all()
    }

    fn float(&self, field: &'static str) -> Result<Option<Float>, Unsupported> {
        self.fields.get(field).map(|name| parsed(field, name)).transpose()
    }

    fn or(&self, field: &'static str, otherwise: Float) -> Result<Float, Unsupported> {
        Ok(self.float(field)?.unwrap_or_else(|| {
            self.assumed.add(field);
            otherwise
        }))
    }

    /// Format of the accumulator of sums; f32 if not declared.
    ///
    /// # Errors
    /// If the contract names one that is not known. So too below.
    pub fn accumulate(&self) -> Result<Float, Unsupported> {
        if self.rounds_inputs_to_tf32() {
            return Ok(Float::F32);
        }
        self.or("accumulate", Float::F32)
    }

    /// Whether a product's inputs are rounded to TF32 (11 bits of precision) first, and the sums kept in f32.
    fn rounds_inputs_to_tf32(&self) -> bool {
        self.fields.accumulate.as_deref() == Some("tf32")
    }

    /// Relative variance of a product from the rounding of its two inputs.
    pub fn input_variance(&self) -> f64 {
        if self.rounds_inputs_to_tf32() { 2.0 * (ROUNDING_RMS * TF32_UNIT_ROUNDOFF).powi(2) } else { 0.0 }
    }

    /// Format in which norms, rotations and activations are computed: f32, or finer if sums are. A coarse accumulator
    /// counts here only if the contract names it for this very point, since engines widen these stages to f32.
    pub fn elementwise(&self) -> Result<Float, Unsupported> {
        let accumulate = self.accumulate()?;
        Ok(if self.own_accumulator { accumulate } else { accumulate.max(Float::F32) })
    }

    /// Format of the softmax; f32 if not declared.
    pub fn softmax(&self) -> Result<Float, Unsupported> {
        self.or("softmax", Float::F32)
    }

    /// Format in which the stage's result is stored: what the contract says of the residual stream, the scores, the
    /// probabilities or the activations; never finer than the recorded dtype, which is all that can be seen.
    pub fn output(&self) -> Result<Float, Unsupported> {
        use Point::*;
        let recorded = Float::of(self.dtype);
        let declared = match self.point {
            EmbedOut | ResidualPreAttn | ResidualPostAttn | ResidualPostMlp | FinalNormIn => {
                match &self.fields.residual {
                    None => self.or("activations", recorded)?,
                    Some(_) => self.or("residual", recorded)?,
                }
            }
            AttnScores => self.or("scores", recorded)?,
            AttnProbs => self.or("probs", recorded)?,
            KCache | VCache => recorded,
            _ => self.or("activations", recorded)?,
        };
        Ok(declared.min(recorded))
    }

    /// The recorded dtype.
    pub fn recorded(&self) -> Float {
        Float::of(self.dtype)
    }

    /// Format that the cache holds, if declared; none where it holds blocks.
    pub fn kv_cache(&self) -> Result<Option<Float>, Unsupported> {
        if self.kv_cache_blocks().is_some() { Ok(None) } else { self.float("kv_cache") }
    }

    /// Quantiser by which the cache holds its rows, if it does.
    pub fn kv_cache_blocks(&self) -> Option<Quantiser> {
        self.fields.kv_cache.as_deref().and_then(Quantiser::parse)
    }

    /// Format in which scores are stored on the way; f32 if not declared.
    pub fn scores(&self) -> Result<Float, Unsupported> {
        self.or("scores", Float::F32)
    }

    /// Format in which probabilities are stored on the way; f32 if not declared.
    pub fn probs(&self) -> Result<Float, Unsupported> {
        self.or("probs", Float::F32)
    }

    /// Format in which partial sums of a split sum are stored, where there are such.
    pub fn partials(&self) -> Result<Option<Float>, Unsupported> {
        self.float("partials")
    }

    /// Format of the table of cos and sin; f32 if not declared.
    pub fn rope_table(&self) -> Result<Float, Unsupported> {
        self.or("rope_table", Float::F32)
    }

    /// Name of the dtype or quantiser to which the stage brings what it reads, if any.
    pub fn inputs(&self) -> Option<&str> {
        self.fields.inputs.as_deref()
    }

    /// Format to which attention brings cached rows before it multiplies them, if another than the cache's.
    pub fn kv_read(&self) -> Result<Option<Float>, Unsupported> {
        self.float("kv_read")
    }

    /// Format of fused attention's running sum of weighted values, where it is rounded key by key.
    pub fn value_sums(&self) -> Result<Option<Float>, Unsupported> {
        self.float("value_sums")
    }

    /// How fused attention splits the keys; one part if not declared.
    pub fn key_parts(&self) -> Result<KeyParts, Unsupported> {
        match self.fields.key_parts.as_deref() {
            None => Ok(KeyParts::WHOLE),
            Some(text) => text.parse().map_err(|()| Unsupported { field: "key_parts", value: text.to_owned() }),
        }
    }

    /// Whether attention is declared to be of another kind than scores, probabilities and their sums one by one.
    pub fn is_fused(&self) -> bool {
        self.point == Point::AttnOut
            && (self.fields.inputs.is_some() || self.fields.kv_read.is_some() || self.fields.value_sums.is_some())
    }

    /// The rounding before the last, where the contract's `rounding` of this point has two: of x·rsqrt before the weight
    /// (norm), of a product before its bias, of the two products (rotary embedding), of the activation before the product with
    /// up (MLP).
    pub fn inner(&self) -> Result<Option<Float>, Unsupported> {
        match self.fields.rounding.as_deref() {
            Some([inner, .., _]) => parsed("rounding", inner).map(Some),
            _ => Ok(None),
        }
    }

    /// Names of the quantisers of activations, if any.
    pub fn activation_quant(&self) -> Vec<&str> {
        let names = self.fields.activation_quant.as_deref().unwrap_or_default();
        names.split(',').map(str::trim).filter(|n| !n.is_empty() && *n != "none").collect()
    }
}

/// The format of this name.
fn parsed(field: &'static str, name: &str) -> Result<Float, Unsupported> {
    Float::parse(name).ok_or_else(|| Unsupported { field, value: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn contract() -> Contract {
        let mut contract = Contract {
            flat: ContractFields {
                activations: some("bf16"),
                residual: some("f32"),
                accumulate: some("f16"),
                kv_cache: some("fp4_e2m1"),
                ..Default::default()
            },
            ..Default::default()
        };
        let decode = ContractFields { accumulate: some("f32"), activations: some("f16"), ..Default::default() };
        contract.by_phase.insert(Phase::Decode, decode);
        let logits = ContractFields { activations: some("f32"), ..Default::default() };
        contract.by_point.insert("logits".to_owned(), logits);
        let norm = ContractFields { rounding: Some(vec!["bf16".into(), "bf16".into()]), ..Default::default() };
        contract.by_point.insert("ffn_norm".to_owned(), norm);
        contract
    }

    fn of(phase: Phase, point: Point, dtype: Dtype) -> Arithmetic {
        Arithmetic::resolve(Some(&contract()), phase, point, dtype)
    }

    #[test]
    fn the_point_counts_before_the_phase_and_the_phase_before_the_rest() {
        let accumulate = |phase, point| of(phase, point, Dtype::F32).accumulate().unwrap();
        let output = |phase, point| of(phase, point, Dtype::F32).output().unwrap();
        assert_eq!(accumulate(Phase::Prefill, Point::MlpOut), Float::F16);
        assert_eq!(accumulate(Phase::Decode, Point::MlpOut), Float::F32);
        assert_eq!(output(Phase::Prefill, Point::MlpOut), Float::Bf16);
        assert_eq!(output(Phase::Decode, Point::MlpOut), Float::F16);
        assert_eq!(output(Phase::Decode, Point::Logits), Float::F32);
        assert_eq!(output(Phase::Decode, Point::ResidualPostMlp), Float::F32);
        assert_eq!(of(Phase::Decode, Point::FfnNormOut, Dtype::F32).inner(), Ok(Some(Float::Bf16)), "by an alias");
        assert_eq!(of(Phase::Decode, Point::AttnNormOut, Dtype::F32).inner(), Ok(None));
    }

    #[test]
    fn nothing_finer_than_the_recorded_dtype_is_claimed() {
        assert_eq!(of(Phase::Prefill, Point::ResidualPostMlp, Dtype::F16).output(), Ok(Float::F16));
    }

    #[test]
    fn elementwise_stages_are_computed_in_f32_at_least() {
        assert_eq!(of(Phase::Prefill, Point::AttnNormOut, Dtype::F32).elementwise(), Ok(Float::F32));
    }

    #[test]
    fn what_is_not_declared_is_assumed_and_said_and_what_is_not_known_is_refused() {
        let arithmetic = of(Phase::Prefill, Point::AttnOut, Dtype::Bf16);
        assert_eq!((arithmetic.scores(), arithmetic.accumulate()), (Ok(Float::F32), Ok(Float::F16)));
        assert_eq!(arithmetic.assumed(), ["scores"]);
        let refused = Unsupported { field: "kv_cache", value: "fp4_e2m1".to_owned() };
        assert_eq!(arithmetic.kv_cache(), Err(refused));
        let nothing = Arithmetic::resolve(None, Phase::Prefill, Point::MlpOut, Dtype::Bf16);
        assert_eq!((nothing.output(), nothing.accumulate()), (Ok(Float::Bf16), Ok(Float::F32)));
        assert_eq!(nothing.assumed(), ["accumulate", "activations"]);
    }
}

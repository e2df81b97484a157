//! The catalogue of legitimate arithmetics that a contract may have left out.
//!
//! What they may do is to round to the storage format where the contract says nothing of it, or not to round; values that
//! are kept more coarsely than they are declared to be are a fault. A variant either *emulates* (the roundings are known, so their result is) or *widens* (where a rounding falls is not
//! known, and its noise is added). A widening variant could hide a small fault, so it must earn its place: the residuals
//! must fill the noise that it adds.

mod fused;

use super::float::Float;
use super::stage::Op;
use driftprobe_trace::{ContractFields, Dtype, Point};

/// One legitimate arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Stable id: the fields that it sets.
    pub id: String,
    /// What it is, for people: follows "in decode, attn_out of all layers: ".
    pub says: String,
    /// The fields, in place of what the contract says.
    pub fields: ContractFields,
    /// Whether it adds noise in place of computing the rounding.
    pub widens: bool,
}

/// Formats that engines round to between an operation's steps, the finest first.
const NARROW: [Float; 2] = [Float::F16, Float::Bf16];

/// What `op` may legitimately do, given the format of its recorded rows: the sharpest first.
pub fn variants(op: Op, point: Point, recorded: Dtype) -> Vec<Variant> {
    let storage = Float::of(recorded);
    match op {
        Op::Embed | Op::Copy => outputs(point),
        Op::Add => outputs(point),
        Op::KvWrite => NARROW.iter().map(|f| one("kv_cache", *f, &["its rows are held in ", f.id()], false)).collect(),
        Op::Norm { .. } => [inner(storage, "x·rsqrt is rounded to ", " before the weight"), outputs(point)].concat(),
        Op::Gated => [inner(storage, "the activation is rounded to ", " before the product"), outputs(point)].concat(),
        Op::Rope => rope(storage, point),
        Op::Linear { softcap, .. } => {
            let capped = softcap.map(|_| steps(storage, 4, "the product and each step of its soft cap are"));
            [capped.into_iter().collect(), linear(point)].concat()
        }
        Op::Scores => {
            [fused::inputs(), fused::kv_read(), widening("scores", "scores are stored in "), accumulators()].concat()
        }
        Op::Softmax => [widening("softmax", "the softmax is computed in "), outputs(point)].concat(),
        Op::Weigh => [probs_read(), fused::kv_read(), attention()].concat(),
        Op::ScoresSoftmax => [fused::inputs(), fused::kv_read(), attention()].concat(),
        Op::Attention => [fused::all(), attention()].concat(),
    }
}

fn fields(name: &str, value: &str) -> ContractFields {
    let value = Some(value.to_owned());
    let mut fields = ContractFields::default();
    match name {
        "kv_cache" => fields.kv_cache = value,
        "scores" => fields.scores = value,
        "probs" => fields.probs = value,
        "softmax" => fields.softmax = value,
        "rope_table" => fields.rope_table = value,
        "residual" => fields.residual = value,
        "activations" => fields.activations = value,
        "activation_quant" => fields.activation_quant = value,
        "partials" => fields.partials = value,
        "inputs" => fields.inputs = value,
        "kv_read" => fields.kv_read = value,
        "value_sums" => fields.value_sums = value,
        "key_parts" => fields.key_parts = value,
        _ => fields.accumulate = value,
    }
    fields
}

fn one(name: &str, format: Float, says: &[&str], widens: bool) -> Variant {
    named(name, format.id(), says, widens)
}

fn named(name: &str, value: &str, says: &[&str], widens: bool) -> Variant {
    Variant { id: format!("{name}={value}"), says: says.concat(), fields: fields(name, value), widens }
}

/// Both at once.
fn with(a: &Variant, b: &Variant) -> Variant {
    let mut fields = a.fields.clone();
    super::arithmetic::fill(&mut fields, &b.fields);
    Variant {
        id: format!("{},{}", a.id, b.id),
        says: format!("{}, and {}", a.says, b.says),
        fields,
        widens: a.widens || b.widens,
    }
}

/// Field of the format in which a point's result is stored.
fn storage_field(point: Point) -> &'static str {
    use Point::*;
    match point {
        EmbedOut | ResidualPreAttn | ResidualPostAttn | ResidualPostMlp | FinalNormIn => "residual",
        AttnScores => "scores",
        AttnProbs => "probs",
        KCache | VCache => "kv_cache",
        _ => "activations",
    }
}

/// The result is kept in the format of its record, finer than declared.
pub fn kept_as_recorded(point: Point, storage: Float) -> Variant {
    let says = ["its rows are kept in ", storage.id(), ", more finely than declared"];
    one(storage_field(point), storage, &says, false)
}

/// The result is rounded to a narrower format than it is recorded in.
fn outputs(point: Point) -> Vec<Variant> {
    let name = storage_field(point);
    NARROW.iter().map(|f| one(name, *f, &["the result is rounded to ", f.id()], false)).collect()
}

impl Variant {
    /// Whether values are kept more coarsely than both the storage format and what the contract says in so many words: a
    /// loss of precision that is no freedom of the arithmetic.
    pub fn loses(&self, declared: &ContractFields, recorded: Dtype) -> bool {
        let (own, storage) = (&self.fields, Float::of(recorded));
        let pairs = [
            (&own.kv_cache, &declared.kv_cache),
            (&own.rope_table, &declared.rope_table),
            (&own.residual, &declared.residual),
            (&own.activations, &declared.activations),
            (&own.scores, &declared.scores),
            (&own.probs, &declared.probs),
            (&own.softmax, &declared.softmax),
            // Who declares an accumulator declares that of all partial sums.
            (&own.partials, &declared.accumulate),
        ];
        let coarser = |name: &str| Float::parse(name).is_some_and(|format| format < storage);
        // Who declares an accumulator declares how precisely products and their sums are computed.
        let inside = [&own.accumulate, &own.inputs, &own.kv_read, &own.value_sums];
        let rounds = own.activation_quant.as_deref().is_some_and(|name| Float::parse(name).is_some());
        let said = [
            (&own.inputs, &declared.inputs),
            (&own.kv_read, &declared.kv_read),
            (&own.value_sums, &declared.value_sums),
            (&own.key_parts, &declared.key_parts),
        ];
        pairs.iter().any(|(own, declared)| declared.is_some() && own.as_deref().is_some_and(coarser))
            || said.iter().any(|(own, declared)| own.is_some() && declared.is_some())
            || declared.accumulate.is_some() && (rounds || inside.iter().any(|own| own.is_some()))
            || rounds && declared.activation_quant.is_some()
    }
}

/// The rounding before the last is to the storage format, or there is none.
fn inner(storage: Float, before: &str, after: &str) -> Vec<Variant> {
    let variant = |inner: Float, says: String| Variant {
        id: format!("rounding={},{}", inner.id(), storage.id()),
        says,
        fields: ContractFields {
            rounding: Some(vec![inner.id().to_owned(), storage.id().to_owned()]),
            ..ContractFields::default()
        },
        widens: false,
    };
    let narrow = NARROW.into_iter().filter(|f| *f == storage).map(|f| variant(f, [before, f.id(), after].concat()));
    narrow.chain([variant(Float::F32, "only the result is rounded, nothing inside".to_owned())]).collect()
}

/// Every step of the stage is rounded to the storage format.
fn steps(storage: Float, count: usize, what: &str) -> Variant {
    let rounding = vec![storage.id().to_owned(); count];
    Variant {
        id: format!("rounding={}", rounding.join(",")),
        says: format!("{what} rounded to {}", storage.id()),
        fields: ContractFields { rounding: Some(rounding), ..ContractFields::default() },
        widens: false,
    }
}

fn rope(storage: Float, point: Point) -> Vec<Variant> {
    let formats = NARROW.into_iter().chain([Float::F32]);
    let tables: Vec<Variant> =
        formats.map(|f| one("rope_table", f, &["cos and sin are kept in ", f.id()], false)).collect();
    let products = inner(storage, "the products are rounded to ", " before they are added");
    let mut all = [tables.clone(), products.clone(), outputs(point)].concat();
    all.extend(tables.iter().flat_map(|table| products.iter().map(move |product| with(table, product))));
    all
}

/// Stored in f32 after all, or in a narrower format.
fn widening(name: &str, says: &str) -> Vec<Variant> {
    let finer = one(name, Float::F32, &[says, "f32"], false);
    std::iter::once(finer).chain(NARROW.iter().map(|f| one(name, *f, &[says, f.id()], true))).collect()
}

fn accumulators() -> Vec<Variant> {
    let mut all = vec![named("accumulate", "tf32", &["products are of inputs rounded to TF32"], true)];
    all.extend(widening("accumulate", "sums are kept in "));
    all
}

fn split(format: Float) -> Variant {
    named("partials", format.id(), &["partial sums are stored in ", format.id()], true)
}

fn linear(point: Point) -> Vec<Variant> {
    let mut all = outputs(point);
    let quantisers = ["none", "q8_0", "q8_1", "q8_k"].map(|name| {
        let says = match name {
            "none" => "activations are not quantised".to_owned(),
            name => format!("activations are quantised to {name}"),
        };
        named("activation_quant", name, &[&says], false)
    });
    all.extend(quantisers);
    let rounded = |f: Float| {
        named(
            "activation_quant",
            f.id(),
            &["activations are rounded to ", f.id(), " before they meet weights of it"],
            false,
        )
    };
    all.extend(NARROW.map(rounded));
    all.extend(NARROW.map(split));
    all.extend(accumulators());
    all
}

/// Probabilities as the product with V takes them; what is recorded is what softmax gave.
fn probs_read() -> Vec<Variant> {
    let one =
        |f: Float| named("probs", f.id(), &["probabilities are rounded to ", f.id(), " before they meet V"], false);
    NARROW.map(one).to_vec()
}

fn attention() -> Vec<Variant> {
    let (scores, probs) =
        (widening("scores", "scores are stored in "), widening("probs", "probabilities are stored in "));
    let mut all = [probs.clone(), scores.clone(), accumulators()].concat();
    all.extend(widening("softmax", "the softmax is computed in "));
    all.extend(scores.iter().flat_map(|s| probs.iter().map(move |p| with(s, p))));
    all
}

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
        Op::Linear { bias, softcap, .. } => {
            let stored = bias.map(|_| inner(storage, "the product is rounded to ", " before the bias is added"));
            let capped = softcap.map(|_| steps(storage, 4, "the product and each step of its soft cap are"));
            [stored.unwrap_or_default(), capped.into_iter().collect(), linear(point)].concat()
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

fn one(name: &str, format: Float, says: &[&str], widens: bool) -> Variant {
    named(name, format.id(), says, widens)
}

fn named(name: &str, value: &str, says: &[&str], widens: bool) -> Variant {
    Variant { id: format!("{name}={value}"), says: says.concat(), fields: ContractFields::of(&[(name, value)]), widens }
}

/// Both at once.
fn with(a: &Variant, b: &Variant) -> Variant {
    let mut fields = a.fields.clone();
    fields.fill(&b.fields);
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

/// What of a field no variant may have where a contract speaks of it.
enum Bound {
    /// A format coarser than that of the record.
    Coarser,
    /// Any format; other values, which name quantisers, are free.
    Formats,
    /// Whatever it says.
    All,
}

/// By which declared fields a field of a variant is bound, and to what. A field without a row is bound by itself: who declares
/// it has said all of it. Who declares an accumulator declares how precisely products and all their sums are computed.
const BOUND: [(&str, &[&str], Bound); 13] = [
    ("kv_cache", &["kv_cache"], Bound::Coarser),
    ("rope_table", &["rope_table"], Bound::Coarser),
    ("residual", &["residual"], Bound::Coarser),
    ("activations", &["activations"], Bound::Coarser),
    ("scores", &["scores"], Bound::Coarser),
    ("probs", &["probs"], Bound::Coarser),
    ("softmax", &["softmax"], Bound::Coarser),
    ("partials", &["accumulate"], Bound::Coarser),
    ("accumulate", &["accumulate"], Bound::All),
    ("inputs", &["inputs", "accumulate"], Bound::All),
    ("kv_read", &["kv_read", "accumulate"], Bound::All),
    ("value_sums", &["value_sums", "accumulate"], Bound::All),
    ("activation_quant", &["activation_quant", "accumulate"], Bound::Formats),
];

impl Variant {
    /// Whether values are kept more coarsely than both the storage format and what the contract says in so many words: a
    /// loss of precision that is no freedom of the arithmetic.
    pub fn loses(&self, declared: &ContractFields, recorded: Dtype) -> bool {
        let storage = Float::of(recorded);
        let lost = |name: &&str| {
            let Some(value) = self.fields.get(name) else { return false };
            let row = BOUND.iter().find(|(field, ..)| field == name);
            let (by, bound) = row.map_or((std::slice::from_ref(name), &Bound::All), |(_, by, bound)| (*by, bound));
            let breaks = match bound {
                Bound::Coarser => Float::parse(value).is_some_and(|format| format < storage),
                Bound::Formats => Float::parse(value).is_some(),
                Bound::All => true,
            };
            breaks && by.iter().any(|field| declared.get(field).is_some())
        };
        ContractFields::NAMED.iter().any(lost)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `own` of rows in bf16 loses what `declared` says.
    fn loses(own: (&str, &str), declared: (&str, &str)) -> bool {
        let variant = named(own.0, own.1, &[], false);
        variant.loses(&ContractFields::of(&[declared]), Dtype::Bf16)
    }

    /// The ids of what an operation may do, and of those that add noise.
    fn ids(op: Op, point: Point, recorded: Dtype) -> [Vec<String>; 2] {
        let all = variants(op, point, recorded);
        let of = |wide: bool| all.iter().filter(|one| !wide || one.widens).map(|one| one.id.clone()).collect();
        [of(false), of(true)]
    }

    #[test]
    fn a_result_is_rounded_to_narrower_formats_in_the_field_of_its_point() {
        use Point::*;
        for (name, points) in [
            ("residual", vec![EmbedOut, ResidualPreAttn, ResidualPostAttn, ResidualPostMlp, FinalNormIn]),
            ("scores", vec![AttnScores]),
            ("probs", vec![AttnProbs]),
            ("kv_cache", vec![KCache, VCache]),
            ("activations", vec![AttnNormOut, QPostRope, AttnOut, MlpOut, FinalNormOut, Logits]),
        ] {
            for point in points {
                let expected = [format!("{name}=f16"), format!("{name}=bf16")];
                assert_eq!(ids(Op::Copy, point, Dtype::F32), [expected.to_vec(), vec![]], "{point}");
                assert_eq!(kept_as_recorded(point, Float::F32).id, format!("{name}=f32"));
            }
        }
        assert_eq!(ids(Op::KvWrite, KCache, Dtype::F32)[0], ["kv_cache=f16", "kv_cache=bf16"]);
    }

    #[test]
    fn what_is_rounded_inside_has_the_format_of_the_record_if_that_is_narrow() {
        let outputs = ["activations=f16", "activations=bf16"];
        let gated = |recorded| ids(Op::Gated, Point::MlpAct, recorded);
        let [bf16, wide] = gated(Dtype::Bf16);
        assert_eq!(bf16, [["rounding=bf16,bf16", "rounding=f32,bf16"], outputs].concat());
        assert_eq!(wide, [""; 0]);
        let [f32, _] = gated(Dtype::F32);
        assert_eq!(f32, [["rounding=f32,f32"].as_slice(), &outputs].concat());
        // Each table of the rotary embedding, each rounding of its products, and both at once.
        let [rope, wide] = ids(Op::Rope, Point::QPostRope, Dtype::F16);
        let (tables, products) =
            (["rope_table=f16", "rope_table=bf16", "rope_table=f32"], ["rounding=f16,f16", "rounding=f32,f16"]);
        let both = tables.iter().flat_map(|table| products.map(|product| format!("{table},{product}")));
        let single = tables.iter().chain(&products).chain(&outputs).map(|id| (*id).to_owned());
        assert_eq!((rope, wide.len()), (single.chain(both).collect(), 0));
    }

    #[test]
    fn narrower_sums_scores_and_probabilities_add_noise_alone_or_together() {
        let [all, wide] = ids(Op::Softmax, Point::AttnProbs, Dtype::F32);
        assert_eq!(all, ["softmax=f32", "softmax=f16", "softmax=bf16", "probs=f16", "probs=bf16"]);
        assert_eq!(wide, ["softmax=f16", "softmax=bf16"]);
        let [all, wide] = ids(Op::Weigh, Point::AttnOut, Dtype::F32);
        assert_eq!(all[..2], ["probs=f16", "probs=bf16"], "as they are read");
        for (id, widens) in [
            ("scores=f32", false),
            ("scores=bf16", true),
            ("probs=f32", false),
            ("accumulate=tf32", true),
            ("accumulate=f32", false),
            ("scores=f32,probs=f32", false),
            ("scores=f16,probs=f32", true),
            ("scores=f32,probs=f16", true),
            ("scores=bf16,probs=f16", true),
        ] {
            assert!(all.iter().any(|one| one == id), "{id}");
            assert_eq!(wide.iter().any(|one| one == id), widens, "{id}");
        }
        let op = Op::Linear { weight: driftprobe_model::WeightId::LmHead, bias: None, softcap: None };
        let [all, wide] = ids(op, Point::Logits, Dtype::F32);
        assert!(
            ["activations=f16", "activation_quant=q8_0", "activation_quant=bf16"]
                .iter()
                .all(|id| all.iter().any(|one| one == id))
        );
        assert_eq!(wide, ["partials=f16", "partials=bf16", "accumulate=tf32", "accumulate=f16", "accumulate=bf16"]);
    }

    #[test]
    fn storage_that_is_declared_may_be_finer_or_that_of_the_record_and_no_coarser() {
        for field in ["kv_cache", "rope_table", "residual", "activations", "scores", "probs", "softmax"] {
            assert!(loses((field, "fp8_e4m3"), (field, "bf16")), "{field}");
            assert!(!loses((field, "bf16"), (field, "f32")), "{field}");
            assert!(!loses((field, "f32"), (field, "bf16")), "{field}");
            assert!(!loses((field, "fp8_e4m3"), ("weights", "bf16")), "{field}: of it nothing is said");
        }
    }

    #[test]
    fn an_accumulator_that_is_declared_is_that_of_all_products_and_sums() {
        for own in
            [("accumulate", "f32"), ("inputs", "f16"), ("inputs", "q8_0"), ("kv_read", "f16"), ("value_sums", "f16")]
        {
            assert!(loses(own, ("accumulate", "f32")), "{own:?}");
            assert!(loses(own, (own.0, "f32")), "{own:?} by itself");
            assert!(!loses(own, ("activations", "bf16")), "{own:?}");
        }
        assert!(loses(("partials", "fp8_e4m3"), ("accumulate", "f32")));
        assert!(!loses(("partials", "bf16"), ("accumulate", "f32")), "parts may be stored as the record is");
        assert!(!loses(("partials", "fp8_e4m3"), ("partials", "f32")));
        assert!(loses(("activation_quant", "bf16"), ("accumulate", "f32")));
        assert!(loses(("activation_quant", "bf16"), ("activation_quant", "none")));
        assert!(!loses(("activation_quant", "q8_1"), ("activation_quant", "q8_0")), "which blocks is free");
    }

    #[test]
    fn a_field_without_a_row_is_bound_by_itself() {
        assert!(BOUND.iter().all(|(field, ..)| *field != "key_parts"));
        assert!(loses(("key_parts", "2"), ("key_parts", "4")));
        assert!(!loses(("key_parts", "2"), ("accumulate", "f32")));
    }

    #[test]
    fn every_row_is_of_a_field_that_there_is() {
        let known = |field: &str| ContractFields::NAMED.contains(&field);
        assert!(BOUND.iter().all(|(field, by, _)| known(field) && by.iter().all(|field| known(field))));
    }
}

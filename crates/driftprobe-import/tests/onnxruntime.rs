//! The map of ONNX Runtime: values of transformers under the names that onnxruntime-genai's model builder gives, judged.

use driftprobe::judge::examine::Oracle;
use driftprobe::verdict::Parting;
use driftprobe::{Analysis, Options, Verdict, analyze_against};
use driftprobe_import::{Report, Request, import};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, ModelInfo, Phase, Point, Run};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use std::fs;
use std::path::{Path, PathBuf};

/// A value of a pass: its name, type, shape and bytes.
type Value = (String, Dtype, Vec<usize>, Vec<u8>);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// What the builder calls a value of transformers; those that it has no name for are left out.
fn name_of(name: &str) -> Option<String> {
    const WITHIN: &[(&str, &str)] = &[
        ("input_layernorm", "input_layernorm/output_0"),
        ("self_attn.q_proj", "attn/q_proj/MatMul/output_0"),
        ("self_attn.k_proj", "attn/k_proj/MatMul/output_0"),
        ("self_attn.v_proj", "attn/v_proj/MatMulNBits/output_0"),
        ("self_attn.q_rotated", "attn/q_rotary/RotaryEmbedding/output_0"),
        ("self_attn.k_rotated", "attn/k_rotary/RotaryEmbedding/output_0"),
        ("self_attn.o_proj.input", "attn/GroupQueryAttention/output_0"),
        ("self_attn.o_proj", "attn/o_proj/MatMul/output_0"),
        ("post_attention_layernorm.input", "post_attention_layernorm/output_3"),
        ("post_attention_layernorm", "post_attention_layernorm/output_0"),
        ("mlp.gate_proj", "mlp/gate_proj/MatMul/output_0"),
        ("mlp.up_proj", "mlp/up_proj/MatMul/output_0"),
        ("mlp.down_proj.input", "mlp/Mul/output_0"),
        ("mlp.down_proj", "mlp/down_proj/MatMul/output_0"),
    ];
    let Some((layer, within)) =
        name.strip_prefix("model.layers.").map(|rest| rest.split_once('.').unwrap_or((rest, "")))
    else {
        return match name {
            "input_ids" | "position_ids" => Some(name.to_owned()),
            "model.embed_tokens" => Some("/model/embed_tokens/Gather/output_0".to_owned()),
            "model.norm" => Some("/model/layers.2/final_norm_layernorm/output_0".to_owned()),
            "lm_head" => Some("logits".to_owned()),
            _ => None,
        };
    };
    match within {
        "self_attn.keys" => Some(format!("present.{layer}.key")),
        "self_attn.values" => Some(format!("present.{layer}.value")),
        // The first layer's norm has no sum to give.
        "input" if layer != "0" => Some(format!("/model/layers.{layer}/input_layernorm/output_3")),
        _ => {
            let (_, inner) = WITHIN.iter().find(|(theirs, _)| *theirs == within)?;
            Some(format!("/model/layers.{layer}/{inner}"))
        }
    }
}

/// `[1, tokens, heads × dim]` of `[1, heads, tokens, dim]`, f32.
fn tokens_first(shape: &[usize], bytes: &[u8]) -> (Vec<usize>, Vec<u8>) {
    let [_, heads, tokens, dim] = shape.try_into().unwrap();
    let row = |token: usize, head: usize| &bytes[(head * tokens + token) * dim * 4..][..dim * 4];
    let all = (0..tokens).flat_map(|token| (0..heads).flat_map(move |head| row(token, head).to_vec()));
    (vec![1, tokens, heads * dim], all.collect())
}

/// The passes as ONNX Runtime would have given them, each value changed by `change`.
fn dump(folder: &Path, change: &dyn Fn(usize, &mut Value)) {
    for pass in 0..4 {
        let bytes = fs::read(fixtures().join(format!("import-dumps/passes/pass{pass}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut values: Vec<Value> = Vec::new();
        for (name, view) in tensors.iter() {
            let Some(to) = name_of(name) else { continue };
            let (shape, data) = match name.ends_with("_rotated") {
                true => tokens_first(view.shape(), view.data()),
                false => (view.shape().to_vec(), view.data().to_vec()),
            };
            values.push((to, view.dtype(), shape, data));
        }
        values.iter_mut().for_each(|value| change(pass, value));
        let views = values
            .iter()
            .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        serialize_to_file(views, None, &folder.join(format!("pass{pass}.safetensors"))).unwrap();
    }
}

fn imported(change: &dyn Fn(usize, &mut Value), config: &dyn Fn(&mut Manifest)) -> (Report, Run, Analysis) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("dump");
    fs::create_dir(&source).unwrap();
    dump(&source, change);
    let model = Model::open(&fixtures().join("transformers-traces/models/llama")).unwrap();
    let mut request = Request::new(Some(source), folder.path().join("run"));
    request.map = Some("onnxruntime".to_owned());
    request.manifest = Manifest {
        config: Some(model.config.to_hugging_face()),
        contract: driftprobe::presets::contract("f32"),
        model: Some(ModelInfo::default()),
        ..Manifest::default()
    };
    config(&mut request.manifest);
    let report = import(&request, &mut |_| {}).unwrap();
    let run = Run::open(&request.out).unwrap();
    let analysis = analyze_against((&run, &run), Some(&Oracle::new(&model)), Options::default(), &mut |_| {});
    (report, run, analysis)
}

fn points(run: &Run) -> Vec<Point> {
    run.manifest.as_ref().unwrap().points.as_ref().unwrap().of(Phase::Decode).to_vec()
}

#[test]
fn a_sound_dump_passes_with_every_stage_that_the_graph_shows() {
    let (report, run, analysis) = imported(&|_, _| (), &|_| ());
    assert!(report.is_complete() && report.unmapped.is_empty(), "{report:?}");
    let hidden = [Point::QProjOut, Point::KProjOut, Point::AttnPostNormOut, Point::MlpPostNormOut];
    let inside = [Point::AttnScores, Point::AttnProbs, Point::ResidualPostMlp, Point::FinalNormIn];
    let shown = Point::ALL.iter().copied().filter(|point| !hidden.contains(point) && !inside.contains(point));
    assert_eq!(points(&run), shown.collect::<Vec<_>>());
    assert_eq!(analysis.verdict.verdict, Verdict::Pass, "{:?}", analysis.verdict.reasons);
}

#[test]
fn a_row_of_the_cache_that_is_not_its_tokens_is_found_there() {
    // In decode's second step, of layer 1: the key of slot 2 in slot 3.
    let stale = |pass: usize, value: &mut Value| {
        if (pass, value.0.as_str()) == (2, "present.1.key") {
            let row = value.2[3] * 4;
            value.3.copy_within(2 * row..3 * row, 3 * row);
        }
    };
    let (_, _, analysis) = imported(&stale, &|_| ());
    assert_eq!(analysis.verdict.verdict, Verdict::Fail);
    let first = analysis.verdict.first_failure.as_ref().unwrap();
    assert_eq!((first.point, first.layer, first.phase), (Point::KCache, 1, Some(Phase::Decode)));
    assert_eq!(first.parting, Parting::Fault);
}

/// A product without its bias is not what the next stage reads: as that it would be a false alarm.
#[test]
fn products_of_a_model_with_biases_are_left_out() {
    let flags = |config: &mut Manifest| {
        for flag in ["attention_bias", "o_proj_bias", "mlp_bias"] {
            config.config.as_mut().unwrap().insert(flag.to_owned(), true.into());
        }
    };
    let (report, run, _) = imported(&|_, _| (), &flags);
    let products = [
        Point::QPreRope,
        Point::KPreRope,
        Point::VProj,
        Point::AttnProjOut,
        Point::MlpGate,
        Point::MlpUp,
        Point::MlpOut,
    ];
    assert!(products.iter().all(|point| !points(&run).contains(point)), "{:?}", points(&run));
    assert!(report.unmapped.iter().all(|unmapped| unmapped.why.contains("behind Add")), "{:?}", report.unmapped);
    // With the sums there they are taken.
    let added = |_: usize, value: &mut Value| {
        value.0 = value.0.replace("/MatMulNBits/", "/Add/").replace("/MatMul/", "/Add/");
    };
    let (report, run, _) = imported(&added, &flags);
    assert!(report.unmapped.is_empty() && products.iter().all(|point| points(&run).contains(point)), "{report:?}");
}

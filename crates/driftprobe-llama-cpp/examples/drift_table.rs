//! What the probe finds in real llama.cpp by itself, as the tables of docs/llama-cpp.md: which tensors differ between prefill
//! and decode, by how much, and why; by weight type, with flash attention and without.
//!
//!     cargo run --release -p driftprobe-llama-cpp --example drift_table -- [off|on]

#[path = "../tests/support/judged.rs"]
mod judged;
use candle_core::quantized::GgmlDType;
use driftprobe::Analysis;
use driftprobe_llama_cpp::{CacheType, LlamaCppEngine, Options};
use driftprobe_model::Model;
use driftprobe_testkit::{Dice, LlamaShape, random_llama};
use driftprobe_trace::Point;
use std::collections::BTreeMap;
use std::path::Path;

const TYPES: [(&str, GgmlDType); 6] = [
    ("F32", GgmlDType::F32),
    ("F16", GgmlDType::F16),
    ("BF16", GgmlDType::BF16),
    ("Q8_0", GgmlDType::Q8_0),
    ("Q4_0", GgmlDType::Q4_0),
    ("Q4_K", GgmlDType::Q4K),
];
/// Enough for the tiles of 64 rows.
const PROMPT_TOKENS: usize = 100;
const STEPS: usize = 2;
const POINTS: [Point; 12] = [
    Point::AttnNormOut,
    Point::QPreRope,
    Point::QPostRope,
    Point::AttnScores,
    Point::AttnProbs,
    Point::AttnOut,
    Point::AttnProjOut,
    Point::FfnNormOut,
    Point::MlpAct,
    Point::MlpOut,
    Point::ResidualPostMlp,
    Point::Logits,
];

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let asked = std::env::args().nth(1);
    for (name, flash_attention) in [("off", false), ("on", true)] {
        if asked.as_ref().is_some_and(|asked| asked != name) {
            continue;
        }
        let all: Vec<(&str, CacheType, Analysis)> = TYPES
            .iter()
            .flat_map(|(name, dtype)| [CacheType::F16, CacheType::F32].map(|cache| (*name, *dtype, cache)))
            .map(|(name, dtype, cache)| (name, cache, look(dir.path(), dtype, cache, flash_attention)))
            .collect();
        println!("\n### Flash attention {name}\n");
        distances(&all);
        causes(&all);
    }
}

fn look(dir: &Path, dtype: GgmlDType, kv_cache: CacheType, flash_attention: bool) -> Analysis {
    let path = dir.join(format!("{dtype:?}.gguf"));
    random_llama(&path, LlamaShape::SMALL, dtype);
    let model = Model::open(&path).expect("the model");
    let context_tokens = Some(PROMPT_TOKENS + STEPS);
    let options = Options { kv_cache, flash_attention, context_tokens, threads: Some(2), ..Options::default() };
    let engine = LlamaCppEngine::new(&model, options).expect("llama.cpp loads the model");
    let tokens = Dice(1).tokens(PROMPT_TOKENS, LlamaShape::SMALL.vocab);
    judged::judge(&engine, &judged::plan(&engine, &tokens, STEPS), &model, &dir.join("run"))
}

/// Largest relative L2 distance of a point's rows, over all layers and steps; 0 where all are bit-equal.
fn distances(all: &[(&str, CacheType, Analysis)]) {
    let of_f16: Vec<_> = all.iter().filter(|(_, cache, _)| *cache == CacheType::F16).collect();
    let names: Vec<&str> = of_f16.iter().map(|(name, ..)| *name).collect();
    println!("Largest relative L2 distance of decode's rows from prefill's, f16 cache; `=`: all rows bit-equal.\n");
    println!("| point | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for point in POINTS {
        let cells: Vec<String> = of_f16.iter().filter_map(|(.., analysis)| cell(analysis, point)).collect();
        if !cells.is_empty() {
            println!("| `{point}` | {} |", cells.join(" | "));
        }
    }
}

fn cell(analysis: &Analysis, point: Point) -> Option<String> {
    let of: Vec<_> = analysis.pairs.iter().filter(|pair| pair.prefill.point == point).collect();
    if of.is_empty() {
        return None;
    }
    if of.iter().all(|pair| !pair.parts()) {
        return Some("=".to_owned());
    }
    let largest = of.iter().filter_map(|pair| pair.numbers.as_ref()?.rel_l2).fold(0f64, f64::max);
    Some(format!("{largest:.1e}"))
}

/// Verdict, where rounding first parts the phases, and what is not declared and found.
fn causes(all: &[(&str, CacheType, Analysis)]) {
    println!(
        "\n| weights | cache | verdict | first parts at | in prefill the probe finds | in decode |\n|---|---|---|---|---|---|"
    );
    for (name, cache, analysis) in all {
        let verdict = &analysis.verdict;
        let sub = verdict.sub_verdict.map_or_else(|| "-".to_owned(), |sub| sub.id().to_owned());
        let first = verdict.first_difference.as_ref();
        let first =
            first.map_or_else(|| "nowhere".to_owned(), |first| format!("`{}`, layer {}", first.point, first.layer));
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for f in analysis.examination.iter().flat_map(|e| &e.contract_findings) {
            found.entry(f.phase.to_string()).or_default().push(format!("`{}`: {}", f.point, f.variant.says));
        }
        let said = |phase: &str| found.get(phase).map_or_else(|| "what is declared".to_owned(), |all| all.join("; "));
        let verdict = verdict.verdict.id();
        println!("| {name} | {cache} | {verdict} ({sub}) | {first} | {} | {} |", said("prefill"), said("decode"));
    }
}

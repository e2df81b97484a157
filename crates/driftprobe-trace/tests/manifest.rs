//! The manifest: what is refused, what is kept, and the expected matrix that follows from it.

use driftprobe_trace::{ExpectedKey, Manifest, Mode, Phase, Point, PointSet, Run, TraceError};
use std::path::Path;

fn parse(text: &str) -> Result<Manifest, TraceError> {
    Manifest::parse(text, Path::new("RUN/manifest.json"))
}

/// Reason, text, line, key, piece of the message.
const REFUSED: &[(&str, &str, u64, &str, &str)] = &[
    ("not JSON", "{", 1, "", "EOF"),
    ("empty", "", 1, "", "EOF"),
    ("text after the object", "{\"schema\":1}\n{}", 2, "", "trailing"),
    ("a key twice", "{\"schema\":1,\n\"seed\":1,\n\"seed\":1}", 3, "seed", "twice"),
    ("a key twice deep down", "{\"schema\":1,\"engine\":{\"name\":\"a\",\n\"name\":\"b\"}}", 2, "engine.name", "twice"),
    ("a key twice in config", "{\"schema\":1,\"config\":{\"x\":1,\"x\":2}}", 1, "config.x", "twice"),
    (
        "a key twice where nothing is known",
        "{\"schema\":1,\"new\":[{\"x\":1},\n{\"x\":1,\"x\":2}]}",
        2,
        "new[1].x",
        "twice",
    ),
    ("seed in quotes", "{\"schema\":1,\n\"seed\":\"1\"}", 2, "seed", "string"),
    ("a negative seed", "{\"schema\":1,\"seed\":-1}", 1, "seed", "-1"),
    ("an unknown mode", "{\"schema\":1,\"mode\":\"fast\"}", 1, "mode", "fast"),
    ("steps with a fraction", "{\"schema\":1,\"steps\":1.5}", 1, "steps", "floating point"),
    ("a layer that is a string", "{\"schema\":1,\"layers\":[0,\"1\"]}", 1, "layers[1]", "string"),
    ("a negative layer", "{\"schema\":1,\n\"layers\":[0,\n-1]}", 3, "layers[1]", "negative"),
    ("a layer twice", "{\"schema\":1,\"layers\":[0,1,0]}", 1, "layers[2]", "twice"),
    ("an unknown point", "{\"schema\":1,\"points\":[\"attn_out\",\"lora\"]}", 1, "points[1]", "lora"),
    ("points of one phase only", "{\"schema\":1,\"points\":{\"prefill\":[]}}", 1, "points", "decode"),
    ("points of a third phase", "{\"schema\":1,\"points\":{\"warmup\":[]}}", 1, "points.warmup", "warmup"),
    ("points as a string", "{\"schema\":1,\"points\":\"all\"}", 1, "points", "list of points"),
    ("a prompt without an id", "{\"schema\":1,\"prompts\":[{\"tokens\":[]}]}", 1, "prompts[0]", "id"),
    ("a prompt without tokens", "{\"schema\":1,\"prompts\":[{\"id\":\"p\"}]}", 1, "prompts[0]", "tokens"),
    (
        "a negative token",
        "{\"schema\":1,\"prompts\":[{\"id\":\"p\",\n\"tokens\":[1,\n-2]}]}",
        3,
        "prompts[0].tokens[1]",
        "-2",
    ),
    (
        "two prompts of one id",
        "{\"schema\":1,\"prompts\":[{\"id\":\"p\",\"tokens\":[]},\n{\"id\":\"p\",\"tokens\":[]}]}",
        2,
        "prompts[1].id",
        "another prompt",
    ),
    (
        "more steps than tokens",
        "{\"schema\":1,\"steps\":3,\"prompts\":[{\"id\":\"p\",\"tokens\":[1,2]}]}",
        1,
        "prompts[0].tokens",
        "too few",
    ),
    ("env that is a number", "{\"schema\":1,\"env\":{\"A\":1}}", 1, "env.A", "integer"),
    ("threads past u32", "{\"schema\":1,\"engine\":{\"threads\":4294967296}}", 1, "engine.threads", "4294967296"),
    ("a contract dtype that is a number", "{\"schema\":1,\"contract\":{\"weights\":16}}", 1, "contract.weights", "16"),
    (
        "a contract of a third phase",
        "{\"schema\":1,\"contract\":{\"by_phase\":{\"x\":{}}}}",
        1,
        "contract.by_phase.x",
        "\"x\"",
    ),
];

#[test]
fn each_hostile_manifest_is_refused_with_its_reason() {
    let mut wrong = Vec::new();
    for (why, text, expected_line, expected_key, part) in REFUSED {
        let error = parse(text).err().unwrap_or_else(|| panic!("{why}: was read"));
        let said = error.to_string();
        let TraceError::Manifest { line, key, message, .. } = error else { panic!("{why}: {said}") };
        let named = said.starts_with("RUN/manifest.json:") && (line, &*key) == (*expected_line, expected_key);
        if !named || !message.contains(part) {
            wrong.push(format!("{why}: expected {expected_line}, `{expected_key}`, `{part}`: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn another_schema_is_refused_before_anything_else_is_looked_at() {
    for (text, expected) in [
        (r#"{"schema":2,"layers":"all of them"}"#, "2"),
        (r#"{"schema":"1"}"#, "\"1\""),
        (r#"{"schema":1.0}"#, "1.0"),
        (r#"{}"#, "none"),
        ("[]", "none"),
    ] {
        let error = parse(text).expect_err("was read");
        assert!(error.hint().contains("schema 1"));
        assert!(matches!(&error, TraceError::Schema { found, .. } if found == expected), "{error}");
    }
}

#[test]
fn only_true_is_complete() {
    for (value, complete) in
        [("true", true), ("false", false), ("\"true\"", false), ("1", false), ("null", false), ("[]", false)]
    {
        let text = format!(r#"{{"schema":1,"complete":{value}}}"#);
        assert_eq!(parse(&text).map(|m| m.complete).ok(), Some(complete), "{value}");
    }
    assert_eq!(parse(r#"{"schema":1}"#).map(|m| m.complete).ok(), Some(false), "absent");
}

#[test]
fn a_full_manifest_survives_reading_and_writing() -> Result<(), Box<dyn std::error::Error>> {
    let text = r#"{
        "schema": 1, "complete": true, "mode": "kv_aligned", "repeat": 2,
        "engine": {"name": "greta", "version": "0.1", "backend": "hip", "device": "MI300X", "threads": 8,
            "attention": {"prefill": "flash", "decode": "paged", "page": 16}, "build": "x"},
        "model": {"path": "../m", "format": "gguf", "architecture": "llama", "fingerprint": "xxh3-128:00", "n": 1},
        "config": {"hidden_size": 64, "rope_theta": 10000.0, "rope_layout": "half"},
        "contract": {"weights": "bf16", "accumulate": "f32", "rounding": ["bf16"], "own": "x",
            "by_phase": {"decode": {"scores": "bf16"}}, "by_point": {"attn_probs": {"probs": "f16"}}},
        "prompts": [{"id": "p", "text": "hi", "tokens": [1, 2, 3]}],
        "layers": [0, 1], "points": {"prefill": ["x_in"], "decode": ["x_in", "attn_scores"]}, "steps": 2,
        "slots": {"p": [0, 1]}, "seed": 18446744073709551615, "env": {"HIP_LAUNCH_BLOCKING": "1"},
        "host": {"cpu": "c", "gpu": "g", "os": "o", "ram": 1}, "git": "56b755a", "later": {"field": [1, null]}
    }"#;
    let manifest = parse(text)?;
    assert_eq!(manifest.mode, Some(Mode::KvAligned));
    assert_eq!(manifest.seed, Some(u64::MAX));
    assert_eq!(manifest.extra.keys().collect::<Vec<_>>(), ["later"]);
    let contract = manifest.contract.as_ref().ok_or("no contract")?;
    assert_eq!(contract.flat.weights.as_deref(), Some("bf16"));
    assert_eq!(contract.flat.extra.keys().collect::<Vec<_>>(), ["own"]);
    assert_eq!(contract.by_phase[&Phase::Decode].scores.as_deref(), Some("bf16"));
    let written: serde_json::Value = serde_json::to_value(&manifest)?;
    let mut original: serde_json::Value = serde_json::from_str(text)?;
    // Written with the points' ids.
    original["points"] =
        serde_json::json!({"prefill": ["residual_pre_attn"], "decode": ["residual_pre_attn", "attn_scores"]});
    assert_eq!(written, original);
    assert_eq!(parse(&written.to_string())?, manifest);
    Ok(())
}

#[test]
fn what_is_missing_is_not_known() -> Result<(), TraceError> {
    let manifest = parse(r#"{"schema":1,"mode":null,"layers":null}"#)?;
    assert_eq!(manifest, Manifest::default());
    assert_eq!(manifest.expected(), None);
    Ok(())
}

#[test]
fn the_expected_matrix_is_prompts_by_positions_by_places() -> Result<(), TraceError> {
    let text = r#"{"schema":1,"steps":2,"layers":[4,0],
        "points":{"prefill":["logits","x_in","mlp_out"],"decode":["mlp_out","residual_pre_attn","attn_scores","logits"]},
        "prompts":[{"id":"b","tokens":[10,11,12,13]},{"id":"a","tokens":[7,8]}]}"#;
    let manifest = parse(text)?;
    let keys = manifest.expected().unwrap_or_default();
    // 2 prompts × 2 positions × (2 layered points × 2 layers + 1 unlayered point)
    assert_eq!(keys.len(), 2 * 2 * (2 * 2 + 1));
    let places: Vec<_> = keys.iter().take(5).map(|k| (k.layer, k.point.id())).collect();
    let expected = [(-1, "logits"), (0, "residual_pre_attn"), (0, "mlp_out"), (4, "residual_pre_attn"), (4, "mlp_out")];
    assert_eq!(places, expected);
    // n + k − 1 = 4 tokens, k = 2: n = 3, rows n − 1 = 2 and n + k − 2 = 3.
    let rows: Vec<_> = keys.iter().step_by(5).map(|k| (&*k.prompt_id, k.logical_tok_idx, k.token_id)).collect();
    assert_eq!(rows, [("b", 2, 12), ("b", 3, 13), ("a", 0, 7), ("a", 1, 8)]);
    assert_eq!(manifest.one_sided_points(), [(Point::AttnScores, Phase::Decode)]);
    let unique: std::collections::BTreeSet<&ExpectedKey> = keys.iter().collect();
    assert_eq!(unique.len(), keys.len());
    Ok(())
}

#[test]
fn a_point_asked_for_twice_is_expected_once() -> Result<(), TraceError> {
    let text = r#"{"schema":1,"steps":1,"layers":[0],"points":["x_in","residual_pre_attn"],
        "prompts":[{"id":"p","tokens":[1]}]}"#;
    let manifest = parse(text)?;
    assert_eq!(manifest.points, Some(PointSet::Both(vec![Point::ResidualPreAttn; 2])));
    assert_eq!(manifest.expected().map(|keys| keys.len()), Some(1));
    Ok(())
}

#[test]
fn repeats_are_attached_in_order_and_must_be_what_their_folder_says() -> Result<(), TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let put = |folder: &str, text: &str| {
        std::fs::create_dir_all(dir.path().join(folder)).expect("folder");
        std::fs::write(dir.path().join(folder).join("manifest.json"), text).expect("manifest");
    };
    put(".", r#"{"schema":1,"complete":true}"#);
    for n in [10, 2, 1] {
        put(&format!("repeat-{n}"), &format!(r#"{{"schema":1,"complete":true,"repeat":{n}}}"#));
    }
    std::fs::create_dir(dir.path().join("repeat-3")).expect("folder");
    for other in ["repeat-01", "repeat-x", "repeat-"] {
        put(other, "not looked at");
    }
    let run = Run::open(dir.path())?;
    let numbers: Vec<_> = run.repeats.iter().filter_map(|r| Some(r.manifest.as_ref()?.repeat)).collect();
    assert_eq!(numbers, [1, 2, 10]);
    assert_eq!(run.notes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["repeat-3/ holds no run"]);

    // The run itself, copied, is no second run.
    put("repeat-2", r#"{"schema":1,"complete":true}"#);
    let error = Run::open(dir.path()).expect_err("was read");
    assert!(matches!(&error, TraceError::Manifest { key, .. } if key == "repeat"), "{error}");
    Ok(())
}

//! Lines that are refused, each with its reason, file, line and key; and odd ones that must be read all the same.

use driftprobe_trace::{Event, HashAlgo, MAX_LINE_BYTES, Note, Phase, Point, Run, TraceError};
use std::path::Path;

/// A good event without its closing brace.
const HEAD: &str = r#"{"event":"stage_trace","prompt_id":"p","phase":"prefill","point":"attn_out","layer":0"#;

/// Opens a folder with one file, whose second line is `line`.
fn open_line(line: &str) -> Result<Run, TraceError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let good = r#"{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"attn_out","layer":0}"#;
    std::fs::write(dir.path().join("t.jsonl"), format!("{good}\n{line}\n")).expect("file");
    Run::open(dir.path())
}

fn event(line: &str) -> Event {
    let run = open_line(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    run.events.into_iter().nth(1).expect("the second line is an event")
}

/// Reason, what follows [`HEAD`], key, and a piece of the message.
const REFUSED_FIELDS: &[(&str, &str, &str, &str)] = &[
    ("a hash twice", r#","hash":1,"hash":2}"#, "hash", "twice"),
    ("a layer twice, equal", r#","layer":0}"#, "layer", "twice"),
    ("an unknown field twice", r#","x":1,"x":1}"#, "x", "twice"),
    ("a key twice in a payload", r#","payload":{"file":"a","file":"b","key":"k"}}"#, "payload.file", "twice"),
    ("a negative hash", r#","hash":-1}"#, "hash", "unsigned 64-bit"),
    ("a hash with a fraction", r#","hash":1.0}"#, "hash", "unsigned 64-bit"),
    ("a hash with an exponent", r#","hash":1e19}"#, "hash", "unsigned 64-bit"),
    ("a hash past u64", r#","hash":18446744073709551616}"#, "hash", "unsigned 64-bit"),
    ("a hash string past u64", r#","hash":"18446744073709551616"}"#, "hash", "unsigned 64-bit"),
    ("a hexadecimal hash", r#","hash":"0x12"}"#, "hash", "unsigned 64-bit"),
    ("a signed hash string", r#","hash":"+12"}"#, "hash", "unsigned 64-bit"),
    ("an empty hash", r#","hash":""}"#, "hash", "unsigned 64-bit"),
    ("a bare NaN for a hash", r#","min":NaN,"hash":NaN}"#, "hash", "unsigned 64-bit"),
    ("a position with a fraction", r#","pos_id":37.0}"#, "pos_id", "floating point"),
    ("a negative position", r#","pos_id":-1}"#, "pos_id", "-1"),
    ("a position in quotes", r#","pos_id":"37"}"#, "pos_id", "string"),
    ("a token past u32", r#","token_id":4294967296}"#, "token_id", "4294967296"),
    ("an infinite token", r#","token_id":Infinity}"#, "token_id", "string"),
    ("a negative seq_len", r#","seq_len":-3}"#, "seq_len", "-3"),
    ("min in words", r#","min":"small"}"#, "min", "small"),
    ("mean as a list", r#","mean":[1]}"#, "mean", "number"),
    ("a number past f64", r#","max":1e999}"#, "max", "out of range"),
    ("a count with a fraction", r#","nan":0.5}"#, "nan", "0.5"),
    ("a string in a sample", r#","sample":[1,"x"]}"#, "sample[1]", "x"),
    ("sample_idx longer than sample", r#","sample":[1],"sample_idx":[0,1]}"#, "sample_idx", "2 indices for 1"),
    ("sample_idx without sample", r#","sample_idx":[0]}"#, "sample_idx", "without"),
    ("sample_idx outside the row", r#","shape":[2],"sample":[1],"sample_idx":[2]}"#, "sample_idx", "outside"),
    ("a sample longer than the row", r#","shape":[2],"sample":[1,2,3]}"#, "sample", "2 elements"),
    ("a negative dimension", r#","shape":[4,-1]}"#, "shape[1]", "-1"),
    ("a shape that overflows", r#","shape":[4294967296,4294967296,2]}"#, "shape", "counted"),
    ("point and tensor that differ", r#","tensor":"mlp_out"}"#, "tensor", "attn_out"),
    ("an absolute payload", r#","payload":{"file":"/etc/passwd","key":"k"}}"#, "payload.file", "absolute"),
    ("a payload above the run", r#","payload":{"file":"tensors/../../x","key":"k"}}"#, "payload.file", "`..`"),
    ("a payload spelled with a dot", r#","payload":{"file":"./tensors/x","key":"k"}}"#, "payload.file", "one way only"),
    (
        "a payload spelled with two slashes",
        r#","payload":{"file":"tensors//x","key":"k"}}"#,
        "payload.file",
        "one way only",
    ),
    ("a payload with backslashes", r#","payload":{"file":"..\\x","key":"k"}}"#, "payload.file", "backslash"),
    ("a payload without a name", r#","payload":{"file":"","key":"k"}}"#, "payload.file", "empty"),
    ("a payload without its key", r#","payload":{"file":"a"}}"#, "payload", "key"),
    ("a payload that is a string", r#","payload":"a"}"#, "payload", "object"),
    ("a word that is no number", r#","min":None}"#, "min", "expected"),
    ("an object that does not end", r#","min":1"#, "min", "EOF"),
    ("something after the object", r#"} {}"#, "", "trailing"),
];

/// Reason, line, key, and a piece of the message.
const REFUSED_LINES: &[(&str, &str, &str, &str)] = &[
    ("not JSON", "hello", "", "expected"),
    ("a list", "[1]", "", "event"),
    ("a number", "1", "", "event"),
    ("no event kind", r#"{"prompt_id":"p"}"#, "event", "missing"),
    ("a null event kind", r#"{"event":null}"#, "event", "missing"),
    ("no prompt", r#"{"event":"stage_trace"}"#, "prompt_id", "missing"),
    ("a prompt that is a number", r#"{"event":"stage_trace","prompt_id":7}"#, "prompt_id", "string"),
    ("no phase", r#"{"event":"stage_trace","prompt_id":"p"}"#, "phase", "missing"),
    ("an unknown phase", r#"{"event":"stage_trace","prompt_id":"p","phase":"warmup"}"#, "phase", "warmup"),
    ("decode with a word", r#"{"event":"stage_trace","prompt_id":"p","phase":"decode_last"}"#, "phase", "decode_last"),
    ("no point", r#"{"event":"stage_trace","prompt_id":"p","phase":"decode"}"#, "point", "missing"),
    (
        "no layer",
        r#"{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"attn_out"}"#,
        "layer",
        "once a layer",
    ),
    (
        "a negative layer",
        r#"{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"attn_out","layer":-1}"#,
        "layer",
        "-1",
    ),
    (
        "a layer with a fraction",
        r#"{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"attn_out","layer":0.0}"#,
        "layer",
        "floating point",
    ),
    (
        "logits of another point",
        r#"{"event":"stage_logits","prompt_id":"p","phase":"decode","point":"attn_out","layer":0}"#,
        "point",
        "stage_logits",
    ),
];

#[test]
fn each_hostile_line_is_refused_with_its_reason() {
    let fields = REFUSED_FIELDS.iter().map(|(why, tail, key, part)| (*why, format!("{HEAD}{tail}"), *key, *part));
    let lines = REFUSED_LINES.iter().map(|(why, line, key, part)| (*why, (*line).to_owned(), *key, *part));
    let mut wrong = Vec::new();
    for (why, text, expected_key, part) in fields.chain(lines) {
        let error = open_line(&text).err().unwrap_or_else(|| panic!("{why}: was read"));
        let said = error.to_string();
        assert!(!error.hint().is_empty());
        let TraceError::Event { path, line, key, message } = error else { panic!("{why}: {said}") };
        let named = path.ends_with("t.jsonl") && line == 2 && key == expected_key && said.contains("t.jsonl:2:");
        if !named || !message.contains(part) {
            wrong.push(format!("{why}: expected `{expected_key}` and `{part}`, got `{key}`: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_not_utf8_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join("t.jsonl"), b"{\"event\":\"\xff\"}\n").expect("file");
    let error = Run::open(dir.path()).expect_err("was read");
    assert!(matches!(&error, TraceError::Event { line: 1, message, .. } if message.contains("UTF-8")), "{error}");
}

#[test]
fn nesting_without_end_is_refused_and_does_not_overflow_the_stack() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep = format!("{}1{}", open.repeat(200_000), close.repeat(200_000));
        // A field that is not known is skipped, however deep; one that is known is of the wrong type.
        assert!(open_line(&format!(r#"{HEAD},"min":{deep}}}"#)).is_err());
        let _ = open_line(&format!(r#"{HEAD},"x":{deep}}}"#));
    }
}

#[test]
#[ignore = "writes 64 MiB"]
fn a_line_past_the_limit_is_refused() {
    let error = open_line(&"x".repeat(MAX_LINE_BYTES as usize + 1)).expect_err("was read");
    assert!(matches!(&error, TraceError::Event { line: 2, message, .. } if message.contains("longer")), "{error}");
}

#[test]
fn not_a_number_is_read_in_every_spelling() {
    for word in ["NaN", "nan", "-nan", "-NaN", "NAN"] {
        for spelled in [word.to_owned(), format!("\"{word}\"")] {
            let event = event(&format!(r#"{HEAD},"note":"NaN, -inf","min":{spelled},"sample":[1,{spelled}]}}"#));
            assert!(event.stats.min.is_some_and(f64::is_nan), "{spelled}");
            assert!(event.sample.is_some_and(|s| s.values[1].is_nan()), "{spelled}");
        }
    }
    for (word, value) in [
        ("inf", f64::INFINITY),
        ("-inf", f64::NEG_INFINITY),
        ("Infinity", f64::INFINITY),
        ("+Infinity", f64::INFINITY),
        ("-Infinity", f64::NEG_INFINITY),
        ("-INF", f64::NEG_INFINITY),
    ] {
        for spelled in [word.to_owned(), format!("\"{word}\"")] {
            assert_eq!(event(&format!(r#"{HEAD},"max":{spelled}}}"#)).stats.max, Some(value), "{spelled}");
        }
    }
    let event = event(&format!(r#"{HEAD},"mean":null,"sample":[null,-0.0]}}"#));
    assert!(event.stats.mean.is_some_and(f64::is_nan), "null is what JavaScript and Go make of NaN");
    assert_eq!(event.sample.map(|s| s.values[1].to_bits()), Some((-0.0f64).to_bits()));
    assert_eq!(event.stats.min, None, "absent is not known, and not NaN");
}

#[test]
fn a_word_inside_a_string_stays_as_it_is() {
    let run = open_line(
        r#"{"event":"stage_trace","prompt_id":"a\"NaN: -inf","phase":"decode","point":"x_in","layer":1,"min":NaN}"#,
    );
    assert_eq!(run.map(|r| r.events[1].prompt_id.to_string()).ok().as_deref(), Some("a\"NaN: -inf"));
}

#[test]
fn hashes_keep_every_bit() {
    for value in [0, 1 << 53, (1 << 53) + 1, 1 << 63, (1 << 63) + 1, 10_153_995_460_507_501_903, u64::MAX - 1, u64::MAX]
    {
        for spelled in [value.to_string(), format!("\"{value}\"")] {
            let hash = event(&format!(r#"{HEAD},"hash":{spelled}}}"#)).hash.expect("a hash");
            assert_eq!((hash.value, hash.algo), (value, HashAlgo::GretaFnv1a256));
        }
    }
    let hash = event(&format!(r#"{HEAD},"hash_algo":"xxh3-64","hash":7}}"#)).hash;
    assert_eq!(hash.map(|h| h.algo), Some(HashAlgo::Xxh3_64));
}

#[test]
fn every_spelling_of_phase_and_point_is_read() {
    for (spelling, phase) in [
        ("prefill", Phase::Prefill),
        ("prefill_last", Phase::Prefill),
        ("decode", Phase::Decode),
        ("decode0", Phase::Decode),
        ("decode123", Phase::Decode),
    ] {
        let line = format!(
            r#"{{"event":"stage_trace","prompt_id":"p","phase":"{spelling}","tensor":"ffn_norm_in","layer":3}}"#
        );
        let event = event(&line);
        assert_eq!((event.phase, &*event.phase_spelling), (phase, spelling));
        assert_eq!((event.point, &*event.point_spelling, event.layer), (Point::ResidualPostAttn, "ffn_norm_in", 3));
    }
    for point in ["embed_out", "final_norm", "logits", "logits_top1"] {
        for layer in ["", r#","layer":0"#, r#","layer":31"#, r#","layer":-1"#] {
            let line =
                format!(r#"{{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"{point}"{layer}}}"#);
            assert_eq!(event(&line).layer, -1, "{point}{layer}: unlayered, whatever was written");
        }
    }
    let logits = event(r#"{"event":"stage_logits","prompt_id":"p","phase":"decode0","top1_id":3,"gap":"Infinity"}"#);
    assert_eq!(logits.point, Point::Logits);
    assert_eq!(logits.logits.and_then(|l| l.gap), Some(f64::INFINITY));
    assert_eq!(logits.logits.and_then(|l| l.top1_id), Some(3));
}

#[test]
fn what_is_not_known_is_noted_and_never_dropped_in_silence() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let lines = [
        format!(r#"{HEAD},"gpu_ms":1.5,"tag":{{"a":1}},"dtype":"q9_9"}}"#),
        format!(r#"{HEAD},"gpu_ms":2.5,"hash":7,"hash_algo":"crc32"}}"#),
        r#"{"event":"heartbeat","anything":[1,2]}"#.to_owned(),
        String::new(),
        r#"{"event":"stage_trace","prompt_id":"p","phase":"decode1","point":"lora_out","layer":0}"#.to_owned(),
    ];
    std::fs::write(dir.path().join("t.jsonl"), format!("\u{feff}{}\r\n", lines.join("\r\n"))).expect("file");
    let run = Run::open(dir.path()).expect("a run");
    assert_eq!(run.events.len(), 2);
    assert_eq!((run.events[0].dtype, run.events[1].hash), (None, None));
    let unmapped: Vec<_> = run.unmapped.iter().map(|u| (u.source.to_string(), &*u.point, u.phase)).collect();
    assert_eq!(unmapped, [("t.jsonl:5".to_owned(), "lora_out", Phase::Decode)]);
    let name = |s: &str| s.to_owned();
    assert_eq!(
        run.notes,
        [
            Note::ManifestMissing,
            Note::UnknownHashAlgo { name: name("crc32"), count: 1 },
            Note::UnknownDtype { name: name("q9_9"), count: 1 },
            Note::UnknownPoint { point: name("lora_out"), count: 1 },
            Note::UnknownEvent { kind: name("heartbeat"), count: 1 },
            Note::UnknownField { name: name("gpu_ms"), count: 2 },
            Note::UnknownField { name: name("tag"), count: 1 },
        ]
    );
}

#[test]
fn where_there_is_no_run_it_says_so() {
    let dir = tempfile::tempdir().expect("temporary folder");
    assert!(matches!(Run::open(dir.path()), Err(TraceError::NotARun { .. })));
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "hello").expect("file");
    assert!(matches!(Run::open(&text), Err(TraceError::NotARun { .. })));
    let error = Run::open(Path::new("/no/such/run")).expect_err("was read");
    assert!(error.to_string().contains("/no/such/run"), "{error}");
}

//! GRETA's traces, rebuilt from the tables of its two published analyses (B3.66, 2026-02-07), and read as they are.
//!
//! The tables give seven digits of each prefill hash and none of most decode hashes; the first failure's two are known in
//! full. What is missing is filled in by a fixed rule, so that the counts (48 pairs: 6 equal, 15 + 15 + 12 not) are those
//! of the tables. `DRIFTPROBE_BLESS=1 cargo test -p driftprobe-trace --test greta` writes the files again.

use driftprobe_trace::{Event, HashAlgo, Note, Phase, Point, Run, TraceError};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

const LAYERS: [i32; 5] = [0, 1, 2, 4, 8];
const TOKEN: u32 = 116;

/// Prompt, position, and the first seven digits of the prefill hashes of what differs: layer by layer `x_in` (from the
/// second sampled layer on), `attn_out`, `mlp_out`.
const PROMPTS: [(&str, u64, [&str; 14]); 3] = [
    (
        "p0_short",
        37,
        [
            "4144761", "9465681", "1464496", "5064490", "1659769", "6879163", "8457546", "1123037", "8822235",
            "1134241", "5911910", "1782121", "1506949", "1382336",
        ],
    ),
    (
        "p6_len_16",
        38,
        [
            "2010720", "1473426", "1281178", "1341535", "1204123", "3138978", "1356618", "8766487", "5647141",
            "3122136", "1283547", "6171714", "1381395", "6369579",
        ],
    ),
    (
        "p6_len_32",
        38,
        [
            "1331402", "1789920", "1513389", "3431924", "4792251", "3041281", "1311837", "5295724", "4745907",
            "1780170", "6396168", "1311027", "1505740", "1485771",
        ],
    ),
];

/// A fixed mixing of a text into 64 bits, to fill in what the tables do not give.
fn mix(text: &str) -> u64 {
    let h = text.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// A u64 with these first digits. Most u64 that begin with 1 have 20 digits, the others have 19.
fn complete(prefix: &str, key: &str) -> u64 {
    let digits = if prefix < "1844674" { 20 } else { 19 };
    let tail_digits = digits - prefix.len() as u32;
    let tail = mix(key) % 10u64.pow(tail_digits);
    format!("{prefix}{tail:0width$}", width = tail_digits as usize).parse().expect("fits by construction")
}

/// What one event of the tables has, in both phases.
struct Entry {
    prompt: &'static str,
    pos: u64,
    layer: i32,
    point: &'static str,
    hashes: [u64; 2],
}

fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    // One token's embedding is one row, whatever the prompt: it enters layer 0 as it is.
    let embedding = mix("embedding of token 116");
    for (prompt, pos, prefixes) in PROMPTS {
        let mut prefixes = prefixes.iter();
        for layer in LAYERS {
            for point in ["embed_out", "x_in", "attn_out", "mlp_out"] {
                if point == "embed_out" && layer > 0 {
                    continue;
                }
                let key = format!("{prompt}/{layer}/{point}");
                let hashes = if matches!((layer, point), (0, "embed_out" | "x_in")) {
                    [embedding, embedding]
                } else {
                    let prefix = prefixes.next().expect("one prefix for each");
                    [complete(prefix, &key), mix(&format!("{key}/decode"))]
                };
                entries.push(Entry { prompt, pos, layer, point, hashes });
            }
        }
    }
    // The first failure is printed in full.
    entries[2].hashes = [4_144_761_570_523_161_186, 10_153_995_460_507_501_903];
    entries
}

fn files(line: impl Fn(&Entry, Phase) -> String) -> BTreeMap<String, String> {
    let mut files = BTreeMap::<String, String>::new();
    for entry in entries() {
        for (phase, suffix) in [(Phase::Prefill, "_trace.jsonl"), (Phase::Decode, "_decode_trace.jsonl")] {
            let file = files.entry(format!("{}{suffix}", entry.prompt)).or_default();
            writeln!(file, "{}", line(&entry, phase)).expect("a string takes everything");
        }
    }
    files
}

fn head(entry: &Entry, phase: Phase) -> String {
    let (spelling, step, _) = side(entry, phase);
    format!(
        r#"{{"event":"stage_trace","prompt_id":"{}","phase":"{spelling}","point":"{}","layer":{},"step":{step}"#,
        entry.prompt, entry.point, entry.layer
    )
}

/// Phase spelling, step and seq_len.
fn side(entry: &Entry, phase: Phase) -> (&'static str, u64, u64) {
    match phase {
        Phase::Prefill => ("prefill_last", 0, entry.pos + 1),
        Phase::Decode => ("decode0", 1, 1),
    }
}

fn hash(entry: &Entry, phase: Phase) -> u64 {
    entry.hashes[usize::from(phase == Phase::Decode)]
}

fn is_keyed(entry: &Entry) -> bool {
    matches!(entry.point, "embed_out" | "x_in")
}

/// The first analysis: `attn_out` and `mlp_out` have a position, and neither token nor token index.
fn drift_line(entry: &Entry, phase: Phase) -> String {
    let (_, _, seq_len) = side(entry, phase);
    let mut line = format!(r#"{},"pos_id":{}"#, head(entry, phase), entry.pos);
    if is_keyed(entry) {
        line += &format!(r#","logical_tok_idx":{},"token_id":{TOKEN}"#, entry.pos);
    }
    line += &format!(r#","seq_len":{seq_len},"hash":{}"#, hash(entry, phase));
    if (entry.prompt, entry.layer, entry.point) == ("p0_short", 0, "attn_out") {
        line += match phase {
            Phase::Prefill => r#","min":-0.00517679,"max":0.00719859,"mean":-0.0000471849"#,
            Phase::Decode => r#","min":-0.00519423,"max":0.00725079,"mean":-0.0000474128"#,
        };
    }
    line + "}"
}

/// The second: prefill counts the tokens of the prompt, decode its own tokens from 0, so that no two events have the
/// same key.
fn offset_line(entry: &Entry, phase: Phase) -> String {
    let (_, _, seq_len) = side(entry, phase);
    let index = if phase == Phase::Prefill { entry.pos } else { 0 };
    let mut line = format!(r#"{},"pos_id":{},"logical_tok_idx":{index}"#, head(entry, phase), entry.pos);
    if is_keyed(entry) {
        line += &format!(r#","token_id":{TOKEN}"#);
    }
    line + &format!(r#","seq_len":{seq_len},"hash":{}}}"#, hash(entry, phase))
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/greta").join(name)
}

fn check(name: &str, files: &BTreeMap<String, String>) {
    let dir = folder(name);
    if std::env::var_os("DRIFTPROBE_BLESS").is_some() {
        std::fs::create_dir_all(&dir).expect("fixture folder");
        for (file, text) in files {
            std::fs::write(dir.join(file), text).expect("fixture");
        }
    }
    for (file, text) in files {
        let committed = std::fs::read_to_string(dir.join(file)).expect("a committed fixture");
        assert_eq!(&committed, text, "{name}/{file} is not what the tables give");
    }
    assert_eq!(std::fs::read_dir(&dir).expect("fixture folder").count(), files.len(), "files too many in {name}");
}

#[test]
fn fixtures_are_what_the_tables_give() {
    check("drift", &files(drift_line));
    check("offset", &files(offset_line));
}

/// Prefill and decode events of one prompt, layer and point.
fn sides(run: &Run) -> BTreeMap<(&str, i32, Point), [Option<&Event>; 2]> {
    let mut pairs = BTreeMap::<_, [Option<&Event>; 2]>::new();
    for event in &run.events {
        let pair = pairs.entry((&*event.prompt_id, event.layer, event.point)).or_default();
        let side = &mut pair[usize::from(event.phase == Phase::Decode)];
        assert!(side.replace(event).is_none(), "two events of one key");
    }
    pairs
}

#[test]
fn drift_reads_as_the_tables_count_it() -> Result<(), TraceError> {
    let run = Run::open(&folder("drift"))?;
    assert_eq!(run.events.len(), 96);
    assert_eq!(run.notes, [Note::ManifestMissing, Note::HashAlgoAssumed { count: 96 }]);
    let pairs = sides(&run);
    assert_eq!(pairs.len(), 48);
    let mut differing = BTreeMap::<Point, usize>::new();
    let mut equal = 0;
    for ((_, _, point), [prefill, decode]) in &pairs {
        let (prefill, decode) = (prefill.expect("prefill"), decode.expect("decode"));
        assert_eq!(prefill.pos_id, decode.pos_id);
        assert_eq!(prefill.is_weakly_keyed(), matches!(point, Point::AttnOut | Point::MlpOut));
        if prefill.hash == decode.hash {
            equal += 1;
        } else {
            *differing.entry(*point).or_default() += 1;
        }
    }
    assert_eq!(equal, 6);
    let expected = [(Point::ResidualPreAttn, 12), (Point::AttnOut, 15), (Point::MlpOut, 15)];
    assert_eq!(differing.into_iter().collect::<Vec<_>>(), expected);
    let [prefill, decode] = pairs[&("p0_short", 0, Point::AttnOut)].map(|e| e.and_then(|e| e.hash).expect("a hash"));
    assert_eq!((prefill.value, decode.value), (4_144_761_570_523_161_186, 10_153_995_460_507_501_903));
    assert_eq!(prefill.algo, HashAlgo::GretaFnv1a256);
    let embed: Vec<i32> = run.events.iter().filter(|e| e.point == Point::EmbedOut).map(|e| e.layer).collect();
    assert_eq!(embed, [-1; 6], "GRETA writes embed_out with layer 0; it is unlayered");
    Ok(())
}

#[test]
fn offset_has_no_pair() -> Result<(), TraceError> {
    let run = Run::open(&folder("offset"))?;
    assert_eq!(run.events.len(), 96);
    let of = |phase| run.events.iter().filter(move |e| e.phase == phase);
    assert_eq!((of(Phase::Prefill).count(), of(Phase::Decode).count()), (48, 48));
    for prefill in of(Phase::Prefill) {
        let same = of(Phase::Decode)
            .filter(|d| (&d.prompt_id, d.layer, d.point) == (&prefill.prompt_id, prefill.layer, prefill.point));
        for decode in same {
            assert_ne!(prefill.logical_tok_idx, decode.logical_tok_idx);
            assert!(prefill.logical_tok_idx.is_some() && decode.logical_tok_idx.is_some());
        }
    }
    Ok(())
}

//! The four reports of small runs, as they are; and that they do not depend on the order of events, nor let text from a
//! trace become markup.

use crate::support::{Memory, event, manifest, shaped};
use driftprobe::report::{to_json, to_markdown, to_terminal, to_tsv};
use driftprobe::{Analysis, Options, Verdict, analyze};
use driftprobe_trace::{AttentionInfo, EngineInfo, HostInfo, Mode, Phase, Point, PointSet, Row, Run};
use std::path::Path;

const POINTS: [Point; 8] = [
    Point::EmbedOut,
    Point::ResidualPreAttn,
    Point::QPostRope,
    Point::KCache,
    Point::VCache,
    Point::AttnOut,
    Point::MlpOut,
    Point::Logits,
];

/// Two layers, two prompts; attention of layer 0 gives other last bits in decode, and all that follows inherits them.
fn drifting() -> Memory {
    let prompts: [(&str, &[u32]); 2] = [("p0_short", &[7, 8, 9]), ("p1", &[4, 5])];
    let mut memory = Memory::default();
    let mut manifest = manifest(&prompts, &[0, 1], &POINTS, 1);
    manifest.mode = Some(Mode::AsDesigned);
    manifest.seed = Some(1);
    manifest.env = [("GRETA_SEED".to_owned(), "1".to_owned())].into();
    manifest.host = Some(HostInfo { cpu: Some("test CPU".to_owned()), ..HostInfo::default() });
    let (prefill, decode) = (Some("blocked".to_owned()), Some("split-k".to_owned()));
    manifest.engine = Some(EngineInfo {
        name: Some("test engine".to_owned()),
        threads: Some(2),
        attention: Some(AttentionInfo { prefill, decode, ..AttentionInfo::default() }),
        ..EngineInfo::default()
    });
    memory.run.manifest = Some(manifest);
    for (prompt, tokens) in prompts {
        let position = tokens.len() - 1;
        for point in POINTS {
            for layer in if point.layered() { 0..2 } else { -1..0 } {
                for phase in Phase::ALL {
                    let row = row(prompt, point, layer, (phase, position));
                    let event = event(prompt, phase, point, layer, position as u64, tokens[position]);
                    memory.record(event, row);
                }
            }
        }
    }
    memory
}

fn row(prompt: &str, point: Point, layer: i32, (phase, position): (Phase, usize)) -> Row {
    let drifts = point == Point::Logits || point >= Point::AttnOut && layer == 0 || layer == 1;
    let ulps = if phase == Phase::Decode && drifts { 1 + layer.max(0) as u32 } else { 0 };
    let cache = point.is_cache();
    let count = if cache { 2 * (position + 1) * 2 } else { 8 };
    let values: Vec<f32> = (0..count)
        .map(|i| {
            let value = (i as f32 * 1.3 + point as usize as f32 + layer as f32 * 0.7 + prompt.len() as f32).sin();
            // Of a cache only the newest position drifts.
            let here = !cache || (i / 2) % (position + 1) == position;
            if here && i % 2 == 0 { f32::from_bits(value.to_bits() + ulps) } else { value }
        })
        .collect();
    if cache { shaped(&[2, position as u64 + 1, 2], &values) } else { Row::from_f32(&values) }
}

fn judge(memory: &Memory) -> Analysis {
    let options = Options { title: None, date: Some("2026-02-07".to_owned()) };
    analyze(&memory.run, memory, options)
}

/// With a repeat whose decode differs in one row.
fn with_repeat() -> Memory {
    let mut memory = drifting();
    let mut repeat = memory.run.clone();
    for event in &mut repeat.events {
        event.payload = None;
    }
    repeat.manifest.as_mut().unwrap().repeat = 1;
    let last = repeat.events.len() - 1;
    repeat.events[last].hash.as_mut().unwrap().value ^= 1;
    memory.run.repeats = vec![repeat];
    memory
}

#[test]
fn markdown_of_a_drifting_run() {
    insta::assert_snapshot!("drifting_md", to_markdown(&judge(&with_repeat())));
}

#[test]
fn tsv_of_a_drifting_run() {
    insta::assert_snapshot!("drifting_tsv", to_tsv(&judge(&drifting())));
}

#[test]
fn json_of_a_drifting_run() {
    // One prompt, one layer: the shape of the document, not its length.
    let mut memory = drifting();
    memory.run.events.retain(|event| &*event.prompt_id == "p1" && event.layer < 1);
    memory.run.events.retain(|event| matches!(event.point, Point::KCache | Point::AttnOut | Point::Logits));
    let manifest = memory.run.manifest.as_mut().unwrap();
    manifest.points = Some(PointSet::Both(vec![Point::KCache, Point::AttnOut, Point::Logits]));
    manifest.prompts.as_mut().unwrap().remove(0);
    manifest.layers = Some(vec![0]);
    insta::assert_snapshot!("drifting_json", to_json(&judge(&memory)));
}

#[test]
fn terminal_of_a_drifting_run() {
    let styled = to_terminal(&judge(&with_repeat()));
    insta::assert_snapshot!("drifting_terminal", styled.plain());
    assert!(styled.plain().lines().all(|line| line.chars().count() <= 80));
    assert!(styled.ansi().contains("\u{1b}[33mINCONCLUSIVE\u{1b}[0m"));
}

#[test]
fn reports_of_a_clean_run() {
    let got = analyze(&crate::support::clean().run, &crate::support::clean(), Options::default());
    assert_eq!(got.verdict.verdict, Verdict::Pass);
    insta::assert_snapshot!("clean_md", to_markdown(&got));
    insta::assert_snapshot!("clean_terminal", to_terminal(&got).plain());
}

#[test]
fn reports_of_gretas_offset_run() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../driftprobe-trace/tests/fixtures/greta/offset");
    let run = Run::open(&dir).unwrap();
    let got = analyze(&run, &run, Options::default());
    insta::assert_snapshot!("offset_terminal", to_terminal(&got).plain());
    let tsv = to_tsv(&got);
    assert_eq!(tsv.lines().count(), 97);
    assert!(tsv.lines().skip(1).all(|line| line.split('\t').nth(6) == Some("TRACE_OFFSET")));
}

/// Every report, one after the other.
fn all(analysis: &Analysis) -> [String; 5] {
    let terminal = to_terminal(analysis);
    [to_markdown(analysis), to_tsv(analysis), to_json(analysis), terminal.plain(), terminal.ansi()]
}

#[test]
fn the_order_of_events_does_not_matter() {
    let memory = with_repeat();
    let expected = all(&judge(&memory));
    assert_eq!(all(&judge(&memory)), expected);
    let mut shuffled = memory.clone();
    shuffled.run.events.reverse();
    shuffled.run.repeats[0].events.rotate_left(7);
    assert_eq!(all(&judge(&shuffled)), expected);
    let odd: Vec<_> = shuffled.run.events.iter().skip(1).step_by(2).cloned().collect();
    let even: Vec<_> = shuffled.run.events.iter().step_by(2).cloned().collect();
    shuffled.run.events = [odd, even].concat();
    assert_eq!(all(&judge(&shuffled)), expected);
}

#[test]
fn text_from_a_trace_stays_text() {
    let hostile = "=p|<script>`x`\u{1b}[2J\t\n\u{202e}``` [a](http://b)";
    let mut memory = crate::support::clean();
    for event in &mut memory.run.events {
        if &*event.prompt_id == "p1" {
            event.prompt_id = hostile.into();
            event.source.file = hostile.into();
        }
    }
    memory.run.manifest.as_mut().unwrap().prompts.as_mut().unwrap()[1].id = hostile.to_owned();
    memory.run.manifest.as_mut().unwrap().git = Some(hostile.to_owned());
    memory.run.events.remove(40);
    let analysis =
        analyze(&memory.run, &memory, Options { title: Some(hostile.to_owned()), date: Some(hostile.to_owned()) });
    let [markdown, tsv, json, plain, _] = all(&analysis);
    for text in [&markdown, &tsv, &plain] {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    }
    assert!(!outside_code(&markdown).contains("<script>"), "{markdown}");
    assert!(!outside_code(&markdown).contains("[a](http"), "{markdown}");
    // 8 columns in every line, and no cell that begins as a formula.
    assert!(tsv.lines().all(|line| line.split('\t').count() == 8));
    assert!(tsv.lines().all(|line| line.split('\t').all(|cell| !cell.starts_with('='))));
    let table = markdown.split("## Detailed results").nth(1).unwrap();
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(table.lines().filter(|line| line.starts_with('|')).all(|line| bars(line) == 9), "{table}");
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(parsed["rows"].as_array().unwrap().iter().any(|row| row["prompt_id"] == hostile));
}

/// A Markdown text without its fenced blocks and code spans.
fn outside_code(markdown: &str) -> String {
    let outside_fences = markdown.split("\n```").step_by(2).collect::<String>();
    outside_fences.split('`').step_by(2).collect()
}

#[test]
fn hashes_are_strings_and_non_finite_numbers_too() {
    let mut memory = crate::support::clean();
    memory.change(3, Row::from_f32(&[f32::NAN, 1.0]));
    memory.change(2, Row::from_f32(&[f32::INFINITY, 1.0]));
    memory.run.events[0].hash.as_mut().unwrap().value = u64::MAX;
    let got = analyze(&memory.run, &memory, Options::default());
    let parsed: serde_json::Value = serde_json::from_str(&to_json(&got)).unwrap();
    let rows = parsed["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["prefill"]["hash"].is_string()));
    assert!(rows.iter().any(|row| row["prefill"]["hash"] == "18446744073709551615"));
    let bad = rows.iter().find(|row| row["verdict"] == "NON_FINITE").unwrap();
    assert_eq!(bad["numbers"]["max_abs"], "NaN");
    assert_eq!((&parsed["verdict"], &parsed["exit_code"]), (&"FAIL".into(), &1.into()));
    for field in ["schema", "sub_verdict", "reasons", "root_cause", "first_failure", "cause", "pairs", "coverage"] {
        assert!(parsed.get(field).is_some(), "{field}");
    }
    for field in ["contract_findings", "power", "modes", "rows"] {
        assert!(parsed.get(field).is_some(), "{field}");
    }
}

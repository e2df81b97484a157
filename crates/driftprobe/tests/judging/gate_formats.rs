//! A gate in every format: snapshots, JUnit that parses, and hostile text that stays text.

use crate::support::{Memory, clean, row_of};
use driftprobe::gate::apply::{Gated, apply};
use driftprobe::gate::baseline;
use driftprobe::gate::decide::{Deciding, Gate, Noise, Subject, SubjectMode};
use driftprobe::gate::matrix::{Axes, Matrix, Unit};
use driftprobe::gate::{Preset, PresetResult};
use driftprobe::report::ci::{of_analysis, to_annotations, to_junit};
use driftprobe::report::gate::{cases, to_json, to_markdown, to_terminal, to_tsv};
use driftprobe::{Options, Verdict, analyze};
use driftprobe_trace::{Mode, Phase, Point, Row};

/// Ids as an attacker would choose them.
const HOSTILE: &str = "=cmd|' /C calc'!A0\n::error::x\u{1b}[31m<script>`|@a\u{202e}%0A";

fn drifting(prompt: &str) -> Memory {
    let mut memory = clean();
    memory.run.manifest.as_mut().unwrap().mode = Some(Mode::KvAligned);
    let is = |memory: &Memory, index: usize| {
        let event = &memory.run.events[index];
        (event.phase, event.point, event.layer, event.pos_id) == (Phase::Decode, Point::MlpOut, 1, Some(3))
    };
    let at = (0..memory.run.events.len()).find(|index| is(&memory, *index)).unwrap();
    let mut values: Vec<f32> = row_of("p1", Point::MlpOut, 1, 3).values().map(|value| value as f32).collect();
    values[2] += 0.5;
    memory.change(at, Row::from_f32(&values));
    for event in memory.run.events.iter_mut().filter(|event| &*event.prompt_id == "p1") {
        event.prompt_id = prompt.into();
    }
    let prompts = memory.run.manifest.as_mut().unwrap().prompts.as_mut().unwrap();
    prompts[1].id = prompt.to_owned();
    memory
}

fn presets(memory: &Memory) -> (Noise, Vec<PresetResult>) {
    let analysis = analyze(&memory.run, memory, Options::default());
    let all = ["sglang", "msprobe", "guardrail", "flash-attn", "llama-logits"].map(|id| Preset::by_id(id).unwrap());
    let gated = Gated { analysis: &analysis, rows: memory, model: None, prompt: None };
    (Noise::of(&analysis), apply(&all, gated))
}

fn gate(prompt: &str, name: &str, deciding: &[Deciding]) -> Gate {
    let (noise, presets) = presets(&drifting(prompt));
    let worse = vec![baseline::Worse { place: "mlp_out of layer 1".into(), what: format!("not judged, {prompt}") }];
    let baseline = baseline::Outcome { verdict: Verdict::Fail, worse, reasons: vec![], stages: 12, tests: 30 };
    let axes = |seed| Axes { prompt: Some(prompt.to_owned()), seed: Some(seed), ..Axes::default() };
    let unit = |run: &str, seed| Unit {
        run: run.to_owned(),
        axes: axes(seed),
        noise: Some(noise.verdict),
        presets: presets.iter().map(|one| (one.preset.id, one.verdict, one.guardrail)).collect(),
    };
    let matrix = Matrix { prompts: Some(vec![prompt.to_owned()]), seeds: Some(vec![1, 2, 3]), ..Matrix::default() };
    let matrix = matrix.fill(&[unit(name, 1), unit("again", 1), unit(name, 2), unit("late", 9)]).unwrap();
    let modes = vec![SubjectMode { mode: Some(Mode::KvAligned), presets: presets.clone() }];
    let subject = Subject { name: name.to_owned(), noise: Some(noise), modes, baseline: Some(baseline) };
    Gate::decide(vec![subject], deciding, Some(matrix))
}

fn told() -> Gate {
    gate("p1", "runs/one", &[Deciding::Noise, Deciding::Presets])
}

#[test]
fn text() {
    insta::assert_snapshot!(to_terminal(&told()).plain());
}

#[test]
fn markdown() {
    insta::assert_snapshot!(to_markdown(&told()));
}

#[test]
fn tsv() {
    insta::assert_snapshot!(to_tsv(&told()));
}

#[test]
fn json() {
    insta::assert_snapshot!(to_json(&told()));
}

#[test]
fn junit() {
    insta::assert_snapshot!(to_junit(&cases(&told())));
}

#[test]
fn github() {
    insta::assert_snapshot!(to_annotations(&cases(&told())));
}

#[test]
fn the_junit_of_an_analysis() {
    let memory = drifting("p1");
    insta::assert_snapshot!(to_junit(&of_analysis(&analyze(&memory.run, &memory, Options::default()))));
}

/// What Jenkins' schema asks for: names, counts that are those of the cases, at most one outcome a case.
fn check_junit(text: &str) {
    let document = roxmltree::Document::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(document.root_element().tag_name().name(), "testsuites");
    let number = |node: roxmltree::Node<'_, '_>, name: &str| node.attribute(name).unwrap().parse::<usize>().unwrap();
    for suite in document.root_element().children().filter(|node| node.is_element()) {
        assert_eq!(suite.tag_name().name(), "testsuite");
        assert!(suite.attribute("name").is_some());
        let cases: Vec<_> = suite.children().filter(|node| node.is_element()).collect();
        assert_eq!(number(suite, "tests"), cases.len());
        for (count, tag) in [("failures", "failure"), ("errors", "error"), ("skipped", "skipped")] {
            let of = |case: &&roxmltree::Node<'_, '_>| case.children().any(|child| child.has_tag_name(tag));
            assert_eq!(number(suite, count), cases.iter().filter(of).count(), "{tag}");
        }
        for case in cases {
            assert_eq!(case.tag_name().name(), "testcase");
            assert!(case.attribute("name").is_some() && case.attribute("classname").is_some());
            assert!(case.children().filter(|node| node.is_element()).count() <= 1);
        }
    }
}

#[test]
fn hostile_names_stay_text_in_every_format() {
    let gate = gate(HOSTILE, HOSTILE, &[Deciding::Noise, Deciding::Presets, Deciding::Baseline]);
    let text = to_terminal(&gate).plain();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let (markdown, tsv, annotations) = (to_markdown(&gate), to_tsv(&gate), to_annotations(&cases(&gate)));
    let json = to_json(&gate);
    for (format, text) in [("text", &text), ("md", &markdown), ("tsv", &tsv), ("github", &annotations)] {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{format}: {text}");
    }
    assert!(!markdown.contains("<script>"), "{markdown}");
    let columns = tsv.lines().next().unwrap().split('\t').count();
    for line in tsv.lines() {
        assert_eq!(line.split('\t').count(), columns, "{line}");
        assert!(!line.split('\t').any(|cell| cell.len() > 1 && cell.starts_with(['=', '+', '-', '@'])), "{line}");
    }
    for line in annotations.lines() {
        assert!(["::error title=", "::warning title=", "::notice title="].iter().any(|start| line.starts_with(start)));
    }
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed["runs"][0]["name"], HOSTILE);
    check_junit(&to_junit(&cases(&gate)));
    let memory = drifting(HOSTILE);
    check_junit(&to_junit(&of_analysis(&analyze(&memory.run, &memory, Options::default()))));
}

#[test]
fn what_does_not_decide_fails_no_case_and_what_is_open_is_an_error() {
    let outcome = |deciding: &[Deciding]| {
        let junit = to_junit(&cases(&gate("p1", "one", deciding)));
        let document = roxmltree::Document::parse(&junit).unwrap();
        let of = |name: &str| {
            let case = document.descendants().find(|node| node.attribute("name") == Some(name)).unwrap();
            case.children().find(|child| child.is_element()).map(|child| child.tag_name().name().to_owned())
        };
        [of("noise"), of("sglang"), of("flash-attn"), of("no worse than the baseline"), of("p1, seed 3")]
    };
    let some = |names: [&str; 5]| names.map(|name| Some(name.to_owned()));
    assert_eq!(outcome(&[Deciding::Noise]), some(["error", "skipped", "skipped", "skipped", "error"]));
    let all = [Deciding::Noise, Deciding::Presets, Deciding::Baseline];
    assert_eq!(outcome(&all), some(["error", "failure", "error", "failure", "error"]));
}

#[test]
fn a_gate_of_nothing_and_a_matrix_with_a_hole_do_not_pass() {
    let none = Gate::decide(vec![], &[Deciding::Noise], None);
    assert_eq!((none.verdict, none.exit_code()), (Verdict::Inconclusive, 3));
    let memory = clean();
    let mut noise = presets(&memory).0;
    noise.verdict = Verdict::Pass;
    let subject = Subject { name: "one".into(), noise: Some(noise), modes: vec![], baseline: None };
    let matrix = |seeds: Vec<u64>| {
        let axes = Axes { seed: Some(1), ..Axes::default() };
        let unit = Unit { run: "one".into(), axes, noise: Some(Verdict::Pass), presets: vec![] };
        Matrix { seeds: Some(seeds), ..Matrix::default() }.fill(&[unit]).unwrap()
    };
    let decide = |seeds| Gate::decide(vec![subject.clone()], &[Deciding::Noise], Some(matrix(seeds))).exit_code();
    assert_eq!((decide(vec![1]), decide(vec![1, 2])), (0, 3));
    // Presets that were asked to decide and are not there decide nothing.
    assert_eq!(Gate::decide(vec![subject], &[Deciding::Presets], None).exit_code(), 3);
}

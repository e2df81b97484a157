//! The reports of runs that a model judged: every section is there, filled by measurements; of a clean run in both modes,
//! of a faulty one, and of one that hides its fault in a layer that was not recorded.

use driftprobe::cause::UNEXPLAINED;
use driftprobe::judge::examine::Oracle;
use driftprobe::report::{Plot, picture, to_html, to_json, to_markdown, to_terminal, to_tsv};
use driftprobe::search::with_search;
use driftprobe::verdict::modes::combine;
use driftprobe::{Analysis, Options, Verdict, analyze, analyze_against};
use driftprobe_engine::faulty::{Fault, FaultyEngine, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Mode, PromptInfo, Run};
use std::path::Path;
use std::sync::Arc;

fn demo() -> Model {
    Model::open(Path::new("DEMO")).unwrap()
}

/// The whole run of the demo model by an engine: two prompts, some layers, one mode.
fn run_of(engine: &dyn Engine, layers: &[usize], mode: Mode) -> (tempfile::TempDir, Run) {
    let prompt = |id: &str, tokens: &[u32]| PromptInfo { id: id.into(), tokens: tokens.to_vec(), ..Default::default() };
    let prompts = vec![prompt("p0_short", &[11, 42, 7, 99, 5]), prompt("p1", &[3, 8, 120, 77, 41, 200, 9])];
    let plan = Plan { layers: layers.iter().copied().collect(), mode, ..Plan::everything(engine, prompts) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    (dir, run)
}

fn judged(run: &Run, model: &Model) -> Analysis {
    analyze_against((run, run), Some(&Oracle::new(model)), Options::default(), &mut |_| {})
}

fn faulty(model: &Model, fault: &str) -> FaultyEngine {
    let settings = Settings::default();
    let subject = Subject { model, settings: &settings, tokens: 7 };
    FaultyEngine::new(&subject, fault.parse::<Fault>().unwrap()).unwrap()
}

fn both_modes(model: &Model, engine: &dyn Engine) -> Analysis {
    let [(_a, designed), (_b, aligned)] = [Mode::AsDesigned, Mode::KvAligned].map(|mode| run_of(engine, &[0, 2], mode));
    combine(judged(&designed, model), judged(&aligned, model))
}

/// The sections of the template that the first reports were to have, and of this one, in their order.
const SECTIONS: [&str; 15] = [
    "## Execution summary",
    "## Root cause",
    "## Contract findings",
    "## KV alignment analysis",
    "### Projection hashes",
    "### Attention statistics",
    "### KV alignment indicators",
    "## Structural drift or real mismatch",
    "### Hypothesis testing",
    "### Evidence",
    "### Conclusion",
    "## The usual suspects",
    "## Recommendations",
    "## As designed against aligned",
    "## Power: what this run would have shown",
];

/// Every section stands in its order and has content, and no cell of a table is empty.
fn assert_filled(markdown: &str) {
    let at: Vec<usize> =
        SECTIONS.iter().map(|section| markdown.find(section).unwrap_or_else(|| panic!("{section}"))).collect();
    assert!(at.is_sorted(), "{at:?}");
    for section in SECTIONS {
        let rest = &markdown[markdown.find(section).unwrap() + section.len()..];
        assert!(rest.trim_start().len() > 20 && !rest.trim_start().starts_with("## "), "{section} is empty");
    }
    for word in [concat!("T", "BD"), "PENDING"] {
        assert!(!markdown.contains(word), "{word}");
    }
    for line in markdown.lines().filter(|line| line.starts_with("| ")) {
        // The first column of the two phases of the first failure has no heading.
        let mut cells = line.trim_matches('|').split(" | ").skip(usize::from(line.starts_with("|  |")));
        assert!(cells.all(|cell| !cell.trim().is_empty()), "{line}");
    }
    let bodies = markdown.split("\n| --- |").skip(1).map(|rest| rest.lines().nth(1).unwrap_or(""));
    assert!(bodies.clone().count() > 5 && bodies.into_iter().all(|row| row.starts_with('|')), "a table is empty");
}

/// The page has everything, with pictures that can be read and say what they show.
fn assert_page(got: &Analysis) {
    let page = to_html(got);
    for section in page.split("<section ").skip(1) {
        let body = section.split("</h2>").nth(1).unwrap().split("</section>").next().unwrap();
        assert!(body.trim().len() > 40 && !body.contains("Not measured: no model"), "{section}");
    }
    assert_eq!(page.matches("<svg class=\"plot\" role=\"img\" aria-label=\"").count(), 3);
    for plot in Plot::ALL {
        let svg = picture(got, plot).unwrap().to_svg(plot.title());
        let parsed = roxmltree::Document::parse(&svg).unwrap();
        let of = |tag: &str| parsed.descendants().filter(|node| node.has_tag_name(tag)).count();
        let says = parsed.descendants().find(|node| node.has_tag_name("desc")).unwrap().text().unwrap();
        assert!(says.len() > 60 && of("text") > 10, "{}: {says}", plot.id());
        let marks = if plot == Plot::Heatmap { of("rect") } else { of("circle").min(of("polygon")) };
        assert!(marks > if plot == Plot::Modes { 0 } else { 2 }, "{}: {marks} marks", plot.id());
        for found in parsed.descendants().filter_map(|node| node.attribute("fill").or(node.attribute("stroke"))) {
            assert!(found == "none" || found.len() == 7 && found.starts_with('#'), "{found}");
        }
    }
}

/// The lines of one section.
fn section<'a>(markdown: &'a str, title: &str) -> &'a str {
    let rest = markdown.split(&format!("\n## {title}\n")).nth(1).unwrap_or_else(|| panic!("{title}"));
    rest.split("\n## ").next().unwrap().trim()
}

/// Measured numbers and bars depend on the machine's arithmetic: they are masked.
fn masked(text: &str) -> String {
    let mask = |word: &str| {
        let core = word.trim_matches(|c: char| !(c.is_ascii_digit() || "+-.e".contains(c))).trim_end_matches('.');
        let measured =
            core.contains(['.', 'e']) && core.parse::<f64>().is_ok() || word.len() > 9 && core.parse::<u64>().is_ok();
        if measured { word.replace(core, "#") } else { word.to_owned() }
    };
    let line = |line: &str| line.split(' ').map(mask).collect::<Vec<_>>().join(" ");
    let bar = |c: char| if ('▁'..='█').contains(&c) { '▂' } else { c };
    text.lines().map(line).collect::<Vec<_>>().join("\n").chars().map(bar).collect()
}

fn fits(terminal: &str) {
    assert!(terminal.lines().all(|line| line.chars().count() <= 80), "{terminal}");
}

#[test]
fn a_clean_run_in_both_modes() {
    let model = demo();
    let engine = EmbeddedEngine::new(&model, Settings::default()).unwrap();
    let got = both_modes(&model, &engine);
    assert_eq!(got.verdict.verdict, Verdict::Pass);
    let markdown = to_markdown(&got);
    assert_filled(&markdown);
    insta::assert_snapshot!("judged_clean_execution", masked(section(&markdown, "Execution summary")));
    insta::assert_snapshot!("judged_clean_hypotheses", masked(section(&markdown, "Structural drift or real mismatch")));
    assert!(section(&markdown, "Root cause").starts_with("None: no stage of either phase is off"));
    assert!(!markdown.contains("## Failure breakdown") && !markdown.contains("## First failure"));
    assert!(section(&markdown, "Recommendations").starts_with("- Nothing to mend: the drift is what rounding makes."));

    let terminal = to_terminal(&got).plain();
    fits(&terminal);
    insta::assert_snapshot!("judged_clean_terminal", masked(&terminal));
    assert!(!got.advice.limits.iter().any(|limit| limit.contains("without a model")), "{:?}", got.advice.limits);

    assert_page(&got);
    let page = to_html(&got);
    assert!(page.contains("class=\"badge\"><span aria-hidden=\"true\">✓</span> PASS"), "no verdict");
    assert!(page.contains("bugs of the catalogue would have shown"), "no power");
    assert_eq!(page.matches(" k-fault").count(), 0);

    // A structural difference is no failure.
    assert!(got.counts.structural > 0);
    let tsv = to_tsv(&got);
    assert!(tsv.lines().skip(1).all(|line| line.split('\t').nth(5) == Some("-")), "{tsv}");
    assert!(got.codes.is_empty());

    let json: serde_json::Value = serde_json::from_str(&to_json(&got)).unwrap();
    assert_eq!(json["hypotheses"]["h0_rejected"], false);
    assert_eq!(json["tensors"].as_array().unwrap().len(), got.modes.len());
    for mode in ["as_designed", "kv_aligned"] {
        let attention = &json["modes"][mode]["attention"];
        // Two prompts, two layers, three tensors; two layers and phases; two layers.
        assert_eq!(attention["projections"].as_array().unwrap().len(), 12);
        assert_eq!(attention["attention_statistics"].as_array().unwrap().len(), 4);
        assert_eq!(attention["indicators"].as_array().unwrap().len(), 2);
        let statistics = &attention["attention_statistics"][0];
        assert_eq!(statistics["probs_source"], "recorded");
        let sum = statistics["probs"]["mean"].as_f64().unwrap() * statistics["probs"]["values"].as_f64().unwrap();
        // Each of 2 rows × heads adds up to 1.
        let heads = 2.0 * model.config.num_attention_heads as f64;
        assert!((sum - heads).abs() < 1e-5, "{sum}");
    }
}

#[test]
fn a_run_whose_decode_takes_a_wrong_position() {
    let model = demo();
    let got = both_modes(&model, &faulty(&model, "ROPE_POSITION_OFFSET:+1@decode:layer2"));
    assert_eq!(got.verdict.verdict, Verdict::Fail);
    let markdown = to_markdown(&got);
    assert_filled(&markdown);
    insta::assert_snapshot!("judged_faulty_execution", masked(section(&markdown, "Execution summary")));
    let cause = section(&markdown, "Root cause");
    assert!(
        cause.contains("| Candidates | ROPE_POSITION_OFFSET (offset +1) |") && !cause.contains(UNEXPLAINED),
        "{cause}"
    );
    assert!(cause.contains("The best of those that do not explain it"), "{cause}");
    let hypotheses = section(&markdown, "Structural drift or real mismatch");
    assert!(
        hypotheses.contains("H₀ is rejected: `q_post_rope` of layer 2 of decode")
            && hypotheses.contains("It is in attention")
    );
    let of = |name: &str| hypotheses.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}"));
    assert!(of("Stages of prefill").contains("| ✓ | – |"), "{hypotheses}");
    assert!(of("Stages of decode").contains("| – | ✓ |"), "{hypotheses}");
    let suspects = section(&markdown, "The usual suspects");
    assert!(suspects.lines().any(|line| line.starts_with("| RoPE | decode | explains |")), "{suspects}");

    let terminal = to_terminal(&got).plain();
    fits(&terminal);
    insta::assert_snapshot!("judged_faulty_terminal", masked(&terminal));
    let first = &got.advice.recommendations[0];
    assert_eq!(first, "Look at where decode takes the rotary position: it is 1 too large (`q_post_rope` of layer 2).");

    assert_page(&got);
    let page = to_html(&got);
    assert!(page.contains("Cause: ROPE_POSITION_OFFSET (offset +1) in decode"), "no cause at the top");
    // The map marks the stage that is at fault, of queries and of keys, and no other of its layer or of one before it.
    let row = page.split("<tr data-p=\"q_post_rope\">").nth(1).unwrap().split("</tr>").next().unwrap();
    let cells: Vec<bool> = row.split("<td ").skip(1).map(|cell| cell.contains("k-fault")).collect();
    assert_eq!(cells.iter().filter(|fault| **fault).count(), 1, "{row}");
    let faults: Vec<&str> = page.split("</tr>").filter(|row| row.contains(" k-fault\"><a")).collect();
    assert!(faults.iter().all(|row| row.contains("\"q_post_rope\"") || row.contains("\"k_post_rope\"")), "{faults:?}");
    // What comes behind it inherits more than rounding makes, and looks like it.
    let row = page.split("<tr data-p=\"attn_scores\">").nth(1).unwrap().split("</tr>").next().unwrap();
    assert!(row.contains("k-inherited hatch"), "{row}");
    let values = got.first_values.as_ref().unwrap();
    assert!(!values.sampled && values.values.iter().any(|value| value.difference() != 0.0));
    assert!(page.contains("Values there"), "no values");

    let tsv = to_tsv(&got);
    let cells: Vec<Vec<&str>> = tsv.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    let failing: Vec<_> = cells.iter().filter(|cells| cells[5] != "-").collect();
    assert!(!failing.is_empty() && failing.iter().all(|cells| cells[7].starts_with("FAULT")), "{tsv}");
    let causes: Vec<_> = cells.iter().filter(|cells| cells[6] != "-").collect();
    assert_eq!(causes.len(), 1);
    assert_eq!(
        (causes[0][0], causes[0][3], causes[0][4], causes[0][6]),
        ("p0_short", "2", "q_post_rope", "ROPE_DRIFT")
    );
}

#[test]
fn a_fault_in_a_layer_that_was_not_recorded_says_what_to_record() {
    let model = demo();
    let engine = faulty(&model, "ROPE_POSITION_OFFSET:+1@decode:layer2");
    let (_dir, run) = run_of(&engine, &[0, 4], Mode::AsDesigned);
    let got = judged(&run, &model);
    assert_eq!(got.verdict.verdict, Verdict::Fail);
    let told: Vec<&String> =
        got.advice.recommendations.iter().filter(|sentence| sentence.starts_with("Record layers 1, 2, 3 ")).collect();
    assert_eq!(told.len(), 1, "{:?}", got.advice.recommendations);
    let markdown = to_markdown(&got);
    assert_filled(&markdown);
    assert!(
        section(&markdown, "As designed against aligned").starts_with("Only one mode was recorded (`as_designed`)")
    );
}

#[test]
fn what_a_search_found_is_the_report_s() {
    let model = demo();
    let engine = faulty(&model, "ROPE_POSITION_OFFSET:+1@decode:layer2");
    let [(_a, run), (_b, round)] = [&[0, 4][..], &[2]].map(|layers| run_of(&engine, layers, Mode::AsDesigned));
    let got = with_search(judged(&run, &model), vec![Arc::new(judged(&round, &model))]);
    let markdown = to_markdown(&got);
    assert_filled(&markdown);
    assert!(
        section(&markdown, "Root cause").contains("**search 1: layers 2**: ROPE\\_POSITION\\_OFFSET")
            || section(&markdown, "Root cause").contains("**search 1: layers 2**: ROPE_POSITION_OFFSET (offset +1)")
    );
    assert!(section(&markdown, "First failure").contains("`q_post_rope` of layer 2, prompt `p0_short`"));
    assert!(section(&markdown, "Sample evidence").contains("\"q_post_rope\""));
    let told = &got.advice.recommendations;
    assert!(told[0].starts_with("Look at where decode takes the rotary position"), "{told:?}");
    assert!(!told.iter().any(|sentence| sentence.starts_with("Record layer")), "{told:?}");
    // Its layer is a column of the map, told apart from those of the run.
    let page = to_html(&got);
    assert!(page.contains("data-l=\"2\" data-r=\"1\">2*</th>"), "no column");
    assert!(page.contains("<h3>Values there</h3>\n<p>The "), "no values");
    // The row behind the stretch is not what is at fault, and is not said to be.
    let row = page.split("<tr data-p=\"residual_pre_attn\">").nth(1).unwrap().split("</tr>").next().unwrap();
    assert!(row.contains("k-gap") && row.contains("a fault before it") && !row.contains("k-fault"), "{row}");
    let row = page.split("<tr data-p=\"q_post_rope\">").nth(1).unwrap().split("</tr>").next().unwrap();
    assert!(row.contains("k-fault") && !row.contains("k-gap"), "{row}");
    assert!(page.contains("Cause: ROPE_POSITION_OFFSET"), "no cause at the top");
}

#[test]
fn without_a_model_every_section_says_what_is_missing() {
    let model = demo();
    let engine = EmbeddedEngine::new(&model, Settings::default()).unwrap();
    let (_dir, run) = run_of(&engine, &[0], Mode::AsDesigned);
    let got = analyze(&run, &run, Options::default());
    let markdown = to_markdown(&got);
    assert_filled(&markdown);
    for title in ["Root cause", "Contract findings", "The usual suspects", "Power: what this run would have shown"] {
        let text = section(&markdown, title);
        assert!(text.starts_with("Not measured: no model was given") && text.lines().count() == 1, "{title}: {text}");
    }
    let hypotheses = section(&markdown, "Structural drift or real mismatch");
    assert!(hypotheses.contains("Neither is shown: without a model"), "{hypotheses}");
    // What needs no model is there.
    assert!(section(&markdown, "KV alignment analysis").contains("| as_designed | 0 | prefill |"));
    assert!(got.advice.limits.iter().any(|limit| limit.contains("without a model")));
    let tsv = to_tsv(&got);
    assert!(tsv.lines().any(|line| line.split('\t').nth(5) == Some("ATTN_OUT_DRIFT")), "{tsv}");
}

//! The head of the page: the verdict in one sentence, its evidence, the pairs by verdict, and what to do next.

use super::Page;
use super::prose::{block, sentence};
use crate::analysis::Analysis;
use crate::report::escape::html;
use crate::report::suspects::cause_in_words;
use crate::report::terminal::{end_to_end_sentence, found_causes, pairs_sentence, power_sentence};
use crate::verdict::Verdict;
use std::fmt::Write as _;

/// Sections of drift.md that belong to the verdict.
const REASONS: [&str; 2] = ["Why it is no PASS", "Noticed besides, without bearing on the verdict"];

pub fn header(out: &mut String, page: &Page<'_>, title: &str) {
    let analysis = page.analysis;
    let run = &analysis.verdict;
    let (class, glyph) = match run.verdict {
        Verdict::Pass => ("pass", "✓"),
        Verdict::Fail => ("fail", "✗"),
        Verdict::Inconclusive => ("open", "?"),
    };
    let date = analysis.options.date.as_deref().map_or_else(String::new, |date| format!(" · {}", html(date)));
    let _ = writeln!(out, "<header class=\"{class}\">\n<p class=\"over\">{title}{date}</p>");
    let code = run.sub_verdict.map(|sub| sub.id()).or(run.root_cause);
    let code = code.map_or_else(String::new, |code| format!(" <code>{code}</code>"));
    let id = run.verdict.id();
    let _ = writeln!(out, "<h1><span class=\"badge\"><span aria-hidden=\"true\">{glyph}</span> {id}</span>{code}</h1>");
    let _ = write!(out, "<p class=\"lead\">{}</p>\n<ul class=\"evidence\">", sentence(&run.root_cause_why));
    for text in evidence(analysis) {
        let _ = write!(out, "<li>{}</li>", sentence(&text));
    }
    out.push_str("</ul>\n");
    bar(out, analysis);
    facts(out, analysis);
    if run.verdict != Verdict::Pass && !analysis.advice.recommendations.is_empty() {
        out.push_str("<h2>Next</h2>\n<ul>");
        for text in &analysis.advice.recommendations {
            let _ = write!(out, "<li>{}</li>", sentence(text));
        }
        out.push_str("</ul>\n");
    }
    for title in REASONS {
        if let Some(section) = page.section(title) {
            let body = block(&section.body, title);
            // What a FAIL rests on has been said.
            let open = if title == REASONS[0] && run.verdict == Verdict::Inconclusive { " open" } else { "" };
            let _ = writeln!(out, "<details{open}><summary>{title}</summary>\n{body}</details>");
        }
    }
    out.push_str("</header>\n");
}

fn evidence(analysis: &Analysis) -> Vec<String> {
    let causes = found_causes(analysis).map(|cause| format!("Cause: {}", cause_in_words(cause)));
    let examination = analysis.examination.as_ref();
    let whole = examination.and_then(end_to_end_sentence);
    let power = examination.and_then(power_sentence).filter(|_| analysis.verdict.verdict == Verdict::Pass);
    causes.chain([pairs_sentence(analysis)]).chain(whole).chain(power).collect()
}

/// Pairs by verdict, as a bar and in words.
fn bar(out: &mut String, analysis: &Analysis) {
    let counts = &analysis.counts;
    let all = [
        ("identical", "bit-equal", counts.identical),
        ("structural", "structural", counts.structural),
        ("inherited", "inherited", counts.inherited),
        ("contract", "contract", counts.contract),
        ("undecided", "undecided or not comparable", counts.undecided + counts.missing),
        ("fault", "at fault", counts.fault),
        ("nonfinite", "not finite", counts.non_finite),
    ];
    if counts.total == 0 {
        return;
    }
    out.push_str("<svg class=\"bar\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    let mut from = 0.0;
    for (class, _, count) in all.iter().filter(|(_, _, count)| *count > 0) {
        // What is there is seen, however little it is.
        let width = (*count as f64 * 1000.0 / counts.total as f64).max(4.0);
        let _ = write!(out, "<rect class=\"b-{class}\" x=\"{from:.1}\" width=\"{width:.1}\" height=\"10\"/>");
        from += width;
    }
    out.push_str("</svg>\n<ul class=\"counts\">");
    for (class, name, count) in all.iter().filter(|(_, _, count)| *count > 0) {
        let _ = write!(out, "<li><span class=\"key b-{class}\" aria-hidden=\"true\"></span><b>{count}</b> {name}</li>");
    }
    out.push_str("</ul>\n");
}

/// What was run, in short.
fn facts(out: &mut String, analysis: &Analysis) {
    let Some(manifest) = &analysis.manifest else { return };
    let engine = manifest.engine.as_ref();
    let model = manifest.model.as_ref();
    let list = |layers: &Vec<i32>| layers.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    let tokens = |prompts: &Vec<driftprobe_trace::PromptInfo>| {
        let tokens: usize = prompts.iter().map(|prompt| prompt.tokens.len()).sum();
        format!("{} ({tokens} tokens)", prompts.len())
    };
    let facts = [
        ("Model", model.and_then(|model| model.path.clone())),
        ("Architecture", model.and_then(|model| model.architecture.clone())),
        ("Engine", engine.and_then(|engine| engine.name.clone())),
        ("Prompts", manifest.prompts.as_ref().map(tokens)),
        ("Layers", manifest.layers.as_ref().map(list)),
        ("Steps", manifest.steps.map(|steps| steps.to_string())),
    ];
    out.push_str("<dl class=\"facts\">");
    for (name, value) in facts {
        if let Some(value) = value {
            let _ = write!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", html(&value));
        }
    }
    out.push_str("</dl>\n");
}

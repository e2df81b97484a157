//! `drift.md`: the report for people, from the verdict down to every single pair.
//!
//! A section without content is left out or says that nothing was recorded; there is no placeholder.

mod attention;
mod coverage;
mod failure;
mod judged;
mod modes;
mod power;

use super::escape::{code, markdown, markdown_sentence};
use super::format::{number, share};
use super::recordings::showing_failure;
use super::tsv;
use crate::analysis::Analysis;
use crate::verdict::reason::Reason;
use crate::verdict::{TRACE_OFFSET, Verdict};

/// The report as Markdown.
pub fn to_markdown(analysis: &Analysis) -> String {
    let mut out = document(analysis);
    results(&mut out, analysis);
    let section = |section: &Section| match section.title.is_empty() {
        true => section.body.clone(),
        false => format!("\n## {}\n\n{}", section.title, section.body),
    };
    out.sections.iter().map(section).collect()
}

/// All of the report but the list of pairs.
pub(super) fn document(analysis: &Analysis) -> Document {
    let mut out = Document::default();
    head(&mut out, analysis);
    modes::execution(&mut out, analysis);
    judged::root_cause(&mut out, analysis);
    let shown = showing_failure(analysis);
    if let Some(first) = &shown.verdict.first_failure {
        failure::first_failure(&mut out, shown, first);
    }
    judged::contract(&mut out, analysis);
    rests_on(&mut out, analysis);
    summary(&mut out, analysis);
    breakdown(&mut out, analysis);
    attention::alignment(&mut out, analysis);
    judged::hypotheses(&mut out, analysis);
    judged::suspects(&mut out, analysis);
    list(&mut out, "Recommendations", &analysis.advice.recommendations);
    list(&mut out, "What this report cannot claim", &analysis.advice.limits);
    // From here on, tables to look things up in.
    if analysis.verdict.first_failure.is_some() {
        failure::prompts(&mut out, analysis);
    }
    // A round of the search has few layers: what it found propagates in the run itself.
    let is_round = analysis.search.iter().any(|round| std::ptr::eq(round.as_ref(), shown));
    failure::propagation(&mut out, if is_round { analysis } else { shown });
    modes::side_by_side(&mut out, analysis);
    power::power(&mut out, analysis);
    power::places(&mut out, analysis);
    coverage::repeats(&mut out, analysis);
    coverage::coverage(&mut out, analysis);
    coverage::provenance(&mut out, analysis);
    out
}

/// Markdown as it grows, section by section; the first has no title.
#[derive(Default)]
pub(super) struct Document {
    pub sections: Vec<Section>,
}

/// A section.
#[derive(Default)]
pub(super) struct Section {
    pub title: String,
    pub body: String,
}

impl Document {
    fn section(&mut self, title: &str) {
        self.sections.push(Section { title: title.to_owned(), body: String::new() });
    }

    fn line(&mut self, line: impl AsRef<str>) {
        if self.sections.is_empty() {
            self.sections.push(Section::default());
        }
        if let Some(section) = self.sections.last_mut() {
            section.body.push_str(line.as_ref());
            section.body.push('\n');
        }
    }

    /// A table; cells are Markdown already.
    fn table<const N: usize>(&mut self, header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
        self.line(format!("| {} |", header.join(" | ")));
        self.line(format!("|{}", " --- |".repeat(N)));
        for row in rows {
            self.line(format!("| {} |", row.join(" | ")));
        }
    }

    /// A fenced block. No line of `body` may begin with three backticks; ours begin with JSON or a tree.
    fn block(&mut self, language: &str, body: &str) {
        self.line(format!("```{language}"));
        self.line(body.trim_end());
        self.line("```");
    }
}

fn head(out: &mut Document, analysis: &Analysis) {
    let run = &analysis.verdict;
    let title = analysis.options.title.as_deref().unwrap_or("Prefill and decode: drift report");
    out.line(format!("# {}", markdown(title)));
    out.line("");
    if let Some(date) = &analysis.options.date {
        out.line(format!("Date: {}\n", markdown(date)));
    }
    let sub = run.sub_verdict.map_or_else(String::new, |sub| format!(" ({})", code(sub.id())));
    out.line(format!("**Verdict: {}**{sub} · exit status {}", run.verdict.id(), analysis.exit_code()));
    out.line("");
    let why = markdown_sentence(&run.root_cause_why);
    out.line(match (run.root_cause, run.verdict) {
        (Some(cause), _) => format!("**Root cause: {}**: {why}.", code(cause)),
        (None, Verdict::Pass) => format!("**Root cause:** none; {why}."),
        (None, _) => format!("**Root cause:** not shown; {why}."),
    });
    let headings =
        [("Why it is no PASS", &run.reasons), ("Noticed besides, without bearing on the verdict", &run.notes)];
    for (heading, reasons) in headings {
        if !reasons.is_empty() {
            out.section(heading);
            out.table(["Reason", "Count", "What is the case", "What would settle it"], reasons.iter().map(reason));
        }
    }
}

fn reason(reason: &Reason) -> [String; 4] {
    let examples: Vec<String> = reason.examples.iter().map(|example| markdown_sentence(example)).collect();
    let more = if reason.count > examples.len() as u64 { " …" } else { "" };
    let examples = if examples.is_empty() { String::new() } else { format!(": {}{more}", examples.join(" · ")) };
    [
        code(reason.code.id()),
        reason.count.to_string(),
        markdown_sentence(reason.code.sentence()) + &examples,
        markdown_sentence(reason.code.hint()),
    ]
}

fn rests_on(out: &mut Document, analysis: &Analysis) {
    if analysis.advice.rests_on.is_empty() {
        out.section("What this verdict rests on");
        out.line("No pair of rows was compared.");
    } else {
        list(out, "What this verdict rests on", &analysis.advice.rests_on);
    }
}

fn summary(out: &mut Document, analysis: &Analysis) {
    let counts = &analysis.counts;
    let of = |count| share(count, counts.total);
    out.section("Summary");
    let one_phase = analysis.one_phase_rows();
    let mut rows = vec![
        ["Total pairs".to_owned(), counts.total.to_string()],
        ["Identical (bit-equal over the whole row)".to_owned(), of(counts.identical)],
        ["Structural (rounding parts them here)".to_owned(), of(counts.structural)],
        ["Inherited (both phases clean, inputs differ already)".to_owned(), of(counts.inherited)],
        ["Contract (an arithmetic that is not declared)".to_owned(), of(counts.contract)],
        ["At fault".to_owned(), of(counts.fault)],
        ["Undecided".to_owned(), of(counts.undecided)],
        ["Rows that differ, of all verdicts".to_owned(), of(counts.differing)],
        ["Not finite".to_owned(), of(counts.non_finite)],
        ["Missing comparison".to_owned(), of(counts.missing)],
        ["Recorded hashes match".to_owned(), of(counts.hash_match)],
        ["Recorded hashes differ".to_owned(), of(counts.hash_differ)],
        ["Events without a partner".to_owned(), analysis.coverage.unpaired.saturating_sub(one_phase).to_string()],
    ];
    if one_phase > 0 {
        rows.push(["Rows of points that only one phase gives".to_owned(), one_phase.to_string()]);
    }
    if let Some(agree) = next_token(analysis) {
        rows.push(["Next token (top-1) agrees".to_owned(), agree]);
    }
    out.table(["Metric", "Value"], rows);
}

fn next_token(analysis: &Analysis) -> Option<String> {
    let answers: Vec<bool> =
        analysis.pairs.iter().filter_map(|pair| pair.logits.as_ref().and_then(|logits| logits.agree())).collect();
    let agree = answers.iter().filter(|agree| **agree).count();
    (!answers.is_empty()).then(|| format!("{agree} of {} positions", answers.len()))
}

fn breakdown(out: &mut Document, analysis: &Analysis) {
    if analysis.codes.is_empty() {
        return;
    }
    out.section("Failure breakdown");
    let what = if analysis.examination.is_some() { "Where rows are at fault or not finite" } else { "Where rows part" };
    out.line(format!("{what}, in the order of the search. A code names a place, not a cause.\n"));
    let rows = analysis.codes.iter().map(|(id, count)| {
        let whole = if *id == TRACE_OFFSET { analysis.coverage.found.iter().sum() } else { analysis.counts.total };
        let share = if whole == 0 { "-".to_owned() } else { format!("{:.2}%", *count as f64 * 100.0 / whole as f64) };
        [code(id), count.to_string(), share]
    });
    out.table(["Code", "Count", "Share"], rows);
}

/// A cell of what may not be there.
fn cell(text: Option<String>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| markdown(&text))
}

fn list(out: &mut Document, title: &str, sentences: &[String]) {
    if !sentences.is_empty() {
        out.section(title);
        for sentence in sentences {
            out.line(format!("- {}", markdown_sentence(sentence)));
        }
    }
}

fn list_under(out: &mut Document, title: &str, sentences: &[String]) {
    if !sentences.is_empty() {
        out.line(format!("\n### {title}\n"));
        for sentence in sentences {
            out.line(format!("- {}", markdown_sentence(sentence)));
        }
    }
}

fn results(out: &mut Document, analysis: &Analysis) {
    out.section("Detailed results");
    let rows = tsv::rows(analysis);
    if rows.is_empty() {
        out.line("No event was read.");
        return;
    }
    let what = match analysis.examination.is_some() {
        true => "FIRST_FAIL is the code of rows at fault, not finite or without a partner",
        false => "FIRST_FAIL is where rows part",
    };
    out.line(format!("{what}; ROOT_CAUSE is given only where the evidence carries a cause.\n"));
    out.table(tsv::COLUMNS, rows.iter().map(|cells| cells.each_ref().map(|cell| markdown(cell))));
}

//! The terminal summary: what a person wants to know first, in at most 80 columns.
//!
//! It is text with semantic styles; whoever prints it decides on colour. Nothing is told by colour alone.

use super::escape::{columns, cut, visible};
use super::format::{brief, distances, number, p_value, share, statistics};
use super::power::{shown, smallest};
use super::strip;
use super::suspects::cause_in_words;
use crate::analysis::{Analysis, PairCounts};
use crate::cause::Cause;
use crate::evidence::Bits;
use crate::judge::examine::Examination;
use crate::judge::{JudgedPair, PairVerdict};
use crate::search::recorded_layers;
use crate::verdict::advice::rows_of;
use crate::verdict::reason::ReasonCode;
use crate::verdict::{FirstFailure, Parting, Verdict, layer_of};

/// Columns that no line exceeds.
pub const WIDTH: usize = 80;

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As is.
    Plain,
    /// A heading, or what matters most.
    Strong,
    /// All is well.
    Good,
    /// Something is open.
    Warn,
    /// Something is wrong.
    Bad,
    /// Of less weight.
    Dim,
}

impl Style {
    /// How a verdict is meant.
    pub(super) const fn of(verdict: Verdict) -> Style {
        match verdict {
            Verdict::Pass => Style::Good,
            Verdict::Fail => Style::Bad,
            Verdict::Inconclusive => Style::Warn,
        }
    }

    /// The SGR parameters of a common rendering; empty for plain text.
    pub const fn sgr(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Strong => "1",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "1;31",
            Style::Dim => "2",
        }
    }
}

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// How it is meant.
    pub style: Style,
    /// The text; no control characters.
    pub text: String,
}

impl Span {
    pub(super) fn new(style: Style, text: impl AsRef<str>) -> Span {
        Span { style, text: visible(text.as_ref()) }
    }
}

/// Lines of styled text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Styled {
    /// The lines.
    pub lines: Vec<Vec<Span>>,
}

impl Styled {
    /// Without any style.
    pub fn plain(&self) -> String {
        self.render(|span| span.text.clone())
    }

    /// With ANSI escape sequences.
    pub fn ansi(&self) -> String {
        self.render(|span| match span.style.sgr() {
            "" => span.text.clone(),
            sgr => format!("\u{1b}[{sgr}m{}\u{1b}[0m", span.text),
        })
    }

    fn render(&self, span: impl Fn(&Span) -> String) -> String {
        let mut out = String::new();
        for line in &self.lines {
            let text: String = line.iter().map(&span).collect();
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }

    pub(super) fn line(&mut self, style: Style, text: impl AsRef<str>) {
        self.lines.push(vec![Span::new(style, text)]);
    }

    pub(super) fn blank(&mut self) {
        self.lines.push(vec![]);
    }

    /// Wrapped to the width, `first` before its first line and as many spaces before the others.
    pub(super) fn wrapped(&mut self, first: &str, style: Style, text: &str) {
        let indent = columns(first);
        for (index, line) in wrap(&visible(text), WIDTH - indent).into_iter().enumerate() {
            let lead = if index == 0 { first.to_owned() } else { " ".repeat(indent) };
            self.lines.push(vec![Span::new(Style::Plain, lead), Span::new(style, line)]);
        }
    }
}

/// Words on lines of at most `width` columns; a longer word is cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![];
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if !line.is_empty() && columns(&line) + 1 + columns(word) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&cut(word, width));
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// The summary of an analysis.
pub fn to_terminal(analysis: &Analysis) -> Styled {
    let mut out = Styled::default();
    let run = &analysis.verdict;
    let style = Style::of(run.verdict);
    let mut head = run.verdict.id().to_owned();
    if let Some(sub) = run.sub_verdict {
        head.push_str(&format!(" ({})", sub.id()));
    }
    if let Some(code) = run.root_cause {
        head.push_str(&format!(" · {code}"));
    }
    out.line(style, head);
    out.wrapped("  ", Style::Plain, &pairs_sentence(analysis));
    if let Some(first) = &run.first_failure {
        first_failure(&mut out, analysis, first);
    }
    causes(&mut out, analysis);
    let strip = strip::lines(&analysis.pairs, analysis.examination.is_some(), WIDTH);
    if !strip.is_empty() {
        out.blank();
        out.lines.extend(strip);
    }
    for repeat in analysis.repeats.iter().filter(|repeat| repeat.differing > 0) {
        let noise = match repeat.noise {
            Some(noise) => format!(", max abs {}", number(noise.max_abs)),
            None => String::new(),
        };
        let text = format!("{} of {} {} rows differ{noise}", repeat.differing, repeat.paired, repeat.phase);
        out.wrapped(&format!("Repeat {}: ", repeat.repeat), Style::Warn, &text);
    }
    for (heading, reasons) in [("Why it is no PASS", &run.reasons), ("Notes", &run.notes)] {
        if reasons.is_empty() {
            continue;
        }
        out.blank();
        out.line(Style::Strong, heading);
        for reason in reasons {
            let what = match reason.code {
                ReasonCode::RecordingNotes
                | ReasonCode::ReadingFindings
                | ReasonCode::ContractFinding
                | ReasonCode::LeftOut => reason.examples.join("; "),
                code => code.sentence().to_owned(),
            };
            out.wrapped("  ", Style::Plain, &format!("{} ({}): {what}", reason.code.id(), reason.count));
        }
    }
    if run.verdict != Verdict::Pass && !analysis.advice.recommendations.is_empty() {
        out.blank();
        out.line(Style::Strong, "Next");
        for recommendation in analysis.advice.recommendations.iter().take(3) {
            out.wrapped("  · ", Style::Plain, recommendation);
        }
        let more = analysis.advice.recommendations.len().saturating_sub(3);
        if more > 0 {
            out.line(Style::Dim, format!("  · {more} more in drift.md"));
        }
    }
    out
}

/// What explains the first fault of each phase, and what rounding explains.
fn causes(out: &mut Styled, analysis: &Analysis) {
    let Some(examination) = &analysis.examination else { return };
    for round in &analysis.search {
        let layers: Vec<String> = recorded_layers(round).iter().map(i32::to_string).collect();
        out.wrapped("Search: ", Style::Plain, &format!("recorded again with layers {}", layers.join(", ")));
    }
    for cause in found_causes(analysis) {
        out.wrapped("Cause: ", Style::Bad, &cause_in_words(cause));
    }
    if let Some(text) = end_to_end_sentence(examination).filter(|_| analysis.verdict.verdict != Verdict::Fail) {
        out.wrapped("  ", Style::Dim, &text);
    }
    if let Some(text) = power_sentence(examination).filter(|_| analysis.verdict.verdict == Verdict::Pass) {
        out.wrapped("  ", Style::Dim, &text);
    }
}

/// The causes that were found, by the last round of the search if there was one.
pub(crate) fn found_causes(analysis: &Analysis) -> impl Iterator<Item = &Cause> {
    let searched = analysis.search.last().and_then(|round| round.examination.as_ref());
    searched.or(analysis.examination.as_ref()).into_iter().flat_map(|examination| &examination.causes)
}

/// The whole against draws of rounding.
pub(super) fn end_to_end_sentence(examination: &Examination) -> Option<String> {
    let drift = examination.study.end_to_end.as_ref()?;
    Some(format!(
        "end to end the phases are {} times as far apart as {} draws of rounding, p = {}",
        brief(drift.observed_over_expected),
        drift.draws,
        p_value(drift.p_value)
    ))
}

/// What a bug would have had to be.
pub(super) fn power_sentence(examination: &Examination) -> Option<String> {
    if examination.power.is_empty() {
        return None;
    }
    let (seen, of, _) = shown(examination);
    let smallest = smallest(&examination.power).map_or_else(String::new, |sizes| format!("; smallest: {sizes}"));
    Some(format!("in what is recorded, {seen} of {of} bugs of the catalogue would have shown{smallest}"))
}

/// `416 pairs: 12 (2.88%) bit-equal, 404 (97.12%) inherited`.
pub(super) fn counted(counts: &PairCounts, pairs: &[JudgedPair], judged: bool) -> String {
    let undecided = |is: fn(&Bits) -> bool| {
        let of = |pair: &&JudgedPair| pair.verdict == PairVerdict::Undecided && is(&pair.bits);
        pairs.iter().filter(of).count() as u64
    };
    let sampled = undecided(|bits| matches!(bits, Bits::EqualAsSampled { .. }));
    let differ = undecided(|bits| matches!(bits, Bits::Differ { .. }));
    let differs = if judged { "differ, not decided" } else { "differ" };
    let mut parts = vec![format!("{} bit-equal", share(counts.identical, counts.total))];
    let more = [
        (sampled, "equal as sampled"),
        (counts.structural, "structural"),
        (counts.inherited, "inherited"),
        (counts.contract, "contract"),
        (counts.fault, "at fault"),
        (differ, differs),
        (counts.undecided.saturating_sub(sampled + differ), "undecided"),
        (counts.non_finite, "not finite"),
        (counts.missing, "not comparable"),
    ];
    parts.extend(
        more.iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", share(*count, counts.total))),
    );
    format!("{}: {}", rows_of(counts.total, "pair"), parts.join(", "))
}

/// What was compared, and whether it is all that was promised.
pub(super) fn pairs_sentence(analysis: &Analysis) -> String {
    let coverage = &analysis.coverage;
    let expected = match coverage.expected {
        Some(expected) => format!("{} of {expected} promised rows found", expected.saturating_sub(coverage.missing)),
        None => "What was promised is not known".to_owned(),
    };
    let counted = counted(&analysis.counts, &analysis.pairs, analysis.examination.is_some());
    let mut out = format!("{counted}. {expected}");
    // What only one phase can give lacks no partner, and does not stand in the way of PASS.
    let one_phase = analysis.one_phase_rows();
    for (count, noun, what) in [
        (coverage.unpaired.saturating_sub(one_phase), "event", "unpaired"),
        (coverage.weakly_keyed, "pair", "weakly keyed"),
        (coverage.duplicates, "duplicate key", ""),
        (one_phase, "row", "of points that only one phase gives"),
    ] {
        if count > 0 {
            out.push_str(format!(", {} {what}", rows_of(count, noun)).trim_end());
        }
    }
    out + "."
}

fn first_failure(out: &mut Styled, analysis: &Analysis, first: &FirstFailure) {
    let place = {
        let prompt = cut(&visible(&first.prompt_id), 32);
        let position = first.pos_id.map_or_else(String::new, |position| format!(", position {position}"));
        format!("{prompt}{position}, {}{}", first.point_spelling, layer_of(first.point, first.layer))
    };
    out.blank();
    let label = match first.parting {
        Parting::Unpaired => "Nothing pairs, from: ",
        Parting::Differs => "Phases first part at: ",
        Parting::Fault => "First fault at:       ",
        Parting::NonFinite => "First not finite:     ",
    };
    out.wrapped(label, Style::Strong, &format!("{place} ({})", first.code));
    let Some(pair) = first.pair.and_then(|index| analysis.pairs.get(index)) else { return };
    if let Some(numbers) = &pair.numbers {
        out.wrapped("  ", Style::Plain, &distances(numbers));
    } else if !pair.statistics.is_empty() {
        out.wrapped("  ", Style::Plain, &format!("prefill / decode: {}", statistics(&pair.statistics)));
    }
    if let Some(last) = first.last_equal.and_then(|index| analysis.pairs.get(index)) {
        let event = &last.prefill;
        let text = format!("last equal before it: {}{}", event.point_spelling, layer_of(event.point, event.layer));
        out.wrapped("  ", Style::Dim, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let long = "word ".repeat(60) + &"x".repeat(200);
        let mut styled = Styled::default();
        styled.wrapped("  · ", Style::Plain, &long);
        assert!(styled.plain().lines().all(|line| columns(line) <= WIDTH));
        assert!(styled.lines.len() > 4);
    }

    #[test]
    fn text_from_a_trace_cannot_control_the_terminal() {
        let span = Span::new(Style::Plain, "a\u{1b}[2Jb\u{9b}c");
        assert!(!span.text.chars().any(char::is_control), "{:?}", span.text);
    }
}

//! `drift.html`: the report as one page that needs nothing else: no network, no other file.
//!
//! Everything to be read is in the markup and shows without a script; the script filters and sorts the pairs. Sentences and
//! tables are those of `drift.md` (module `prose`); pictures are those of [`plot`](super::plot). Text from a trace is escaped, the
//! page's policy lets nothing but its own script run, and nothing be loaded.

mod failure;
mod figures;
mod head;
mod heat;
mod pairs;
mod prose;
mod thin;

use super::escape::html;
use super::markdown::{Document, Section, document};
use super::plot::palette;
use super::recordings::{recordings, showing_failure};
use crate::analysis::Analysis;
use std::fmt::Write as _;

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");
/// SHA-256 of the script in base64: no other may run.
const SCRIPT_HASH: &str = "sha256-WzotBLDyinzpmldEyTClLQJH6m0DgiDlQRFz1Aua+FE=";

/// The report as a page.
pub fn to_html(analysis: &Analysis) -> String {
    let document = document(analysis);
    let recordings = recordings(analysis);
    let page = Page { analysis, document: &document };
    let mut parts = vec![
        part("heat", "Where the phases part", heat::maps(&recordings)),
        part("failure", "First failure", failure::first(showing_failure(analysis), &document)),
        part("cause", "Root cause", page.prose("Root cause")),
    ];
    parts.extend(figures::all(analysis, &document));
    parts.extend([
        part("propagation", "Propagation", page.propagation()),
        part("contract", "Contract findings", page.prose("Contract findings")),
        part("hypotheses", "Structural drift or real mismatch", page.prose("Structural drift or real mismatch")),
        part("suspects", "The usual suspects", page.prose("The usual suspects")),
        part("power", "Power: what this run would have shown", page.prose("Power: what this run would have shown")),
        part("coverage", "What this rests on, and what it does not cover", page.coverage()),
        part("pairs", "Pairs", pairs::table(&recordings)),
    ]);
    let title = html(analysis.options.title.as_deref().unwrap_or("Prefill and decode: drift report"));
    let verdict = analysis.verdict.verdict.id();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src '{SCRIPT_HASH}'; style-src \
         'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{verdict}: {title}</title>\n<style>\n{}{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the report</a>",
        colours()
    );
    head::header(&mut out, &page, &title);
    let _ = write!(out, "<nav aria-label=\"Sections\"><ul>");
    for one in &parts {
        let _ = write!(out, "<li><a href=\"#{}\">{}</a></li>", one.id, html(one.title));
    }
    out.push_str("</ul></nav>\n<main id=\"main\">\n");
    for one in &parts {
        let (id, title) = (one.id, html(one.title));
        let _ = writeln!(out, "<section id=\"{id}\" aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2>");
        out.push_str(&one.body);
        out.push_str("</section>\n");
    }
    let generator = concat!("driftprobe ", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(
        out,
        "</main>\n<footer><p>Written by {generator}. The same report for programs: <code>drift.json</code>; as text: \
         <code>drift.md</code>; for spreadsheets: <code>drift.tsv</code>.</p></footer>"
    );
    out.push_str(&pairs::data(&recordings));
    let _ = writeln!(out, "<script>{SCRIPT}</script>\n</body>\n</html>");
    out
}

/// A section of the page.
pub(super) struct Part {
    id: &'static str,
    title: &'static str,
    body: String,
}

fn part(id: &'static str, title: &'static str, body: String) -> Part {
    Part { id, title, body }
}

/// What the parts are made of.
struct Page<'a> {
    analysis: &'a Analysis,
    document: &'a Document,
}

impl Page<'_> {
    /// A section of drift.md; empty if there is none.
    fn section(&self, title: &str) -> Option<&Section> {
        self.document.sections.iter().find(|section| section.title == title)
    }

    fn prose(&self, title: &str) -> String {
        self.section(title).map_or_else(String::new, |section| prose::block(&section.body, title))
    }

    /// Its sections, one under the other, each folded away but the first.
    fn folded(&self, titles: &[&str]) -> String {
        let sections = titles.iter().filter_map(|title| self.section(title));
        sections.map(|section| prose::folded(&section.title, &prose::block(&section.body, &section.title))).collect()
    }

    fn propagation(&self) -> String {
        let mut out = self.prose("Propagation");
        if out.is_empty() {
            out = "<p>Nothing propagates: no pair of rows was compared.</p>".to_owned();
        }
        out + &self.folded(&["Where each forward pass first parts"])
    }

    fn coverage(&self) -> String {
        let mut out = self.prose("What this verdict rests on");
        let _ = write!(out, "<h3>What this report cannot claim</h3>{}", self.prose("What this report cannot claim"));
        let _ = write!(out, "<h3>Coverage</h3>{}", self.prose("Coverage"));
        out + &self.folded(&["Summary", "Failure breakdown", "Self-repeats", "Paths and environment"])
    }
}

/// The palette as variables, and pictures in the colours of dark pages.
fn colours() -> String {
    let mut out = String::from(":root{");
    let variables = |out: &mut String, dark: bool| {
        for (step, colour) in palette::HEAT.iter().enumerate() {
            let value = if dark { colour.dark } else { colour.light };
            let ink = palette::text_on(Some(step));
            let ink = if dark { ink.dark } else { ink.light };
            let _ = write!(out, "--h{step}:#{value:06x};--t{step}:#{ink:06x};");
        }
        let named = [
            ("ink", palette::INK),
            ("dim", palette::DIM),
            ("grid", palette::GRID),
            ("axis", palette::AXIS),
            ("first", palette::FIRST),
            ("second", palette::SECOND),
            ("good", palette::THIRD),
            ("bad", palette::BAD),
        ];
        for (name, colour) in named {
            let _ = write!(out, "--{name}:#{:06x};", if dark { colour.dark } else { colour.light });
        }
    };
    variables(&mut out, false);
    out.push_str("}\n@media screen and (prefers-color-scheme:dark){:root{");
    variables(&mut out, true);
    out.push('}');
    for colour in palette::all() {
        for attribute in ["fill", "stroke"] {
            let (light, dark) = (colour.light, colour.dark);
            let _ = write!(out, ".plot [{attribute}=\"#{light:06X}\"]{{{attribute}:#{dark:06x}}}");
        }
    }
    out + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// RFC 4648.
    fn base64(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let group = |group: &[u8]| {
            let mut bits = [0; 4];
            bits[1..=group.len()].copy_from_slice(group);
            let bits = u32::from_be_bytes(bits);
            let digit = |n: usize| char::from(ALPHABET[(bits >> (18 - 6 * n)) as usize & 63]);
            (0..4).map(|n| if n <= group.len() { digit(n) } else { '=' }).collect::<String>()
        };
        bytes.chunks(3).map(group).collect()
    }

    #[test]
    fn the_policy_names_the_script_that_is_there() {
        assert_eq!(base64(b"drift"), "ZHJpZnQ=");
        assert_eq!(SCRIPT_HASH, format!("sha256-{}", base64(&Sha256::digest(SCRIPT))));
    }

    #[test]
    fn neither_style_nor_script_leaves_its_element_or_asks_for_anything() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        for word in ["http", "url(", "@import", "fetch", "innerHTML", "eval", "document.write"] {
            assert!(!STYLE.contains(word) && !SCRIPT.contains(word), "{word}");
        }
    }
}

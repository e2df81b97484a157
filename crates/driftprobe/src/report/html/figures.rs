//! Pictures with their tables: drift over the layers, the two modes, attention.

use super::prose::{block, folded};
use super::{Part, part};
use crate::analysis::Analysis;
use crate::report::html::prose::sentence;
use crate::report::markdown::Document;
use crate::report::plot::{Plot, picture};
use std::fmt::Write as _;

/// What is shown: the part's name, the picture, what is to be seen in it, and the sections of drift.md with its numbers.
type Figure = (&'static str, Plot, &'static str, &'static [&'static str]);

const FIGURES: [Figure; 3] = [
    (
        "growth",
        Plot::Growth,
        "Rounding alone moves the phases apart by about as much as the band; a line that leaves it is more than rounding.",
        &["Observed drift against draws of rounding"],
    ),
    (
        "modes",
        Plot::Modes,
        "Each mark is one tensor. Drift that goes away when decode reads prefill's cache was in what decode's own cache \
         held; drift that stays is made by the step.",
        &["Execution summary", "As designed against aligned"],
    ),
    (
        "attention",
        Plot::Attention,
        "Over all prompts, positions and heads of a layer. Phases that attend alike lie on each other.",
        &["KV alignment analysis"],
    ),
];

pub fn all(analysis: &Analysis, document: &Document) -> Vec<Part> {
    FIGURES.iter().map(|figure| one(analysis, document, figure)).collect()
}

fn one(analysis: &Analysis, document: &Document, (id, plot, caption, sections): &Figure) -> Part {
    let mut out = String::new();
    match picture(analysis, *plot) {
        Ok(picture) => {
            let svg = picture.to_element();
            let _ = writeln!(
                out,
                "<figure><div class=\"scroll\" role=\"region\" aria-label=\"Picture: {}\" tabindex=\"0\">{svg}</div>\
                 <figcaption>{caption}</figcaption></figure>",
                plot.title()
            );
        }
        Err(why) => {
            let _ = writeln!(out, "<p>{}</p>", sentence(&why));
        }
    }
    for section in document.sections.iter().filter(|section| sections.contains(&section.title.as_str())) {
        out.push_str(&folded(&format!("Table: {}", section.title), &block(&section.body, &section.title)));
    }
    part(id, plot.title(), out)
}

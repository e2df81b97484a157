//! The first failure: where it is, and both phases' values there.

use super::prose::{block, folded};
use crate::analysis::Analysis;
use crate::report::format::{brief, recorded};
use crate::report::markdown::Document;
use std::fmt::Write as _;

pub fn first(shown: &Analysis, document: &Document) -> String {
    let section = |title: &str| document.sections.iter().find(|section| section.title == title);
    let Some(failure) = section("First failure") else {
        return "<p>There is none: no stage is at fault, and no row is not finite.</p>\n".to_owned();
    };
    let mut out = block(&failure.body, "First failure");
    values(&mut out, shown);
    if let Some(sample) = section("Sample evidence") {
        out.push_str(&folded("The two events as they were recorded", &block(&sample.body, "Sample evidence")));
    }
    out
}

fn values(out: &mut String, shown: &Analysis) {
    out.push_str("<h3>Values there</h3>\n");
    let Some(values) = &shown.first_values else {
        out.push_str("<p>Neither payloads nor samples of both phases were recorded there.</p>\n");
        return;
    };
    let of = if values.sampled { "values that both phases sampled" } else { "values" };
    let _ = writeln!(out, "<p>The {} of {} {of} that are furthest apart.</p>", values.values.len(), values.of);
    out.push_str(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Values at the first failure\" tabindex=\"0\"><table \
         class=\"numbers\"><thead><tr><th scope=\"col\">Index</th><th scope=\"col\">Prefill</th><th scope=\"col\">Decode</th>\
         <th scope=\"col\">Decode − prefill</th></tr></thead>\n<tbody>\n",
    );
    for value in &values.values {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
            value.index,
            recorded(value.prefill),
            recorded(value.decode),
            brief(value.difference())
        );
    }
    out.push_str("</tbody></table></div>\n");
}

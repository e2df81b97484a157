//! The heat map as a table: rows are points, columns layers; each cell leads to its pairs.

use super::prose::folded;
use crate::report::escape::html;
use crate::report::format::brief;
use crate::report::plot::heat::{Cell, HeatMap, Kind, Unit, heading, short};
use crate::report::plot::palette::STEPS;
use crate::report::recordings::Recording;
use driftprobe_trace::Point;
use std::fmt::Write as _;

/// Cells of a map up to which each tells all that is known of it.
const TALKATIVE_MAX: usize = 700;
/// Columns up to which cells show their size.
const NUMBERED_MAX: usize = 14;

/// The map of the run, and those of its other modes.
pub fn maps(recordings: &[Recording<'_>]) -> String {
    let mut out = String::new();
    let Some(first) = HeatMap::of(recordings, 0) else {
        return "<p>Nothing to show: no pair of rows was compared.</p>".to_owned();
    };
    let told = match first.unit {
        Unit::RelL2 => "Without a model, a fault cannot be told from what was inherited.",
        _ => {
            "A <b>local fault</b> is a stage that its own inputs do not explain; <b>inherited</b> drift came in from \
             earlier rows."
        }
    };
    let _ = writeln!(
        out,
        "<p>Each cell is the worst pair of all prompts and positions. Its colour is {}; its mark says what it is. {told} A \
         cell leads to its pairs.</p>",
        first.unit.in_words()
    );
    legend(&mut out, &first);
    out.push_str("<p id=\"readout\" class=\"readout\" aria-hidden=\"true\">Point at a cell to read it.</p>\n");
    map(&mut out, &first, (0, recordings));
    for (index, one) in recordings.iter().enumerate().skip(1).filter(|(_, one)| !one.is_search) {
        if let Some(other) = HeatMap::of(recordings, index) {
            let mut body = String::new();
            map(&mut body, &other, (index, recordings));
            out.push_str(&folded(&format!("The same of {}", one.name), &body));
        }
    }
    out
}

fn legend(out: &mut String, map: &HeatMap) {
    let _ = write!(out, "<div class=\"legend\"><p>{}</p><ol class=\"scale\">", html(map.unit.short()));
    for step in 0..STEPS {
        let _ = write!(out, "<li class=\"s{step}\">{}</li>", html(&map.unit.label(step)));
    }
    out.push_str("</ol><ul class=\"marks\">");
    for kind in map.kinds().into_iter().rev() {
        let _ =
            write!(out, "<li><span class=\"mark k-{}\">{}</span> {}", kind.id(), kind.glyph(), html(kind.in_words()));
        if kind == Kind::Inherited {
            out.push_str(", beyond rounding: hatched");
        }
        out.push_str("</li>");
    }
    out.push_str("</ul></div>\n");
}

fn map(out: &mut String, map: &HeatMap, (index, recordings): (usize, &[Recording<'_>])) {
    let name = recordings.get(index).map_or("", |one| &one.name);
    let wide = if map.columns.len() > NUMBERED_MAX { " dense" } else { "" };
    let _ = write!(
        out,
        "<div class=\"scroll\"><table class=\"heat{wide}\" data-recording=\"{index}\"><caption>{}: points by layers</caption>\n\
         <thead><tr><th scope=\"col\">layer</th>",
        html(name)
    );
    for column in &map.columns {
        let (recording, layer) = (column.recording, column.layer);
        let title = if layer < 0 { " title=\"no layer\"" } else { "" };
        let _ =
            write!(out, "<th scope=\"col\" data-l=\"{layer}\" data-r=\"{recording}\"{title}>{}</th>", heading(column));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for point in &map.points {
        let id = point.id();
        let _ = write!(out, "<tr data-p=\"{id}\"><th scope=\"row\">{id}</th>");
        for column in &map.columns {
            match map.cell(*point, column.layer) {
                Some(cell) => one(out, map, (cell, *point, column.layer)),
                None => out.push_str("<td></td>"),
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    if map.columns.iter().any(|column| column.again) {
        out.push_str("<p class=\"note\">* recorded again, to look between layers: one prompt.</p>\n");
    }
}

fn one(out: &mut String, map: &HeatMap, (cell, point, layer): (&Cell, Point, i32)) {
    let step = cell.size.map_or_else(|| "x".to_owned(), |size| map.unit.step(size).to_string());
    let hatch = if cell.is_hatched(map.unit) { " hatch" } else { "" };
    let glyph = cell.kind.glyph();
    let numbered = map.columns.len() <= NUMBERED_MAX && cell.kind != Kind::Identical;
    let number = cell.size.filter(|_| numbered).map_or_else(String::new, |size| format!(" {}", short(size)));
    let says = if map.cells.len() <= TALKATIVE_MAX { in_words(map, (cell, point, layer)) } else { briefly(cell) };
    let _ = write!(
        out,
        "<td class=\"s{step} k-{}{hatch}\"><a href=\"#pairs\" aria-label=\"{}\">{glyph}{number}</a></td>",
        cell.kind.id(),
        html(&says)
    );
}

fn briefly(cell: &Cell) -> String {
    let size = cell.size.map_or_else(String::new, |size| format!(" {}", short(size)));
    format!("{}{size}", cell.kind.id())
}

/// All that is known of a cell.
fn in_words(map: &HeatMap, (cell, point, layer): (&Cell, Point, i32)) -> String {
    let layer = if layer < 0 { String::new() } else { format!(" of layer {layer}") };
    let mut out = format!("{point}{layer}: {}", cell.kind.in_words());
    if let Some(size) = cell.size {
        let _ = write!(out, "; {} {}", map.unit.short(), brief(size));
    }
    if let [Some(prefill), Some(decode)] = cell.residuals {
        let _ = write!(out, "; residual in noise: prefill {}, decode {}", brief(prefill), brief(decode));
    }
    let _ = write!(out, "; {} of {} pairs", cell.of_kind, cell.pairs);
    out
}

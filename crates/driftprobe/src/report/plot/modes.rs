//! Each tensor's drift as designed against that with prefill's cache: what lies below the diagonal was in the cache.

use super::chart::{Axis, Mark, TEXT, axes, decade, decades, mark, mark_at, on_decades, text, write};
use super::palette::{AXIS, Colour, DIM, FIRST, FOURTH, SECOND, THIRD};
use super::{Picture, sketch};
use crate::analysis::Analysis;
use crate::verdict::modes::{ModeRow, Says};
use plotters::prelude::LineSeries;
use plotters::style::text_anchor::{HPos, VPos};

const SIZE: (u32, u32) = (760, 420);
/// Where the legend begins.
const LEGEND_AT: i32 = 520;

/// What is drawn, how, and in few words.
const KINDS: [(Says, Mark, Colour, &str); 4] = [
    (Says::Step, Mark::Dot, FIRST, "stays: the step makes it"),
    (Says::MostlyCache, Mark::Triangle, THIRD, "less than half is left"),
    (Says::Cache, Mark::Square, SECOND, "gone: it was in the cache"),
    (Says::OnlyAligned, Mark::Cross, FOURTH, "only with prefill's cache"),
];

pub fn draw(analysis: &Analysis) -> Result<Picture, String> {
    if analysis.modes.is_empty() {
        return Err("Only one mode was recorded; `driftprobe run --mode both` records both.".to_owned());
    }
    let known = |row: &&ModeRow| row.as_designed.rel_l2.is_some() && row.kv_aligned.rel_l2.is_some();
    let sizes = |row: &ModeRow| [row.as_designed.rel_l2.unwrap_or(0.0), row.kv_aligned.rel_l2.unwrap_or(0.0)];
    let rows: Vec<&ModeRow> = analysis.modes.iter().filter(known).collect();
    let Some(range) = decades(rows.iter().flat_map(|row| sizes(row))) else {
        return Err("No tensor drifts by a known amount in either mode.".to_owned());
    };
    let count = |says: Says| analysis.modes.iter().filter(|row| row.says == says).count();
    let counts: Vec<String> = KINDS
        .iter()
        .filter(|(says, ..)| count(*says) > 0)
        .map(|(says, _, _, name)| format!("{} {name}", count(*says)))
        .collect();
    let says = format!(
        "Relative L2 distance of each of {} tensors as designed and with prefill's cache: {} bit-equal in both; {}.",
        analysis.modes.len(),
        count(Says::None),
        counts.join("; ")
    );
    sketch(SIZE, says, |canvas| {
        let (left, _) = canvas.split_horizontally(LEGEND_AT - 20);
        let axis = |name| Axis { name, labels: 8, label: &decade, range: range.clone() };
        let mut chart = axes(&left, &axis("as designed: relative L2"), &axis("aligned: relative L2"))?;
        let diagonal = [(range.start, range.start), (range.end, range.end)];
        chart.draw_series(LineSeries::new(diagonal, AXIS.rgb()))?;
        for (says, shape, colour, _) in KINDS {
            for row in rows.iter().filter(|row| row.says == says) {
                let [designed, aligned] = sizes(row).map(|size| on_decades(size, &range));
                mark_at(&chart, &left, shape, (designed, aligned), colour)?;
            }
        }
        let mut y = 30;
        for (says, shape, colour, name) in KINDS {
            mark(canvas, shape, (LEGEND_AT, y), colour)?;
            let entry = format!("{name} ({})", count(says));
            write(canvas, &entry, (LEGEND_AT + 14, y), text(DIM, TEXT, (HPos::Left, VPos::Center)))?;
            y += 24;
        }
        for note in ["below the line: smaller with", "prefill's cache; on the edge: 0"] {
            write(canvas, note, (LEGEND_AT - 6, y + 10), text(DIM, TEXT, (HPos::Left, VPos::Center)))?;
            y += 18;
        }
        Ok(())
    })
}

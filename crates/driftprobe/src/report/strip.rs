//! The layer × point strip: every recorded point a line, every layer a cell, the worst pair of all prompts and positions in
//! each.

use super::terminal::{Span, Style};
use crate::evidence::Bits;
use crate::judge::{JudgedPair, PairVerdict};
use driftprobe_trace::Point;
use std::collections::{BTreeMap, BTreeSet};

/// Columns that a point's name takes.
const NAME_WIDTH: usize = 19;

/// How a cell's drift is drawn: rel L2 below 1e-7, 1e-6, … 1e-1, and above.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The state of a cell, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Cell {
    NotRecorded,
    Identical,
    /// Differs as rounding makes it; by how much, if known.
    Rounding(Option<f64>),
    EqualAsSampled,
    Undecided,
    /// By how much, if known; unknown is drawn apart, and counts as less than any known drift.
    Differs(Option<f64>),
    Fault,
    NonFinite,
}

impl Cell {
    fn of(pair: &JudgedPair) -> Cell {
        match (pair.verdict, &pair.bits) {
            (PairVerdict::NonFinite, _) => Cell::NonFinite,
            (PairVerdict::Fault, _) => Cell::Fault,
            (PairVerdict::Structural | PairVerdict::Inherited | PairVerdict::Contract, _) => {
                Cell::Rounding(pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2))
            }
            (_, Bits::Differ { .. }) => Cell::Differs(pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2)),
            (PairVerdict::Identical, _) => Cell::Identical,
            (_, Bits::EqualAsSampled { .. }) => Cell::EqualAsSampled,
            _ => Cell::Undecided,
        }
    }

    /// With a model a bar stands for what is explained; what is not stands apart.
    fn draw(self, judged: bool) -> (char, Style) {
        match self {
            Cell::Differs(_) if judged => ('≠', Style::Warn),
            Cell::NotRecorded => (' ', Style::Plain),
            Cell::Identical => ('=', Style::Good),
            Cell::EqualAsSampled => ('~', Style::Dim),
            Cell::Undecided => ('?', Style::Warn),
            Cell::Differs(None) => ('≠', Style::Warn),
            Cell::Differs(Some(rel_l2)) => (bar(rel_l2), Style::Warn),
            Cell::Rounding(None) => ('≈', Style::Good),
            Cell::Rounding(Some(rel_l2)) => (bar(rel_l2), Style::Good),
            Cell::Fault => ('X', Style::Bad),
            Cell::NonFinite => ('!', Style::Bad),
        }
    }
}

fn bar(rel_l2: f64) -> char {
    let level = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1].iter().take_while(|bound| rel_l2 >= **bound).count();
    // NaN is below no bound.
    if rel_l2.is_nan() { '█' } else { BARS.get(level).copied().unwrap_or('█') }
}

/// The strip, in blocks of as many layers as fit into `width` columns, and its legend. Empty without pairs.
pub fn lines(pairs: &[JudgedPair], judged: bool, width: usize) -> Vec<Vec<Span>> {
    let mut cells: BTreeMap<(Point, i32), Cell> = BTreeMap::new();
    for pair in pairs {
        let cell = cells.entry((pair.prefill.point, pair.prefill.layer)).or_insert(Cell::NotRecorded);
        let new = Cell::of(pair);
        if new > *cell {
            *cell = new;
        }
    }
    if cells.is_empty() {
        return vec![];
    }
    let points: BTreeSet<Point> = cells.keys().map(|(point, _)| *point).collect();
    let layers: BTreeSet<i32> = cells.keys().map(|(_, layer)| *layer).collect();
    let layers: Vec<i32> = layers.into_iter().collect();
    let cell_width = layers.iter().map(|layer| heading(*layer).len()).max().unwrap_or(1) + 1;
    let per_block = (width.saturating_sub(NAME_WIDTH) / cell_width).max(1);

    let mut out = vec![];
    for block in layers.chunks(per_block) {
        let mut heads = vec![Span::new(Style::Dim, format!("{:NAME_WIDTH$}", "layer"))];
        heads.extend(block.iter().map(|layer| Span::new(Style::Dim, format!("{:>cell_width$}", heading(*layer)))));
        out.push(heads);
        for point in points.iter().filter(|point| block.iter().any(|layer| cells.contains_key(&(**point, *layer)))) {
            let mut line = vec![Span::new(Style::Plain, format!("{:NAME_WIDTH$}", point.id()))];
            for layer in block {
                let (symbol, style) = cells.get(&(*point, *layer)).copied().unwrap_or(Cell::NotRecorded).draw(judged);
                line.push(Span::new(style, format!("{symbol:>cell_width$}")));
            }
            out.push(line);
        }
    }
    out.push(vec![Span::new(Style::Dim, "= bit-equal  ~ equal as sampled  ? not decided  ≠ differs  ! not finite")]);
    if judged {
        let legend = "X at fault  ≈ ▁ … █ differs by rounding, or inherited from an earlier row";
        out.push(vec![Span::new(Style::Dim, legend)]);
    }
    if cells.values().any(|cell| BARS.contains(&cell.draw(judged).0)) {
        let bars = "▁▂▃▄▅▆▇█ differs, rel L2 < 1e-7, 1e-6 … 1e-1 and above; blank: not compared";
        out.push(vec![Span::new(Style::Dim, bars)]);
    }
    out
}

fn heading(layer: i32) -> String {
    if layer < 0 { "-".to_owned() } else { layer.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_step_by_decades_and_nan_is_the_worst() {
        assert_eq!(
            [0.0, 5e-8, 1e-7, 3e-4, 0.1, 7.0, f64::INFINITY, f64::NAN].map(bar),
            ['▁', '▁', '▂', '▅', '█', '█', '█', '█']
        );
    }

    #[test]
    fn the_worst_cell_wins() {
        let order = [
            Cell::Identical,
            Cell::EqualAsSampled,
            Cell::Undecided,
            Cell::Differs(None),
            Cell::Differs(Some(1e-9)),
            Cell::Differs(Some(0.5)),
            Cell::NonFinite,
        ];
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

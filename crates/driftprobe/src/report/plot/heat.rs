//! The heat map as data: layers by points, what each cell is, and how far the phases are apart there in units of noise.

use super::palette::STEPS;
use crate::evidence::Bits;
use crate::judge::{JudgedPair, PairVerdict};
use crate::oracle::{Outcome, StageJudgement};
use crate::report::format::brief;
use crate::report::recordings::Recording;
use crate::simulate::PlaceDrift;
use crate::verdict::reason::ReasonCode;
use driftprobe_trace::Point;
use std::collections::{BTreeMap, BTreeSet};

/// What a cell's worst pair is, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bit-equal.
    Identical,
    /// Equal as far as sampled.
    Sampled,
    /// Rounding parts the phases here.
    Structural,
    /// Both phases clean; their inputs differ already.
    Inherited,
    /// As an arithmetic makes it that is not declared.
    Contract,
    /// Nothing can be said.
    Undecided,
    /// It differs, and is not decided.
    Differs,
    /// A fault lies in the stretch before it, which was not recorded.
    Gap,
    /// This stage is at fault.
    Fault,
    /// NaN, or an infinity on one side.
    NonFinite,
}

impl Kind {
    /// All of them, from best to worst.
    pub const ALL: [Kind; 10] = [
        Kind::Identical,
        Kind::Sampled,
        Kind::Structural,
        Kind::Inherited,
        Kind::Contract,
        Kind::Undecided,
        Kind::Differs,
        Kind::Gap,
        Kind::Fault,
        Kind::NonFinite,
    ];

    /// Of a pair.
    pub fn of(pair: &JudgedPair) -> Kind {
        let has = |code: ReasonCode| pair.findings.iter().any(|finding| finding.code == code);
        match (pair.verdict, &pair.bits) {
            (PairVerdict::NonFinite, _) => Kind::NonFinite,
            (PairVerdict::Fault, _) if has(ReasonCode::GapFault) && !has(ReasonCode::Fault) => Kind::Gap,
            (PairVerdict::Fault, _) => Kind::Fault,
            (PairVerdict::Contract, _) => Kind::Contract,
            (PairVerdict::Inherited, _) => Kind::Inherited,
            (PairVerdict::Structural, _) => Kind::Structural,
            (PairVerdict::Identical, _) => Kind::Identical,
            (_, Bits::Differ { .. }) => Kind::Differs,
            (_, Bits::EqualAsSampled { .. }) => Kind::Sampled,
            _ => Kind::Undecided,
        }
    }

    /// Its mark.
    pub const fn glyph(self) -> &'static str {
        match self {
            Kind::Identical => "=",
            Kind::Sampled => "~",
            Kind::Structural => "≈",
            Kind::Inherited => "↳",
            Kind::Contract => "§",
            Kind::Undecided => "?",
            Kind::Differs => "≠",
            Kind::Gap => "↓",
            Kind::Fault => "✗",
            Kind::NonFinite => "!",
        }
    }

    /// A short name, for selectors.
    pub const fn id(self) -> &'static str {
        match self {
            Kind::Identical => "identical",
            Kind::Sampled => "sampled",
            Kind::Structural => "structural",
            Kind::Inherited => "inherited",
            Kind::Contract => "contract",
            Kind::Undecided => "undecided",
            Kind::Differs => "differs",
            Kind::Gap => "gap",
            Kind::Fault => "fault",
            Kind::NonFinite => "nonfinite",
        }
    }

    /// In a few words.
    pub const fn in_words(self) -> &'static str {
        match self {
            Kind::Identical => "bit-equal",
            Kind::Sampled => "equal as far as sampled",
            Kind::Structural => "rounding parts the phases here",
            Kind::Inherited => "inherited: clean here, inputs differ",
            Kind::Contract => "an arithmetic that is not declared",
            Kind::Undecided => "not decided",
            Kind::Differs => "differs, not decided",
            Kind::Gap => "a fault before it, where nothing was recorded",
            Kind::Fault => "local fault: wrong by itself",
            Kind::NonFinite => "not finite",
        }
    }
}

/// What the sizes of a map are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The difference of the phases over that of draws of rounding.
    Drift,
    /// Each phase's residual against its own inputs, RMS z, where nothing was simulated.
    Residual,
    /// Relative L2 distance, where no model judged the run.
    RelL2,
}

impl Unit {
    /// Upper bounds of the steps above the first.
    const fn bounds(self) -> [f64; STEPS - 2] {
        match self {
            Unit::Drift | Unit::Residual => [0.5, 1.0, 3.0, 10.0, 100.0, 1e4],
            Unit::RelL2 => [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2],
        }
    }

    /// The step of a size; NaN is the last one.
    pub fn step(self, size: f64) -> usize {
        if size == 0.0 {
            return 0;
        }
        1 + self.bounds().iter().filter(|bound| size.is_nan() || size > **bound).count()
    }

    /// What a step holds.
    pub fn label(self, step: usize) -> String {
        let short = |bound: f64| if (0.1..1e3).contains(&bound) { format!("{bound}") } else { format!("{bound:.0e}") };
        match step.checked_sub(1).map(|at| self.bounds().get(at).copied()) {
            None => "0".to_owned(),
            Some(Some(bound)) => format!("≤ {}", short(bound)),
            Some(None) => self.bounds().last().map_or_else(String::new, |bound| format!("> {}", short(*bound))),
        }
    }

    /// In a sentence.
    pub const fn in_words(self) -> &'static str {
        match self {
            Unit::Drift => {
                "how far the phases are apart, as a multiple of what rounding alone makes (draws from the tokens)"
            }
            Unit::Residual => {
                "how far a row is from what its own inputs give, in units of the noise it must have (RMS z)"
            }
            Unit::RelL2 => "relative L2 distance of the phases",
        }
    }

    /// As a legend has it.
    pub const fn short(self) -> &'static str {
        match self {
            Unit::Drift => "drift / rounding noise",
            Unit::Residual => "residual / noise",
            Unit::RelL2 => "relative L2 distance",
        }
    }
}

/// One layer and point, over all prompts and positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What the worst pair is.
    pub kind: Kind,
    /// How many pairs are of that kind.
    pub of_kind: u64,
    /// All pairs.
    pub pairs: u64,
    /// In the map's unit, where known.
    pub size: Option<f64>,
    /// Largest residual of prefill's and of decode's rows against their own inputs: RMS z, infinite where a stage without
    /// freedom is off.
    pub residuals: [Option<f64>; 2],
    /// The worst pair: which recording, and its index there.
    pub worst: (usize, usize),
}

impl Cell {
    /// Whether something is wrong there or just before it: what is framed.
    pub fn is_framed(&self) -> bool {
        self.kind >= Kind::Gap
    }

    /// Whether drift comes from before, by more than rounding makes: what is hatched.
    pub fn is_hatched(&self, unit: Unit) -> bool {
        self.kind == Kind::Inherited && self.size.is_some_and(|size| unit.step(size) > 2)
    }
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The layer; −1: points without one.
    pub layer: i32,
    /// Which recording it comes from.
    pub recording: usize,
    /// Whether it was recorded again, in a round of the search.
    pub again: bool,
}

/// The map.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// What sizes are.
    pub unit: Unit,
    /// Columns: the layers, and before or behind them what has none.
    pub columns: Vec<Column>,
    /// Rows, in the order of the computation.
    pub points: Vec<Point>,
    /// Cells that were recorded.
    pub cells: BTreeMap<(Point, i32), Cell>,
}

impl HeatMap {
    /// Of one recording (by its index), with those layers of the rounds of the search that it lacks.
    pub fn of(recordings: &[Recording<'_>], main: usize) -> Option<HeatMap> {
        let own = recordings.get(main)?;
        let unit = match &own.analysis.examination {
            Some(examination) if examination.study.end_to_end.is_some() => Unit::Drift,
            Some(_) => Unit::Residual,
            None => Unit::RelL2,
        };
        let mut map = HeatMap { unit, columns: vec![], points: vec![], cells: BTreeMap::new() };
        let rounds = recordings.iter().enumerate().filter(|(_, one)| main == 0 && one.is_search);
        for (index, one) in std::iter::once((main, own)).chain(rounds) {
            map.add(index, one);
        }
        // What has no layer stands behind them, as it is computed, but for the embedding, which shares the column.
        map.columns.sort_by_key(|column| (column.layer < 0, column.layer));
        let points: BTreeSet<Point> = map.cells.keys().map(|(point, _)| *point).collect();
        map.points = points.into_iter().collect();
        (!map.cells.is_empty()).then_some(map)
    }

    fn add(&mut self, recording: usize, one: &Recording<'_>) {
        let here: BTreeSet<i32> = one.analysis.pairs.iter().map(|pair| pair.prefill.layer).collect();
        let known: BTreeSet<i32> = self.columns.iter().map(|column| column.layer).collect();
        let new: BTreeSet<i32> = here.difference(&known).copied().collect();
        self.columns.extend(new.iter().map(|layer| Column { layer: *layer, recording, again: one.is_search }));
        for (index, pair) in one.analysis.pairs.iter().enumerate().filter(|(_, pair)| new.contains(&pair.prefill.layer))
        {
            self.take((recording, index), pair);
        }
        if self.unit == Unit::Drift {
            let drift = one.analysis.examination.iter().flat_map(|e| &e.study.end_to_end);
            for place in drift.flat_map(|drift| &drift.places).filter(|place| new.contains(&place.layer)) {
                if let Some(cell) = self.cells.get_mut(&(place.point, place.layer)) {
                    cell.size = Some(ratio(place));
                }
            }
        }
        let identical = self.cells.values_mut().filter(|cell| cell.kind == Kind::Identical);
        identical.for_each(|cell| cell.size = Some(0.0));
    }

    fn take(&mut self, at: (usize, usize), pair: &JudgedPair) {
        let kind = Kind::of(pair);
        let residuals = pair.stages.each_ref().map(|stage| stage.as_ref().and_then(residual));
        let size = match self.unit {
            Unit::Drift => None,
            Unit::Residual => larger(residuals[0], residuals[1]),
            Unit::RelL2 => pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2),
        };
        let new = Cell { kind, of_kind: 0, pairs: 0, size: None, residuals: [None, None], worst: at };
        let cell = self.cells.entry((pair.prefill.point, pair.prefill.layer)).or_insert(new);
        if kind > cell.kind {
            (cell.kind, cell.of_kind, cell.worst) = (kind, 0, at);
        }
        cell.of_kind += u64::from(kind == cell.kind);
        cell.pairs += 1;
        cell.size = larger(cell.size, size);
        for (known, new) in cell.residuals.iter_mut().zip(residuals) {
            *known = larger(*known, new);
        }
    }

    /// A cell.
    pub fn cell(&self, point: Point, layer: i32) -> Option<&Cell> {
        self.cells.get(&(point, layer))
    }

    /// Kinds that it has.
    pub fn kinds(&self) -> BTreeSet<Kind> {
        self.cells.values().map(|cell| cell.kind).collect()
    }

    /// What it shows, in a sentence.
    pub fn says(&self) -> String {
        let count = |kind: Kind| self.cells.values().filter(|cell| cell.kind == kind).count();
        let kinds: Vec<String> =
            self.kinds().into_iter().rev().map(|kind| format!("{} {}", count(kind), kind.in_words())).collect();
        let largest =
            self.cells.values().filter_map(|cell| cell.size).fold(None, |most, size| larger(most, Some(size)));
        let largest =
            largest.map_or_else(String::new, |size| format!("; largest {}: {}", self.unit.short(), brief(size)));
        format!(
            "Heat map of {} points by {} columns of layers. Cells by their worst pair: {}{largest}.",
            self.points.len(),
            self.columns.len(),
            kinds.join("; "),
        )
    }
}

/// How a column is headed.
pub fn heading(column: &Column) -> String {
    match (column.layer, column.again) {
        (..0, _) => "–".to_owned(),
        (layer, true) => format!("{layer}*"),
        (layer, false) => layer.to_string(),
    }
}

/// A size as a cell shows it: two digits are enough.
pub fn short(size: f64) -> String {
    match size {
        0.0 => "0".to_owned(),
        size if !size.is_finite() => brief(size),
        size if !(0.01..99.5).contains(&size) => format!("{size:.0e}"),
        size if size < 0.995 => format!("{size:.2}"),
        size if size < 9.95 => format!("{size:.1}"),
        size => format!("{size:.0}"),
    }
}

/// NaN counts as larger than anything.
fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(a), Some(b)) if b > a || b.is_nan() => Some(b),
        (one, other) => one.or(other),
    }
}

fn ratio(place: &PlaceDrift) -> f64 {
    if place.observed == 0.0 { 0.0 } else { place.ratio() }
}

/// RMS z of a stage; 0 or infinite for stages without freedom.
pub fn residual(stage: &StageJudgement) -> Option<f64> {
    match &stage.outcome {
        Outcome::Clean(statistics) | Outcome::Flagged { statistics, .. } => Some(statistics.rms),
        Outcome::Exact { .. } => Some(0.0),
        Outcome::Mismatch { .. } => Some(f64::INFINITY),
        Outcome::Unjudged(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_with_the_size_and_nan_is_the_last() {
        let sizes = [0.0, 1e-9, 0.5, 0.6, 1.0, 2.0, 10.0, 11.0, 1e4, 1e5, f64::INFINITY, f64::NAN];
        assert_eq!(sizes.map(|size| Unit::Drift.step(size)), [0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 7, 7]);
        let labels: Vec<String> = (0..STEPS).map(|step| Unit::Drift.label(step)).collect();
        assert_eq!(labels, ["0", "≤ 0.5", "≤ 1", "≤ 3", "≤ 10", "≤ 100", "≤ 1e4", "> 1e4"]);
        assert_eq!(Unit::RelL2.label(7), "> 1e-2");
    }

    #[test]
    fn every_kind_has_a_mark_of_its_own_and_the_worst_wins() {
        let glyphs: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.glyph()).collect();
        assert_eq!(glyphs.len(), Kind::ALL.len());
        assert!(Kind::ALL.is_sorted());
        assert!(Kind::Fault > Kind::Inherited && Kind::Undecided > Kind::Contract);
    }

    #[test]
    fn sizes_are_short_and_an_unknown_one_is_not_smaller() {
        assert_eq!([0.0, 0.246, 1.0, 42.0, 685700.0, f64::INFINITY].map(short), ["0", "0.25", "1.0", "42", "7e5", "∞"]);
        assert_eq!(larger(Some(1.0), None), Some(1.0));
        assert!(
            larger(Some(f64::NAN), Some(9.0)).unwrap().is_nan() && larger(Some(9.0), Some(f64::NAN)).unwrap().is_nan()
        );
    }
}

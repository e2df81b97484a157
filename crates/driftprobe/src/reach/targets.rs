//! Which rows are searched: those of clean stages that differ between the phases, a few of each point.

use super::finding::Skipped;
use super::row::RowName;
use crate::Analysis;
use crate::evidence::Bits;
use crate::judge::{JudgedPair, PairVerdict};
use crate::oracle::Outcome;
use driftprobe_trace::{Phase, Point};
use std::collections::{BTreeMap, BTreeSet};

/// Layers and points to search; none: all.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Layers; unlayered points are always in.
    pub layers: Option<BTreeSet<i32>>,
    /// Points.
    pub points: Option<BTreeSet<Point>>,
}

/// A row to be searched.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it stands.
    pub name: RowName,
    /// Tokens of its forward pass, if the event says so.
    pub pass: Option<u64>,
}

/// A point of one phase.
#[derive(Clone, Debug)]
pub struct Target {
    /// The phase.
    pub phase: Phase,
    /// The point.
    pub point: Point,
    /// Rows, the one with the longest context first, then spread over all there are.
    pub rows: Vec<Wanted>,
    /// Rows that there are.
    pub all: u64,
}

/// Rows of a point that are looked at.
const ROWS_MAX: usize = 24;
/// The same of points whose values share a factor, so that a row tells little.
const ROWS_MAX_SHARED: usize = 120;
/// Keys of rows of attention that are looked at, all together; three rows in any case.
const KEYS_MAX: u64 = 1 << 16;

/// Pairs of the run, by what they are for this search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// All.
    pub all: u64,
    /// Equal in all bits.
    pub equal: u64,
    /// Different, both stages clean, with freedom in the order.
    pub searched: u64,
    /// Different, a stage at fault.
    pub faulty: u64,
    /// Different, a stage without freedom: what differs is its input.
    pub exact: u64,
    /// All else.
    pub other: u64,
}

/// What a pair is for this search.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Equal,
    Searched,
    Faulty,
    Exact,
    /// An arithmetic that the contract does not declare.
    Fitted,
    Other,
}

fn kind(analysis: &Analysis, pair: &JudgedPair) -> Kind {
    if pair.equal_as_compared() {
        return Kind::Equal;
    }
    let outcomes = pair.stages.each_ref().map(|stage| stage.as_ref().map(|stage| &stage.outcome));
    let systematic = analysis
        .examination
        .as_ref()
        .is_some_and(|examination| examination.is_systematic(&pair.prefill) || examination.is_systematic(&pair.decode));
    let faulty = matches!(pair.verdict, PairVerdict::Fault | PairVerdict::NonFinite) || systematic;
    if faulty || outcomes.iter().flatten().any(|outcome| outcome.is_fault()) {
        return Kind::Faulty;
    }
    if pair.stages.iter().flatten().any(|stage| stage.fitted) {
        return Kind::Fitted;
    }
    match outcomes {
        [Some(Outcome::Clean(_)), Some(Outcome::Clean(_))] if matches!(pair.bits, Bits::Differ { .. }) => {
            Kind::Searched
        }
        [Some(Outcome::Exact { .. }), Some(Outcome::Exact { .. })] => Kind::Exact,
        _ => Kind::Other,
    }
}

/// Counts the pairs.
pub fn pairs(analysis: &Analysis) -> Pairs {
    let mut counts = Pairs { all: analysis.pairs.len() as u64, ..Pairs::default() };
    for pair in &analysis.pairs {
        *match kind(analysis, pair) {
            Kind::Equal => &mut counts.equal,
            Kind::Searched => &mut counts.searched,
            Kind::Faulty => &mut counts.faulty,
            Kind::Exact => &mut counts.exact,
            Kind::Fitted | Kind::Other => &mut counts.other,
        } += 1;
    }
    counts
}

/// The points to search, attention first, then in the order of the computation; and what is left out of them.
pub fn targets(analysis: &Analysis, scope: &Scope) -> (Vec<Target>, Vec<Skipped>) {
    let mut rows: BTreeMap<(bool, Point, Phase), Vec<Wanted>> = BTreeMap::new();
    let mut left: BTreeMap<(Point, Phase, &str), u64> = BTreeMap::new();
    let in_scope = |pair: &&JudgedPair| {
        let event = &pair.prefill;
        scope.points.as_ref().is_none_or(|points| points.contains(&event.point))
            && scope.layers.as_ref().is_none_or(|layers| event.layer < 0 || layers.contains(&event.layer))
    };
    for pair in analysis.pairs.iter().filter(in_scope) {
        let why = match kind(analysis, pair) {
            Kind::Searched => "",
            Kind::Faulty => "at fault, which no order of evaluation explains",
            Kind::Fitted => "its arithmetic is not the declared one",
            Kind::Other => "not judged clean in both phases",
            Kind::Equal | Kind::Exact => continue,
        };
        for event in [&pair.prefill, &pair.decode] {
            let (point, phase) = (event.point, event.phase);
            let Some(pos) = event.token_index().filter(|_| why.is_empty()) else {
                *left.entry((point, phase, why)).or_default() += 1;
                continue;
            };
            let name = RowName { prompt_id: event.prompt_id.clone(), layer: event.layer, pos };
            rows.entry((!point.is_of_attention(), point, phase))
                .or_default()
                .push(Wanted { name, pass: event.seq_len });
        }
    }
    let target = |((_, point, phase), rows): ((bool, Point, Phase), Vec<Wanted>)| Target {
        phase,
        point,
        all: rows.len() as u64,
        rows: held(point, chosen(rows, if shares_factors(point) { ROWS_MAX_SHARED } else { ROWS_MAX })),
    };
    let skipped =
        left.into_iter().map(|((point, phase, why), rows)| Skipped { phase, point, rows, why: why.to_owned() });
    (rows.into_iter().map(target).collect(), skipped.collect())
}

/// The row with the longest context, and others evenly spread by context, prompt and layer.
fn chosen(mut rows: Vec<Wanted>, most: usize) -> Vec<Wanted> {
    rows.sort_by(|a, b| b.name.pos.cmp(&a.name.pos).then_with(|| a.name.cmp(&b.name)));
    let count = rows.len();
    let wanted = count.min(most);
    let at = |i: usize| if wanted < 2 { 0 } else { i * (count - 1) / (wanted - 1) };
    // The first few are spread over all of them too.
    let strides = (0..3).flat_map(|start| (start..wanted).step_by(3));
    strides.filter_map(|i| rows.get(at(i)).cloned()).collect()
}

/// As many rows as memory bears: those of attention come with all that they attend to.
fn held(point: Point, rows: Vec<Wanted>) -> Vec<Wanted> {
    let mut keys = 0;
    let bears = |(at, row): &(usize, Wanted)| {
        keys += row.name.pos + 1;
        !point.is_of_attention() || *at < 3 || keys <= KEYS_MAX
    };
    rows.into_iter().enumerate().filter(bears).map(|(_, row)| row).collect()
}

fn shares_factors(point: Point) -> bool {
    use Point::*;
    matches!(
        point,
        AttnNormOut | FfnNormOut | FinalNormOut | AttnPostNormOut | MlpPostNormOut | QPreRope | KPreRope | AttnProbs
    )
}

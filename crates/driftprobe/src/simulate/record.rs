//! What a run has recorded of one prompt, in the form in which it is held against a simulation.

use super::lockstep::width;
use crate::oracle::stage::Input;
use crate::oracle::stats::is_masked;
use driftprobe_model::Config;
use driftprobe_trace::{Event, Phase, Point, Rows, TraceError};
use std::collections::{BTreeMap, BTreeSet};

/// How much of a row an event shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// Smallest, largest value and mean.
    Statistics,
    /// This many values.
    Sample(usize),
    /// All of it.
    Row,
}

/// Which values of a row are looked at.
#[derive(Clone, Debug, PartialEq)]
enum Columns {
    All,
    At(Vec<usize>),
    Min,
    Max,
    Mean,
}

/// Values of a row as an event shows them.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    columns: Columns,
    values: Vec<f64>,
    /// Sum of the variances that decimal text of few digits adds.
    text_variance: f64,
}

impl View {
    fn of(columns: Columns, values: Vec<f64>) -> View {
        let is_text = columns != Columns::All;
        let text_variance = if is_text { text_variance(&values) } else { 0.0 };
        View { columns, values, text_variance }
    }

    /// A whole row.
    pub fn whole(values: Vec<f64>) -> View {
        View::of(Columns::All, values)
    }

    /// How much it shows.
    pub fn shown(&self) -> Shown {
        match &self.columns {
            Columns::All => Shown::Row,
            Columns::At(at) => Shown::Sample(at.len()),
            _ => Shown::Statistics,
        }
    }

    /// The whole row, if it is shown.
    pub fn row(&self) -> Option<&[f64]> {
        (self.columns == Columns::All).then_some(self.values.as_slice())
    }

    /// Squared distance of what is shown from a computed row.
    pub fn distance(&self, computed: &[f64]) -> f64 {
        if self.columns == Columns::All {
            return distance(&self.values, computed);
        }
        distance(&self.values, &self.project(computed))
    }

    /// Squared distance of two computed rows in what is shown.
    pub fn distance_of(&self, one: &[f64], other: &[f64]) -> f64 {
        if self.columns == Columns::All {
            return distance(one, other);
        }
        distance(&self.project(one), &self.project(other))
    }

    /// Squared distance of two recorded rows; none if they show different values.
    pub fn distance_between(&self, other: &View) -> Option<f64> {
        (self.columns == other.columns).then(|| distance(&self.values, &other.values))
    }

    /// How many values are shown.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// What nobody can tell from 0 in what is shown of a computed row, squared, for values stored with this unit roundoff,
    /// and text. Of a row it is half an ulp of one value of the row's size; of few values, all of which may be rounded
    /// alike in all draws by chance, an ulp of the largest.
    pub fn floor(&self, computed: &[f64], unit: f64) -> f64 {
        let finite = || computed.iter().copied().filter(|x| x.is_finite());
        let count = finite().count().max(1) as f64;
        let largest = |of: &[f64]| of.iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
        let floor = match self.columns {
            Columns::All => unit * unit * finite().map(|x| x * x).sum::<f64>() / count,
            Columns::Mean => (2.0 * unit * largest(computed)).powi(2) / count,
            _ => (2.0 * unit * largest(&self.project(computed))).powi(2),
        };
        floor + self.text_variance
    }

    fn project(&self, row: &[f64]) -> Vec<f64> {
        let finite = || row.iter().copied().filter(|v| v.is_finite());
        match &self.columns {
            Columns::All => row.to_vec(),
            Columns::At(at) => at.iter().map(|i| row.get(*i).copied().unwrap_or(f64::NAN)).collect(),
            Columns::Min => vec![finite().fold(f64::INFINITY, f64::min)],
            Columns::Max => vec![finite().fold(f64::NEG_INFINITY, f64::max)],
            Columns::Mean => vec![finite().sum::<f64>() / finite().count().max(1) as f64],
        }
    }
}

/// Σ(a − b)². A score that the mask hides is −∞ or an engine's stand-in for it. NaN where the lengths differ.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let one = |(a, b): (&f64, &f64)| if a == b || (is_masked(*a) && is_masked(*b)) { 0.0 } else { (a - b) * (a - b) };
    a.iter().zip(b).map(one).sum()
}

/// Variance of rounding to the decimal digits that the values have, 6 or 9; none if any has more.
fn text_variance(values: &[f64]) -> f64 {
    // What is masked is −∞, in as many digits as one likes.
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let fits = |digits: usize| finite.iter().all(|v| format!("{v:.*e}", digits - 1).parse() == Ok(*v));
    let Some(digits) = [6, 9].into_iter().find(|digits| fits(*digits)) else { return 0.0 };
    let unit = |v: &f64| if *v == 0.0 { 0.0 } else { 10f64.powi(v.abs().log10().floor() as i32 + 1 - digits as i32) };
    finite.iter().map(|v| unit(v).powi(2) / 12.0).sum()
}

/// The events of one prompt, by phase, place and position; none where one is recorded twice.
pub struct Record<'a> {
    rows: &'a dyn Rows,
    config: &'a Config,
    events: BTreeMap<(Phase, Input), BTreeMap<usize, Option<&'a Event>>>,
}

impl<'a> Record<'a> {
    /// Of these events, for a sequence of this many tokens.
    pub fn new(
        (events, rows): (impl Iterator<Item = &'a Event>, &'a dyn Rows),
        config: &'a Config,
        tokens: usize,
    ) -> Record<'a> {
        let mut record = Record { rows, config, events: BTreeMap::new() };
        for event in events {
            let pos = event.token_index().and_then(|pos| usize::try_from(pos).ok());
            let Some(pos) = pos.filter(|pos| *pos < tokens) else { continue };
            let place = Input { point: event.point, layer: event.layer };
            let at = record.events.entry((event.phase, place)).or_default();
            at.entry(pos).and_modify(|twice| *twice = None).or_insert(Some(event));
        }
        record
    }

    /// All positions of which a phase has recorded anything.
    pub fn all_positions(&self, phase: Phase) -> BTreeSet<usize> {
        let of = self.events.iter().filter(|((of, _), _)| *of == phase);
        of.flat_map(|(_, by_pos)| by_pos.keys().copied()).collect()
    }

    /// Positions of which a phase has recorded a place.
    pub fn positions(&self, phase: Phase, place: Input) -> Vec<usize> {
        self.events.get(&(phase, place)).into_iter().flat_map(|by_pos| by_pos.keys().copied()).collect()
    }

    fn event(&self, phase: Phase, place: Input, pos: usize) -> Option<&'a Event> {
        self.events.get(&(phase, place))?.get(&pos).copied().flatten()
    }

    /// What is shown of a row: all of it, or a sample, and statistics. Nothing of a row of another size.
    ///
    /// # Errors
    /// If a payload is damaged or missing.
    pub fn views(&self, phase: Phase, place: Input, pos: usize) -> Result<Vec<View>, TraceError> {
        let Some(event) = self.event(phase, place, pos) else { return Ok(Vec::new()) };
        if let Some(row) = self.rows.row(event)? {
            let row = self.own_columns(place.point, pos, row.to_f64());
            return Ok(row.map(View::whole).into_iter().collect());
        }
        let width = width(self.config, place.point, pos);
        let full = if place.point.is_cache() { width * (pos + 1) } else { width };
        let mut views = Vec::new();
        if event.elements().is_some_and(|n| n != full as u64) {
            return Ok(views);
        }
        if let Some(sample) = event.sample.as_ref().filter(|s| !s.values.is_empty()) {
            let first = || (0..sample.values.len() as u64).collect();
            let at = sample.idx.clone().unwrap_or_else(first);
            let at: Vec<usize> = at.into_iter().filter_map(|i| usize::try_from(i).ok()).collect();
            views.push(View::of(Columns::At(at), sample.values.clone()));
        }
        // Scores that the mask hides make statistics of another set of values than they seem.
        if !place.point.is_per_key() {
            let stats = &event.stats;
            let all = [(Columns::Min, stats.min), (Columns::Max, stats.max), (Columns::Mean, stats.mean)];
            views.extend(all.into_iter().filter_map(|(columns, value)| Some(View::of(columns, vec![value?]))));
        }
        Ok(views)
    }

    /// Of scores the columns up to the row's own position; other rows whole.
    fn own_columns(&self, point: Point, pos: usize, row: Vec<f64>) -> Option<Vec<f64>> {
        let expected = width(self.config, point, pos);
        let heads = self.config.num_attention_heads.max(1);
        let columns = row.len() / heads;
        match point {
            Point::KCache | Point::VCache => Some(row),
            Point::AttnScores | Point::AttnProbs if columns > pos && columns * heads == row.len() => {
                Some(row.chunks_exact(columns).flat_map(|head| head.iter().take(pos + 1)).copied().collect())
            }
            _ => Some(row).filter(|row| row.len() == expected),
        }
    }

    /// The cached rows `[kv_heads, head_dim]` of a recorded cache, by position; none where it is not recorded whole.
    ///
    /// # Errors
    /// If a payload is damaged or missing.
    pub fn slots(&self, phase: Phase, place: Input, pos: usize) -> Result<Vec<(usize, Vec<f64>)>, TraceError> {
        let views = self.views(phase, place, pos)?;
        let Some(all) = views.first().and_then(View::row) else { return Ok(Vec::new()) };
        let (heads, dim) = (self.config.num_key_value_heads, self.config.head_dim);
        let rows = all.len() / (heads * dim).max(1);
        if rows * heads * dim != all.len() {
            return Ok(Vec::new());
        }
        let first = (pos + 1).saturating_sub(rows);
        let slot = |row: usize| {
            let of_head = |head: usize| all.get((head * rows + row) * dim..(head * rows + row + 1) * dim);
            (first + row, (0..heads).filter_map(of_head).flatten().copied().collect())
        };
        Ok((0..rows).take(pos + 1).map(slot).collect())
    }

    /// Whether the rows of positions before `first` that both phases read from their caches are the same ones: most are
    /// equal in the deepest layer whose caches are recorded.
    ///
    /// # Errors
    /// If a payload is damaged or missing.
    pub fn shares_caches(&self, first: usize) -> Result<bool, TraceError> {
        let caches = self.events.keys().filter(|(phase, place)| *phase == Phase::Decode && place.point.is_cache());
        let Some(place) = caches.map(|(_, place)| *place).max_by_key(|place| place.layer) else { return Ok(false) };
        let (mut equal, mut all) = (0usize, 0usize);
        for pos in self.positions(Phase::Decode, place) {
            let ours = self.slots(Phase::Prefill, place, pos)?;
            let theirs = self.slots(Phase::Decode, place, pos)?;
            for (one, other) in ours.iter().zip(&theirs).filter(|(one, _)| one.0 < first) {
                (equal, all) = (equal + usize::from(one == other), all + 1);
            }
        }
        Ok(2 * equal > all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_text_of_few_digits_has_an_error_and_full_precision_has_none() {
        assert_eq!(text_variance(&[f64::from(0.1f32)]), 0.0);
        let unit = 1e-5f64;
        assert!((text_variance(&[1.23457, -4.5]) / (2.0 * unit * unit / 12.0) - 1.0).abs() < 1e-9);
        assert!((text_variance(&[123.457]) / (1e-6 / 12.0) - 1.0).abs() < 1e-9);
        let masked = text_variance(&[123.457, f64::NEG_INFINITY, f64::INFINITY]);
        assert!((masked / (1e-6 / 12.0) - 1.0).abs() < 1e-9);
        assert_eq!(text_variance(&[f64::NEG_INFINITY]), 0.0);
    }

    #[test]
    fn what_the_mask_hides_is_equal_however_it_is_written() {
        assert_eq!(distance(&[f64::NEG_INFINITY, 1.0], &[-3.4e38, 3.0]), 4.0);
        assert_eq!(distance(&[f64::NEG_INFINITY], &[1.0]), f64::INFINITY);
        assert!(distance(&[f64::NAN], &[1.0]).is_nan() && distance(&[1.0], &[]).is_nan());
    }
}

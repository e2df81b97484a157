//! What an event says, held against its own row and against itself: numbers that the row does not have were not taken from
//! it, and an event that is wrong of one is not trusted of the other.
//!
//! Counts are exact. Engines print few digits, so that extremes and samples are held to a relative 1e-5; sums depend on the
//! order and width of accumulation, so that theirs is the bound of a float32 sum, n·2⁻²⁴, where that is wider.

use driftprobe_trace::{Event, LogitsTop, Point, Row, RowStats};

/// Relative error that printed decimals may have.
const PRINTED: f64 = 1e-5;
/// Rounding of one float32 addition.
const F32_UNIT: f64 = 1.0 / 16_777_216.0;

/// What of the event its row, of these statistics, contradicts, if anything.
pub fn contradicted_by_row(event: &Event, row: &Row, found: &RowStats) -> Option<String> {
    if let Some(elements) = event.elements().filter(|elements| *elements != row.len() as u64) {
        return Some(format!("the event's shape has {elements} values, the payload {}", row.len()));
    }
    counts(event, found).or_else(|| extremes(event, found, row.len())).or_else(|| samples(event, row)).or_else(|| {
        let top = event.logits.filter(|_| event.point == Point::Logits)?;
        logits(&top, row)
    })
}

fn told(name: &str, recorded: impl std::fmt::Display, found: impl std::fmt::Display) -> String {
    format!("the event recorded {name} {recorded}, the payload has {found}")
}

fn counts(event: &Event, found: &RowStats) -> Option<String> {
    let stats = &event.stats;
    // Whether masked scores count as infinite is the engine's choice.
    let masks = event.point == Point::AttnScores;
    let inf = if masks { None } else { stats.inf };
    [("nan", stats.nan, found.nan), ("inf", inf, found.inf), ("nz_count", stats.nz_count, found.nz_count)]
        .into_iter()
        .find_map(|(name, recorded, found)| {
            let (recorded, found) = recorded.zip(found)?;
            (recorded != found).then(|| told(name, recorded, found))
        })
}

fn extremes(event: &Event, found: &RowStats, len: usize) -> Option<String> {
    // Of rows with NaN or infinities engines take extremes in their own ways, as of masked scores.
    if event.point == Point::AttnScores || found.nan != Some(0) || found.inf != Some(0) {
        return None;
    }
    let stats = &event.stats;
    let sum_error = PRINTED.max(len as f64 * F32_UNIT);
    let abs_sum = found.abs_sum.unwrap_or(0.0);
    let close = |recorded: f64, found: f64, bound: f64| (recorded - found).abs() <= bound;
    let all = [
        ("min", stats.min, found.min, PRINTED * found.min.unwrap_or(0.0).abs()),
        ("max", stats.max, found.max, PRINTED * found.max.unwrap_or(0.0).abs()),
        ("mean", stats.mean, found.mean, sum_error * abs_sum / len.max(1) as f64),
        ("abs_sum", stats.abs_sum, found.abs_sum, sum_error * abs_sum),
    ];
    all.into_iter().find_map(|(name, recorded, found, bound)| {
        let (recorded, found) = recorded.zip(found)?;
        (!close(recorded, found, bound)).then(|| told(name, recorded, found))
    })
}

fn near(recorded: f64, found: f64) -> bool {
    recorded == found
        || (recorded.is_nan() && found.is_nan())
        || (recorded - found).abs() <= PRINTED * found.abs() && found.is_finite()
}

fn samples(event: &Event, row: &Row) -> Option<String> {
    let sample = event.sample.as_ref()?;
    let at = |n: usize| match &sample.idx {
        Some(idx) => idx.get(n).copied().unwrap_or(u64::MAX),
        None => n as u64,
    };
    sample.values.iter().enumerate().find_map(|(n, recorded)| {
        let at = at(n);
        match usize::try_from(at).ok().filter(|at| *at < row.len()) {
            None => Some(format!("the event sampled value {at} of a payload of {} values", row.len())),
            Some(index) => {
                let found = row.value(index);
                (!near(*recorded, found)).then(|| told(&format!("value {at} as"), recorded, found))
            }
        }
    })
}

fn logits(top: &LogitsTop, row: &Row) -> Option<String> {
    let found = row.logits_top();
    if let (Some(id), Some(best)) = (top.top1_id, found.top1_logit) {
        let value = usize::try_from(id).ok().filter(|at| *at < row.len()).map(|at| row.value(at));
        // Of equal logits either may be called the first.
        if value != Some(best) {
            return Some(told("top1_id", id, found.top1_id.unwrap_or_default()));
        }
    }
    if let (Some(vocab), Some(len)) = (top.vocab, found.vocab)
        && vocab != len
    {
        return Some(told("vocab", vocab, len));
    }
    // The gap is a difference of two: its error is theirs.
    let scale = found.top1_logit.unwrap_or(0.0).abs().max(found.top2_logit.unwrap_or(0.0).abs());
    let all = [
        ("top1_logit", top.top1_logit, found.top1_logit),
        ("top2_logit", top.top2_logit, found.top2_logit),
        ("gap", top.gap, found.gap),
    ];
    all.into_iter().find_map(|(name, recorded, found)| {
        let (recorded, found) = recorded.zip(found)?;
        let close = near(recorded, found) || (recorded - found).abs() <= PRINTED * scale && scale.is_finite();
        (!close).then(|| told(name, recorded, found))
    })
}

/// What an event says that no row can have, if anything.
pub fn impossible(event: &Event) -> Option<String> {
    let stats = &event.stats;
    if let (Some(min), Some(max)) = (stats.min, stats.max)
        && min > max
    {
        return Some(format!("min {min} is above max {max}"));
    }
    let len = event.elements()?;
    [("nan", stats.nan), ("inf", stats.inf), ("nz_count", stats.nz_count)].into_iter().find_map(|(name, count)| {
        let count = count.filter(|count| *count > len)?;
        Some(format!("{name} {count} is more than the row's {len} values"))
    })
}

/// Whether what two events say of the largest logits cannot be true of one row.
pub fn logits_differ(reference: &Event, candidate: &Event) -> bool {
    let (Some(ours), Some(theirs)) = (reference.logits, candidate.logits) else { return false };
    let other = |one: Option<f64>, two: Option<f64>| {
        one.zip(two).is_some_and(|(one, two)| one != two && !(one.is_nan() && two.is_nan()))
    };
    let tie = |top: &LogitsTop| {
        top.gap == Some(0.0) || top.top1_logit.zip(top.top2_logit).is_some_and(|(first, second)| first == second)
    };
    let ids = ours.top1_id.zip(theirs.top1_id).is_some_and(|(one, two)| one != two);
    (ids && !(tie(&ours) && tie(&theirs)))
        || other(ours.top1_logit, theirs.top1_logit)
        || other(ours.top2_logit, theirs.top2_logit)
        || other(ours.gap, theirs.gap)
        || ours.vocab.zip(theirs.vocab).is_some_and(|(one, two)| one != two)
}

/// What an event says of its largest logits, NaN and infinite where its row is.
pub fn logits_values(event: &Event) -> impl Iterator<Item = f64> {
    let top = event.logits.unwrap_or_default();
    let infinite = |value: Option<f64>| value.is_some_and(f64::is_infinite);
    // ∞ − ∞ is NaN though the row holds none.
    let gap = if infinite(top.top1_logit) || infinite(top.top2_logit) { None } else { top.gap };
    [top.top1_logit, top.top2_logit, gap].into_iter().flatten()
}

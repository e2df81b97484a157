//! How numbers, shares and places are printed, alike in every report.

use crate::evidence::metrics::{Numbers, Scope};
use crate::evidence::{Bits, StatisticPair};
use crate::judge::{JudgedPair, PairVerdict};

/// A measured number: four significant digits.
pub fn number(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{value:.3e}") }
}

/// A measured number in a sentence or a narrow cell: three significant digits, with an exponent only where it is needed.
pub fn brief(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !size.is_finite() => value.to_string().replace("inf", "∞"),
        size if !(1e-3..999.5).contains(&size) => format!("{value:.2e}"),
        size => format!("{value:.*}", (2 - size.log10().floor() as i32).clamp(0, 5) as usize),
    }
}

/// A probability.
pub fn p_value(value: f64) -> String {
    if value >= 1e-3 { format!("{value:.3}") } else { format!("{value:.1e}") }
}

/// A recorded number, as exactly as it was read.
pub fn recorded(value: f64) -> String {
    let plain = value == 0.0 || !value.is_finite() || (1e-3..1e7).contains(&value.abs());
    if plain { format!("{value}") } else { format!("{value:e}") }
}

/// Statistics that differ: `min -0.5 / -0.6, max 1 / 1.1`, prefill before decode.
pub fn statistics(pairs: &[StatisticPair]) -> String {
    let pairs =
        pairs.iter().map(|pair| format!("{} {} / {}", pair.name, recorded(pair.prefill), recorded(pair.decode)));
    pairs.collect::<Vec<_>>().join(", ")
}

/// A share, `6 (12.50%)`; without a whole only the count.
pub fn share(count: u64, whole: u64) -> String {
    if whole == 0 { count.to_string() } else { format!("{count} ({:.2}%)", count as f64 * 100.0 / whole as f64) }
}

/// `-` for what is not there.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Whether a pair is equal, differs, or what else, as one mark.
pub fn mark(pair: &JudgedPair) -> &'static str {
    match (pair.verdict, &pair.bits) {
        (PairVerdict::NonFinite, _) => "!",
        (PairVerdict::Fault, _) => "✗",
        (PairVerdict::Structural | PairVerdict::Inherited | PairVerdict::Contract, _) => "≈",
        (_, Bits::Differ { .. }) => "≠",
        (PairVerdict::Identical, _) => "✓",
        (_, Bits::EqualAsSampled { .. }) => "~",
        _ => "?",
    }
}

/// What the numbers are over, in words; empty for the whole row.
pub fn scope(numbers: &Numbers) -> String {
    match numbers.scope {
        Scope::Whole => String::new(),
        Scope::Columns { last } => format!("columns 0 … {last}"),
        Scope::Sample { of: Some(of) } => format!("{} of {of} values", numbers.compared),
        Scope::Sample { of: None } => format!("{} values of a row of unknown length", numbers.compared),
    }
}

/// The distances in one line: `max abs 1.2e-5 at 17, rel L2 3.1e-7, 4 ULP, cosine 1 − 2e-13, NMSE 9e-14, 60 of 64 differ`.
pub fn distances(numbers: &Numbers) -> String {
    let mut parts = vec![format!("max abs {} at {}", number(numbers.max_abs), numbers.max_abs_at)];
    if let Some(rel_l2) = numbers.rel_l2 {
        parts.push(format!("rel L2 {}", number(rel_l2)));
    }
    if let Some(ulp) = numbers.max_ulp {
        parts.push(format!("{ulp} ULP"));
    }
    if let Some(cosine) = numbers.cosine {
        parts.push(format!("cosine {}", near_one(cosine)));
    }
    if let Some(nmse) = numbers.nmse {
        parts.push(format!("NMSE {}", number(nmse)));
    }
    parts.push(format!("{} of {} values differ", numbers.differing, numbers.compared));
    let scope = scope(numbers);
    if !scope.is_empty() {
        parts.push(format!("over {scope}"));
    }
    parts.join(", ")
}

/// A cosine: what it lacks to 1 is what matters.
pub fn near_one(cosine: f64) -> String {
    let lacking = 1.0 - cosine;
    if lacking.abs() < 1e-15 {
        "1".to_owned()
    } else if lacking.abs() < 1e-3 {
        format!("1 {} {}", if lacking > 0.0 { "−" } else { "+" }, number(lacking.abs()))
    } else {
        format!("{cosine:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::{brief, p_value};

    #[test]
    fn three_digits_are_enough_in_a_sentence() {
        let all = [0.0, 0.17823, 1.0, 12.345, 999.4, 1000.0, 3.4e-7, -0.05, f64::INFINITY, f64::NAN];
        let expected = ["0", "0.178", "1.00", "12.3", "999", "1.00e3", "3.40e-7", "-0.0500", "∞", "NaN"];
        assert_eq!(all.map(brief), expected);
        assert_eq!([1.0, 0.0312, 2e-9].map(p_value), ["1.000", "0.031", "2.0e-9"]);
    }
}

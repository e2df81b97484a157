//! The softmax done wrongly: not divided, divided by something else, or put together from parts without rescaling.

use driftprobe_model::reference::softmax;

/// How scores become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Softmax {
    /// exp(s)/Σexp(s).
    Right,
    /// exp(s − max), not divided by their sum.
    Undivided,
    /// exp(s), as it is.
    Raw,
    /// Divided by one more than the sum.
    OneMore,
    /// Over another axis, of one element: 1 each.
    Ones,
    /// In parts that are put together wrongly.
    Merged(Parts, Merge),
}

/// How keys are cut into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// So many keys each; the last has what is left.
    Keys(usize),
    /// Two, cut before this key.
    Cut(usize),
    /// So many parts of equal size, rounded up.
    Count(usize),
    /// So many parts of equal size, rounded down; the last has what is left.
    Floor(usize),
}

impl Parts {
    /// Where each part of `keys` ends.
    fn ends(self, keys: usize) -> Vec<usize> {
        let steps = |size: usize| (1..).map(move |part| part * size.max(1)).take_while(move |end| *end < keys);
        let inner: Vec<usize> = match self {
            Parts::Keys(size) => steps(size).collect(),
            Parts::Cut(at) => std::iter::once(at).filter(|at| (1..keys).contains(at)).collect(),
            Parts::Count(parts) => steps(keys.div_ceil(parts.max(1))).collect(),
            Parts::Floor(parts) => steps(keys / parts.max(1)).take(parts.saturating_sub(1)).collect(),
        };
        inner.into_iter().chain([keys]).collect()
    }

    fn cut(self, scores: &[f64]) -> Vec<&[f64]> {
        let ends = self.ends(scores.len());
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(&ends).filter_map(|(start, end)| scores.get(start..*end)).collect()
    }
}

/// What is wrong when parts are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The output so far is not rescaled when a later part has a larger score.
    Output,
    /// The sum of exponentials so far is not.
    Sum,
    /// Neither is.
    Both,
    /// Every part keeps the exponentials by its own maximum.
    Apart,
    /// Every part is divided by its own sum and counts alike.
    Mean,
}

impl Merge {
    /// All of them.
    pub const ALL: [Merge; 5] = [Merge::Output, Merge::Sum, Merge::Both, Merge::Apart, Merge::Mean];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Merge::Output => "the output",
            Merge::Sum => "the sum",
            Merge::Both => "both",
            Merge::Apart => "each part's maximum",
            Merge::Mean => "each part's sum",
        }
    }
}

impl Softmax {
    /// What the values are multiplied with, and what probabilities that have not been divided would be divided by (else 1).
    pub fn weights(self, scores: &[f64]) -> (Vec<f64>, f64) {
        let max = largest(scores);
        let exps = |max: f64| -> Vec<f64> { scores.iter().map(|s| (s - max).exp()).collect() };
        let undivided = |exps: Vec<f64>| {
            let sum = exps.iter().sum();
            (exps, sum)
        };
        match self {
            Softmax::Right => (softmax(scores), 1.0),
            Softmax::Undivided => undivided(exps(max)),
            Softmax::Raw => undivided(exps(0.0)),
            Softmax::OneMore => {
                let (exps, top) = (exps(max.max(0.0)), max.max(0.0));
                let sum = exps.iter().sum::<f64>() + (-top).exp();
                (exps.into_iter().map(|e| e / sum).collect(), 1.0)
            }
            Softmax::Ones => undivided(vec![1.0; scores.len()]),
            Softmax::Merged(parts, merge) => (merged(&parts.cut(scores), merge), 1.0),
        }
    }

    /// What rounding adds where the largest score is not taken away before the exponential: its argument's own.
    pub fn variance(self, weight: f64, score: f64, cu: f64) -> f64 {
        match self {
            Softmax::Raw | Softmax::OneMore if score.is_finite() => (cu * weight * score).powi(2),
            _ => 0.0,
        }
    }
}

fn largest(scores: &[f64]) -> f64 {
    // Finite also where everything is hidden.
    scores.iter().copied().fold(f64::from(f32::MIN), f64::max)
}

fn merged(parts: &[&[f64]], merge: Merge) -> Vec<f64> {
    let exps = |part: &[f64], max: f64| -> Vec<f64> { part.iter().map(|s| (s - max).exp()).collect() };
    match merge {
        Merge::Apart => {
            let all: Vec<f64> = parts.iter().flat_map(|part| exps(part, largest(part))).collect();
            let sum: f64 = all.iter().sum();
            all.into_iter().map(|e| e / sum).collect()
        }
        Merge::Mean => {
            let count = parts.len().max(1) as f64;
            parts
                .iter()
                .flat_map(|part| softmax(part).into_iter().map(move |p| if p.is_nan() { 0.0 } else { p / count }))
                .collect()
        }
        Merge::Output | Merge::Sum | Merge::Both => running(parts, merge),
    }
}

/// Parts in order, each with the maximum so far.
fn running(parts: &[&[f64]], merge: Merge) -> Vec<f64> {
    let mut last = f64::from(f32::MIN);
    let mut exps: Vec<(f64, f64)> = Vec::new();
    let (mut own, mut right) = (0.0, 0.0);
    for part in parts {
        let max = last.max(largest(part));
        let sum: f64 = part.iter().map(|s| (s - max).exp()).sum();
        own += sum;
        right = right * (last - max).exp() + sum;
        exps.extend(part.iter().map(|s| (max, (s - max).exp())));
        last = max;
    }
    let total = if merge == Merge::Output { right } else { own };
    let rescaled = |(max, e): (f64, f64)| if merge == Merge::Sum { e * (max - last).exp() } else { e };
    exps.into_iter().map(|e| rescaled(e) / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_cut_as_split_kernels_cut_them() {
        assert_eq!(Parts::Keys(4).ends(9), [4, 8, 9]);
        assert_eq!(Parts::Count(2).ends(9), [5, 9]);
        assert_eq!(Parts::Floor(2).ends(9), [4, 9]);
        assert_eq!(Parts::Cut(3).ends(9), [3, 9]);
        assert_eq!((Parts::Cut(9).ends(9), Parts::Keys(9).ends(9)), (vec![9], vec![9]));
    }

    #[test]
    fn one_part_is_merged_rightly_and_several_are_not() {
        let scores = [0.5, -1.0, 3.0, 2.0, f64::NEG_INFINITY, 4.0];
        let right = softmax(&scores);
        for merge in Merge::ALL {
            let whole = Softmax::Merged(Parts::Keys(9), merge).weights(&scores).0;
            assert!(whole.iter().zip(&right).all(|(a, b)| (a - b).abs() < 1e-15), "{merge:?}");
            let parts = Softmax::Merged(Parts::Keys(2), merge).weights(&scores).0;
            assert!(parts.iter().zip(&right).any(|(a, b)| (a - b).abs() > 0.01), "{merge:?}");
            assert!(parts.iter().all(|p| p.is_finite()), "{merge:?}");
        }
    }

    #[test]
    fn weights_over_their_factor_are_probabilities() {
        let scores = [0.5, -1.0, 3.0];
        for softmax in [Softmax::Undivided, Softmax::Raw, Softmax::Ones] {
            let (weights, factor) = softmax.weights(&scores);
            assert!((weights.iter().sum::<f64>() / factor - 1.0).abs() < 1e-15 && factor > 1.0);
        }
        let (less, _) = Softmax::OneMore.weights(&scores);
        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
        assert!((less.iter().sum::<f64>() - sum / (1.0 + sum)).abs() < 1e-15);
    }
}

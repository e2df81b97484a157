//! Log-probabilities of whole generations, of prefill against decode: what training by reinforcement sees when the trainer
//! scores by prefill what a rollout has sampled by decode.
//!
//! For a token, Δ = ln p_decode − ln p_prefill, and r = e^Δ is the importance ratio. Means run over all tokens. k1 = −Δ,
//! k2 = Δ²/2 and k3 = r − 1 − Δ are the three estimators of KL(prefill ‖ decode) of J. Schulman, "Approximating KL
//! divergence" (2020), χ² = mean(r²) − 1. All is taken in f64 and summed in the order of the tokens.

use crate::verdict::Verdict;
use std::collections::BTreeMap;

/// One token of a sequence, as one phase scored it.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The sequence.
    pub sequence: String,
    /// Index of the token in the sequence.
    pub index: u64,
    /// The token.
    pub token_id: u32,
    /// ln p of it, given the tokens before it.
    pub logprob: f64,
}

/// A token that both phases scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The sequence.
    pub sequence: String,
    /// Index of the token in the sequence.
    pub index: u64,
    /// The token.
    pub token_id: u32,
    /// ln p by prefill.
    pub prefill: f64,
    /// ln p by decode.
    pub decode: f64,
}

impl Pair {
    /// Δ.
    pub fn delta(&self) -> f64 {
        self.decode - self.prefill
    }

    /// Whether both are what a log-probability can be: no NaN, not above 0 by more than rounding, not −∞.
    fn is_sound(&self) -> bool {
        /// ln of a sum of many probabilities that is 1 but for rounding.
        const ABOVE_MAX: f64 = 1e-3;
        [self.prefill, self.decode].iter().all(|logprob| logprob.is_finite() && *logprob <= ABOVE_MAX)
    }
}

/// What is measured over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Tokens.
    pub tokens: u64,
    /// Of these, those with Δ = 0.
    pub equal: u64,
    /// Mean of |Δ|.
    pub mean_abs_delta: f64,
    /// Largest |Δ|.
    pub max_abs_delta: f64,
    /// Mean of k1.
    pub k1: f64,
    /// Mean of k2.
    pub k2: f64,
    /// Mean of k3.
    pub k3: f64,
    /// Smallest r.
    pub ratio_min: f64,
    /// Median of r.
    pub ratio_p50: f64,
    /// 99th percentile of r.
    pub ratio_p99: f64,
    /// Largest r.
    pub ratio_max: f64,
    /// Share of tokens with r outside of 0.5 to 2.
    pub ratio_outside: f64,
    /// Mean of r², less 1.
    pub chi2: f64,
    /// e to the mean of −ln p, by prefill.
    pub perplexity_prefill: f64,
    /// The same by decode.
    pub perplexity_decode: f64,
    /// Decode's over prefill's.
    pub perplexity_ratio: f64,
    /// Pearson's correlation of the probabilities.
    pub correlation: f64,
}

/// One sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceMetrics {
    /// The sequence.
    pub sequence: String,
    /// Over its tokens.
    pub metrics: Metrics,
    /// Σ Δ: the logarithm of the sequence's own importance ratio.
    pub sum_delta: f64,
    /// Index of the token with the largest |Δ|.
    pub worst: u64,
}

/// What two sets of scores come to.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Tokens that both phases scored, by sequence and index.
    pub pairs: Vec<Pair>,
    /// Over all of them that are sound.
    pub metrics: Metrics,
    /// By sequence.
    pub sequences: Vec<SequenceMetrics>,
    /// Why the figures are not of what was generated: scores without partner, twice, of another token, no number.
    pub findings: Vec<String>,
    /// How many findings there are; the list holds the first.
    pub finding_count: u64,
    /// Whether a log-probability is none.
    pub unsound: u64,
}

/// How many findings are told.
const FINDINGS_MAX: usize = 8;

impl Mismatch {
    /// Pairs scores strictly: by sequence, index and token.
    pub fn of(prefill: &[Score], decode: &[Score]) -> Mismatch {
        let mut findings = Findings::default();
        let [prefill, decode] =
            [("prefill", prefill), ("decode", decode)].map(|(name, all)| keyed(name, all, &mut findings));
        for (key, _) in prefill.iter().filter(|(key, _)| !decode.contains_key(*key)) {
            findings.add(|| format!("{}, token {}: prefill only", key.0, key.1));
        }
        let mut pairs = Vec::new();
        for (key, theirs) in decode {
            match prefill.get(&key) {
                None => findings.add(|| format!("{}, token {}: decode only", key.0, key.1)),
                Some(ours) if ours.token_id != theirs.token_id => findings.add(|| {
                    let tokens = format!("{} in prefill, {} in decode", ours.token_id, theirs.token_id);
                    format!("{}, token {}: {tokens}", key.0, key.1)
                }),
                Some(ours) => pairs.push(Pair {
                    sequence: key.0,
                    index: key.1,
                    token_id: ours.token_id,
                    prefill: ours.logprob,
                    decode: theirs.logprob,
                }),
            }
        }
        for pair in pairs.iter().filter(|pair| !pair.is_sound()) {
            let logprobs = format!("ln p = {} and {}", pair.prefill, pair.decode);
            findings.add(|| format!("{}, token {}: {logprobs} are no log-probabilities", pair.sequence, pair.index));
        }
        let unsound = pairs.iter().filter(|pair| !pair.is_sound()).count() as u64;
        let sound: Vec<&Pair> = pairs.iter().filter(|pair| pair.is_sound()).collect();
        let sequences = sound.chunk_by(|a, b| a.sequence == b.sequence).filter_map(sequence).collect();
        let metrics = metrics(&sound);
        Mismatch { metrics, sequences, findings: findings.told, finding_count: findings.count, unsound, pairs }
    }

    /// FAIL where a log-probability is none; INCONCLUSIVE where nothing was compared or not all; else PASS, which says that
    /// the figures are those of all tokens, and not that they are small.
    pub fn verdict(&self) -> Verdict {
        if self.unsound > 0 {
            Verdict::Fail
        } else if self.metrics.tokens == 0 || self.finding_count > 0 {
            Verdict::Inconclusive
        } else {
            Verdict::Pass
        }
    }

    /// The tokens with the largest |Δ|, the worst first.
    pub fn worst(&self, count: usize) -> Vec<&Pair> {
        let mut all: Vec<&Pair> = self.pairs.iter().filter(|pair| pair.is_sound()).collect();
        all.sort_by(|a, b| b.delta().abs().total_cmp(&a.delta().abs()));
        all.truncate(count);
        all
    }
}

#[derive(Default)]
struct Findings {
    told: Vec<String>,
    count: u64,
}

impl Findings {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < FINDINGS_MAX {
            self.told.push(what());
        }
    }
}

type Key = (String, u64);

fn keyed(name: &str, all: &[Score], findings: &mut Findings) -> BTreeMap<Key, Score> {
    let mut of = BTreeMap::new();
    for score in all {
        if of.insert((score.sequence.clone(), score.index), score.clone()).is_some() {
            findings.add(|| format!("{}, token {}: twice in {name}", score.sequence, score.index));
        }
    }
    of
}

fn sequence(pairs: &[&Pair]) -> Option<SequenceMetrics> {
    let worst = pairs.iter().max_by(|a, b| a.delta().abs().total_cmp(&b.delta().abs()))?;
    Some(SequenceMetrics {
        sequence: worst.sequence.clone(),
        metrics: metrics(pairs),
        sum_delta: pairs.iter().map(|pair| pair.delta()).sum(),
        worst: worst.index,
    })
}

fn metrics(pairs: &[&Pair]) -> Metrics {
    let count = pairs.len();
    if count == 0 {
        return Metrics::default();
    }
    let mean = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(|pair| of(pair)).sum::<f64>() / count as f64;
    let mut ratios: Vec<f64> = pairs.iter().map(|pair| pair.delta().exp()).collect();
    ratios.sort_by(f64::total_cmp);
    let [perplexity_prefill, perplexity_decode] = [mean(&|p| -p.prefill).exp(), mean(&|p| -p.decode).exp()];
    Metrics {
        tokens: count as u64,
        equal: pairs.iter().filter(|pair| pair.delta() == 0.0).count() as u64,
        mean_abs_delta: mean(&|p| p.delta().abs()),
        max_abs_delta: pairs.iter().map(|pair| pair.delta().abs()).fold(0.0, f64::max),
        k1: mean(&|p| -p.delta()),
        k2: mean(&|p| p.delta() * p.delta() / 2.0),
        // e^Δ − 1 by expm1: small Δ would lose all digits otherwise.
        k3: mean(&|p| p.delta().exp_m1() - p.delta()),
        ratio_min: percentile(&ratios, 0.0),
        ratio_p50: percentile(&ratios, 0.5),
        ratio_p99: percentile(&ratios, 0.99),
        ratio_max: percentile(&ratios, 1.0),
        ratio_outside: ratios.iter().filter(|r| !(0.5..=2.0).contains(*r)).count() as f64 / count as f64,
        chi2: mean(&|p| (2.0 * p.delta()).exp_m1()),
        perplexity_prefill,
        perplexity_decode,
        perplexity_ratio: perplexity_decode / perplexity_prefill,
        correlation: correlation(pairs),
    }
}

/// Of sorted values, between neighbours by their distance.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * sorted.len().saturating_sub(1) as f64;
    let value = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::NAN);
    let (low, high) = (value(at.floor()), value(at.ceil()));
    low + (high - low) * at.fract()
}

/// Pearson's, of the probabilities; NaN where one side has only one value.
fn correlation(pairs: &[&Pair]) -> f64 {
    let count = pairs.len() as f64;
    let of = |pair: &Pair| (pair.prefill.exp(), pair.decode.exp());
    let (sum_x, sum_y) = pairs.iter().map(|pair| of(pair)).fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x, sy + y));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs.iter().map(|pair| of(pair)) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        (xy, xx, yy) = (xy + dx * dy, xx + dx * dx, yy + dy * dy);
    }
    xy / (xx * yy).sqrt()
}

/// ln of the softmax of `logits` at `token`, in f64; NaN where the token is not among them.
pub fn logprob(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, logit| largest.max(f64::from(*logit)));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    logits.get(token as usize).map_or(f64::NAN, |logit| f64::from(*logit) - largest - sum.ln())
}

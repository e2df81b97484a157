//! Log-probabilities of whole generations, of prefill against decode: what training by reinforcement sees when the trainer
//! scores by prefill what a rollout has sampled by decode.
//!
//! For a token, Δ = ln p_decode − ln p_prefill, and r = e^Δ is the importance ratio. Means run over all tokens. k1 = −Δ,
//! k2 = Δ²/2 and k3 = r − 1 − Δ are the three estimators of KL(prefill ‖ decode) of J. Schulman, "Approximating KL
//! divergence" (2020), χ² = mean(r²) − 1. All is taken in f64 and summed in the order of the tokens.

mod findings;
mod judged;
mod link;
mod metrics;

pub use findings::{Code, Finding};
pub use judged::{Check, Judged, Limits, Measure, Origin, Outcome, PRESETS};
pub use link::{Link, shows};
pub use metrics::Metrics;

use crate::evidence::metrics::log_softmax;
use findings::Findings;
use metrics::metrics;
use std::sync::Arc;

/// One token of a sequence, as one phase scored it.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The sequence.
    pub sequence: Arc<str>,
    /// Index of the token in the sequence, its prompt counted.
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
    pub sequence: Arc<str>,
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

/// A token that some phase scored, and what became of it: nothing that was read is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The sequence.
    pub sequence: Arc<str>,
    /// Index of the token in the sequence.
    pub index: u64,
    /// Prefill's score and decode's; the first, where there are several.
    pub scores: [Option<(u32, f64)>; 2],
    /// Why it was not compared; `None`: it was.
    pub why_not: Option<Code>,
}

/// One sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceMetrics {
    /// The sequence.
    pub sequence: Arc<str>,
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
    /// Every token that was read, by sequence and index.
    pub rows: Vec<Row>,
    /// Those of them that were compared.
    pub pairs: Vec<Pair>,
    /// Those that both phases scored, and one of them with what is no log-probability.
    pub unsound: Vec<Pair>,
    /// Over the tokens that were compared.
    pub metrics: Metrics,
    /// By sequence.
    pub sequences: Vec<SequenceMetrics>,
    /// Why the figures are not of what was generated.
    pub findings: Vec<Finding>,
    /// Tokens of the sequences that no line scores, though lines around them do.
    pub gaps: u64,
}

/// A score, and whether it is decode's.
type Sided<'a> = (&'a Score, bool);

impl Mismatch {
    /// Pairs scores strictly: by sequence, index and token. What follows a token in which the phases differ has another
    /// past, and is not compared.
    pub fn of(prefill: &[Score], decode: &[Score]) -> Mismatch {
        let mut all: Vec<Sided<'_>> = prefill.iter().map(|score| (score, false)).collect();
        all.extend(decode.iter().map(|score| (score, true)));
        // Stable, so that of a key that stands twice the first stays the first.
        all.sort_by(|(a, _), (b, _)| (&a.sequence, a.index).cmp(&(&b.sequence, b.index)));
        let mut findings = Findings::default();
        let (mut rows, mut pairs, mut unsound, mut gaps) = (Vec::new(), Vec::new(), Vec::new(), 0u64);
        for sequence in all.chunk_by(|(a, _), (b, _)| a.sequence == b.sequence) {
            let mut parted = false;
            let mut next = None;
            for token in sequence.chunk_by(|(a, _), (b, _)| a.index == b.index) {
                let Some((first, _)) = token.first() else { continue };
                if let Some(from) = next.filter(|next| *next < first.index) {
                    gaps = gaps.saturating_add(first.index - from);
                    let tokens = format!("{}, tokens {from} to {}", first.sequence, first.index - 1);
                    findings.add_many(Code::Gap, first.index - from, || tokens);
                }
                next = first.index.checked_add(1);
                let (row, pair) = row(token, parted, &mut findings);
                parted |= token.iter().any(|(score, _)| score.token_id != first.token_id);
                if row.why_not.is_none() { &mut pairs } else { &mut unsound }.extend(pair);
                rows.push(row);
            }
        }
        for (name, scores) in [("prefill", prefill), ("decode", decode)] {
            if let Some(says) = frozen(scores) {
                findings.add(Code::Frozen, || format!("{name}: {says}"));
            }
        }
        if pairs.is_empty() {
            findings.add(Code::NothingCompared, || format!("{} lines and {} lines", prefill.len(), decode.len()));
        }
        let all: Vec<&Pair> = pairs.iter().collect();
        let sequences = all.chunk_by(|a, b| a.sequence == b.sequence).filter_map(of_sequence).collect();
        Mismatch { metrics: metrics(&all), sequences, findings: findings.into_vec(), rows, pairs, unsound, gaps }
    }

    /// Notes that both sides are one recording.
    pub fn not_independent(&mut self, why: String) {
        let mut findings = Findings::default();
        findings.add(Code::NotIndependent, || why);
        self.findings.splice(0..0, findings.into_vec());
    }

    /// How many tokens are there for a reason.
    pub fn count(&self, code: Code) -> u64 {
        self.findings.iter().filter(|finding| finding.code == code).map(|finding| finding.count).sum()
    }

    /// The worst tokens, the worst first: those of which a score is none, then those with the largest |Δ|; none whose scores
    /// are equal.
    pub fn worst(&self, count: usize) -> Vec<&Pair> {
        let mut all: Vec<&Pair> = self.pairs.iter().filter(|pair| pair.delta() != 0.0).collect();
        all.sort_by(|a, b| b.delta().abs().total_cmp(&a.delta().abs()));
        self.unsound.iter().chain(all).take(count).collect()
    }

    /// The sequences with the largest mean |Δ|, the worst first.
    pub fn worst_sequences(&self, count: usize) -> Vec<&SequenceMetrics> {
        let mut all: Vec<&SequenceMetrics> = self.sequences.iter().collect();
        all.sort_by(|a, b| b.metrics.mean_abs_delta.total_cmp(&a.metrics.mean_abs_delta));
        all.truncate(count);
        all
    }

    /// Token ids of a sequence up to (not with) an index, as far as the scores tell: the index of the first, and the ids.
    /// `None` if a phase scores another token, or none, on the way.
    pub fn tokens_before(&self, sequence: &str, index: u64) -> Option<(u64, Vec<u32>)> {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| &*row.sequence == sequence && row.index < index).collect();
        let first = rows.first().map_or(index, |row| row.index);
        let id = |(at, row): (u64, &&Row)| match (row.index == at, row.scores) {
            (true, [Some((ours, _)), Some((theirs, _))]) if ours == theirs => Some(ours),
            (true, [Some((one, _)), None] | [None, Some((one, _))]) => Some(one),
            _ => None,
        };
        let ids: Option<Vec<u32>> = (first..).zip(&rows).map(id).collect();
        ids.filter(|ids| first.checked_add(ids.len() as u64) == Some(index)).map(|ids| (first, ids))
    }
}

/// What becomes of the scores of one token.
fn row(token: &[Sided<'_>], parted: bool, findings: &mut Findings) -> (Row, Option<Pair>) {
    let of = |decode: bool| token.iter().filter(move |(_, side)| *side == decode).map(|(score, _)| *score);
    let [(ours, again), (theirs, too)] = [false, true].map(|side| (of(side).next(), of(side).nth(1)));
    let pair = ours.zip(theirs).map(|(ours, theirs)| Pair {
        sequence: ours.sequence.clone(),
        index: ours.index,
        token_id: ours.token_id,
        prefill: ours.logprob,
        decode: theirs.logprob,
    });
    let (why_not, says) = match (ours, theirs, &pair) {
        _ if again.is_some() => (Some(Code::Twice), "in prefill".to_owned()),
        _ if too.is_some() => (Some(Code::Twice), "in decode".to_owned()),
        (_, None, _) => (Some(Code::PrefillOnly), String::new()),
        (None, _, _) => (Some(Code::DecodeOnly), String::new()),
        (Some(ours), Some(theirs), _) if ours.token_id != theirs.token_id => {
            (Some(Code::OtherToken), format!("{} in prefill, {} in decode", ours.token_id, theirs.token_id))
        }
        _ if parted => (Some(Code::OtherPast), String::new()),
        (_, _, Some(pair)) if !pair.is_sound() => {
            (Some(Code::NoLogprob), format!("ln p = {} and {}", pair.prefill, pair.decode))
        }
        _ => (None, String::new()),
    };
    let score = |score: &Score| (score.token_id, score.logprob);
    let (sequence, index) =
        token.first().map_or((Arc::from(""), 0), |(score, _)| (score.sequence.clone(), score.index));
    if let Some(code) = why_not {
        let dash = if says.is_empty() { "" } else { ": " };
        findings.add(code, || format!("{sequence}, token {index}{dash}{says}"));
    }
    let row = Row { sequence, index, scores: [ours.map(score), theirs.map(score)], why_not };
    (row, pair.filter(|_| matches!(why_not, None | Some(Code::NoLogprob))))
}

/// Why a phase's scores say nothing, if so: all zero, or one and the same at every token.
fn frozen(scores: &[Score]) -> Option<String> {
    let first = scores.first()?.logprob;
    let same = scores.iter().all(|score| score.logprob.to_bits() == first.to_bits());
    let says = if first == 0.0 { "every ln p is 0".to_owned() } else { format!("every ln p is {first}") };
    (same && (scores.len() > 1 || first == 0.0)).then_some(says)
}

fn of_sequence(pairs: &[&Pair]) -> Option<SequenceMetrics> {
    let worst = pairs.iter().rev().max_by(|a, b| a.delta().abs().total_cmp(&b.delta().abs()))?;
    Some(SequenceMetrics {
        sequence: worst.sequence.clone(),
        metrics: metrics(pairs),
        sum_delta: pairs.iter().map(|pair| pair.delta()).sum(),
        worst: worst.index,
    })
}

/// ln of the softmax of `logits` at `token`, in f64; NaN where the token is not among them.
pub fn logprob(logits: &[f32], token: u32) -> f64 {
    log_softmax(logits.iter().map(|logit| f64::from(*logit)), token as usize)
}

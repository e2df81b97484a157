//! Log-probabilities of prefill against decode: figures that numpy gave, and what must not be passed over.

use driftprobe::Verdict;
use driftprobe::logprobs::{Mismatch, Score, logprob};

fn scores(sequence: &str, logprobs: &[f64]) -> Vec<Score> {
    let score = |(index, logprob): (usize, &f64)| Score {
        sequence: sequence.to_owned(),
        index: index as u64,
        token_id: index as u32 * 7,
        logprob: *logprob,
    };
    logprobs.iter().enumerate().map(score).collect()
}

const PREFILL: [f64; 6] = [-0.1, -2.3, -0.7, -1.25, -4.0, -0.01];
const DECODE: [f64; 6] = [-0.1, -2.2, -0.75, -1.2, -3.0, -0.012];

const NUMPY: [f64; 9] = [
    0.20033333333333328,
    -0.18299999999999994,
    0.08458366666666665,
    0.12099254434646067,
    2.6376262829398756,
    1.1027458637577365,
    4.028255216030391,
    3.354602667091945,
    0.9992711136168619,
];
const TORCH: [f64; 3] = [-0.4740769841801067, -0.9740769841801067, -897.4740769841801];

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found} and not {expected}");
}

/// By numpy:
/// `d = q - p; r = np.exp(d); np.abs(d).mean(), (-d).mean(), (d*d/2).mean(), (np.expm1(d)-d).mean(), np.percentile(r, 99),
/// (r*r).mean()-1, np.exp(-p.mean()), np.exp(-q.mean()), np.corrcoef(np.exp(p), np.exp(q))[0, 1]`.
#[test]
fn figures_are_numpys() {
    let found = Mismatch::of(&scores("a", &PREFILL), &scores("a", &DECODE));
    let m = found.metrics;
    assert_eq!((m.tokens, m.equal, found.verdict()), (6, 1, Verdict::Pass));
    close(m.mean_abs_delta, NUMPY[0]);
    close(m.k1, NUMPY[1]);
    close(m.k2, NUMPY[2]);
    close(m.k3, NUMPY[3]);
    close(m.ratio_p99, NUMPY[4]);
    close(m.chi2, NUMPY[5]);
    close(m.perplexity_prefill, NUMPY[6]);
    close(m.perplexity_decode, NUMPY[7]);
    close(m.correlation, NUMPY[8]);
    close(m.max_abs_delta, 1.0);
    close(m.ratio_max, std::f64::consts::E);
    close(m.ratio_outside, 1.0 / 6.0);
    close(m.perplexity_ratio, NUMPY[7] / NUMPY[6]);
    assert_eq!((found.sequences.len(), found.sequences[0].worst), (1, 4));
    close(found.sequences[0].sum_delta, 1.098);
    assert_eq!(found.worst(2).iter().map(|pair| pair.index).collect::<Vec<_>>(), [4, 1]);
}

#[test]
fn sequences_are_told_apart() {
    let prefill = [scores("a", &PREFILL), scores("b", &PREFILL)].concat();
    let decode = [scores("a", &PREFILL), scores("b", &DECODE)].concat();
    let found = Mismatch::of(&prefill, &decode);
    let of: Vec<_> = found.sequences.iter().map(|s| (s.sequence.as_str(), s.metrics.equal, s.metrics.tokens)).collect();
    assert_eq!(of, [("a", 6, 6), ("b", 1, 6)]);
    assert_eq!(found.metrics.tokens, 12);
}

#[test]
fn what_is_not_of_all_tokens_is_inconclusive_and_what_is_no_number_fails() {
    let judged = |prefill: &[Score], decode: &[Score]| {
        let found = Mismatch::of(prefill, decode);
        (found.verdict(), found.finding_count)
    };
    let (p, d) = (scores("a", &PREFILL), scores("a", &DECODE));
    assert_eq!(judged(&p, &d), (Verdict::Pass, 0));
    assert_eq!(judged(&[], &[]), (Verdict::Inconclusive, 0));
    assert_eq!(judged(&p, &d[..5]), (Verdict::Inconclusive, 1));
    assert_eq!(judged(&p[1..], &d), (Verdict::Inconclusive, 1));
    assert_eq!(judged(&[p.clone(), p[..1].to_vec()].concat(), &d), (Verdict::Inconclusive, 1));
    assert_eq!(judged(&scores("b", &PREFILL), &d), (Verdict::Inconclusive, 12));
    let mut other = d.clone();
    other[3].token_id += 1;
    assert_eq!(judged(&p, &other), (Verdict::Inconclusive, 1));
    for wrong in [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, 0.5] {
        let both = |all: &[Score]| {
            let mut all = all.to_vec();
            all[2].logprob = wrong;
            all
        };
        assert_eq!(judged(&both(&p), &d).0, Verdict::Fail, "{wrong} in prefill");
        assert_eq!(judged(&both(&p), &both(&d)).0, Verdict::Fail, "{wrong} on both sides");
        assert_eq!(Mismatch::of(&both(&p), &d).metrics.tokens, 5);
    }
}

/// By `torch.log_softmax(torch.tensor([...], dtype=torch.float64), 0)`.
#[test]
fn a_logprob_is_the_log_of_the_softmax() {
    let logits = [1.5f32, -0.25, 3.0, 900.0, 899.5];
    close(logprob(&logits, 3), TORCH[0]);
    close(logprob(&logits, 4), TORCH[1]);
    close(logprob(&logits, 2), TORCH[2]);
    assert!(logprob(&logits, 5).is_nan() && logprob(&[f32::NAN, 0.0], 1).is_nan());
}

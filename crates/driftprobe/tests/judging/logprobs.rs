//! Log-probabilities of prefill against decode: figures that numpy gave, and what must not be passed over.

use driftprobe::Verdict;
use driftprobe::logprobs::{Code, Judged, Limits, Measure, Mismatch, Origin, Outcome, Score, logprob};

fn scores(sequence: &str, logprobs: &[f64]) -> Vec<Score> {
    let score = |(index, logprob): (usize, &f64)| Score {
        sequence: sequence.into(),
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
    assert_eq!((m.tokens, m.equal, found.findings.len()), (6, 1, 0));
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
    let of: Vec<_> = found.sequences.iter().map(|s| (&*s.sequence, s.metrics.equal, s.metrics.tokens)).collect();
    assert_eq!(of, [("a", 6, 6), ("b", 1, 6)]);
    assert_eq!(found.metrics.tokens, 12);
}

fn judged(prefill: &[Score], decode: &[Score], limits: &Limits) -> Judged {
    Judged::of(Origin::default(), Mismatch::of(prefill, decode), limits, vec![])
}

/// What is said, and the findings, each with its count.
fn said(prefill: &[Score], decode: &[Score]) -> (Outcome, Vec<(Code, u64)>) {
    let judged = judged(prefill, decode, &Limits::default());
    (judged.outcome, judged.mismatch.findings.iter().map(|finding| (finding.code, finding.count)).collect())
}

const OPEN: Outcome = Outcome::Verdict(Verdict::Inconclusive);

#[test]
fn what_was_not_compared_is_a_finding_and_no_measurement() {
    let (p, d) = (scores("a", &PREFILL), scores("a", &DECODE));
    assert_eq!(said(&p, &d), (Outcome::Measured, vec![]));
    assert_eq!(said(&[], &[]), (OPEN, vec![(Code::NothingCompared, 1)]));
    let m = Mismatch::of(&[], &[]).metrics;
    assert!(m.mean_abs_delta.is_nan() && m.k3.is_nan() && m.max_abs_delta.is_nan() && m.ratio_max.is_nan());
    assert_eq!(said(&p, &d[..5]), (OPEN, vec![(Code::PrefillOnly, 1)]));
    assert_eq!(said(&p[1..], &d), (OPEN, vec![(Code::DecodeOnly, 1)]));
    let twice = [p.clone(), p[..1].to_vec()].concat();
    assert_eq!(said(&twice, &d), (OPEN, vec![(Code::Twice, 1)]));
    assert_eq!(Mismatch::of(&twice, &d).metrics.tokens, 5, "which of two scores counts is not known");
    let nothing = vec![(Code::NothingCompared, 1), (Code::PrefillOnly, 6), (Code::DecodeOnly, 6)];
    assert_eq!(said(&scores("b", &PREFILL), &d), (OPEN, nothing));
    let without = |all: &[Score]| [&all[..2], &all[4..]].concat();
    assert_eq!(said(&without(&p), &without(&d)), (OPEN, vec![(Code::Gap, 2)]));
}

#[test]
fn nothing_is_compared_behind_a_token_in_which_the_phases_differ() {
    let (p, mut d) = (scores("a", &PREFILL), scores("a", &DECODE));
    d[3].token_id += 1;
    assert_eq!(said(&p, &d), (OPEN, vec![(Code::OtherToken, 1), (Code::OtherPast, 2)]));
    let found = Mismatch::of(&p, &d);
    assert_eq!(found.pairs.iter().map(|pair| pair.index).collect::<Vec<_>>(), [0, 1, 2]);
    // All that was read is there all the same; and another sequence has a past of its own.
    assert_eq!(found.rows.len(), 6);
    let two = |one: &[Score]| [one.to_vec(), scores("b", &PREFILL)].concat();
    assert_eq!(Mismatch::of(&two(&p), &two(&d)).metrics.tokens, 9);
    assert_eq!(found.tokens_before("a", 3), Some((0, vec![0, 7, 14])));
    assert_eq!(found.tokens_before("a", 4), None, "which token is meant is not known");
    assert_eq!(found.tokens_before("b", 4), Some((4, vec![])));
}

#[test]
fn scores_that_an_engine_gives_that_computes_nothing_are_no_measurement() {
    let (zero, frozen, p) = (scores("a", &[0.0; 6]), scores("a", &[-3.5; 6]), scores("a", &PREFILL));
    for (ours, theirs, count) in [(&zero, &zero, 2), (&frozen, &frozen, 2), (&p, &zero, 1), (&frozen, &p, 1)] {
        assert_eq!(said(ours, theirs), (OPEN, vec![(Code::Frozen, count)]));
    }
    assert_eq!(said(&zero[..1], &zero[..1]).0, OPEN);
    assert_eq!(said(&p[..1], &p[..1]).0, Outcome::Measured, "one token cannot vary");
    let mut one = Mismatch::of(&p, &p);
    one.not_independent("one file".to_owned());
    let limits = Limits::default().with(Measure::K3, Some(1.0), "--max-k3");
    assert_eq!(Judged::of(Origin::default(), one, &limits, vec![]).outcome, OPEN);
}

#[test]
fn what_is_no_number_is_left_out_of_the_figures_and_passes_no_limit() {
    let (p, d) = (scores("a", &PREFILL), scores("a", &DECODE));
    for wrong in [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, 0.5] {
        let with = |all: &[Score]| {
            let mut all = all.to_vec();
            all[2].logprob = wrong;
            all
        };
        for (ours, theirs) in [(with(&p), d.clone()), (p.clone(), with(&d)), (with(&p), with(&d))] {
            assert_eq!(said(&ours, &theirs), (OPEN, vec![(Code::NoLogprob, 1)]), "{wrong}");
            let found = Mismatch::of(&ours, &theirs);
            assert_eq!((found.metrics.tokens, found.unsound.len()), (5, 1));
            assert_eq!(found.worst(2).iter().map(|pair| pair.index).collect::<Vec<_>>()[0], 2, "nothing is worse");
            for measure in [Measure::MeanAbs, Measure::Ratio, Measure::K3] {
                let limits = Limits::default().with(measure, Some(1e300), "");
                assert_eq!(judged(&ours, &theirs, &limits).outcome, Outcome::Verdict(Verdict::Fail), "{wrong}");
            }
        }
    }
}

#[test]
fn limits_hold_up_to_their_bound_and_fail_only_where_no_missing_token_can_mend_it() {
    let (p, d) = (scores("a", &PREFILL), scores("a", &DECODE));
    let verdict = |p: &[Score], d: &[Score], measure, limit| {
        judged(p, d, &Limits::default().with(measure, Some(limit), "")).outcome
    };
    let (pass, fail) = (Outcome::Verdict(Verdict::Pass), Outcome::Verdict(Verdict::Fail));
    for (measure, value) in
        [(Measure::MeanAbs, NUMPY[0]), (Measure::K3, NUMPY[3]), (Measure::Ratio, std::f64::consts::E)]
    {
        assert_eq!(verdict(&p, &d, measure, value * (1.0 + 1e-9)), pass, "{measure:?}");
        assert_eq!(verdict(&p, &d, measure, value * (1.0 - 1e-9)), fail, "{measure:?}");
        // Turned round, what was too large is too small, and no better.
        assert_eq!(verdict(&d, &p, Measure::Ratio, 2.7), fail);
        assert_eq!(verdict(&p, &d[..5], measure, value * 2.0), OPEN, "{measure:?}");
        assert_eq!(verdict(&p, &d[..5], measure, value / 10.0), fail, "{measure:?}: a sixth token cannot mend it");
    }
    // Of five tokens the mean is 0.24; with a sixth it may be 0.2.
    assert_eq!(verdict(&p, &d[..5], Measure::MeanAbs, 0.21), OPEN);
    let preset = |id: &str| judged(&p, &d, &Limits::default().with_preset(id));
    assert_eq!(preset("sglang-kl").checks[0].limit, 2.5e-3);
    assert_eq!(preset("sglang-kl-invariant").checks[0].limit, 1e-9);
    assert_eq!(preset("sglang-kl").outcome, fail);
    assert!(preset("sglang").checks.is_empty(), "a gate of something else");
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

//! GRETA's published analyses, judged again from its traces: the same counts, and no verdict the evidence does not carry.

use driftprobe::judge::PairVerdict;
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::verdict::{Parting, TRACE_OFFSET};
use driftprobe::{Analysis, EXIT_INCONCLUSIVE, Options, Verdict, analyze};
use driftprobe_trace::{Point, Run};
use std::path::Path;

fn greta(which: &str) -> Analysis {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../driftprobe-trace/tests/fixtures/greta").join(which);
    let run = Run::open(&dir).unwrap();
    analyze(&run, &run, Options::default())
}

fn has(analysis: &Analysis, code: ReasonCode) -> bool {
    analysis.verdict.reasons.iter().any(|reason| reason.code == code)
}

#[test]
fn drift_has_48_pairs_6_matching_and_15_15_12_differing() {
    let got = greta("drift");
    assert_eq!((got.counts.total, got.counts.hash_match, got.counts.hash_differ), (48, 6, 42));
    assert_eq!(got.codes, [("X_IN_DRIFT", 12), ("ATTN_OUT_DRIFT", 15), ("MLP_OUT_DRIFT", 15)]);
    assert_eq!((got.unpaired.len(), got.coverage.duplicates), (0, 0));
    // attn_out and mlp_out carry neither token_id nor logical_tok_idx.
    assert_eq!(got.coverage.weakly_keyed, 30);
}

#[test]
fn drift_first_parts_at_layer_0_attn_out_of_p0_short() {
    let got = greta("drift");
    let first = got.verdict.first_failure.as_ref().unwrap();
    assert_eq!((&*first.prompt_id, first.layer, first.point), ("p0_short", 0, Point::AttnOut));
    assert_eq!((first.code, first.parting, first.pos_id), ("ATTN_OUT_DRIFT", Parting::Differs, Some(37)));
    let pair = &got.pairs[first.pair.unwrap()];
    assert_eq!(pair.prefill.hash.unwrap().value, 4144761570523161186);
    assert_eq!(pair.decode.hash.unwrap().value, 10153995460507501903);
    let last_equal = &got.pairs[first.last_equal.unwrap()];
    assert_eq!(&*last_equal.prefill.point_spelling, "x_in");
    assert!(first.not_compared.contains(&(0, Point::QPostRope)) && !first.not_compared.contains(&(0, Point::AttnOut)));
}

#[test]
fn drift_is_inconclusive_and_calls_nothing_a_fault() {
    let got = greta("drift");
    assert_eq!((got.verdict.verdict, got.exit_code()), (Verdict::Inconclusive, EXIT_INCONCLUSIVE));
    assert_eq!(got.verdict.root_cause, None);
    for code in [ReasonCode::NoManifest, ReasonCode::WeaklyKeyed, ReasonCode::SampleOnly, ReasonCode::Differs] {
        assert!(has(&got, code), "{code:?}");
    }
    // No event has a shape: an equal hash of 256 values does not prove the row.
    assert!(got.pairs.iter().all(|pair| pair.verdict == PairVerdict::Undecided));
}

#[test]
fn offset_pairs_nothing_and_is_no_pass() {
    let got = greta("offset");
    assert_eq!((got.counts.total, got.unpaired.len()), (0, 96));
    assert_eq!((got.verdict.verdict, got.exit_code()), (Verdict::Inconclusive, EXIT_INCONCLUSIVE));
    assert_eq!(got.verdict.root_cause, Some(TRACE_OFFSET));
    assert!(has(&got, ReasonCode::NothingCompared) && has(&got, ReasonCode::Unpaired));
    assert_eq!(got.codes, [(TRACE_OFFSET, 96)]);
    let advice = &got.advice.recommendations[0];
    assert!(advice.contains("`logical_tok_idx` is 37 lower in `p0_short`, 38 lower in `p6_len_16`"), "{advice}");
}

//! The guardrail on dumps of logits: its thresholds just under and just over, and everything that must not pass.

use driftprobe::Verdict;
use driftprobe::gate::guardrail::{DumpRow, GuardrailVerdict, Overall, SpanPromise, compare_dumps};
use driftprobe::gate::{Measure, Preset, PresetResult};
use driftprobe_trace::Mode;

const VOCAB: usize = 100;
const TOKENS: u64 = 20;

/// Prefill's logits: each token's largest is another.
fn clean() -> Vec<DumpRow> {
    let row = |index: u64| {
        let logit = |at: usize| {
            ((at as f64 + 1.0) * (index as f64 + 3.0)).sin() + f64::from(u8::from(at as u64 == index)) * 5.0
        };
        DumpRow { index, token: Some(7 + index as u32), logits: (0..VOCAB).map(logit).collect() }
    };
    (0..TOKENS).map(row).collect()
}

fn promise(mode: Option<Mode>) -> SpanPromise {
    SpanPromise { start: Some(0), count: Some(TOKENS), mode, settings: vec![("dtype".into(), "bf16".into())] }
}

fn judge(mode: Option<Mode>, decode: Vec<DumpRow>) -> PresetResult {
    judge_as([promise(mode), promise(mode)], clean(), decode)
}

fn judge_as(promises: [SpanPromise; 2], prefill: Vec<DumpRow>, decode: Vec<DumpRow>) -> PresetResult {
    let guardrail = [Preset::by_id("guardrail").unwrap()];
    compare_dumps(&guardrail, &promises, prefill.into_iter(), decode.into_iter()).remove(0)
}

const ALIGNED: Option<Mode> = Some(Mode::KvAligned);

fn verdicts(result: &PresetResult) -> (Verdict, Option<GuardrailVerdict>) {
    (result.verdict, result.guardrail)
}

const PASS: (Verdict, Option<GuardrailVerdict>) = (Verdict::Pass, Some(GuardrailVerdict::PassEquiv));
const FAIL: (Verdict, Option<GuardrailVerdict>) = (Verdict::Fail, Some(GuardrailVerdict::FailEquiv));
const OPEN: (Verdict, Option<GuardrailVerdict>) = (Verdict::Inconclusive, Some(GuardrailVerdict::Inconclusive));

/// Adds `by` to the first `values` logits of the span (in order of index, behind each token's largest).
fn off(values: usize, by: f64) -> Vec<DumpRow> {
    let mut rows = clean();
    let all = rows.iter_mut().flat_map(|row| row.logits.iter_mut().skip(TOKENS as usize));
    all.take(values).for_each(|logit| *logit += by);
    rows
}

fn value(result: &PresetResult, measure: Measure) -> f64 {
    result.checks.iter().find(|check| check.measure == measure).unwrap().value.unwrap()
}

#[test]
fn within_the_limits_it_passes() {
    assert_eq!(verdicts(&judge(ALIGNED, clean())), PASS);
    assert_eq!(verdicts(&judge(None, clean())), PASS, "without a mode the limits hold");
}

#[test]
fn the_largest_difference_turns_at_its_limit() {
    // 1 of 2000 values: the 99th percentile, the value of rank 1980, is 0.
    let under = judge(ALIGNED, off(1, 4.99e-3));
    assert_eq!((verdicts(&under), value(&under, Measure::SpanP99Abs)), (PASS, 0.0));
    assert_eq!(verdicts(&judge(ALIGNED, off(1, 5.01e-3))), FAIL);
}

#[test]
fn the_percentile_turns_at_its_limit_and_at_its_rank() {
    // Rank 1980 of 2000: 20 values may lie above it, 21 may not.
    assert_eq!(verdicts(&judge(ALIGNED, off(20, 2e-3))), PASS);
    assert_eq!(verdicts(&judge(ALIGNED, off(21, 2e-3))), FAIL);
    assert_eq!(verdicts(&judge(ALIGNED, off(21, 0.99e-3))), PASS);
    let over = judge(ALIGNED, off(21, 1.01e-3));
    assert_eq!(verdicts(&over), FAIL);
    assert!((value(&over, Measure::SpanP99Abs) - 1.01e-3).abs() < 1e-12);
}

#[test]
fn another_largest_logit_fails_however_small_the_difference() {
    let close = |tip: f64| -> Vec<DumpRow> {
        let mut rows = clean();
        rows[4].logits[50] = rows[4].logits[4] + tip;
        rows
    };
    let promises = || [promise(ALIGNED), promise(ALIGNED)];
    let result = judge_as(promises(), close(-1e-4), close(1e-4));
    assert_eq!(verdicts(&result), FAIL);
    assert_eq!(value(&result, Measure::SpanTop1), 0.95);
    assert_eq!(result.checks.iter().filter(|check| check.failed > 0).count(), 1, "only that");
    assert_eq!(verdicts(&judge_as(promises(), close(-2e-4), close(-1e-4))), PASS);
}

#[test]
fn of_a_thousand_tokens_one_may_choose_otherwise_and_two_may_not() {
    let rows = |parting: u64| -> Vec<DumpRow> {
        let logits = |index: u64| {
            if index < parting { vec![0.0, 1e-4, 1.0 + index as f64] } else { vec![0.0, 0.5, index as f64] }
        };
        let row = |index: u64| DumpRow { index, token: Some(1), logits: logits(index) };
        (0..1000).map(row).collect()
    };
    let tipped = |parting: u64| -> Vec<DumpRow> {
        let mut all = rows(0);
        for row in all.iter_mut().take(parting as usize + 1) {
            // The first token's largest is index 1 in both unless it is tipped.
            row.logits[0] = row.logits[2].max(0.5) + 1e-4;
        }
        all
    };
    let plain = |parting: u64| -> Vec<DumpRow> {
        let mut all = rows(0);
        for row in all.iter_mut().take(parting as usize + 1) {
            row.logits[0] = row.logits[2].max(0.5) - 1e-4;
        }
        all
    };
    let promises = || {
        let promise = SpanPromise { count: Some(1000), ..promise(ALIGNED) };
        [promise.clone(), promise]
    };
    assert_eq!(verdicts(&judge_as(promises(), plain(0), tipped(0))), PASS);
    assert_eq!(verdicts(&judge_as(promises(), plain(1), tipped(1))), FAIL);
}

#[test]
fn nan_fails_in_either_mode() {
    for mode in [ALIGNED, Some(Mode::AsDesigned), None] {
        let mut decode = clean();
        decode[11].logits[42] = f64::NAN;
        assert_eq!(verdicts(&judge(mode, decode.clone())), FAIL, "{mode:?}");
        let both = judge_as([promise(mode), promise(mode)], decode.clone(), decode);
        assert_eq!(verdicts(&both), FAIL, "NaN on both sides, {mode:?}");
    }
}

#[test]
fn with_decodes_own_cache_drift_is_expected_and_decides_nothing() {
    let result = judge(Some(Mode::AsDesigned), off(500, 1.0));
    assert_eq!(verdicts(&result), (Verdict::Inconclusive, Some(GuardrailVerdict::ExpectedDrift)));
    assert!(!result.counts);
}

#[test]
fn a_span_shorter_or_longer_than_promised_does_not_pass() {
    let short = |rows: Vec<DumpRow>| rows.into_iter().take(19).collect::<Vec<_>>();
    let promises = || [promise(ALIGNED), promise(ALIGNED)];
    for (prefill, decode) in [(clean(), short(clean())), (short(clean()), clean()), (short(clean()), short(clean()))] {
        let result = judge_as(promises(), prefill, decode);
        assert_eq!(verdicts(&result), OPEN);
        assert!(result.reasons.iter().any(|reason| reason.contains("SPAN_MISMATCH")), "{:?}", result.reasons);
    }
    let fewer = SpanPromise { count: Some(19), ..promise(ALIGNED) };
    assert_eq!(verdicts(&judge_as([fewer.clone(), fewer], clean(), clean())), OPEN);
    let other = SpanPromise { start: Some(1), ..promise(ALIGNED) };
    assert_eq!(verdicts(&judge_as([promise(ALIGNED), other], clean(), clean())), OPEN);
}

#[test]
fn from_the_first_token_that_differs_on_nothing_is_compared() {
    // What follows another token is off by much, and rightly so: it is no failure, and no pass.
    let mut decode = clean();
    for row in decode.iter_mut().skip(9) {
        row.token = row.token.map(|token| token + 1);
        row.logits.iter_mut().for_each(|logit| *logit += 3.0);
    }
    let result = judge(ALIGNED, decode.clone());
    assert_eq!(verdicts(&result), OPEN);
    assert_eq!(result.checks[0].compared, 9);
    // What is off before it is a failure still.
    decode[2].logits[60] += 0.1;
    assert_eq!(verdicts(&judge(ALIGNED, decode)), FAIL);
}

#[test]
fn what_says_nothing_does_not_pass() {
    let nameless = |mut rows: Vec<DumpRow>| {
        rows.iter_mut().for_each(|row| row.token = None);
        rows
    };
    let frozen = |mut rows: Vec<DumpRow>| {
        let first = rows[0].logits.clone();
        rows.iter_mut().for_each(|row| row.logits.clone_from(&first));
        rows
    };
    let zero = |mut rows: Vec<DumpRow>| {
        rows.iter_mut().for_each(|row| row.logits = vec![0.0; VOCAB]);
        rows
    };
    let shorter = |mut rows: Vec<DumpRow>| {
        rows[5].logits.pop();
        rows
    };
    let twice = |mut rows: Vec<DumpRow>| {
        rows[5].index = 4;
        rows
    };
    let both = |change: &dyn Fn(Vec<DumpRow>) -> Vec<DumpRow>| {
        judge_as([promise(ALIGNED), promise(ALIGNED)], change(clean()), change(clean()))
    };
    let one = |change: &dyn Fn(Vec<DumpRow>) -> Vec<DumpRow>| judge(ALIGNED, change(clean()));
    let silent = SpanPromise { mode: ALIGNED, ..SpanPromise::default() };
    let unlike = SpanPromise { settings: vec![("dtype".into(), "f16".into())], ..promise(ALIGNED) };
    let results = [
        ("no token ids", both(&nameless)),
        ("frozen", both(&frozen)),
        ("zeros", both(&zero)),
        ("another number of logits", one(&shorter)),
        ("an index twice", both(&twice)),
        ("no rows", judge_as([promise(ALIGNED), promise(ALIGNED)], vec![], vec![])),
        ("no metadata", judge_as([silent.clone(), silent], clean(), clean())),
        ("other settings", judge_as([promise(ALIGNED), unlike], clean(), clean())),
        ("other modes", judge_as([promise(ALIGNED), promise(None)], clean(), clean())),
    ];
    for (what, result) in results {
        assert_eq!(verdicts(&result), OPEN, "{what}: {:?}", result.reasons);
        assert!(!result.reasons.is_empty(), "{what}");
    }
}

#[test]
fn over_all_pairs_it_says_what_greta_says() {
    use GuardrailVerdict::*;
    let table = [
        (vec![PassEquiv, PassEquiv], Some(true), Overall::Pass, "PASS_GUARDRAIL"),
        (vec![PassEquiv, ExpectedDrift], Some(true), Overall::Pass, "PASS_GUARDRAIL"),
        (vec![PassEquiv, ExpectedDrift], None, Overall::PassLocal, "PASS_GUARDRAIL_LOCAL"),
        (vec![PassEquiv, FailEquiv], Some(true), Overall::Fail, "FAIL_GUARDRAIL"),
        (vec![FailEquiv], Some(false), Overall::Fail, "FAIL_GUARDRAIL"),
        (vec![PassEquiv], Some(false), Overall::Incomplete, "INCOMPLETE"),
        (vec![ExpectedDrift], Some(true), Overall::ExpectedDriftOnly, "EXPECTED_DRIFT_ONLY"),
        (vec![PassEquiv, Inconclusive], Some(true), Overall::Inconclusive, "INCONCLUSIVE"),
        (vec![], None, Overall::Inconclusive, "INCONCLUSIVE"),
    ];
    for (verdicts, complete, overall, id) in table {
        assert_eq!(Overall::of(&verdicts, complete), overall, "{verdicts:?}");
        assert_eq!(overall.id(), id);
    }
}

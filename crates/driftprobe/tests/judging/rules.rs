//! Rules that stand behind others, each by itself: why an event has no partner, and what a verdict asks for even where no
//! reason was given.

use crate::support::{clean, event, shaped};
use driftprobe::analysis::Unpaired;
use driftprobe::cause::PowerRow;
use driftprobe::judge::examine::Examination;
use driftprobe::judge::repeat::RepeatOutcome;
use driftprobe::judge::{JudgedPair, PairVerdict};
use driftprobe::oracle::stats::{Direction, Element, RowStatistics, ScoreTest};
use driftprobe::oracle::{Outcome, PhaseJudgement, StageJudgement, SystematicJudgement};
use driftprobe::pair::{WhyLoose, pair};
use driftprobe::simulate::{EndToEnd, Study};
use driftprobe::verdict::grounds::{P_VALUE_MIN, examination_reasons, repeat_reasons, unpaired_reasons};
use driftprobe::verdict::reach;
use driftprobe::verdict::reason::{ReasonCode, Reasons};
use driftprobe::verdict::{Parting, TRACE_OFFSET};
use driftprobe::{Analysis, Options, Verdict, analyze};
use driftprobe_trace::{Event, LogitsCompared, ObserverEffect, Phase, Point, ShardInfo};

fn row(phase: Phase, position: u64, token: u32) -> Event {
    event("p", phase, Point::AttnOut, 0, position, token)
}

/// Of one event of prefill against these of decode.
fn why(prefill: &[&Event], decode: &[&Event]) -> Vec<WhyLoose> {
    pair(prefill, decode).reference_loose.into_iter().map(|loose| loose.why).collect()
}

#[test]
fn an_event_without_a_partner_says_how_many_it_could_have() {
    let bare = |phase| Event { logical_tok_idx: None, pos_id: None, ..row(phase, 3, 7) };
    let one = bare(Phase::Prefill);
    let (a, b, c) = (row(Phase::Decode, 1, 7), row(Phase::Decode, 2, 7), row(Phase::Decode, 3, 8));
    assert_eq!(why(&[&one], &[&c]), [WhyLoose::NoCounterpart]);
    assert_eq!(why(&[&one], &[]), [WhyLoose::NoCounterpart]);
    assert_eq!(why(&[&one], &[&a, &b, &c]), [WhyLoose::Ambiguous { candidates: 2 }]);
    // Two that could only be one and the same.
    let other = Event { pos_id: Some(1), ..bare(Phase::Prefill) };
    assert_eq!(why(&[&one, &other], &[&a]), [WhyLoose::Ambiguous { candidates: 1 }; 2]);
    assert!(why(&[&one], &[&a]).is_empty());
}

fn judged() -> Analysis {
    let memory = clean();
    analyze(&memory.run, &memory, Options::default())
}

#[test]
fn nothing_but_good_pairs_and_no_reason_is_a_pass() {
    let run = judged();
    assert_eq!(reach(&run.pairs, &[], None, Reasons::default()).verdict, Verdict::Pass);
    // Nothing compared, one pair that is not good, or a reason: each forbids it by itself.
    assert_eq!(reach(&[], &[], None, Reasons::default()).verdict, Verdict::Inconclusive);
    for verdict in [PairVerdict::Missing, PairVerdict::Undecided] {
        let mut pairs = run.pairs.clone();
        pairs[3].verdict = verdict;
        assert_eq!(reach(&pairs, &[], None, Reasons::default()).verdict, Verdict::Inconclusive, "{verdict:?}");
    }
    let mut reasons = Reasons::default();
    reasons.add(ReasonCode::Unpaired, "p");
    assert_eq!(reach(&run.pairs, &[], None, reasons).verdict, Verdict::Inconclusive);
    let mut pairs = run.pairs;
    pairs[3].verdict = PairVerdict::NonFinite;
    assert_eq!(reach(&pairs, &[], None, Reasons::default()).verdict, Verdict::Fail);
}

/// What the model gave, as far as it is said by itself: the codes for it.
fn codes(examination: &Examination, pairs: &[JudgedPair]) -> Vec<ReasonCode> {
    let mut reasons = Reasons::default();
    examination_reasons(examination, pairs, &mut reasons);
    ReasonCode::ALL.iter().copied().filter(|code| reasons.has(*code)).collect()
}

fn stage(outcome: Outcome) -> StageJudgement {
    StageJudgement {
        prompt_id: "p".into(),
        phase: Phase::Decode,
        point: Point::MlpOut,
        layer: 1,
        pos: 2,
        outcome,
        assumed: vec![],
        values: 8,
        inputs: vec![],
        fitted: false,
    }
}

fn drift(p_value: f64) -> Examination {
    let end = EndToEnd {
        p_value,
        p_drawn: p_value,
        p_apart: p_value,
        observed_over_expected: 1.0,
        typical_ratio: 1.0,
        rows: 1,
        draws: 1,
        places: vec![],
    };
    let mut examination = Examination::default();
    examination.study.end_to_end = Some(end);
    examination
}

#[test]
fn phases_that_are_too_far_apart_block_unless_a_fault_tells_why() {
    for (p_value, blocks) in
        [(P_VALUE_MIN, false), (0.5, false), (P_VALUE_MIN / 2.0, true), (0.0, true), (f64::NAN, true)]
    {
        let found = codes(&drift(p_value), &[]);
        assert_eq!(found, if blocks { vec![ReasonCode::TooMuchDrift] } else { vec![] }, "{p_value}");
    }
    let mismatch = Outcome::Mismatch { compared: 8, differing: 1, first: 0, largest: 1.0 };
    let mut faulty = drift(0.0);
    faulty.phases[1].stages.push(stage(mismatch.clone()));
    assert_eq!(codes(&faulty, &[]), [ReasonCode::Fault]);
    // A fault that stands in a pair is told there, and still accounts for the drift.
    let mut pairs = judged().pairs;
    pairs.truncate(1);
    pairs[0].stages = [None, Some(stage(mismatch))];
    assert_eq!(codes(&faulty, &pairs), []);
    // That of another row is not.
    faulty.phases[1].stages[0].pos = 1;
    assert_eq!(codes(&faulty, &pairs), [ReasonCode::Fault]);
}

fn tried(seen: usize) -> PowerRow {
    PowerRow {
        id: "LM_HEAD_ROW",
        parameters: vec![],
        phase: Phase::Decode,
        point: Point::Logits,
        rows: 1,
        seen,
        effect: None,
        smallest: None,
        unseen: String::new(),
    }
}

#[test]
fn a_run_that_no_bug_would_have_shown_in_has_no_power() {
    let pairs = judged().pairs;
    let at = |layered: bool| -> Vec<JudgedPair> {
        pairs.iter().filter(|pair| pair.prefill.point.layered() == layered).cloned().collect()
    };
    let with = |power: Vec<PowerRow>| {
        let mut examination = Examination::default();
        examination.power = power;
        examination
    };
    assert_eq!(codes(&with(vec![tried(0), tried(0)]), &at(false)), [ReasonCode::NoPower]);
    // One bug that would have shown, none that was tried, or a row within the layers.
    assert_eq!(codes(&with(vec![tried(0), tried(1)]), &at(false)), []);
    assert_eq!(codes(&with(vec![]), &at(false)), []);
    assert_eq!(codes(&with(vec![tried(0)]), &at(true)), []);
    assert_eq!(codes(&with(vec![tried(0)]), &pairs), []);
}

#[test]
fn an_engine_that_tracing_changes_is_said_so() {
    let found = |rows: u64, equal: u64| {
        let mut memory = clean();
        let compared = LogitsCompared { rows, equal, max_abs: Some(0.5), ..LogitsCompared::default() };
        let effect = ObserverEffect { prefill: LogitsCompared::default(), decode: compared };
        memory.run.manifest.as_mut().unwrap().observer = Some(effect);
        let verdict = analyze(&memory.run, &memory, Options::default()).verdict;
        let all = verdict.reasons.into_iter().chain(verdict.notes);
        all.filter(|reason| reason.code == ReasonCode::ObserverEffect)
            .map(|reason| (reason.count, reason.examples))
            .next()
    };
    assert_eq!(found(3, 3), None);
    let (count, examples) = found(3, 1).unwrap();
    assert_eq!((count, examples.len()), (2, 1));
    assert!(examples[0].contains("decode: 2 of 3 rows"), "{examples:?}");
}

#[test]
fn a_contract_blocks_where_it_allows_much_and_is_noted_where_it_is_not_used() {
    let found = |noise: f64, rms: f64| {
        let mut examination = Examination::default();
        let statistics = RowStatistics { compared: 8, rms, noise, ..RowStatistics::default() };
        examination.phases[1].stages.push(stage(Outcome::Clean(statistics)));
        codes(&examination, &[])
    };
    // Five hundredths of the row's size are allowed, and a hundredth of what is allowed must be filled.
    assert_eq!(found(0.05, 0.5), []);
    assert_eq!(found(0.051, 0.5), [ReasonCode::LooseContract]);
    assert_eq!(found(f64::NAN, 0.5), [ReasonCode::LooseContract]);
    assert_eq!(found(0.01, 0.01), []);
    assert_eq!(found(0.01, 0.009), [ReasonCode::LooserThanSeen]);
    // Zeros and copies leave nothing.
    assert_eq!(found(0.01, 0.0), []);
}

/// With one row of decode's changed by little; index of its pair.
fn differing() -> (Analysis, usize) {
    let mut memory = clean();
    let at = memory.of(Phase::Decode).into_iter().find(|at| memory.run.events[*at].point == Point::MlpOut).unwrap();
    memory.change(at, shaped(&[8], &[1.5; 8]));
    let run = analyze(&memory.run, &memory, Options::default());
    let at = run.pairs.iter().position(JudgedPair::parts).unwrap();
    (run, at)
}

#[test]
fn a_pair_at_fault_or_not_finite_is_the_first_failure() {
    let (run, at) = differing();
    let examination = Examination::default();
    let with = |which: usize, verdict: PairVerdict| {
        let mut pairs = run.pairs.clone();
        pairs[which].verdict = verdict;
        reach(&pairs, &[], Some(&examination), Reasons::default())
    };
    for (verdict, parting) in [(PairVerdict::Fault, Parting::Fault), (PairVerdict::NonFinite, Parting::NonFinite)] {
        let found = with(at + 1, verdict);
        let first = found.first_failure.unwrap();
        assert_eq!((found.verdict, found.root_cause), (Verdict::Fail, Some(run.pairs[at + 1].code())));
        assert_eq!((first.pair, first.parting), (Some(at + 1), parting));
        // The one before it differs, and is no place from which to look.
        assert_eq!(first.last_equal, Some(at - 1));
        if parting == Parting::NonFinite {
            let from = &run.pairs[at - 1].prefill;
            assert_eq!((from.point, from.layer), (Point::AttnOut, 0));
            assert!(first.not_compared.contains(&(0, Point::MlpUp)), "{first:?}");
            assert!(!first.not_compared.contains(&(0, Point::AttnOut)), "{first:?}");
        }
    }
    // Without a fault there is none.
    assert_eq!(with(at, PairVerdict::Structural).verdict, Verdict::Pass);
    // What lies before a difference was compared, but for points that other models have.
    let first = run.verdict.first_difference.unwrap();
    let others = [Point::QProjOut, Point::KProjOut, Point::AttnPostNormOut, Point::MlpPostNormOut];
    assert!(!first.not_compared.is_empty(), "{first:?}");
    assert!(
        first.not_compared.iter().all(|(_, point)| !others.contains(point) && *point != Point::AttnOut),
        "{first:?}"
    );
}

#[test]
fn a_fault_of_a_row_without_a_partner_is_the_first_failure_where_no_pair_is_before_it() {
    let run = judged();
    let judged_as = |outcome, systematic: &[SystematicJudgement]| {
        let own = StageJudgement { point: Point::AttnOut, layer: 0, pos: 3, ..stage(outcome) };
        let decode = PhaseJudgement { stages: vec![own], systematic: systematic.to_vec() };
        Examination::new([PhaseJudgement::default(), decode], vec![], Study::default())
    };
    let found = |at: usize, fault: Option<usize>, examination: &Examination| {
        let place = run.pairs[at].place;
        let event = row(Phase::Decode, 3, 7);
        let loose = Unpaired { event, place, why: WhyLoose::NoCounterpart, one_phase: true, nan: 0 };
        let mut pairs = run.pairs.clone();
        if let Some(fault) = fault {
            pairs[fault].verdict = PairVerdict::Fault;
        }
        reach(&pairs, &[loose], Some(examination), Reasons::default())
    };
    // By itself, or only with all rows of its point: 100 residuals to one side.
    let mut test = ScoreTest::default();
    (0..100).for_each(|_| {
        test.add([Element { residual: 1.0, derivative: 1.0, variance: 0.0, total: 1.0, shared: 0.0 }].into_iter())
    });
    let (phase, point, direction) = (Phase::Decode, Point::AttnOut, Direction::Gain);
    let together = SystematicJudgement { phase, point, layer: None, direction, test };
    let clean = || Outcome::Clean(RowStatistics::default());
    let mismatch = Outcome::Mismatch { compared: 8, differing: 1, first: 0, largest: 1.0 };
    for faulty in [judged_as(mismatch, &[]), judged_as(clean(), std::slice::from_ref(&together))] {
        let alone = found(4, None, &faulty);
        let first = alone.first_failure.unwrap();
        assert_eq!((alone.verdict, first.parting, first.pair), (Verdict::Fail, Parting::Fault, None));
        assert_eq!((first.phase, first.point, first.layer, first.pos_id), (Some(phase), point, 0, Some(3)));
        // Of two the earlier, and of two at one place the pair.
        let pair_of = |fault| found(4, Some(fault), &faulty).first_failure.unwrap().pair;
        assert_eq!([3, 4, 5].map(pair_of), [Some(3), Some(4), None]);
    }
    // One that is as it should be is no fault, and hides none.
    let sound = judged_as(clean(), &[]);
    assert_eq!(found(4, None, &sound).verdict, Verdict::Pass);
    assert_eq!(found(4, Some(5), &sound).first_failure.unwrap().pair, Some(5));
}

#[test]
fn the_reason_in_words_says_what_was_judged() {
    let (run, at) = differing();
    let mut judging = Examination::default();
    judging.phases[1].stages.push(stage(Outcome::Clean(RowStatistics::default())));
    let words = |verdict: PairVerdict, examination: Option<&Examination>| {
        let mut pairs = run.pairs.clone();
        pairs[at].verdict = verdict;
        reach(&pairs, &[], examination, Reasons::default()).root_cause_why
    };
    let nothing = Examination::default();
    for (verdict, examination, expected) in [
        (PairVerdict::Structural, None, "no stage was judged by itself"),
        (PairVerdict::Structural, Some(&nothing), "no stage was judged by itself"),
        (PairVerdict::Structural, Some(&judging), "within the rounding that its arithmetic must have"),
        (PairVerdict::Undecided, None, "comparing shows where the phases part"),
        (PairVerdict::Undecided, Some(&judging), "no stage that could be judged is at fault"),
    ] {
        let found = words(verdict, examination);
        assert!(found.contains(expected), "{verdict:?}: {found}");
    }
}

#[test]
fn rows_without_a_partner_are_an_offset_only_where_nothing_pairs() {
    let run = judged();
    let event = row(Phase::Decode, 3, 7);
    let place = run.pairs[0].place;
    let loose = Unpaired { event, place, why: WhyLoose::NoCounterpart, one_phase: false, nan: 0 };
    let one = std::slice::from_ref(&loose);
    let mut pairs = run.pairs;
    pairs[0].verdict = PairVerdict::Undecided;
    assert_eq!(reach(&pairs, one, None, Reasons::default()).root_cause, None);
    assert_eq!(reach(&[], one, None, Reasons::default()).root_cause, Some(TRACE_OFFSET));
    let codes = |nan: u64, one_phase: bool| {
        let mut reasons = Reasons::default();
        unpaired_reasons(&[Unpaired { nan, one_phase, ..loose.clone() }], &mut reasons);
        (reasons.has(ReasonCode::NonFinite), reasons.has(ReasonCode::Unpaired))
    };
    assert_eq!([codes(0, false), codes(2, false)], [(false, true), (true, true)]);
    assert_eq!([codes(0, true), codes(2, true)], [(false, false), (true, false)]);
}

#[test]
fn a_repeat_that_lacks_rows_is_said_so() {
    let told = |promised: u32, repeat: u32, differing: u64, not_comparable: u64, without_partner: [u64; 2]| {
        let outcome = RepeatOutcome {
            repeat,
            phase: Phase::Prefill,
            paired: 9,
            equal: 9,
            equal_as_sampled: 0,
            differing,
            not_comparable,
            without_partner,
            first_differing: None,
            noise: None,
        };
        let mut reasons = Reasons::default();
        repeat_reasons(promised, &[outcome], &mut reasons);
        let has = [ReasonCode::NotRepeatable, ReasonCode::RepeatIncomplete].map(|code| reasons.has(code));
        let missing = reasons.into_parts().0.into_iter().find(|reason| reason.code == ReasonCode::RepeatMissing);
        (has, missing.map(|reason| reason.count))
    };
    let codes = |differing, not_comparable, without_partner| {
        let ([not_repeatable, incomplete], missing) = told(0, 1, differing, not_comparable, without_partner);
        assert_eq!(missing, None, "none was promised");
        (not_repeatable, incomplete)
    };
    assert_eq!(codes(0, 0, [0, 0]), (false, false));
    assert_eq!(codes(1, 0, [0, 0]), (true, false));
    for lost in [(1, [0, 0]), (0, [2, 0]), (0, [0, 1]), (1, [2, 1])] {
        assert_eq!(codes(0, lost.0, lost.1), (false, true), "{lost:?}");
    }
    // Of repeats that were promised none may lack, and no row of one; what else they have is theirs.
    let missing =
        |promised: u32, repeat: u32, without_partner: [u64; 2]| told(promised, repeat, 0, 0, without_partner).1;
    assert_eq!([missing(1, 1, [0, 0]), missing(1, 1, [0, 2]), missing(1, 1, [5, 0])], [None, None, Some(5)]);
    assert_eq!([missing(3, 1, [0, 0]), missing(1, 2, [5, 0])], [Some(2), Some(1)]);
    assert_eq!(missing(u32::MAX, 1, [0, 0]), Some(u64::from(u32::MAX) - 1));
}

#[test]
fn a_part_of_a_run_is_not_the_run() {
    let told = |index: u32, of: u32, prompts: &[&str]| {
        let mut memory = clean();
        let prompts = prompts.iter().map(|id| (*id).to_owned()).collect();
        memory.run.manifest.as_mut().unwrap().shard = Some(ShardInfo { index, of, prompts, tokens: None });
        let reasons = analyze(&memory.run, &memory, Options::default()).verdict.reasons;
        reasons
            .into_iter()
            .find(|reason| reason.code == ReasonCode::MissingShard)
            .map(|reason| reason.examples[0].clone())
    };
    assert_eq!(told(1, 1, &["p0", "p1"]), None);
    assert!(told(1, 2, &["p0", "p1"]).unwrap().starts_with("shard 1 of 2: 0 prompts"));
    assert!(told(1, 1, &["p0", "p1", "p2", "p3"]).unwrap().starts_with("shard 1 of 1: 2 prompts"));
}

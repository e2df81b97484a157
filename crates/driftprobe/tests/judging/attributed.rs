//! What becomes of a pair by where its two rows stand, each rule by itself: no model is needed to say what a model found.

use crate::support::clean;
use driftprobe::evidence::view::CacheRows;
use driftprobe::evidence::{Bits, Means};
use driftprobe::judge::attribute::attribute_by;
use driftprobe::judge::examine::Standing;
use driftprobe::judge::{Finding, JudgedPair, PairVerdict};
use driftprobe::oracle::stats::RowStatistics;
use driftprobe::oracle::{Input, Outcome, StageJudgement};
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{Options, analyze};
use driftprobe_trace::{Event, Phase, Point};

use PairVerdict::{Contract, Fault, Identical, Inherited, NonFinite, Structural, Undecided};
use Standing::{Clean, LeftOut};

const OURS: Input = Input { point: Point::MlpOut, layer: 1 };

/// The pairs of the clean run, and which is of this place at position 2 of `p0`.
fn pairs(place: Input) -> (Vec<JudgedPair>, usize) {
    let memory = clean();
    let pairs = analyze(&memory.run, &memory, Options::default()).pairs;
    let at = pairs.iter().position(|pair| {
        let event = &pair.prefill;
        (&*event.prompt_id, event.logical_tok_idx, event.point, event.layer)
            == ("p0", Some(2), place.point, place.layer)
    });
    (pairs, at.unwrap())
}

fn part(pair: &mut JudgedPair) {
    (pair.bits, pair.verdict) = (Bits::Differ { by: Means::Payload }, Undecided);
    pair.findings.push(Finding { code: ReasonCode::Differs, detail: "payload differs".into() });
}

fn stage(event: &Event, outcome: Outcome, inputs: &[Input]) -> StageJudgement {
    StageJudgement {
        prompt_id: event.prompt_id.clone(),
        phase: event.phase,
        point: event.point,
        layer: event.layer,
        pos: event.logical_tok_idx.unwrap(),
        outcome,
        assumed: vec![],
        values: 48,
        inputs: inputs.to_vec(),
        fitted: false,
    }
}

fn noisy() -> Outcome {
    Outcome::Clean(RowStatistics::default())
}

/// Attributes, where the rows of one place stand so and nothing is known of the others.
fn attributed(pairs: &mut [JudgedPair], at: usize, stood: [(Option<StageJudgement>, Standing); 2]) -> JudgedPair {
    let own = pairs[at].prefill.clone();
    let stands = |side: usize, event: &Event| {
        let place = |event: &Event| (event.prompt_id.clone(), event.logical_tok_idx, event.point, event.layer);
        if place(event) == place(&own) {
            stood[side].clone()
        } else {
            (None, Standing::Unknown("not looked at".into()))
        }
    };
    attribute_by(pairs, &stands, ["one", "other"]);
    pairs[at].clone()
}

/// What becomes of a row that differs, or of one that does not, by where its two sides stand.
fn of(differs: bool, stood: [Standing; 2]) -> JudgedPair {
    let (mut pairs, at) = pairs(OURS);
    if differs {
        part(&mut pairs[at]);
    }
    attributed(&mut pairs, at, stood.map(|standing| (None, standing)))
}

fn codes(pair: &JudgedPair) -> Vec<ReasonCode> {
    pair.findings.iter().map(|finding| finding.code).collect()
}

fn details(pair: &JudgedPair) -> Vec<&str> {
    pair.findings.iter().map(|finding| finding.detail.as_str()).collect()
}

fn fault() -> Standing {
    Standing::Fault("far off".into())
}

fn gap() -> Standing {
    Standing::Gap("a jump".into())
}

fn unknown() -> Standing {
    Standing::Unknown("no input".into())
}

fn left_open() -> Standing {
    Standing::LeftOpen("no value".into())
}

#[test]
fn a_side_at_fault_makes_the_pair_a_fault_of_its_phase_whatever_the_other_is() {
    for differs in [true, false] {
        for other in [Clean, LeftOut, unknown(), left_open()] {
            let found = of(differs, [fault(), other.clone()]);
            assert_eq!((found.verdict, found.phase), (Fault, Some(Phase::Prefill)), "{other:?}");
            assert_eq!((codes(&found), details(&found)), (vec![ReasonCode::Fault], vec!["one: far off"]));
            let found = of(differs, [other, gap()]);
            assert_eq!((found.verdict, found.phase), (Fault, Some(Phase::Decode)));
            assert_eq!((codes(&found), details(&found)), (vec![ReasonCode::GapFault], vec!["other: a jump"]));
        }
        let found = of(differs, [gap(), fault()]);
        assert_eq!((found.verdict, found.phase), (Fault, None));
        assert_eq!(codes(&found), [ReasonCode::GapFault, ReasonCode::Fault]);
    }
}

#[test]
fn evidence_that_is_not_sound_is_refined_by_nothing() {
    for code in [ReasonCode::NotIndependent, ReasonCode::PayloadDamaged, ReasonCode::Contradiction] {
        for stood in [[fault(), Clean], [Clean, Clean], [LeftOut, Clean], [left_open(), Clean]] {
            let (mut pairs, at) = pairs(OURS);
            part(&mut pairs[at]);
            pairs[at].findings.insert(0, Finding { code, detail: String::new() });
            let stages = [Some(stage(&pairs[at].prefill, noisy(), &[])), None];
            let [one, other] = stood;
            let found = attributed(&mut pairs, at, [(stages[0].clone(), one), (None, other)]);
            assert_eq!((found.verdict, codes(&found)), (Undecided, vec![code, ReasonCode::Differs]));
            assert_eq!(found.stages, stages);
        }
    }
    // What else was noticed takes nothing away.
    let (mut pairs, at) = pairs(OURS);
    part(&mut pairs[at]);
    pairs[at].findings.insert(0, Finding { code: ReasonCode::SomeVacuous, detail: String::new() });
    let found = attributed(&mut pairs, at, [(None, Clean), (None, Clean)]);
    assert_eq!((found.verdict, codes(&found)), (Inherited, vec![ReasonCode::SomeVacuous]));
}

#[test]
fn nan_stays_nan_whatever_the_model_says() {
    for stood in [[fault(), Clean], [Clean, Clean], [LeftOut, LeftOut], [left_open(), Clean]] {
        let (mut pairs, at) = pairs(OURS);
        part(&mut pairs[at]);
        (pairs[at].verdict, pairs[at].findings) = (NonFinite, vec![]);
        let found = attributed(&mut pairs, at, stood.map(|standing| (None, standing)));
        assert_eq!((found.verdict, codes(&found)), (NonFinite, vec![]));
    }
}

#[test]
fn a_row_that_differs_is_good_only_if_both_sides_are_clean() {
    for [one, other] in [[Clean, unknown()], [unknown(), Clean], [unknown(), unknown()]] {
        let unknowns = [&one, &other].into_iter().filter(|standing| **standing == unknown()).count();
        let found = of(true, [one, other]);
        assert_eq!(found.verdict, Undecided);
        assert_eq!(codes(&found)[0], ReasonCode::Differs);
        assert_eq!(codes(&found)[1..], vec![ReasonCode::NotJudged; unknowns]);
    }
    assert_eq!(details(&of(true, [unknown(), Clean]))[1], "one: no input");
    assert_eq!(details(&of(true, [Clean, unknown()]))[1], "other: no input");
    assert_eq!((of(true, [Clean, Clean]).verdict, codes(&of(true, [Clean, Clean]))), (Inherited, vec![]));
    // Rows that are equal are good without.
    for stood in [[Clean, Clean], [unknown(), unknown()], [LeftOut, LeftOut]] {
        let found = of(false, stood);
        assert_eq!((found.verdict, codes(&found)), (Identical, vec![]));
    }
}

#[test]
fn what_was_left_out_is_told_and_stays_undecided() {
    for stood in [[LeftOut, LeftOut], [LeftOut, Clean], [Clean, LeftOut]] {
        let found = of(true, stood);
        assert_eq!((found.verdict, codes(&found)), (Undecided, vec![ReasonCode::LeftOut]));
        assert!(found.is_left_out());
    }
    for stood in [[LeftOut, unknown()], [left_open(), LeftOut], [left_open(), Clean]] {
        let found = of(true, stood);
        assert_eq!((found.verdict, codes(&found)), (Undecided, vec![ReasonCode::Differs, ReasonCode::NotJudged]));
        assert!(!found.is_left_out());
    }
    // Equal rows of which nothing shows that they are sound may be wrong alike.
    for stood in [[left_open(), Clean], [Clean, left_open()], [left_open(), LeftOut]] {
        let found = of(false, stood);
        assert_eq!((found.verdict, codes(&found)), (Undecided, vec![ReasonCode::NotJudged]));
    }
}

#[test]
fn rounding_parts_where_the_inputs_are_equal_and_is_inherited_where_they_are_not() {
    let input = |point, layer| Input { point, layer };
    let (attn, early, other) = (input(Point::AttnOut, 1), input(Point::AttnOut, 0), input(Point::QPreRope, 1));
    let verdict = |place: Input, inputs: [&[Input]; 2], parted: &[(Input, u64)]| {
        let (mut pairs, at) = pairs(place);
        for pair in &mut pairs {
            let event = &pair.prefill;
            let here = (input(event.point, event.layer), event.logical_tok_idx.unwrap());
            if here == (place, 2) && &*event.prompt_id == "p0" || parted.contains(&here) {
                part(pair);
            }
        }
        let [ours, theirs] = inputs.map(|inputs| (Some(stage(&pairs[at].prefill, noisy(), inputs)), Clean));
        attributed(&mut pairs, at, [ours, theirs]).verdict
    };
    assert_eq!(verdict(OURS, [&[attn], &[attn]], &[]), Structural);
    assert_eq!(verdict(OURS, [&[attn, early], &[attn, early]], &[]), Structural);
    assert_eq!(verdict(OURS, [&[attn], &[attn]], &[(attn, 2)]), Inherited);
    assert_eq!(verdict(OURS, [&[attn, early], &[attn, early]], &[(early, 2)]), Inherited);
    assert_eq!(verdict(OURS, [&[attn], &[attn, early]], &[(early, 2)]), Inherited);
    // Of another position, or of what is no input.
    assert_eq!(verdict(OURS, [&[attn], &[attn]], &[(attn, 1), (early, 2)]), Structural);
    // What was not recorded of the inputs is not known, and of none of them nothing is claimed.
    assert_eq!(verdict(OURS, [&[attn, other], &[attn, other]], &[]), Structural);
    assert_eq!(verdict(OURS, [&[other], &[other]], &[]), Inherited);
    // An embedding has no input but its token.
    assert_eq!(verdict(input(Point::EmbedOut, -1), [&[], &[]], &[]), Structural);
}

#[test]
fn an_arithmetic_that_the_contract_leaves_out_is_said_of_either_side() {
    for [ours, theirs] in [[true, false], [false, true], [true, true]] {
        for inputs in [vec![], vec![Input { point: Point::AttnOut, layer: 1 }]] {
            let (mut pairs, at) = pairs(OURS);
            part(&mut pairs[at]);
            let fitted = |fitted| StageJudgement { fitted, ..stage(&pairs[at].prefill, noisy(), &inputs) };
            let stood = [(Some(fitted(ours)), Clean), (Some(fitted(theirs)), Clean)];
            let found = attributed(&mut pairs, at, stood);
            assert_eq!((found.verdict, codes(&found)), (Contract, vec![]));
        }
    }
}

/// A cache of six positions of eight values, of which the last ones are judged and it differs from `first` on.
fn cache(first: Option<u64>, judged: [Option<usize>; 2], stood: [Standing; 2]) -> JudgedPair {
    let (mut pairs, at) = pairs(OURS);
    part(&mut pairs[at]);
    pairs[at].cache = Some(CacheRows { positions: 6, equal: 0, first_differing: first, last_differing: Some(5) });
    let event = pairs[at].prefill.clone();
    let [one, other] = judged.map(|rows| rows.map(|rows| stage(&event, Outcome::Exact { compared: 8 * rows }, &[])));
    let [ours, theirs] = stood;
    attributed(&mut pairs, at, [(one, ours), (other, theirs)])
}

#[test]
fn a_cache_of_which_the_last_rows_are_known_is_clean_where_only_those_differ() {
    let last = || Standing::LastRows("earlier rows".into());
    for stood in [[last(), last()], [Clean, last()], [last(), Clean]] {
        let verdict = |first, judged| cache(first, judged, stood.clone()).verdict;
        assert_eq!(verdict(Some(5), [Some(1), Some(1)]), Inherited);
        assert_eq!(verdict(Some(4), [Some(1), Some(1)]), Undecided);
        assert_eq!(verdict(Some(4), [Some(2), Some(2)]), Inherited);
        assert_eq!(verdict(Some(4), [Some(2), Some(1)]), Undecided);
        assert_eq!(verdict(Some(4), [Some(1), Some(2)]), Undecided);
        assert_eq!(verdict(Some(5), [None, Some(1)]), Undecided);
        assert_eq!(verdict(Some(5), [Some(1), None]), Undecided);
        assert_eq!(verdict(Some(0), [Some(6), Some(6)]), Inherited);
        assert_eq!(verdict(None, [Some(1), Some(1)]), Undecided);
    }
    let open = cache(Some(4), [Some(1), Some(1)], [last(), last()]);
    assert_eq!(codes(&open), [ReasonCode::Differs, ReasonCode::NotJudged, ReasonCode::NotJudged]);
    assert_eq!(details(&open)[1..], ["one: earlier rows", "other: earlier rows"]);
    // A stage that is not exact says of no row that it is the one.
    let (mut pairs, at) = pairs(OURS);
    part(&mut pairs[at]);
    pairs[at].cache = Some(CacheRows { positions: 6, equal: 5, first_differing: Some(5), last_differing: Some(5) });
    let event = pairs[at].prefill.clone();
    let stood = [(Some(stage(&event, noisy(), &[])), last()), (Some(stage(&event, noisy(), &[])), last())];
    assert_eq!(attributed(&mut pairs, at, stood).verdict, Undecided);
    // No cache at all.
    assert_eq!(of(true, [last(), last()]).verdict, Undecided);
}

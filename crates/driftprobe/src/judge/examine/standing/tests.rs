//! Where rows stand, by judgements that no model had to make.

use super::*;
use crate::oracle::SystematicJudgement;
use crate::oracle::stats::{Direction, Element, RowStatistics, ScoreTest};
use driftprobe_trace::{LeftOutBy, PayloadRef, Recording, RowGroup, Sample};
use std::sync::Arc;

use Phase::{Decode, Prefill};
use Point::{AttnOut, EmbedOut, KCache, KPostRope, Logits, MlpOut, ResidualPostMlp, ResidualPreAttn, VCache, VProj};

fn at(point: Point, layer: i32) -> Input {
    Input { point, layer: if point.layered() { layer } else { -1 } }
}

fn event(phase: Phase, place: Input, pos: u64) -> Event {
    crate::testing::event("p", phase, place.point, place.layer, pos, 7)
}

fn stage(phase: Phase, place: Input, outcome: Outcome) -> StageJudgement {
    StageJudgement {
        prompt_id: "p".into(),
        phase,
        point: place.point,
        layer: place.layer,
        pos: 5,
        outcome,
        assumed: vec![],
        values: 48,
        inputs: vec![],
        fitted: false,
    }
}

fn token(phase: Phase, place: Input, slot: Option<usize>, flagged: bool) -> TokenJudgement {
    TokenJudgement {
        prompt_id: "p".into(),
        phase,
        point: place.point,
        layer: place.layer,
        pos: 5,
        slot,
        shown: Shown::Row,
        distance_ratio: 1.0,
        score: 0.0,
        flagged,
    }
}

fn gap(phase: Phase, (from, to): (Input, Input), flagged: bool) -> Gap {
    let (prompt_id, whole, inherited) = (Arc::from("p"), true, false);
    Gap { prompt_id, phase, pos: 5, from, to, whole, ratio: 1.0, score: 0.0, inherited, flagged }
}

fn clean() -> Outcome {
    Outcome::Clean(RowStatistics::default())
}

fn fault() -> Outcome {
    Outcome::Mismatch { compared: 8, differing: 8, first: 0, largest: 1.0 }
}

fn copied(compared: usize) -> Outcome {
    Outcome::Exact { compared }
}

fn unjudged() -> Outcome {
    Outcome::Unjudged(Unjudged::NoPayload)
}

/// What is known of a run: stages of both phases, tokens and gaps.
#[derive(Clone, Default)]
struct Known {
    stages: Vec<StageJudgement>,
    systematic: Vec<SystematicJudgement>,
    tokens: Vec<TokenJudgement>,
    gaps: Vec<Gap>,
    recording: Option<Recording>,
}

impl Known {
    fn stages(stages: &[StageJudgement]) -> Known {
        Known { stages: stages.to_vec(), ..Known::default() }
    }

    fn tokens(tokens: &[TokenJudgement]) -> Known {
        Known { tokens: tokens.to_vec(), ..Known::default() }
    }

    fn examination(&self) -> Examination {
        let of = |phase| PhaseJudgement {
            stages: self.stages.iter().filter(|stage| stage.phase == phase).cloned().collect(),
            systematic: self.systematic.iter().filter(|test| test.phase == phase).cloned().collect(),
        };
        let study = Study { tokens: self.tokens.clone(), gaps: self.gaps.clone(), ..Study::default() };
        let mut all = Examination::new([of(Prefill), of(Decode)], vec![], study);
        all.recording = self.recording.clone();
        all
    }

    fn standing(&self, phase: Phase, place: Input) -> Standing {
        self.examination().standing(&event(phase, place, 5))
    }
}

fn is_fault(standing: &Standing) -> bool {
    matches!(standing, Standing::Fault(_))
}

fn is_unknown(standing: &Standing) -> bool {
    matches!(standing, Standing::Unknown(_))
}

#[test]
fn a_row_is_what_its_own_stage_says_and_no_other_one() {
    let place = at(AttnOut, 3);
    for (outcome, expected) in [(clean(), Standing::Clean), (Outcome::Exact { compared: 8 }, Standing::Clean)] {
        assert_eq!(Known::stages(&[stage(Decode, place, outcome)]).standing(Decode, place), expected);
    }
    let known = Known::stages(&[stage(Decode, place, fault()), stage(Decode, at(AttnOut, 4), clean())]);
    assert!(is_fault(&known.standing(Decode, place)));
    assert_eq!(known.standing(Decode, at(AttnOut, 4)), Standing::Clean);
    for (phase, place) in [(Prefill, place), (Decode, at(AttnOut, 2)), (Decode, at(MlpOut, 3))] {
        assert!(is_unknown(&known.standing(phase, place)));
    }
    let all = known.examination();
    assert!(is_unknown(&all.standing(&event(Decode, place, 4))));
    // By the position where the event names no index, and unknown where it names neither.
    let bare = |pos_id| Event { logical_tok_idx: None, pos_id, ..event(Decode, place, 0) };
    assert!(is_fault(&all.standing(&bare(Some(5)))) && is_unknown(&all.standing(&bare(None))));
    assert_eq!((all.faults().count(), all.judges_no_stage()), (1, false));
    let exact = |outcome: Outcome| Known::stages(&[stage(Decode, place, outcome)]).examination().judges_no_stage();
    assert!(exact(Outcome::Exact { compared: 8 }) && exact(fault()) && exact(unjudged()) && !exact(clean()));
}

/// A test over many rows that finds something: its score is the root of the number of its cells.
fn systematic(point: Point, layer: Option<i32>, cells: usize) -> SystematicJudgement {
    let mut test = ScoreTest::default();
    let element = Element { residual: 1.0, derivative: 1.0, variance: 0.0, total: 1.0, shared: 0.0 };
    (0..cells).for_each(|_| test.add(std::iter::once(element)));
    SystematicJudgement { phase: Decode, point, layer, direction: Direction::Gain, test }
}

#[test]
fn a_fault_that_only_all_rows_show_is_that_of_its_rows() {
    let layers = [at(AttnOut, 1), at(AttnOut, 2)];
    let rows: Vec<StageJudgement> = layers.map(|place| stage(Decode, place, clean())).into();
    let stands = |tests: &[SystematicJudgement], rows: &[StageJudgement]| {
        let known = Known { systematic: tests.to_vec(), ..Known::stages(rows) };
        layers.map(|place| is_fault(&known.standing(Decode, place)))
    };
    let (all, first) = (systematic(AttnOut, None, 100), systematic(AttnOut, Some(1), 100));
    assert_eq!(stands(&[systematic(AttnOut, None, 60)], &rows), [false, false]);
    assert_eq!(stands(std::slice::from_ref(&all), &rows), [true, true]);
    assert_eq!(stands(std::slice::from_ref(&first), &rows), [true, false]);
    // One layer by itself accounts for what all together show; another point's does not.
    assert_eq!(stands(&[first.clone(), all.clone()], &rows), [true, false]);
    assert_eq!(stands(&[systematic(MlpOut, Some(1), 100), all.clone()], &rows), [true, true]);
    // So does a row that is at fault by itself.
    let with_fault = [rows[0].clone(), stage(Decode, at(AttnOut, 9), fault()), rows[1].clone()];
    assert_eq!(stands(&[first, all.clone()], &with_fault), [false, false]);
    let other = [rows[0].clone(), stage(Decode, at(MlpOut, 9), fault()), rows[1].clone()];
    assert_eq!(stands(&[all], &other), [true, true]);
}

#[test]
fn behind_a_stretch_that_was_not_recorded_a_whole_row_is_clean_or_the_jump_is_told() {
    let (from, to) = (at(ResidualPostMlp, 1), at(ResidualPreAttn, 4));
    let stands = |stage: Option<Outcome>, gap: Gap| {
        let stages: Vec<_> = stage.into_iter().map(|outcome| self::stage(Decode, to, outcome)).collect();
        Known { gaps: vec![gap], ..Known::stages(&stages) }.standing(Decode, to)
    };
    let (sound, jump) = (gap(Decode, (from, to), false), gap(Decode, (from, to), true));
    for stage in [None, Some(unjudged())] {
        assert_eq!(stands(stage.clone(), sound.clone()), Standing::Clean);
        assert!(matches!(stands(stage.clone(), jump.clone()), Standing::Gap(_)));
        assert!(is_unknown(&stands(stage.clone(), Gap { whole: false, ..sound.clone() })));
        assert!(matches!(stands(stage, Gap { whole: false, ..jump.clone() }), Standing::Gap(_)));
    }
    // The row's own inputs say more.
    assert_eq!(stands(Some(clean()), jump.clone()), Standing::Clean);
    assert!(is_fault(&stands(Some(fault()), jump)));
}

#[test]
fn tokens_alone_clear_a_whole_row_and_accuse_the_first_only() {
    let place = at(AttnOut, 3);
    let sample = |flagged| TokenJudgement { shown: Shown::Sample(8), ..token(Decode, place, None, flagged) };
    let stands = |tokens: &[TokenJudgement]| Known::tokens(tokens).standing(Decode, place);
    assert_eq!(stands(&[token(Decode, place, None, false)]), Standing::Clean);
    assert!(is_fault(&stands(&[token(Decode, place, None, true)])) && is_fault(&stands(&[sample(true)])));
    assert!(is_unknown(&stands(&[sample(false)])) && is_unknown(&stands(&[])));
    // Behind another fault of its phase it may have inherited what is wrong.
    for (point, layer, first) in [(AttnOut, 2, false), (KPostRope, 3, false), (MlpOut, 3, true), (EmbedOut, -1, false)]
    {
        for phase in Phase::ALL {
            let tokens = vec![token(Decode, place, None, true)];
            let known = Known { tokens, ..Known::stages(&[stage(phase, at(point, layer), fault())]) };
            assert_eq!(is_fault(&known.standing(Decode, place)), first || phase == Prefill, "{point} {layer} {phase}");
        }
    }
    // Of all that accuses by the tokens alone the first does; what is clean given its inputs has inherited it.
    let both = [token(Decode, at(AttnOut, 2), None, true), token(Decode, place, None, true)];
    assert!(is_unknown(&stands(&both)));
    let cleared = Known { tokens: both.to_vec(), ..Known::stages(&[stage(Decode, at(AttnOut, 2), clean())]) };
    assert!(is_fault(&cleared.standing(Decode, place)));
    let open = Known { tokens: both.to_vec(), ..Known::stages(&[stage(Decode, at(AttnOut, 2), unjudged())]) };
    assert!(is_unknown(&open.standing(Decode, place)));
    // A jump before it, and what only all rows show, come first too.
    let tokens = vec![token(Decode, place, None, true)];
    let jumps = |flagged| vec![gap(Decode, (at(ResidualPostMlp, 0), at(ResidualPreAttn, 2)), flagged)];
    let with = |known: Known| is_fault(&Known { tokens: tokens.clone(), ..known }.standing(Decode, place));
    assert!(!with(Known { gaps: jumps(true), ..Known::default() }));
    assert!(with(Known { gaps: jumps(false), ..Known::default() }));
    for (layer, layers, earlier) in
        [(Some(1), [1, 7], true), (Some(7), [1, 7], false), (None, [1, 7], true), (None, [6, 7], false)]
    {
        let mut stages = layers.map(|layer| stage(Decode, at(VProj, layer), clean())).to_vec();
        stages.push(stage(Decode, at(MlpOut, 0), clean()));
        let known = Known { systematic: vec![systematic(VProj, layer, 100)], ..Known::stages(&stages) };
        assert_eq!(with(known), !earlier, "{layer:?} of {layers:?}");
    }
}

#[test]
fn rows_of_earlier_positions_in_a_cache_are_judged_by_the_tokens() {
    let place = at(KCache, 3);
    let stands = |stage: Option<Outcome>, slots: &[bool]| {
        let stages: Vec<_> = stage.into_iter().map(|outcome| self::stage(Decode, place, outcome)).collect();
        let slots = slots.iter().enumerate().map(|(slot, flagged)| token(Decode, place, Some(slot), *flagged));
        Known { tokens: slots.collect(), ..Known::stages(&stages) }.standing(Decode, place)
    };
    let is_last_rows = |standing: Standing| matches!(standing, Standing::LastRows(_));
    assert!(is_last_rows(stands(Some(copied(8)), &[])));
    assert_eq!(stands(Some(copied(48)), &[]), Standing::Clean);
    assert_eq!(stands(Some(copied(8)), &[false; 6]), Standing::Clean);
    for stage in [None, Some(unjudged())] {
        assert_eq!(stands(stage.clone(), &[false; 6]), Standing::Clean);
        assert!(is_unknown(&stands(stage, &[])));
    }
    for stage in [None, Some(unjudged()), Some(copied(8)), Some(fault())] {
        assert!(is_fault(&stands(stage, &[false, true, false])));
    }
    assert!(is_fault(&stands(Some(fault()), &[false; 6])));
    // What would settle it is said, where a stage says it.
    let unknown = |why: &str| Standing::Unknown(why.to_owned());
    assert_eq!(stands(Some(unjudged()), &[]), unknown("record its payload at position 5"));
    assert_eq!(stands(None, &[]), unknown("nothing of this row to judge"));
    // A judgement of the cache as a whole is not one of its rows.
    let whole = Known { tokens: vec![token(Decode, place, None, false)], ..Known::default() };
    assert!(is_unknown(&whole.standing(Decode, place)));
}

#[test]
fn a_wrong_row_of_a_cache_is_no_fault_behind_another_of_either_phase() {
    let place = at(KCache, 3);
    let behind = |phase: Phase, other: Input, own: Option<Outcome>| {
        let mut stages = vec![stage(phase, other, fault())];
        stages.extend(own.map(|outcome| stage(Decode, place, outcome)));
        let tokens = vec![token(Decode, place, Some(1), true)];
        Known { tokens, ..Known::stages(&stages) }.standing(Decode, place)
    };
    for phase in Phase::ALL {
        // What reaches the cache has been wrong before: what was written of it is right.
        assert_eq!(behind(phase, at(VProj, 2), Some(copied(8))), Standing::Clean, "{phase}");
        assert!(is_unknown(&behind(phase, at(VProj, 2), Some(unjudged()))), "{phase}");
        assert!(is_unknown(&behind(phase, at(VProj, 2), None)), "{phase}");
        assert!(is_fault(&behind(phase, at(AttnOut, 3), Some(copied(8)))), "{phase}");
        assert!(is_fault(&behind(phase, at(VCache, 3), Some(copied(8)))), "{phase}: K and V of a layer are one");
        assert_eq!(behind(phase, at(VCache, 2), Some(copied(8))), Standing::Clean, "{phase}: of another layer");
    }
    // V's cache comes behind K's of its layer, and is first all the same.
    let (k, v) = (at(KCache, 3), at(VCache, 3));
    let tokens = [token(Decode, k, Some(1), true), token(Decode, v, Some(1), true)];
    assert!(is_fault(&Known::tokens(&tokens).standing(Decode, v)));
    assert!(is_fault(&Known::tokens(&tokens).standing(Decode, k)));
    // Not what is no cache, and not what a cache of another layer or what came before it has made wrong.
    let tokens = [token(Decode, k, Some(1), true), token(Decode, at(AttnOut, 3), None, true)];
    assert!(is_unknown(&Known::tokens(&tokens).standing(Decode, at(AttnOut, 3))));
    let tokens = [token(Decode, k, Some(1), true), token(Decode, at(VCache, 4), Some(1), true)];
    assert!(is_unknown(&Known::tokens(&tokens).standing(Decode, at(VCache, 4))));
    let tokens = [token(Decode, at(KPostRope, 3), None, true), token(Decode, v, Some(1), true)];
    assert!(is_unknown(&Known::tokens(&tokens).standing(Decode, v)));
    // A copy into the cache that is exact is no reason to take a wrong slot of it for inherited.
    let of_slot =
        Known { tokens: vec![token(Decode, k, Some(1), true)], ..Known::stages(&[stage(Decode, k, copied(8))]) };
    assert!(is_fault(&of_slot.standing(Decode, k)));
}

fn planned(place: Input) -> Option<Recording> {
    let sampled = vec![RowGroup { layers: vec![place.layer], points: vec![place.point] }];
    let by = LeftOutBy::Budget;
    let (bytes, whole, extra) = (None, vec![], Default::default());
    Some(Recording { version: 1, by, bytes, planned_bytes: 0, whole, sampled, samples: 8, extra })
}

/// A row that was left out, with a sample, which the tokens and a stretch around it find sound; and its event.
fn left_out(place: Input) -> (Known, Event) {
    let sample = TokenJudgement { shown: Shown::Sample(6), ..token(Decode, place, None, false) };
    let known = Known {
        tokens: vec![sample],
        gaps: vec![gap(Decode, (at(ResidualPostMlp, 2), at(ResidualPreAttn, 4)), false)],
        recording: planned(place),
        ..Known::default()
    };
    // Of a cache [heads, positions, width] of 1 x 6 x 8 a value of each position.
    let sample = Sample { values: vec![0.5; 6], idx: Some((0..6).map(|slot| slot * 8 + slot).collect()) };
    (known, Event { sample: Some(sample), shape: Some(vec![1, 6, 8]), ..event(Decode, place, 5) })
}

#[test]
fn a_row_that_was_left_out_is_good_only_if_all_around_it_is() {
    let is_open = |(known, event): (Known, Event)| {
        let found = known.examination().standing(&event);
        assert!(matches!(found, Standing::LeftOut | Standing::LeftOpen(_)), "{found:?}");
        found != Standing::LeftOut
    };
    for point in [AttnOut, KCache, VCache] {
        let sound = || left_out(at(point, 3));
        let known = |change: &dyn Fn(&mut Known)| {
            let (mut known, event) = sound();
            change(&mut known);
            (known, event)
        };
        let event = |change: &dyn Fn(&mut Event)| {
            let (known, mut event) = sound();
            change(&mut event);
            (known, event)
        };
        assert!(!is_open(sound()), "{point}");
        assert!(is_open(known(&|known| known.tokens.clear())));
        assert!(is_open(event(&|event| event.sample = None)));
        assert!(is_open(event(&|event| event.sample.as_mut().unwrap().values.clear())));
        assert!(is_open(known(&|known| known.gaps.clear())));
        assert!(is_open(known(&|known| known.gaps[0].whole = false)));
        assert!(is_open(known(&|known| known.gaps[0].inherited = true)));
        assert!(is_open(known(&|known| known.gaps[0].flagged = true)));
        for (from, to) in [(3, 4), (1, 2), (0, 3), (4, 5)] {
            let ends = (at(ResidualPostMlp, from), at(ResidualPreAttn, to));
            assert!(is_open(known(&|known| (known.gaps[0].from, known.gaps[0].to) = ends)), "{from} to {to}");
        }
        // Not from itself on; up to a cache itself, and beside a stretch elsewhere. What is no cache is clean where one ends in it.
        let own = at(point, 3);
        let (ended, row) = known(&|known| known.gaps[0].to = own);
        let expected = if point == AttnOut { Standing::Clean } else { Standing::LeftOut };
        assert_eq!(ended.examination().standing(&row), expected);
        assert!(is_open(known(&|known| known.gaps[0].from = own)));
        let elsewhere = gap(Decode, (at(ResidualPostMlp, 5), at(Logits, -1)), true);
        assert!(!is_open(known(&|known| known.gaps.push(elsewhere.clone()))));
        for other in [Gap { phase: Prefill, ..sound().0.gaps[0].clone() }, Gap { pos: 4, ..sound().0.gaps[0].clone() }]
        {
            assert!(is_open(known(&|known| known.gaps = vec![other.clone()])));
        }
        let is_cache = point != AttnOut;
        assert_eq!(is_open(event(&|event| event.sample.as_mut().unwrap().idx.as_mut().unwrap()[2] = 8)), is_cache);
        assert_eq!(is_open(event(&|event| event.sample.as_mut().unwrap().idx = None)), is_cache);
        assert_eq!(is_open(event(&|event| event.shape = None)), is_cache);
        // What was planned to be whole, or is, was not left out.
        let (mut unplanned, own) = sound();
        unplanned.recording = planned(at(point, 4));
        assert!(is_unknown(&unplanned.examination().standing(&own)));
        let payload = Some(PayloadRef { file: "f".into(), key: "k".into() });
        let found = sound().0.examination().standing(&Event { payload, ..own });
        assert!(is_unknown(&found), "{found:?}");
    }
}

#[test]
fn what_is_recorded_of_a_row_that_was_left_out_may_show_that_it_is_wrong() {
    let flagged = |point: Point, earlier: Option<Phase>| {
        let (mut known, event) = left_out(at(point, 3));
        known.tokens[0].flagged = true;
        known.stages.extend(earlier.map(|phase| stage(phase, at(VProj, 1), fault())));
        known.examination().standing(&event)
    };
    for point in [AttnOut, KCache, VCache] {
        assert!(is_fault(&flagged(point, None)), "{point}");
        assert!(matches!(flagged(point, Some(Decode)), Standing::LeftOpen(_)), "{point}");
        // Decode's cache holds rows that a prefill wrote.
        assert_eq!(is_fault(&flagged(point, Some(Prefill))), point == AttnOut, "{point}");
    }
}

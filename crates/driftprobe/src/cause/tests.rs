//! What a fault is called, of rows made by hand.

use super::*;
use crate::oracle::stats::{Direction, Element, ScoreTest};
use crate::oracle::{Outcome, StageJudgement, Unjudged};
use crate::testing::{Memory, event, shaped};
use Freedom::{Fitted, Fixed, Loose};
use Phase::Decode;
use Point::{AttnProjOut, KCache, KPostRope, MlpOut, ResidualPostAttn, ResidualPreAttn};
use driftprobe_trace::Row;

fn chosen(tested: &[(&'static str, f64, Freedom, bool)]) -> Vec<(&'static str, f64)> {
    let one = |&(id, surprise, freedom, accepted): &(&'static str, f64, Freedom, bool)| {
        let (parameters, noise_rms_after) = (vec![], 1.0);
        Candidate { id, parameters, noise_rms_after, accepted, freedom, surprise }
    };
    let tested: Vec<Candidate> = tested.iter().map(one).collect();
    choose(&tested).into_iter().map(|candidate| (candidate.id, candidate.surprise)).collect()
}

#[test]
fn of_what_explains_equally_well_that_with_the_least_freedom_is_named() {
    assert_eq!(chosen(&[]), []);
    assert_eq!(chosen(&[("A", -1.0, Fixed, false)]), []);
    // The sharpest, however free it is, where nothing else comes as close as a tie.
    assert_eq!(chosen(&[("A", 1.0, Fixed, true), ("B", 0.0, Loose, true)]), [("B", 0.0)]);
    assert_eq!(chosen(&[("A", 0.69, Fixed, true), ("B", 0.0, Loose, true)]), [("A", 0.69)]);
    assert_eq!(chosen(&[("A", 0.5, Fitted, true), ("B", 0.0, Loose, true), ("C", 0.6, Fixed, true)]), [("C", 0.6)]);
    // What was refused takes nothing away.
    assert_eq!(chosen(&[("A", 0.0, Fixed, true), ("B", -9.0, Fixed, false)]), [("A", 0.0)]);
    // Ties are a set, the best first and by name, each with its best parameters.
    let ties = [("C", 0.1, Fixed, true), ("B", 0.1, Fixed, true), ("A", 0.3, Fixed, true), ("B", 0.0, Fixed, true)];
    assert_eq!(chosen(&ties), [("B", 0.0), ("C", 0.1), ("A", 0.3)]);
    assert_eq!(chosen(&[("B", 0.0, Fixed, true), ("A", 0.0, Fixed, true)]), [("A", 0.0), ("B", 0.0)]);
}

#[test]
fn a_row_that_is_merely_nobodys_is_explained_to_no_digit() {
    let after = |freedom| Candidate::named(SlotName { id: "A", parameters: vec![], freedom }).noise_rms_after;
    assert!(after(Loose).is_nan());
    assert_eq!([after(Fixed), after(Fitted)], [0.0; 2]);
}

/// Of a fault that one row shows, or all rows together.
fn scope(systematic: bool) -> Scope {
    let stage = StageJudgement {
        prompt_id: "p".into(),
        phase: Decode,
        point: MlpOut,
        layer: 0,
        pos: 5,
        outcome: Outcome::Mismatch { compared: 4, differing: 4, first: 0, largest: 1.0 },
        assumed: vec![],
        values: 4,
        inputs: vec![],
        fitted: false,
    };
    let judged = PhaseJudgement { stages: vec![stage], systematic: vec![] };
    let mut found = Scope::first(&Replay::new(&Model::demo().unwrap(), None), &[judged], Decode).unwrap();
    found.systematic = systematic;
    found
}

#[test]
fn what_only_allows_more_noise_must_leave_as_much_of_it_and_in_more_than_one_value() {
    let accepted = |freedom: Freedom, rms: f64, surprise_of_rest: f64| {
        let held = |surprise_of_rest| Held { rms, surprise_of_rest, holds: vec![true], ..Held::default() };
        let trial = Trial::new("A", Box::new(|_| Err(Unjudged::NoPayload))).freedom(freedom);
        is_accepted(&held(surprise_of_rest), &trial, &scope(false), &held(1.0))
    };
    for (rms, rest, as_loose) in [
        (0.25, 0.5, true),
        (1.4, 0.5, true),
        (0.24, 0.5, false),
        (1.5, 0.5, false),
        (1.0, 1.0, false),
        (1.0, 2.0, false),
    ] {
        let found = [Fixed, Fitted, Loose].map(|freedom| accepted(freedom, rms, rest));
        assert_eq!(found, [true, true, as_loose], "{rms} {rest}");
    }
}

#[test]
fn what_all_rows_together_show_must_be_gone_from_all_of_them_together() {
    let accepted = |systematic: bool, cells: usize, holds: bool| {
        let mut test = ScoreTest::default();
        let element = Element { residual: 1.0, derivative: 1.0, variance: 0.0, total: 1.0, shared: 0.0 };
        (0..cells).for_each(|_| test.add(std::iter::once(element)));
        let held = Held { holds: vec![true, holds], tests: [(Direction::Gain, test)].into(), ..Held::default() };
        let trial = Trial::new("A", Box::new(|_| Err(Unjudged::NoPayload)));
        is_accepted(&held, &trial, &scope(systematic), &Held::default())
    };
    // The score is the root of the number of cells.
    assert_eq!([accepted(true, 100, true), accepted(true, 60, true)], [false, true]);
    assert_eq!([accepted(false, 100, true), accepted(false, 60, true)], [true, true]);
    assert_eq!([accepted(false, 60, false), accepted(true, 60, false)], [false, false]);
}

/// The cause of what is wrong in the sums of one layer: of each the stream, the branch and what is recorded.
fn cause_of_sums(sums: &[[f32; 3]]) -> Cause {
    let model = Model::demo().unwrap();
    let mut memory = Memory::default();
    for (pos, values) in (5..).zip(sums) {
        for (point, value) in [ResidualPreAttn, AttnProjOut, ResidualPostAttn].into_iter().zip(values) {
            memory.record(event("p", Decode, point, 1, pos, 7), Row::from_f32(&vec![*value; model.config.hidden_size]));
        }
    }
    let replay = Replay::new(&model, None);
    let judged = replay.phase(&memory.run.events, &memory, Decode).unwrap();
    let mut causes = find(&replay, &memory.run.events, &memory, &[judged]).unwrap();
    assert_eq!(causes.len(), 1);
    causes.remove(0)
}

fn ids(candidates: &[Candidate]) -> Vec<&'static str> {
    candidates.iter().map(|candidate| candidate.id).collect()
}

#[test]
fn a_fault_of_some_rows_is_named_by_those_where_nothing_explains_all() {
    // Only the stream, in one row of two.
    let some = cause_of_sums(&[[1.0, 0.5, 1.0], [1.0, 0.5, 1.5]]);
    assert_eq!((ids(&some.candidates), some.evidence.as_str()), (vec!["RESIDUAL_DROPPED"], ""));
    assert!(some.tested.iter().any(|tested| tested.accepted), "{some:?}");
    let none = cause_of_sums(&[[1.0, 0.5, 9.0], [1.0, 0.5, 1.5]]);
    assert!(none.candidates.is_empty() && !none.evidence.is_empty() && !none.tested.is_empty(), "{none:?}");
    // The first row by itself could be the stream alone or the stream twice; the second, though not at fault, tells which.
    let both = cause_of_sums(&[[1.0, -1.0, 1.0], [1.0, 0.0, 1.0]]);
    assert_eq!(ids(&both.candidates), ["RESIDUAL_DROPPED"]);
    assert_eq!(ids(&cause_of_sums(&[[1.0, -1.0, 1.0]]).candidates), ["RESIDUAL_DOUBLED", "RESIDUAL_DROPPED"]);
}

#[test]
fn what_was_tried_of_a_cache_is_every_name_once() {
    let model = Model::demo().unwrap();
    let (heads, width) = (model.config.num_key_value_heads, model.config.head_dim);
    let key: Vec<f32> = (0..heads * width).map(|at| 1.0 + at as f32 / 64.0).collect();
    // The row of position 5 in a cache of six, [heads, positions, width]: not written.
    let mut memory = Memory::default();
    memory.record(event("p", Decode, KPostRope, 1, 5, 7), shaped(&[heads as u64, width as u64], &key));
    let cache = shaped(&[heads as u64, 6, width as u64], &vec![0.0; heads * 6 * width]);
    memory.record(event("p", Decode, KCache, 1, 5, 7), cache);
    let replay = Replay::new(&model, None);
    let judged = replay.phase(&memory.run.events, &memory, Decode).unwrap();
    let causes = find(&replay, &memory.run.events, &memory, &[judged]).unwrap();
    let [cause] = causes.as_slice() else { panic!("{causes:?}") };
    assert_eq!(ids(&cause.candidates), ["KV_NOT_WRITTEN"]);
    let mut tried = ids(&cause.tested);
    tried.sort_unstable();
    let mut all = slot::IDS.to_vec();
    all.sort_unstable();
    assert_eq!(tried, all);
    assert!(cause.tested.iter().all(|tested| tested.accepted == (tested.id == "KV_NOT_WRITTEN")), "{cause:?}");
}

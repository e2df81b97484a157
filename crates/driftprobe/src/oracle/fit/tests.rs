//! Which arithmetics explain rows, of judgements and rows made by hand.

use super::*;
use crate::oracle::Float;
use crate::oracle::judgement::{SystematicJudgement, Unjudged};
use crate::oracle::stats::{Direction, Element, RowStatistics, ScoreTest};
use crate::testing::{Memory, shaped};
use Point::{AttnOut, AttnProjOut, AttnScores, KCache, MlpOut, QPostRope, ResidualPostAttn, ResidualPreAttn};
use driftprobe_model::Model;
use driftprobe_trace::{Contract, ContractFields, Row};

fn row(point: Point, layer: i32, outcome: Outcome) -> StageJudgement {
    StageJudgement {
        prompt_id: "p".into(),
        phase: Phase::Decode,
        point,
        layer,
        pos: 5,
        outcome,
        assumed: vec![],
        values: 4,
        inputs: vec![],
        fitted: false,
    }
}

fn of(rms: f64, compared: usize) -> RowStatistics {
    RowStatistics { compared, rms, ..RowStatistics::default() }
}

fn clean(rms: f64) -> Outcome {
    Outcome::Clean(of(rms, 4))
}

fn flagged(statistics: RowStatistics) -> Outcome {
    Outcome::Flagged { flags: vec![], statistics }
}

/// A test over all rows of a point, whose score is the root of the number of its cells.
fn over_all(point: Point, cells: usize) -> SystematicJudgement {
    let mut test = ScoreTest::default();
    let element = Element { residual: 1.0, derivative: 1.0, variance: 0.0, total: 1.0, shared: 0.0 };
    (0..cells).for_each(|_| test.add(std::iter::once(element)));
    SystematicJudgement { phase: Phase::Decode, point, layer: None, direction: Direction::Gain, test }
}

#[test]
fn residuals_are_averaged_over_their_values() {
    // 3 values of z² = 4 and one of 1; an exact row has no noise to be measured in.
    let rows = [Outcome::Clean(of(2.0, 3)), flagged(of(1.0, 1)), Outcome::Exact { compared: 8 }];
    let rows = rows.map(|outcome| row(MlpOut, 0, outcome));
    assert!((rms(rows.iter()) - (13f64 / 4.0).sqrt()).abs() < 1e-12);
    assert_eq!((rms(rows[2..].iter()), rms([].iter())), (0.0, 0.0));
}

#[test]
fn a_variant_explains_what_it_leaves_clean_and_fills_with_its_noise() {
    let explains = |outcomes: &[Outcome], systematic: &[SystematicJudgement], rows: usize, widens: bool| {
        let stages = outcomes.iter().map(|outcome| row(MlpOut, 0, outcome.clone())).collect();
        let (id, says, fields) = ("a".to_owned(), "b".to_owned(), ContractFields::default());
        let judged = PhaseJudgement { stages, systematic: systematic.to_vec() };
        super::explains(&judged, &Variant { id, says, fields, widens }, rows)
    };
    let two = [clean(1.0), clean(1.0)];
    for widens in [false, true] {
        assert!(explains(&two, &[], 2, widens));
        assert!(!explains(&two, &[], 3, widens), "a row of which it says nothing");
        assert!(!explains(&[clean(1.0), flagged(of(1.0, 4))], &[], 2, widens));
        assert!(!explains(&[clean(1.0), flagged(of(1.0, 4))], &[], 1, widens));
        assert!(!explains(&[], &[], 0, widens), "nothing");
        assert!(!explains(&two, &[over_all(MlpOut, 100)], 2, widens), "too much over all rows together");
        assert!(explains(&two, &[over_all(MlpOut, 60)], 2, widens));
        // Three tenths of the noise that it adds; one that computes the rounding adds none.
        assert_eq!(explains(&[clean(0.29)], &[], 1, widens), !widens);
        assert!(explains(&[clean(0.31)], &[], 1, widens));
    }
}

#[test]
fn a_points_judgements_are_looked_at_and_replaced_without_the_others() {
    let unjudged = Outcome::Unjudged(Unjudged::NoPayload);
    assert!([clean(1.0), flagged(of(1.0, 4))].into_iter().all(|outcome| known(&row(MlpOut, 0, outcome))));
    assert!(!known(&row(MlpOut, 0, unjudged)));
    let mut judged = PhaseJudgement {
        stages: vec![
            row(AttnOut, 0, flagged(of(9.0, 4))),
            row(MlpOut, 0, flagged(of(9.0, 4))),
            row(AttnOut, 1, clean(1.0)),
            row(MlpOut, 1, flagged(of(8.0, 4))),
        ],
        systematic: vec![over_all(AttnOut, 100), over_all(MlpOut, 100)],
    };
    let own = of_one_point(&judged, MlpOut);
    assert_eq!(own.stages, [judged.stages[1].clone(), judged.stages[3].clone()]);
    assert_eq!(own.systematic, [over_all(MlpOut, 100)]);
    assert_eq!(flagged_points(&own), [MlpOut].into());
    let (stages, systematic) =
        (vec![row(MlpOut, 0, clean(0.5)), row(MlpOut, 1, clean(0.7))], vec![over_all(MlpOut, 2)]);
    replace(&mut judged, MlpOut, PhaseJudgement { stages, systematic });
    assert_eq!(judged.stages[0], row(AttnOut, 0, flagged(of(9.0, 4))));
    assert_eq!(judged.stages[1], StageJudgement { fitted: true, ..row(MlpOut, 0, clean(0.5)) });
    assert_eq!(judged.stages[2], row(AttnOut, 1, clean(1.0)));
    assert_eq!(judged.stages[3], StageJudgement { fitted: true, ..row(MlpOut, 1, clean(0.7)) });
    assert_eq!(judged.systematic, [over_all(AttnOut, 100), over_all(MlpOut, 2)]);
}

/// What explains decode's rows of a point, where a finding over all rows is added to what they show; and how many it does.
fn found(
    memory: &Memory,
    point: Point,
    (declared, added): (&str, &[SystematicJudgement]),
    refuse: bool,
) -> Option<(String, usize)> {
    let model = Model::demo().unwrap();
    let flat = ContractFields {
        residual: Some(declared.to_owned()).filter(|format| !format.is_empty()),
        ..ContractFields::default()
    };
    let contract = Contract { flat, ..Contract::default() };
    let replay = Replay::new(&model, None).with_contract(&contract);
    let mut judged = replay.phase(&memory.run.events, memory, Phase::Decode).unwrap();
    judged.systematic.extend(added.iter().cloned());
    let recorded = (memory.run.events.as_slice(), memory as &dyn Rows);
    let found = fit_point(&replay, recorded, (Phase::Decode, point), &judged, &|_, _| refuse).unwrap();
    found.map(|(finding, _)| (finding.variant.id, finding.rows))
}

/// Sums of three layers: those of `rounded` are kept in bf16, of the others nothing shows how they are kept.
fn sums(rounded: &[i32]) -> Memory {
    let width = Model::demo().unwrap().config.hidden_size;
    let mut memory = Memory::default();
    for layer in 0..3 {
        // Of 1 + 2⁻⁷ + 2⁻⁹ bf16 keeps 1 + 2⁻⁷, and f16 all.
        let (ulp, step) = (2f32.powi(-7), if rounded.contains(&layer) { 2f32.powi(-9) } else { 0.0 });
        for (point, value) in [(ResidualPreAttn, 1.0), (AttnProjOut, ulp + step), (ResidualPostAttn, 1.0 + ulp)] {
            let event = crate::testing::event("p", Phase::Decode, point, layer, 5, 7);
            memory.record(event, Row::from_f32(&vec![value; width]));
        }
    }
    memory
}

#[test]
fn one_layer_of_several_is_no_contract_unless_all_rows_together_show_it() {
    let found =
        |rounded: &[i32], added: &[SystematicJudgement]| found(&sums(rounded), ResidualPostAttn, ("", added), true);
    let bf16 = Some(("residual=bf16".to_owned(), 3));
    assert_eq!(found(&[0, 2], &[]), bf16);
    assert_eq!(found(&[1], &[]), None);
    assert_eq!(found(&[1], &[over_all(ResidualPostAttn, 100)]), bf16);
    let of_layer = SystematicJudgement { layer: Some(1), ..over_all(ResidualPostAttn, 100) };
    for other in [over_all(ResidualPostAttn, 60), over_all(AttnProjOut, 100), of_layer] {
        assert_eq!(found(&[1], &[other]), None);
    }
}

#[test]
fn what_a_contract_says_is_bound_by_the_format_of_the_points_own_record() {
    let with = |own: Dtype, others: Dtype| {
        let mut memory = sums(&[0, 1, 2]);
        let prefill = crate::testing::event("p", Phase::Prefill, ResidualPostAttn, 0, 5, 7);
        memory.run.events.insert(0, Event { dtype: Some(others), ..prefill });
        for event in memory.run.events.iter_mut().filter(|event| event.phase == Phase::Decode) {
            event.dtype = Some(if event.point == ResidualPostAttn { own } else { others });
        }
        found(&memory, ResidualPostAttn, ("f32", &[]), true).is_some()
    };
    // In bf16 because the record is; in f32 that is a loss.
    assert_eq!([with(Dtype::Bf16, Dtype::F32), with(Dtype::F32, Dtype::Bf16)], [true, false]);
}

#[test]
fn noise_is_added_only_where_no_bug_explains_the_rows_more_sharply() {
    let config = Model::demo().unwrap().config;
    let (heads, kv_heads, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    // Whole numbers that no format of Q and K rounds, 127 among them in each block.
    let whole = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|at| if at % 16 == 0 { 127.0 } else { ((at * 37 + seed * 101) % 255) as f32 - 127.0 }).collect()
    };
    let mut memory = Memory::default();
    for layer in 0..3 {
        let (q, k) = (whole(heads * dim, layer), whole(kv_heads * 6 * dim, layer + 7));
        // Products are kept in bf16 before they are scaled.
        let score = |head: usize, key: usize| {
            let k = &k[(head * kv_heads / heads * 6 + key) * dim..][..dim];
            let product: f32 = q[head * dim..][..dim].iter().zip(k).map(|(q, k)| q * k).sum();
            (Float::Bf16.round(f64::from(product)) * config.attention_scale) as f32
        };
        let scores: Vec<f32> = (0..heads)
            .flat_map(|head| (0..6).map(move |key| (head, key)))
            .map(|(head, key)| score(head, key))
            .collect();
        let (heads, kv_heads, dim) = (heads as u64, kv_heads as u64, dim as u64);
        for (point, row) in [
            (QPostRope, shaped(&[heads, dim], &q)),
            (KCache, shaped(&[kv_heads, 6, dim], &k)),
            (AttnScores, shaped(&[heads, 6], &scores)),
        ] {
            memory.record(crate::testing::event("p", Phase::Decode, point, layer as i32, 5, 7), row);
        }
    }
    let found = |refuse| found(&memory, AttnScores, ("", &[]), refuse);
    assert_eq!([found(false), found(true)], [Some(("scores=bf16".to_owned(), 3)), None]);
}

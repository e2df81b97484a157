//! What a run would have shown, held against engines that really have the fault.

use crate::oracle_support::{fixture, judge, recording};
use driftprobe::cause::{PowerRow, Suspect, examine, find, power};
use driftprobe::oracle::Replay;
use driftprobe_engine::{Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::{Phase, Point, Run};

fn settings(storage: Storage) -> Settings {
    Settings { storage, kv_cache: storage, ..Settings::default() }
}

fn powers(model: &Model, run: &Run) -> Vec<PowerRow> {
    power(&Replay::new(model, run.manifest.as_ref()), &run.events, run).unwrap()
}

fn of(all: &[PowerRow], id: &str, point: Point) -> PowerRow {
    let wanted = |row: &&PowerRow| (row.id, row.point, row.phase) == (id, point, Phase::Decode);
    all.iter().find(wanted).unwrap_or_else(|| panic!("{id} at {point}")).clone()
}

#[test]
fn gross_faults_would_be_seen_in_every_row_and_small_ones_have_their_size() {
    let model = fixture("hf/llama");
    for storage in [Storage::F32, Storage::Bf16] {
        let all = powers(&model, &recording(&model, settings(storage), &[40], 1).run);
        for row in all.iter().filter(|r| r.phase == Phase::Decode) {
            let small = row.smallest.as_ref().map(|s| format!("{}: {:.1e}, {:.1e}", s.what, s.one_row, s.all_rows));
            println!(
                "{storage} {} {:?} {}: {}/{} D {:.1?} {small:?} {}",
                row.id, row.parameters, row.point, row.seen, row.rows, row.effect, row.unseen
            );
        }
        let gross = [
            ("ROPE_POSITION_OFFSET", Point::QPostRope),
            ("ROPE_LAYOUT", Point::KPostRope),
            ("K_WITHOUT_ROPE", Point::KPostRope),
            ("SCALE_MISSING", Point::AttnScores),
            ("MASK_MISSES_NEWEST", Point::AttnScores),
            ("MASK_WINDOW", Point::AttnScores),
            ("GQA_MAP", Point::AttnScores),
            ("SOFTMAX_UNNORMALISED", Point::AttnProbs),
            ("HEAD_SWAP", Point::AttnOut),
            ("HEAD_LAYOUT", Point::AttnOut),
            ("NORM_SKIPPED", Point::FfnNormOut),
            ("NORM_MEAN_SUBTRACTED", Point::FfnNormOut),
            ("WEIGHT_OTHER_LAYER", Point::MlpGate),
            ("TAIL_DROPPED", Point::MlpOut),
            ("GATE_UP_SWAPPED", Point::MlpGate),
            ("ACTIVATION_WRONG", Point::MlpAct),
            ("RESIDUAL_DROPPED", Point::ResidualPostAttn),
            ("RESIDUAL_DOUBLED", Point::ResidualPostMlp),
            ("EMBED_ROW", Point::EmbedOut),
            ("EMBED_SCALE", Point::EmbedOut),
            ("LM_HEAD_ROW", Point::Logits),
            ("KV_NOT_WRITTEN", Point::VCache),
        ];
        for (id, point) in gross {
            let row = of(&all, id, point);
            assert!(row.seen == row.rows && row.rows > 0 && row.unseen.is_empty(), "{storage} {row:?}");
        }
        // Of the table of smallest faults: one row, relative sizes.
        let small = |id, point| of(&all, id, point).smallest.unwrap();
        let (theta, scale) = (small("ROPE_THETA", Point::QPostRope), small("SCALE_WRONG", Point::AttnScores));
        let limit = if storage == Storage::F32 { 1e-3 } else { 1e-1 };
        assert!(theta.one_row < limit && theta.all_rows <= theta.one_row, "{theta:?}");
        assert!(scale.one_row < limit && scale.all_rows <= scale.one_row, "{scale:?}");
    }
}

/// An engine whose scale is off by less than the smallest size that the clean run promises goes unseen; by more it does not.
#[test]
fn the_smallest_size_is_that_of_an_engine_with_the_fault() {
    let model = fixture("hf/llama");
    let clean = powers(&model, &recording(&model, settings(Storage::F32), &[40], 1).run);
    let smallest = of(&clean, "SCALE_WRONG", Point::AttnScores).smallest.unwrap().all_rows;
    let found = |size: f64| {
        let mut faulty = fixture("hf/llama");
        faulty.config.attention_scale *= 1.0 + size;
        let judged = judge(&model, &recording(&faulty, settings(Storage::F32), &[40], 1).run);
        let rows = judged.stages.iter().any(|j| j.outcome.is_fault());
        rows || judged.systematic.iter().any(|s| s.test.is_flagged())
    };
    assert!(found(smallest * 2.0), "{smallest:e} and twice as much unseen");
    assert!(!found(smallest / 4.0), "a quarter of {smallest:e} is seen");
}

#[test]
fn what_is_not_recorded_cannot_be_seen_and_is_said() {
    let model = fixture("hf/llama");
    let recorded = recording(&model, settings(Storage::F32), &[20], 1);
    let mut run = recorded.run.clone();
    run.events.retain(|e| !matches!(e.point, Point::QPreRope | Point::KPreRope));
    let all = powers(&model, &run);
    let theta = of(&all, "ROPE_THETA", Point::QPostRope);
    assert_eq!((theta.rows, theta.seen), (0, 0));
    assert!(theta.unseen.contains("q_post_rope or k_post_rope is not recorded"), "{}", theta.unseen);
    assert!(of(&all, "KV_STALE_SLOT", Point::KCache).unseen.contains("no source"));
    assert_eq!(of(&all, "NORM_SKIPPED", Point::FfnNormOut).unseen, "");
}

#[test]
fn the_four_suspects_are_each_tested_on_a_clean_run_and_on_a_faulty_one() {
    let model = fixture("hf/llama-gqa-sharded");
    let clean = recording(&model, settings(Storage::F32), &[20], 1);
    let powers = powers(&model, &clean.run);
    let examined = examine(&[], &powers);
    assert_eq!(examined.len(), 8);
    for one in &examined {
        println!("{one}");
        assert!(one.explains.is_empty() && one.refuted.is_empty() && !one.excluded.is_empty(), "{one}");
    }
    let mut faulty = fixture("hf/llama-gqa-sharded");
    faulty.config.rope.theta *= 1.5;
    let recorded = recording(&faulty, settings(Storage::F32), &[20], 1);
    let run = &recorded.run;
    let replay = Replay::new(&model, run.manifest.as_ref());
    let judged = Phase::ALL.map(|p| replay.phase(&run.events, run, p).unwrap());
    let causes = find(&replay, &run.events, run, &judged).unwrap();
    let power = power(&replay, &run.events, run).unwrap();
    for one in examine(&causes, &power) {
        println!("{one}");
        let ids: Vec<&str> = one.explains.iter().map(|c| c.id).collect();
        let expected: &[&str] = if one.suspect == Suspect::Rope { &["ROPE_THETA"] } else { &[] };
        assert_eq!(ids, expected, "{one}");
        assert_eq!(one.suspect == Suspect::Rope, one.refuted.iter().any(|c| c.id == "ROPE_LAYOUT"), "{one}");
    }
}

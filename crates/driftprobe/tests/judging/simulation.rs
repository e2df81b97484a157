//! Simulations against the reference and against real runs of the embedded engine.

use crate::oracle_support::{Recording, contracts, fixture, recording};
use driftprobe::simulate::{Simulation, Study, TokenJudgement};
use driftprobe_model::{Model, reference};
use driftprobe_trace::{Phase, Point};

fn study(model: &Model, recording: &Recording) -> Study {
    let run = &recording.run;
    let study = Simulation::new(model, run.manifest.as_ref()).study(&run.events, run).unwrap();
    assert!(study.skipped.is_empty(), "{:?}", study.skipped);
    study
}

#[test]
fn the_exact_pass_is_the_reference() {
    for model in [Model::demo().unwrap(), fixture("hf/gemma2"), fixture("hf/qwen3"), fixture("hf/llama-rope-yarn")] {
        let tokens: Vec<u32> = (0..17).map(|i| (i * 31 + 5) % model.config.vocab_size as u32).collect();
        let expected = reference::forward(&model, &tokens).unwrap();
        let pass = Simulation::new(&model, None).exact(&tokens, &|place| place.point == Point::Logits).unwrap();
        for (pos, expected) in expected.chunks(model.config.vocab_size).enumerate() {
            let row = pass.row(Point::Logits, -1, pos).unwrap();
            let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-11 * largest), "{pos}");
        }
    }
}

/// Studies clean runs of a model in these contracts; gives the number of rows judged.
fn expect_clean(name: &str, model: &Model, (wanted, lengths): (&[&str], &[usize])) -> usize {
    println!("| model | contract | rows | p | p drawn | p apart | observed/expected | largest ratio | largest score |");
    let mut judged = 0;
    for (contract, settings) in contracts().into_iter().filter(|(contract, _)| wanted.contains(contract)) {
        let recording = recording(model, settings, lengths, 2);
        let study = study(model, &recording);
        let e = study.end_to_end.as_ref().unwrap();
        let largest = |of: fn(&TokenJudgement) -> f64| study.tokens.iter().map(of).fold(0.0, f64::max);
        let (ratio, score) = (largest(|t| t.distance_ratio), largest(|t| t.score));
        println!(
            "| {name} | {contract} | {} | {:.3} | {:.3} | {:.3} | {:.2} | {ratio:.2} | {score:.2} |",
            e.rows, e.p_value, e.p_drawn, e.p_apart, e.typical_ratio
        );
        let flagged: Vec<_> = study.tokens.iter().filter(|t| t.flagged).collect();
        assert!(flagged.is_empty(), "{name}, {contract}: {flagged:?}");
        assert!(study.gaps.is_empty(), "all is traced");
        assert!(e.p_value > 0.05 && e.typical_ratio < 2.0, "{name}, {contract}: {e:?}");
        let last = lengths[lengths.len() - 1];
        // Every slot of the last step's caches.
        let slots = study.tokens.iter().filter(|t| t.phase == Phase::Decode && t.pos == last && t.slot.is_some());
        assert_eq!(slots.count(), 2 * model.config.num_hidden_layers * (last + 1));
        judged += study.tokens.len();
    }
    judged
}

#[test]
fn clean_runs_of_the_trained_model_flag_nothing_and_their_drift_is_rounding() {
    let wanted = ["f32 blocked", "f16", "bf16"];
    assert!(expect_clean("demo", &Model::demo().unwrap(), (&wanted, &[4, 13])) > 5_000);
}

#[test]
fn clean_runs_of_other_families_flag_nothing_and_their_drift_is_rounding() {
    let mut judged = 0;
    for name in ["hf/llama-gqa-sharded", "hf/gemma2", "gguf/llama-q8_0.gguf"] {
        let wanted = ["f32", "f32, f16 cache", "f16 blocked", "bf16 blocked", "f32 dequantise"];
        judged += expect_clean(name, &fixture(name), (&wanted, &[5, 19]));
    }
    assert!(judged > 8_000, "{judged}");
}

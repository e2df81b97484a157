//! Simulations against the reference and against real runs of the embedded engine.

mod oracle_support;

use driftprobe::simulate::{Gap, Simulation, Study};
use driftprobe_model::{Model, reference};
use driftprobe_trace::{Phase, Point};
use oracle_support::{Recording, contracts, fixture, recording};

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

#[test]
fn clean_runs_flag_nothing_and_their_drift_is_rounding() {
    println!("| model | contract | rows | p | observed/expected | largest ratio | its score | largest score | gaps |");
    let mut judged = 0;
    let demo = ("demo", Model::demo().unwrap());
    for (name, model) in
        [demo, ("hf/llama-gqa-sharded", fixture("hf/llama-gqa-sharded")), ("hf/gemma2", fixture("hf/gemma2"))]
    {
        for (contract, settings) in contracts() {
            let recording = recording(&model, settings, &[5, 17], 2);
            let study = study(&model, &recording);
            let e = study.end_to_end.as_ref().unwrap();
            let worst = study.tokens.iter().max_by(|a, b| a.distance_ratio.total_cmp(&b.distance_ratio)).unwrap();
            let score = study.tokens.iter().map(|t| t.score).fold(f64::MIN, f64::max);
            println!(
                "| {name} | {contract} | {} | {:.3} | {:.2} | {:.2} | {:.2} | {score:.2} | {} |",
                e.rows,
                e.p_value,
                e.observed_over_expected,
                worst.distance_ratio,
                worst.score,
                study.gaps.len()
            );
            judged += study.tokens.len();
            let flagged: Vec<_> = study.tokens.iter().filter(|t| t.flagged).collect();
            assert!(flagged.is_empty(), "{name}, {contract}: {flagged:?}");
            assert!(study.gaps.iter().all(|gap: &Gap| !gap.flagged), "{name}, {contract}: {:?}", study.gaps);
            assert!(e.p_value > 0.01, "{name}, {contract}: {e:?}");
            assert!(study.tokens.iter().any(|t| t.phase == Phase::Decode && t.slot == Some(3) && t.pos == 17));
        }
    }
    assert!(judged > 5_000, "{judged}");
}

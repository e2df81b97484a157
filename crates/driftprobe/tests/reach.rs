//! Reachability: the embedded engine's kernels are named, and nothing else is.

mod oracle_support;

use driftprobe::examine::Oracle;
use driftprobe::reach::{Reach, Scope, reach};
use driftprobe::{Options, analyze_against};
use driftprobe_engine::{DecodeAttention, PrefillAttention, Settings};
use driftprobe_model::Model;
use driftprobe_trace::Rows;
use oracle_support::{Recording, fixture, recording};

fn search(model: &Model, recording: &Recording, rows: &dyn Rows, scope: &Scope) -> Reach {
    let oracle = Oracle { budget_flops: 0.0, power: false, ..Oracle::new(model) };
    let analysis = analyze_against((&recording.run, rows), Some(&oracle), Options::default(), &mut |_| {});
    reach((&recording.run, rows), &oracle, &analysis, scope, &mut |_| true).unwrap()
}

#[test]
fn look() {
    let model = Model::demo().unwrap();
    let settings = Settings {
        prefill_attention: PrefillAttention::Blocked { keys: 8 },
        decode_attention: DecodeAttention::SplitK { parts: 3 },
        ..Settings::default()
    };
    for settings in [Settings::default(), settings] {
        let recording = recording(&model, settings, &[40, 30], 4);
        let t = std::time::Instant::now();
        let found = search(&model, &recording, &recording.run, &Scope::default());
        println!("{:?} {:?}", found.pairs, t.elapsed());
        for f in &found.findings {
            println!(
                "{} {} pass {:?} rows {} values {} tried {} refuted {} well {} telling {} -> {}",
                f.phase,
                f.point,
                f.pass,
                f.rows.len(),
                f.values,
                f.tried,
                f.refuted,
                f.refuted_well,
                f.telling_rows,
                match &f.outcome {
                    driftprobe::reach::Outcome::Claimed(c) =>
                        format!("CLAIM {} open {:?} n={} {}", c.says, c.open, c.orders.len(), c.orders[0].id()),
                    o => format!("{:.300}", format!("{o:?}")),
                }
            );
        }
        for m in &found.mechanisms {
            println!("{}: {m}", m.point);
        }
        println!("{:?}", found.skipped);
    }
}

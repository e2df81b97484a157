//! Recording with an engine, and what the probe says of it.

#![allow(dead_code, reason = "every user takes its part")]

use driftprobe::judge::examine::Oracle;
use driftprobe::{Analysis, Options, analyze_against};
use driftprobe_engine::Engine;
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Mode, Phase, Point, PromptInfo, Run};
use std::collections::BTreeSet;
use std::path::Path;

/// All points of all layers of one prompt.
pub fn plan(engine: &dyn Engine, tokens: &[u32], steps: usize) -> Plan {
    Plan {
        prompts: vec![PromptInfo { id: "p".into(), tokens: tokens.to_vec(), ..Default::default() }],
        mode: Mode::AsDesigned,
        steps,
        layers: (0..engine.layers()).collect(),
        points: Phase::ALL.into_iter().flat_map(|p| engine.points(p)).collect::<BTreeSet<Point>>(),
        repeats: 1,
        unwatched: true,
        forced: false,
        decoded: 0,
        payloads: true,
        rows: None,
        compress: false,
        overwrite: true,
    }
}

pub fn judge(engine: &dyn Engine, plan: &Plan, model: &Model, dir: &Path) -> Analysis {
    record(engine, plan, dir, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(dir).unwrap();
    let oracle = Oracle { power: false, ..Oracle::new(model) };
    analyze_against((&run, &run), Some(&oracle), Options::default(), &mut |_| {})
}

/// The contract findings as `phase point: variant`.
pub fn findings(analysis: &Analysis) -> Vec<String> {
    let all = analysis.examination.iter().flat_map(|e| &e.contract_findings);
    all.map(|f| format!("{} {}: {}", f.phase, f.point, f.variant.id)).collect()
}

/// The reasons, as `code: example`.
pub fn reasons(analysis: &Analysis) -> Vec<String> {
    let all = analysis.verdict.reasons.iter();
    all.map(|r| format!("{}: {}", r.code.id(), r.examples.first().cloned().unwrap_or_default())).collect()
}

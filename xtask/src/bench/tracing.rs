//! Traced over untraced time of the same work: one prompt, prefill and decode, as `driftprobe run` does it.

use super::{Args, median, seconds, tokens};
use anyhow::Result;
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine, Tap};
use driftprobe_trace::{Manifest, Phase, Point, PromptInfo};
use std::collections::BTreeSet;
use std::fmt::Write as _;

struct Setting {
    name: &'static str,
    layers: BTreeSet<usize>,
    points: BTreeSet<Point>,
    bound: f64,
}

/// The table; what is over its bound goes to `exceeded` too.
pub fn table(engine: &EmbeddedEngine, args: &Args, exceeded: &mut Vec<String>) -> Result<String> {
    let all: BTreeSet<Point> = engine.points(Phase::Prefill).into_iter().collect();
    let sampled = [0, 1, 2, 4, 8].into_iter().filter(|l| *l < engine.layers()).collect();
    let settings = [
        Setting { name: "layers 0,1,2,4,8, all points, payloads", layers: sampled, points: all.clone(), bound: 1.05 },
        Setting {
            name: "all layers, all points, payloads",
            layers: (0..engine.layers()).collect(),
            points: all,
            bound: 1.3,
        },
    ];
    let prompt = tokens(args.prompt_tokens, engine.vocab());
    untraced(engine, &prompt)?;
    // Interleaved, so that whatever else the machine does strikes all of them alike.
    let (mut plain, mut traced) = (Vec::new(), vec![Vec::new(); settings.len()]);
    let mut bytes = vec![0; settings.len()];
    for _ in 0..args.rounds {
        plain.push(seconds(|| untraced(engine, &prompt))?);
        for (i, setting) in settings.iter().enumerate() {
            let dir = folder(args);
            traced[i].push(seconds(|| trace(engine, &prompt, setting, &dir))?);
            bytes[i] = folder_bytes(&dir)?;
        }
    }
    let mut text = String::from("| tracing | time s | over untraced, each round | median | at most | written MB |\n");
    text += "|---|---|---|---|---|---|\n";
    writeln!(text, "| none | {:.2} | | 1 | | |", median(&plain))?;
    for ((setting, times), bytes) in settings.iter().zip(&traced).zip(bytes) {
        // A round's own ratio: its two times were taken one after the other, under the same load.
        let ratios: Vec<f64> = times.iter().zip(&plain).map(|(t, p)| t / p).collect();
        let each = ratios.iter().map(|r| format!("{r:.3}")).collect::<Vec<_>>().join(" ");
        let (time, ratio, mb) = (median(times), median(&ratios), bytes as f64 / 1e6);
        writeln!(text, "| {} | {time:.2} | {each} | {ratio:.3} | {} | {mb:.1} |", setting.name, setting.bound)?;
        let within = ratio <= setting.bound;
        if !within {
            exceeded.push(format!("{}: {ratio:.3} over untraced, at most {}", setting.name, setting.bound));
        }
    }
    text.push('\n');
    Ok(text)
}

/// Where runs are recorded.
pub fn folder(args: &Args) -> std::path::PathBuf {
    args.dir.join("run")
}

/// One prompt, the sampled layers and all points.
pub fn plan(engine: &EmbeddedEngine, prompt: &[u32]) -> Plan {
    let layers = [0, 1, 2, 4, 8].into_iter().filter(|l| *l < engine.layers()).collect();
    Plan { layers, ..every_layer(engine, prompt) }
}

fn every_layer(engine: &EmbeddedEngine, prompt: &[u32]) -> Plan {
    let prompt = PromptInfo { id: "bench".into(), tokens: prompt.to_vec(), ..Default::default() };
    Plan { overwrite: true, ..Plan::everything(engine, vec![prompt]) }
}

/// What a run computes: prefill of the prompt; prefill of all but its last token, and that one by decode.
fn untraced(engine: &EmbeddedEngine, prompt: &[u32]) -> Result<()> {
    let n = prompt.len();
    engine.session()?.prefill(prompt, n - 1..n, &mut Tap::closed())?;
    let mut session = engine.session()?;
    session.prefill(&prompt[..n - 1], 0..0, &mut Tap::closed())?;
    session.decode(prompt[n - 1], &mut Tap::closed())?;
    Ok(())
}

fn trace(engine: &EmbeddedEngine, prompt: &[u32], setting: &Setting, dir: &std::path::Path) -> Result<()> {
    let (layers, points) = (setting.layers.clone(), setting.points.clone());
    let plan = Plan { layers, points, ..every_layer(engine, prompt) };
    record(engine, &plan, dir, Manifest::default(), &mut Unwatched)?;
    Ok(())
}

fn folder_bytes(dir: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

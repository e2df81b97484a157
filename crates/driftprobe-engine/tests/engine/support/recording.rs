//! Recording runs in temporary folders.

use driftprobe_engine::record::{Plan, Progress, Unwatched, Watcher, record};
use driftprobe_engine::{Engine, EngineError};
use driftprobe_trace::{Event, ExpectedKey, Manifest, Phase, Point, PromptInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub fn prompt(id: &str, tokens: &[u32]) -> PromptInfo {
    PromptInfo { id: id.to_owned(), tokens: tokens.to_vec(), ..Default::default() }
}

/// Two prompts, every point of every layer, as designed, one step, one repeat, payloads.
pub fn plan(engine: &dyn Engine, tokens: &[u32]) -> Plan {
    let prompts = vec![prompt("whole", tokens), prompt("half", &tokens[..tokens.len().div_ceil(2)])];
    let points = Point::ALL.iter().copied().collect();
    Plan { points, repeats: 1, unwatched: true, ..Plan::everything(engine, prompts) }
}

pub fn record_to(engine: &dyn Engine, plan: &Plan, dir: &Path) -> Result<Manifest, EngineError> {
    record(engine, plan, dir, Manifest::default(), &mut Unwatched)
}

/// Lets so many layers begin, then stops.
pub struct StopsAfter(pub usize);

impl Watcher for StopsAfter {
    fn go_on(&mut self, _: &Progress<'_>) -> bool {
        let goes_on = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        goes_on
    }
}

/// What one phase of a run holds, as keys of the expected matrix; asserts that none stands twice.
pub fn found(events: &[Event], phase: Phase) -> BTreeSet<ExpectedKey> {
    let of_phase: Vec<&Event> = events.iter().filter(|e| e.phase == phase).collect();
    let key = |e: &&Event| ExpectedKey {
        prompt_id: e.prompt_id.clone(),
        logical_tok_idx: e.logical_tok_idx.unwrap(),
        token_id: e.token_id.unwrap(),
        layer: e.layer,
        point: e.point,
    };
    let keys: BTreeSet<ExpectedKey> = of_phase.iter().map(key).collect();
    assert_eq!(keys.len(), of_phase.len(), "{phase}: an event stands twice");
    keys
}

/// All files under a folder, by their paths in it.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

//! Plans that do not fit the model are refused with a hint, before a folder is made.

use crate::support::recording::{plan, prompt, record_to};
use crate::support::{engine, plain};
use driftprobe_engine::Engine;
use driftprobe_engine::record::Plan;

fn refused(case: &str, change: impl FnOnce(&mut Plan), pieces: &[&str]) {
    let engine = engine("hf/llama", &plain());
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let mut plan = plan(&engine, &[1, 2, 3]);
    change(&mut plan);
    let Err(error) = record_to(&engine, &plan, &dir) else { panic!("{case}: not refused") };
    let message = error.to_string();
    for piece in pieces {
        assert!(message.contains(piece), "{case}: expected {piece:?} in {message:?}");
    }
    assert!(error.hint().is_some_and(|h| !h.is_empty()), "{case}: no hint with {message:?}");
    assert!(!dir.exists(), "{case}: a folder was made");
}

#[test]
fn a_good_plan_is_not_refused() {
    let engine = engine("hf/llama", &plain());
    let folder = tempfile::tempdir().unwrap();
    assert!(record_to(&engine, &plan(&engine, &[1, 2, 3]), &folder.path().join("new").join("run")).is_ok());
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    refused("no prompts", |p| p.prompts.clear(), &["no prompt"]);
    refused("an empty prompt", |p| p.prompts.push(prompt("void", &[])), &["prompt void", "no tokens"]);
    refused("a token too large", |p| p.prompts.push(prompt("far", &[1, 48])), &["prompt far", "token 48", "48"]);
    refused("no steps", |p| p.steps = 0, &["0 decode steps"]);
    let more = |p: &mut Plan| (p.steps, p.forced) = (3, true);
    refused("more steps than tokens", more, &["prompt half", "3 steps", "2 tokens"]);
    refused("no layers", |p| p.layers.clear(), &["no layer"]);
    refused("no points", |p| p.points.clear(), &["no point"]);
    refused("a layer too many", |p| p.layers.extend([2]), &["layer 2", "2 layers, 0 to 1"]);
    refused("an id twice", |p| p.prompts.push(prompt("whole", &[7])), &["prompt whole", "twice"]);
}

#[test]
fn the_last_token_and_the_last_layer_exist() {
    let engine = engine("hf/llama", &plain());
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(&engine, &[1, 2, 3]);
    plan.prompts = vec![prompt("edge", &[engine.vocab() as u32 - 1])];
    plan.layers = [engine.layers() - 1].into();
    assert!(record_to(&engine, &plan, &folder.path().join("run")).is_ok());
}

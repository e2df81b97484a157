//! The program as it is called: what it prints and writes, and how it ends.

mod by_prompt;
mod cli;
mod engines;
mod export;
mod found;
mod gate;
#[cfg(unix)]
mod interrupt;
mod layers;
mod logprobs;
mod machine;
mod reach;
mod report;
mod sweep;
mod vacuous;
mod volume;

use assert_cmd::Command;
use tempfile::TempDir;

/// A run of GRETA's without a model.
const GRETA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../driftprobe-trace/tests/fixtures/greta/drift");

/// What the caller's environment may say to the program.
const HEARD: [&str; 8] = [
    "GRETA_SEED",
    "GRETA_TRACE_LAYERS",
    "GRETA_TRACE_STAGE_LAYERS",
    "GRETA_TRACE_STAGE_POINTS",
    "GITHUB_STEP_SUMMARY",
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
];

/// The program in a folder, whatever the environment of the tests says.
fn driftprobe(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftprobe"));
    command.current_dir(dir.path());
    for name in HEARD {
        command.env_remove(name);
    }
    command
}

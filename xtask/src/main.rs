//! Chores of the repository: `cargo xtask <command>`.

mod bench;
mod cargo;
mod numerics;
mod release;
mod scale;
mod tidy;
mod train;

use clap::{CommandFactory, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Chores of the repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train the embedded model (about 25 minutes on two cores).
    Train(train::Args),
    /// Measure what tracing costs, and the embedded engine beside llama.cpp.
    Bench(bench::Args),
    /// Measure what the judging is worth: false alarms, and faults found, placed and named.
    Numerics(numerics::Args),
    /// Measure what judging takes of memory and time as runs grow.
    Scale(scale::Args),
    /// What a release consists of: checked, its bill of materials, the contents of its archives.
    Release(release::Args),
    /// Hold documentation and sources against the rules of CONTRIBUTING.md.
    Tidy,
}

/// Whether there is a chore of this name.
fn has_command(name: &str) -> bool {
    Cli::command().find_subcommand(name).is_some()
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Train(args) => train::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Numerics(args) => numerics::run(args),
        Command::Scale(args) => scale::run(args),
        Command::Release(args) => release::run(args),
        Command::Tidy => tidy::run(),
    }
}

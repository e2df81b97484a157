//! The `driftprobe` binary: do an engine's prefill and decode compute the same tokens?

mod analyze;
mod args;
mod engine;
mod environment;
mod failure;
mod import;
mod output;
mod power;
mod progress;
mod prompts;
mod remote;
mod run;

use args::{Cli, Command, RunArgs};
use clap::{CommandFactory, Parser};
use failure::Failure;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => run::run(&RunArgs::default_demo()),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Power(args)) => power::run(&args),
        Some(Command::Analyze(args)) => analyze::run(&args),
        Some(Command::Import(args)) => import::run(&args),
        Some(Command::Completions { shell }) => {
            completions(shell);
            Ok(driftprobe::EXIT_PASS)
        }
        Some(Command::Man) => man(),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit_code())
        }
    }
}

fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "driftprobe", &mut std::io::stdout());
}

fn man() -> Result<u8, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Failure::stdout)?;
    std::io::stdout().write_all(&page).map_err(Failure::stdout)?;
    Ok(driftprobe::EXIT_PASS)
}

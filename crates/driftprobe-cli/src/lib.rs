//! The `driftprobe` program as a library: whoever embeds it gives it a command line, or judges a run without one.

mod analyze;
mod args;
mod compare;
mod engine;
mod environment;
mod failure;
mod import;
mod output;
mod picture;
mod power;
mod progress;
mod prompts;
mod remote;
mod report;
mod run;

pub use analyze::{contract, judge_lying};
pub use environment::{host, variables};
pub use failure::Failure;

use args::{Cli, Command, RunArgs};
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

/// Runs the program with this command line, whose first word is the program's name, and returns its exit status. What it has
/// to say goes to standard output and standard error. `binary` is the program as a file that can be copied to another
/// machine, if it is one.
pub fn main_with(args: impl IntoIterator<Item = OsString>, binary: Option<PathBuf>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(told) => {
            // Help and version come this way too. Where they cannot be printed there is nobody to tell.
            let _ = told.print();
            return u8::try_from(told.exit_code()).unwrap_or(driftprobe::EXIT_COULD_NOT_RUN);
        }
    };
    let outcome = match cli.command {
        None => run::run(&RunArgs::default_demo()),
        Some(Command::Run(mut run)) => {
            run.command_line = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            run.binary = binary;
            run::run(&run)
        }
        Some(Command::Power(args)) => power::run(&args),
        Some(Command::Analyze(args)) => analyze::run(&args),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Import(args)) => import::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Completions { shell }) => {
            completions(shell);
            Ok(driftprobe::EXIT_PASS)
        }
        Some(Command::Man) => man(),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.exit_code()
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

//! The `driftprobe` program as a library: whoever embeds it gives it a command line, or judges a run without one.

mod analyze;
mod args;
mod below;
mod by_prompt;
#[doc(hidden)]
pub mod bytes;
mod compare;
mod doctor;
mod engine;
mod environment;
mod export;
mod failure;
mod gate;
mod import;
mod logprobs;
mod lying;
mod merge;
mod output;
mod picture;
mod power;
mod progress;
mod prompts;
mod reach;
mod remote;
mod report;
mod run;
mod same_file;
mod search;
mod sweep;

pub use analyze::{contract, judge_lying};
pub use environment::{host, model_info, variables};
pub use failure::Failure;
pub use logprobs::{Known, judge_files, run_delta, write as write_logprobs};

use args::{Cli, Command, RunArgs};
use clap::{ColorChoice, CommandFactory, Parser};
use std::ffi::OsString;
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
    if let Some(choice) = cli.color {
        let choice = match choice {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
    let outcome = match cli.command {
        None => run::run(&RunArgs::default_demo()),
        Some(Command::Run(mut run)) => {
            run.command_line = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            run.binary = binary;
            run::run(&run)
        }
        Some(Command::Power(args)) => power::run(&args),
        Some(Command::Analyze(args)) => analyze::run(&args),
        Some(Command::Merge(args)) => merge::run(&args),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Import(args)) => import::run(&args),
        Some(Command::Export(args)) => export::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Gate(args)) => gate::run(&args),
        Some(Command::Logprobs(args)) => logprobs::run(*args),
        Some(Command::Reach(args)) => reach::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Completions { shell }) => completions(shell).map(|()| driftprobe::EXIT_PASS),
        Some(Command::Man { command }) => man(command.as_deref()),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "driftprobe", &mut text);
    output::print(&String::from_utf8_lossy(&text))
}

/// The manual page of the program, or of one of its commands.
fn man(name: Option<&str>) -> Result<u8, Failure> {
    let mut command = Cli::command();
    command.build();
    let page = match name {
        None => clap_mangen::Man::new(command),
        Some(name) => {
            let found = command.find_subcommand(name).cloned().ok_or_else(|| {
                let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
                Failure::new(format!("there is no command {name}"), format!("one of {}", names.join(", ")))
            })?;
            // Pages of commands are called as git's are: driftprobe-gate.
            clap_mangen::Man::new(found.bin_name(format!("driftprobe {name}"))).title(format!("driftprobe-{name}"))
        }
    };
    let mut text = Vec::new();
    page.render(&mut text).map_err(Failure::stdout)?;
    output::print(&String::from_utf8_lossy(&text))?;
    Ok(driftprobe::EXIT_PASS)
}

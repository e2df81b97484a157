//! The `driftprobe` binary: do an engine's prefill and decode compute the same tokens?

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(driftprobe_cli::main_with(std::env::args_os(), std::env::current_exe().ok()))
}

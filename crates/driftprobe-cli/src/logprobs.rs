//! `driftprobe logprobs`: log-probabilities of whole generations, decode's against prefill's.

mod engine;
mod files;
mod generate;
mod trace;

pub use files::{Known, judge_files};
pub use trace::run_delta;

use crate::args::{LogprobsArgs, LogprobsFormat};
use crate::failure::Failure;
use crate::output;
use crate::picture;
use driftprobe::logprobs::Judged;
use driftprobe::report::logprobs::{PICTURE_TITLE, picture as draw, to_json, to_markdown, to_terminal, to_tsv};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Runs the command and returns the exit status.
pub fn run(args: LogprobsArgs) -> Result<u8, Failure> {
    match args.files.as_slice() {
        [prefill, decode] => {
            let judged = judge_files(prefill, decode, &args.limits(), Known::default())?;
            let written = args.out.as_deref().map(|out| write(&judged, out)).transpose()?.unwrap_or_default();
            print(&judged, &args, &written, &files::how_to_trace(&judged))?;
            Ok(judged.exit_code())
        }
        _ => engine::run(args),
    }
}

/// Writes logprobs.json, logprobs.md, logprobs.tsv and the picture into `folder`; their paths.
///
/// # Errors
/// If they cannot be written.
pub fn write(judged: &Judged, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = vec![
        ("logprobs.json", to_json(judged).into_bytes()),
        ("logprobs.md", to_markdown(judged).into_bytes()),
        ("logprobs.tsv", to_tsv(judged).into_bytes()),
    ];
    // Where nothing was compared there is nothing to draw, as the report says.
    if let Ok(drawn) = draw(judged) {
        let svg = drawn.to_svg(PICTURE_TITLE);
        files.push(("logprobs.png", picture::png(&svg, picture::PNG_SCALE)?));
        files.push(("logprobs.svg", svg.into_bytes()));
    }
    output::into_folder(folder, files)
}

fn print(judged: &Judged, args: &LogprobsArgs, written: &[PathBuf], more: &str) -> Result<(), Failure> {
    output::print(&match args.format {
        LogprobsFormat::Text => {
            let mut text = to_terminal(judged).ansi() + more;
            if !written.is_empty() {
                text.push('\n');
            }
            for path in written {
                let _ = writeln!(text, "wrote {}", path.display());
            }
            text
        }
        LogprobsFormat::Json => to_json(judged),
        LogprobsFormat::Md => to_markdown(judged),
        LogprobsFormat::Tsv => to_tsv(judged),
    })
}

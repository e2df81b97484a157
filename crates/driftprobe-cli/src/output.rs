//! Writes a report's files and shows the one that was asked for.

use crate::args::Format;
use crate::failure::Failure;
use driftprobe::{Analysis, report};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Writes drift.md, drift.tsv and drift.json into `folder` and prints the report to standard output.
pub fn write(analysis: &Analysis, folder: &Path, format: Format) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|e| Failure::io("make the folder", folder, &e))?;
    let (markdown, tsv, json) = (report::to_markdown(analysis), report::to_tsv(analysis), report::to_json(analysis));
    let mut written = Vec::new();
    for (name, text) in [("drift.md", &markdown), ("drift.tsv", &tsv), ("drift.json", &json)] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|e| Failure::io("write", &path, &e))?;
        written.push(path);
    }
    let shown = match format {
        Format::Text => summary(analysis, &written),
        Format::Json => json,
        Format::Md => markdown,
        Format::Tsv => tsv,
    };
    // anstream takes the colours out unless this is a terminal that wants them.
    match anstream::stdout().write_all(shown.as_bytes()) {
        // The reader has seen enough; the files are written and the verdict stands.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(Failure::stdout),
    }
}

fn summary(analysis: &Analysis, written: &[PathBuf]) -> String {
    let mut text = report::to_terminal(analysis).ansi();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push('\n');
    for path in written {
        let _ = writeln!(text, "wrote {}", path.display());
    }
    text
}

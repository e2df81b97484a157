//! Writes a report's files and shows the one that was asked for.

use crate::args::Format;
use crate::failure::Failure;
use driftprobe::{Analysis, report};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A file's name, and what is in it.
type File = (&'static str, fn(&Analysis) -> String);

/// A report's files.
const FILES: [File; 4] = [
    ("drift.html", report::to_html),
    ("drift.md", report::to_markdown),
    ("drift.tsv", report::to_tsv),
    ("drift.json", report::to_json),
];

/// Writes drift.html, drift.md, drift.tsv and drift.json into `folder`; their paths.
pub fn files(analysis: &Analysis, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(folder).map_err(|e| Failure::io("make the folder", folder, &e))?;
    let write = |(name, text): &File| {
        let path = folder.join(name);
        fs::write(&path, text(analysis)).map_err(|e| Failure::io("write", &path, &e))?;
        Ok(path)
    };
    FILES.iter().map(write).collect()
}

/// Writes a report's files into `folder` and prints the report to standard output.
pub fn write(analysis: &Analysis, folder: &Path, format: Format) -> Result<(), Failure> {
    let written = files(analysis, folder)?;
    let shown = match format {
        Format::Text => summary(analysis, &written),
        Format::Json => report::to_json(analysis),
        Format::Md => report::to_markdown(analysis),
        Format::Tsv => report::to_tsv(analysis),
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

//! Writes a report's files and shows the one that was asked for.

use crate::args::Format;
use crate::failure::Failure;
use driftprobe::Analysis;
use driftprobe::report::{self, ci};
use driftprobe_trace::{Part, Seen};
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

/// What is said of a run, and the run's manifest as it was when it was judged.
pub struct Judged {
    pub analysis: Analysis,
    pub seen: Seen,
}

/// Writes drift.html, drift.md, drift.tsv and drift.json into `folder`; their paths. Of a run that was written anew since it
/// was judged nothing stays.
pub fn files(judged: &Judged, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let texts: Vec<(&str, String)> = FILES.iter().map(|(name, text)| (*name, text(&judged.analysis))).collect();
    judged.seen.unchanged()?;
    let written = into_folder(folder, texts)?;
    judged.seen.unchanged().inspect_err(|_| {
        for path in &written {
            // One that cannot be deleted is told of all the same: by the error that is on its way.
            let _ = fs::remove_file(path);
        }
    })?;
    Ok(written)
}

/// Writes files into a folder, which is made if it is not there; their paths. All are on disk before the first takes the place
/// of an old one, and each takes it whole.
pub fn into_folder<'a>(
    folder: &Path,
    files: impl IntoIterator<Item = (&'a str, impl AsRef<[u8]>)>,
) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(folder).map_err(|e| Failure::io("make the folder", folder, &e))?;
    let mut parts = Vec::new();
    for (name, text) in files {
        let path = folder.join(name);
        let part = Part::write(&path, |file| file.write_all(text.as_ref()));
        parts.push((part.map_err(|e| Failure::io("write", &path, &e))?, path));
    }
    let place = |(part, path): (Part, PathBuf)| match part.place() {
        Ok(()) => Ok(path),
        Err(e) => Err(Failure::io("write", &path, &e)),
    };
    parts.into_iter().map(place).collect()
}

/// Writes a report's files into `folder` and prints the report to standard output.
pub fn write(judged: &Judged, folder: &Path, format: Format) -> Result<(), Failure> {
    let written = files(judged, folder)?;
    let analysis = &judged.analysis;
    let suites = || ci::of_analysis(analysis);
    let shown = match format {
        Format::Text => summary(analysis, &written),
        Format::Json => report::to_json(analysis),
        Format::Md => report::to_markdown(analysis),
        Format::Tsv => report::to_tsv(analysis),
        Format::Junit => ci::to_junit(&suites()),
        Format::Github => github(&suites(), &report::to_markdown(analysis))?,
    };
    print(&shown)
}

/// Prints to standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    // anstream takes the colours out unless this is a terminal that wants them.
    match anstream::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough; the files are written and the verdict stands.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(Failure::stdout),
    }
}

/// Tells something on standard error. Where nobody can be told, the work goes on.
pub fn tell(text: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Bytes of a step's summary beyond which GitHub drops all of it, less what others may have written there.
const SUMMARY_BYTES_MAX: usize = 900 << 10;

/// Adds Markdown to the step's summary, if this is a step of GitHub's, and gives its annotations.
pub fn github(suites: &[ci::Suite], markdown: &str) -> Result<String, Failure> {
    if let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let open = fs::OpenOptions::new().create(true).append(true).open(&path);
        open.and_then(|mut file| file.write_all(cut(markdown).as_bytes()))
            .map_err(|e| Failure::io("write", &path, &e))?;
    }
    Ok(ci::to_annotations(suites))
}

/// As many whole lines as a step's summary holds, with a word about the rest.
fn cut(markdown: &str) -> String {
    if markdown.len() <= SUMMARY_BYTES_MAX {
        return format!("{markdown}\n");
    }
    let mut out = String::new();
    let (mut kept, mut all) = (0usize, 0usize);
    for line in markdown.split_inclusive('\n') {
        all += 1;
        if out.len() + line.len() <= SUMMARY_BYTES_MAX && kept + 1 == all {
            out.push_str(line);
            kept += 1;
        }
    }
    format!("{out}\n{} more lines are in the report itself.\n", all - kept)
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

#[cfg(test)]
mod tests {
    use super::*;
    use driftprobe::report::Plot;
    use driftprobe_trace::is_report;

    #[test]
    fn reports_and_pictures_of_a_run_go_with_it() {
        let pictures =
            Plot::ALL.into_iter().flat_map(|plot| ["svg", "png"].map(|ending| format!("{}.{ending}", plot.id())));
        let all: Vec<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).chain(pictures).collect();
        assert_eq!(all.iter().filter(|name| !is_report(name)).collect::<Vec<_>>(), [""; 0]);
        assert!(["notes.md", "drift", "drift.txt", "drift.md.bak", "mydrift.md"].iter().all(|name| !is_report(name)));
    }

    #[test]
    fn a_summary_is_cut_at_a_line_and_says_so() {
        let long = "0123456789 of a table\n".repeat(60_000);
        let cut = cut(&long);
        assert!(cut.len() < SUMMARY_BYTES_MAX + 100 && cut.contains("more lines are in the report itself"));
        assert!(cut.lines().take(1000).all(|line| line == "0123456789 of a table"));
    }
}

//! Log-probabilities as lines: `{"sequence", "index", "token_id", "logprob"}` and, where it is told, `"phase"`.

use crate::error::{ImportError, Result};
use crate::json_lines::JsonLines;
use driftprobe_trace::{Num, Phase, xxh3_64};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::path::Path;

/// Longest line.
const LINE_BYTES_MAX: u64 = 1 << 16;
/// Most lines of a file: they are held in memory.
const LINES_MAX: u64 = 50_000_000;
/// What a line looks like.
const LINE_HINT: &str = "a line is {\"sequence\": \"s0\", \"index\": 17, \"token_id\": 42, \"logprob\": -1.25}, and \"phase\": \
                         \"prefill\" or \"decode\" if you like (docs/logprobs.md)";

/// One token's score as a line has it.
#[derive(Clone, Debug, PartialEq)]
pub struct LogprobLine {
    /// The sequence.
    pub sequence: String,
    /// Index of the token in the sequence.
    pub index: u64,
    /// The token.
    pub token_id: u32,
    /// ln p of it; NaN where the line says so, or null.
    pub logprob: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    sequence: String,
    index: u64,
    token_id: u32,
    logprob: Num,
    #[serde(default)]
    phase: Option<String>,
}

/// A file of log-probabilities.
#[derive(Debug)]
pub struct LogprobFile {
    /// Its lines, in their order.
    pub lines: Vec<LogprobLine>,
    /// A hash of its content, decompressed: files of equal content have equal ones.
    pub content: u64,
    /// Whether every line names its phase.
    pub names_phase: bool,
    /// The first line that says it is of the other phase.
    pub other_phase: Option<ImportError>,
}

/// Reads a file of one phase's log-probabilities; a name that ends in `.gz` is decompressed.
///
/// # Errors
/// If it cannot be opened, or a line is not of the format: with the line's number.
pub fn read_logprobs(path: &Path, phase: Phase) -> Result<LogprobFile> {
    read_lines(JsonLines::open(path, LINE_BYTES_MAX, LINE_HINT)?, phase)
}

/// Reads the bytes of such a file; `path` is what errors call it.
///
/// # Errors
/// As [`read_logprobs`].
pub fn logprobs_of_bytes(path: &Path, bytes: Vec<u8>, phase: Phase) -> Result<LogprobFile> {
    read_lines(JsonLines::of(path, Box::new(Cursor::new(bytes)), LINE_BYTES_MAX, LINE_HINT), phase)
}

fn read_lines(mut lines: JsonLines, phase: Phase) -> Result<LogprobFile> {
    let mut file = LogprobFile { lines: Vec::new(), content: 0, names_phase: true, other_phase: None };
    while let Some(line) = lines.next::<Line>()? {
        if lines.number() > LINES_MAX {
            return Err(lines.refuse(format!("more than {LINES_MAX} lines")));
        }
        file.names_phase &= line.phase.is_some();
        if let Some(stated) = line.phase.filter(|stated| stated != phase.id()) {
            let what = format!("phase {stated:?}, but the file is given as that of {phase}: prefill's comes first");
            file.other_phase.get_or_insert_with(|| lines.refuse(what));
        }
        let own = xxh3_64(lines.bytes());
        file.content = xxh3_64(&[file.content.to_le_bytes(), own.to_le_bytes()].concat());
        let Num(logprob) = line.logprob;
        let (sequence, index, token_id) = (line.sequence, line.index, line.token_id);
        file.lines.push(LogprobLine { sequence, index, token_id, logprob });
    }
    Ok(file)
}

/// A token's score as a line, with a line feed. A number that is not finite is a word in quotes.
pub fn logprob_line(line: &LogprobLine, phase: Phase) -> String {
    #[derive(Serialize)]
    struct Written<'a> {
        sequence: &'a str,
        index: u64,
        token_id: u32,
        logprob: serde_json::Value,
        phase: &'static str,
    }
    let logprob = match serde_json::Number::from_f64(line.logprob) {
        Some(number) => number.into(),
        None if line.logprob.is_nan() => "NaN".into(),
        None if line.logprob > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    };
    let (index, token_id, phase) = (line.index, line.token_id, phase.id());
    let written = Written { sequence: &line.sequence, index, token_id, logprob, phase };
    // Texts and numbers alone: there is nothing in it that cannot be written.
    serde_json::to_string(&written).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(text: &str) -> std::result::Result<Vec<LogprobLine>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, text).unwrap();
        let file = read_logprobs(&path, Phase::Prefill);
        let file = file.and_then(|file| file.other_phase.map_or(Ok(file.lines), Err));
        file.map_err(|e| format!("{e} hint: {}", e.hint()))
    }

    #[test]
    fn what_is_written_is_read_again_to_the_bit() {
        let line = |index, logprob| LogprobLine { sequence: "a \"b\"\n".to_owned(), index, token_id: 7, logprob };
        let all = [line(0, -0.1), line(1, -1.0 / 3.0), line(2, -1e-300), line(3, f64::NEG_INFINITY), line(4, f64::NAN)];
        let text: String = all.iter().map(|line| logprob_line(line, Phase::Prefill)).collect();
        let found = read(&text).unwrap();
        assert_eq!(found.len(), 5);
        for (found, written) in found.iter().zip(&all) {
            assert_eq!((&found.sequence, found.index, found.token_id), (&written.sequence, written.index, 7));
            assert!(found.logprob.to_bits() == written.logprob.to_bits() || found.logprob.is_nan());
        }
        assert!(found[4].logprob.is_nan());
    }

    #[test]
    fn a_line_that_is_not_of_the_format_is_refused_with_its_number() {
        let good = "{\"sequence\": \"a\", \"index\": 0, \"token_id\": 1, \"logprob\": -0.5}\n";
        assert_eq!(read(good).unwrap().len(), 1);
        for (bad, told) in [
            ("{\"sequence\": \"a\", \"index\": 0, \"token_id\": 1}\n", "missing field `logprob`"),
            ("{\"sequence\": \"a\", \"index\": 0, \"token\": 1, \"logprob\": -1}\n", "unknown field `token`"),
            ("{\"sequence\": \"a\", \"index\": -1, \"token_id\": 1, \"logprob\": -1}\n", "-1"),
            ("{\"sequence\": \"a\", \"index\": 1.5, \"token_id\": 1, \"logprob\": -1}\n", "1.5"),
            ("{\"sequence\": 3, \"index\": 1, \"token_id\": 1, \"logprob\": -1}\n", "expected a string"),
            (
                "{\"sequence\": \"a\", \"index\": 1, \"index\": 1, \"token_id\": 1, \"logprob\": -1}\n",
                "duplicate field",
            ),
            ("{\"sequence\": \"a\", \"index\": 1, \"token_id\": 1, \"logprob\": \"x\"}\n", "\"x\""),
            ("{\"sequence\": \"a\", \"index\": 1, \"tok", "EOF"),
            ("\n", "EOF"),
            (
                "{\"sequence\": \"a\", \"index\": 1, \"token_id\": 1, \"logprob\": -1, \"phase\": \"decode\"}\n",
                "prefill's comes first",
            ),
        ] {
            let told_us = read(&format!("{good}{bad}")).unwrap_err();
            assert!(told_us.contains("a.jsonl:2:") && told_us.contains(told) && told_us.contains("hint"), "{told_us}");
        }
        let long = format!("{{\"sequence\": \"{}\"", "a".repeat(1 << 17));
        assert!(read(&long).unwrap_err().contains("longer than"));
    }

    #[test]
    fn compressed_files_are_read_alike_and_other_content_has_another_hash() {
        let dir = tempfile::tempdir().unwrap();
        let line = |logprob| LogprobLine { sequence: "a".to_owned(), index: 0, token_id: 7, logprob };
        let text = |logprob| logprob_line(&line(logprob), Phase::Decode);
        let (plain, packed, other) = (dir.path().join("a.jsonl"), dir.path().join("a.jsonl.gz"), dir.path().join("b"));
        fs::write(&plain, text(-1.0)).unwrap();
        fs::write(&other, text(-2.0)).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&packed).unwrap(), Default::default());
        std::io::Write::write_all(&mut encoder, text(-1.0).as_bytes()).unwrap();
        encoder.finish().unwrap();
        let [plain, packed, other] = [plain, packed, other].map(|path| read_logprobs(&path, Phase::Decode).unwrap());
        assert_eq!((&plain.lines, plain.content), (&packed.lines, packed.content));
        assert_ne!(plain.content, other.content);
        assert!(plain.other_phase.is_none());
    }

    #[test]
    fn nan_is_read_and_not_dropped() {
        for word in ["NaN", "null", "\"NaN\"", "-Infinity"] {
            let text = format!("{{\"sequence\": \"a\", \"index\": 0, \"token_id\": 1, \"logprob\": {word}}}\n");
            assert!(!read(&text).unwrap()[0].logprob.is_finite(), "{word}");
        }
    }
}

//! What an import did: passes, what is known, and what was left over, for people and for the manifest.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Names that are listed on the terminal; the manifest has all.
const NAMES_SHOWN: usize = 40;

/// A tensor that was not imported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unmapped {
    /// Its name in the dump.
    pub name: String,
    /// Why.
    pub why: String,
}

impl Unmapped {
    /// A tensor that was not imported.
    pub fn new(name: &str, why: &str) -> Unmapped {
        Unmapped { name: name.to_owned(), why: why.to_owned() }
    }
}

/// What an import did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The run's folder.
    pub out: PathBuf,
    /// The dump's format.
    pub format: &'static str,
    /// The map's name.
    pub map: Option<String>,
    /// What each pass became: its name in the dump, and that.
    pub passes: Vec<(String, String)>,
    /// Tensors and events that became rows, and the rows, by phase.
    pub tensors: u64,
    /// Rows of prefill.
    pub prefill_rows: u64,
    /// Rows of decode.
    pub decode_rows: u64,
    /// What was left over.
    pub unmapped: Vec<Unmapped>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// What is not known, and so makes the run incomplete.
    pub unknown: Vec<String>,
}

impl Report {
    /// Whether all is known that a verdict needs.
    pub fn is_complete(&self) -> bool {
        self.unknown.is_empty()
    }

    /// Distinct names that were left over, with how often, and why.
    fn left_over(&self) -> BTreeMap<&Unmapped, u64> {
        let mut counts = BTreeMap::new();
        self.unmapped.iter().for_each(|unmapped| *counts.entry(unmapped).or_insert(0) += 1);
        counts
    }

    /// As it stands in the manifest, under `import`.
    pub fn to_json(&self) -> Value {
        let passes: Vec<Value> =
            self.passes.iter().map(|(name, became)| json!({"name": name, "became": became})).collect();
        let left = self.left_over();
        let unmapped: Vec<Value> =
            left.iter().map(|(u, count)| json!({"name": u.name, "tensors": count, "why": u.why})).collect();
        json!({
            "from": self.format, "map": self.map, "passes": passes, "unmapped": unmapped, "notes": self.notes,
            "unknown": self.unknown,
        })
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let map = self.map.as_ref().map_or_else(String::new, |map| format!(", names by the map {map}"));
        let _ = writeln!(text, "imported from {}{map}: {} tensors", self.format, self.tensors);
        let _ = writeln!(text, "  {} rows of prefill, {} of decode", self.prefill_rows, self.decode_rows);
        for (number, (name, became)) in self.passes.iter().enumerate() {
            let _ = writeln!(text, "  pass {} {}: {became}", number + 1, plain(name));
        }
        let left = self.left_over();
        if !left.is_empty() {
            let _ = writeln!(text, "not imported: {} tensors of {} names", self.unmapped.len(), left.len());
        }
        let mut folded: BTreeMap<(String, &str), u64> = BTreeMap::new();
        left.iter().for_each(|(u, count)| *folded.entry((without_layers(&u.name), &u.why)).or_insert(0) += count);
        for ((name, why), count) in folded.iter().take(NAMES_SHOWN) {
            let _ = writeln!(text, "  {count} × {}: {}", plain(name), plain(why));
        }
        if folded.len() > NAMES_SHOWN {
            let _ = writeln!(text, "  {} more in manifest.json, under import", folded.len() - NAMES_SHOWN);
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {}", plain(note));
        }
        for what in &self.unknown {
            let _ = writeln!(text, "not known: {what}");
        }
        if self.is_complete() {
            text.push_str("complete: tokens and positions are known\n");
        }
        let _ = writeln!(text, "wrote {}", self.out.display());
        text
    }
}

/// A dump's text without what would steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A name with `*` for numbers between dots.
fn without_layers(name: &str) -> String {
    let part = |part: &str| if part.bytes().all(|b| b.is_ascii_digit()) { "*".to_owned() } else { part.to_owned() };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

//! The tables as text, and the text in the document.

use super::Bench;
use super::clean::{self, Clean};
use super::contracts::STORAGES;
use super::faults::{BELOW, CATALOGUE, Case, Outcome};
use super::gates::{self, Gates, Own};
use super::models::MODELS;
use super::smallest;
use anyhow::{Context, Result, ensure};
use driftprobe_trace::Phase;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Least rates: detected of those visible and above noise, localised of the detected, named of the detected.
const TARGETS: [f64; 3] = [0.99, 0.99, 0.95];

/// Counts of faults.
#[derive(Default, Clone, Copy)]
pub struct Count {
    injected: usize,
    invisible: usize,
    below: usize,
    missed: usize,
    detected: usize,
    localised: usize,
    named: f64,
}

impl Count {
    fn add(&mut self, outcome: Outcome) {
        self.injected += 1;
        match outcome {
            Outcome::Invisible => self.invisible += 1,
            Outcome::Below(_) => self.below += 1,
            Outcome::Missed(_) => self.missed += 1,
            Outcome::Found { localised, named } => {
                self.detected += 1;
                self.localised += usize::from(localised);
                self.named += named;
            }
        }
    }

    fn rates(&self) -> [f64; 3] {
        let of = |part: f64, all: usize| part / all.max(1) as f64;
        let visible = self.detected + self.missed;
        [of(self.detected as f64, visible), of(self.localised as f64, self.detected), of(self.named, self.detected)]
    }

    fn line(&self, name: &str) -> String {
        let [detected, localised, named] = self.rates().map(percent);
        format!(
            "| {name} | {} | {} | {} | {} | {detected} | {localised} | {named} |\n",
            self.injected,
            self.invisible,
            self.below,
            self.detected + self.missed,
        )
    }
}

/// Never rounded up to a whole.
fn percent(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).floor() / 10.0)
}

/// All that was counted.
pub struct Tables<'a> {
    cases: &'a [Case],
    all: Count,
    gates: Gates,
    own: Own,
}

impl<'a> Tables<'a> {
    pub fn new(clean: &[(String, Clean)], cases: &'a [Case]) -> Tables<'a> {
        let mut all = Count::default();
        cases.iter().for_each(|case| all.add(case.outcome));
        let mut gates = Gates::default();
        for (_, clean) in clean {
            gates.merge(clean.gates.clone());
        }
        cases.iter().for_each(|case| gates.merge(case.gates.clone()));
        let alarmed: usize = clean.iter().map(|(_, c)| c.runs - c.passes - c.open).sum();
        let own = Own { alarmed: alarmed as u64, detected: all.detected as u64, localised: all.localised as u64 };
        Tables { cases, all, gates, own }
    }

    /// Fails below a target.
    pub fn ensure_targets(&self) -> Result<()> {
        let names = ["detected", "localised", "named"];
        for ((name, rate), target) in names.iter().zip(self.all.rates()).zip(TARGETS) {
            ensure!(rate >= target, "{name}: {} are less than {}", percent(rate), percent(target));
        }
        Ok(())
    }

    fn by(&self, key: impl Fn(&Case) -> String) -> BTreeMap<String, Count> {
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        for case in self.cases {
            counts.entry(key(case)).or_default().add(case.outcome);
        }
        counts
    }
}

const HEAD: &str = "| | injected | change no row | below noise | to be found | detected | localised | named |\n|---|---|---|---|---|---|---|---|\n";

fn phase(phase: Option<Phase>) -> String {
    phase.map_or("both".to_owned(), |phase| phase.to_string())
}

/// Everything that stands between the markers.
pub fn text(bench: &Bench, clean: &[(String, Clean)], tables: &Tables<'_>) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "Made by `cargo xtask numerics --write docs/numerics.md`; all seeds are fixed.\n")?;
    text += "| model | what it is |\n|---|---|\n";
    for (name, what) in MODELS {
        writeln!(text, "| {name} | {what} |")?;
    }
    writeln!(text, "\n### False alarms\n\n{}", clean::text(clean))?;
    writeln!(text, "### Faults\n\n{HEAD}{}", tables.all.line("**all**"))?;
    let groups = tables.by(|case| case.group.to_owned());
    text += HEAD;
    for name in CATALOGUE {
        groups.get(name).into_iter().for_each(|count| text += &count.line(name));
    }
    writeln!(text, "\n{HEAD}{}", {
        let by = tables.by(|case| case.storage.to_owned());
        STORAGES.iter().filter_map(|s| Some(by.get(*s)?.line(s))).collect::<String>()
    })?;
    writeln!(text, "{HEAD}{}", lines(&tables.by(|case| phase(case.phase))))?;
    writeln!(text, "{HEAD}{}", lines(&tables.by(|case| format!("`{}`", case.id))))?;
    writeln!(text, "### Gates of others in the same runs\n\n{}", gates::text(&tables.gates, &tables.own))?;
    if !bench.quick {
        writeln!(text, "### Smallest fault seen\n\n{}", smallest::text(bench)?)?;
    }
    writeln!(text, "### What was missed\n\n{}", misses(tables.cases))?;
    Ok(text)
}

fn lines(counts: &BTreeMap<String, Count>) -> String {
    counts.iter().map(|(name, count)| count.line(name)).collect()
}

/// Every miss, and by bug what lay below noise.
fn misses(cases: &[Case]) -> String {
    let mut lists: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut below: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    let mut ties: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for case in cases {
        let list = match case.outcome {
            Outcome::Below(d) => {
                let known = below.entry(case.id).or_default();
                *known = (known.0 + 1, known.1.max(d));
                continue;
            }
            Outcome::Missed(_) => "1. Not detected",
            Outcome::Found { localised: false, .. } => "2. Detected elsewhere",
            Outcome::Found { named: 0.0, .. } => "3. Not named",
            Outcome::Found { named, .. } if named < 1.0 => {
                *ties.entry((case.id, ids(&case.said))).or_default() += 1;
                continue;
            }
            _ => continue,
        };
        lists.entry(list).or_default().push(format!("- `{}`: {}", case.what, case.said));
    }
    let mut text = String::new();
    for (title, list) in &lists {
        let _ = writeln!(text, "{} ({}):\n\n{}\n", title.split_at(3).1, list.len(), list.join("\n"));
    }
    if !ties.is_empty() {
        let _ = writeln!(text, "Named in a tie, or in one phase of two ({}):\n", ties.values().sum::<usize>());
        ties.iter().for_each(|((id, said), count)| text += &format!("- `{id}` as {said}: {count}\n"));
        text += "\n";
    }
    if !below.is_empty() {
        let one = |(id, (count, d)): (&&str, &(usize, f64))| format!("`{id}` {count} (D to {d:.1})");
        let all: Vec<String> = below.iter().map(one).collect();
        let _ = writeln!(text, "Below noise (D < {BELOW}, not detected): {}.", all.join(", "));
    }
    text
}

/// The ids in what was said.
fn ids(said: &str) -> String {
    let is_id = |word: &&str| word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let ids: BTreeSet<&str> = said.split(|c: char| !c.is_alphanumeric() && c != '_').filter(is_id).collect();
    ids.into_iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" or ")
}

/// Replaces what stands between the markers.
pub fn put_between_markers(path: &Path, text: &str) -> Result<()> {
    let page = std::fs::read_to_string(path)?;
    let (begin, end) = ("<!-- numerics:begin -->\n", "<!-- numerics:end -->");
    let parts = page.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.with_context(|| format!("{} has no numerics markers", path.display()))?;
    std::fs::write(path, format!("{before}{begin}\n{text}\n{end}{after}"))?;
    Ok(())
}

//! Rules of the documentation: links lead somewhere, commands and options exist, tests that are named are there, tables are
//! those of the code, and nothing is left to be written.

use super::{File, Findings, Tree, entry, need};
use anyhow::{Context, Result};
use driftprobe::gate::PRESETS;
use driftprobe::logprobs::Code;
use driftprobe::report::to_terminal;
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{Options, analyze};
use driftprobe_trace::Run;
use std::collections::BTreeSet;

/// Words that stand for something still to be written.
const UNWRITTEN: &[&str] = &["tbd", "todo", "fixme", "placeholder", "xxx"];

pub fn check(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let commands = Commands::read(tree)?;
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        unwritten(file, findings);
        links(tree, file, findings);
        commands.check(file, findings);
        named_tests(tree, file, findings);
    }
    for file in &tree.files {
        if file.path.starts_with("crates/driftprobe/src/report/") || file.path.ends_with(".snap") {
            unwritten(file, findings);
        }
    }
    code_map(tree, findings)?;
    reports(tree, findings)?;
    presets(tree, findings)?;
    summaries(tree, findings)?;
    entry::check(tree, &commands, findings)?;
    crosscheck(tree, findings)
}

fn unwritten(file: &File, findings: &mut Findings) {
    let rust = file.path.ends_with(".rs");
    for (number, line) in file.lines().filter(|(_, line)| !(rust && line.trim_start().starts_with("//"))) {
        let words = line.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
        for word in words.filter(|word| UNWRITTEN.contains(&word.as_str())) {
            findings.push(format!("{}:{number}: `{word}` promises what is not there", file.path));
        }
    }
}

/// Lines outside fenced blocks (`None`), and in them with the block's language.
fn fenced(file: &File) -> Vec<(usize, Option<&str>, &str)> {
    let (mut out, mut language) = (vec![], None);
    for (number, line) in file.lines() {
        match (line.trim_start().strip_prefix("```"), language) {
            (Some(_), Some(_)) => language = None,
            (Some(begun), None) => language = Some(begun.trim()),
            (None, _) => out.push((number, language, line)),
        }
    }
    out
}

/// Text outside and inside of code spans, by turns.
fn spans(line: &str, code: bool) -> impl Iterator<Item = &str> {
    line.split('`').skip(usize::from(code)).step_by(2)
}

fn links(tree: &Tree, file: &File, findings: &mut Findings) {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (number, _, line) in fenced(file).into_iter().filter(|(_, language, _)| language.is_none()) {
        let prose: String = spans(line, false).collect();
        let ends = [("](", ')'), ("src=\"", '"'), ("href=\"", '"')];
        let targets = ends.iter().flat_map(|(start, end)| {
            prose.split(start).skip(1).filter_map(|rest| rest.split_once(*end)).map(|(target, _)| target)
        });
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { file.path.clone() } else { join(folder, path) };
            let there = tree.get(&path).is_some() || tree.root.join(&path).exists();
            let heading = |file: &File| anchors(file).any(|found| found == anchor);
            if !there || !(anchor.is_empty() || tree.get(&path).is_some_and(heading)) {
                findings.push(format!("{}:{number}: {target} leads nowhere", file.path));
            }
        }
    }
}

fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part != ".." || parts.pop().is_none() {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// Anchors of a file's headings, as GitHub makes them.
fn anchors(file: &File) -> impl Iterator<Item = String> {
    let headings = fenced(file).into_iter().filter(|(_, language, line)| language.is_none() && line.starts_with('#'));
    headings.map(|(_, _, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    })
}

/// What the binary and xtask understand, read off their sources.
pub struct Commands {
    driftprobe: BTreeSet<String>,
    xtask: BTreeSet<String>,
    options: BTreeSet<String>,
}

const CARGO: &[&str] =
    &["run", "test", "build", "install", "doc", "fmt", "clippy", "nextest", "insta", "xtask", "publish"];

impl Commands {
    /// Of the program.
    pub fn driftprobe(&self) -> impl Iterator<Item = &str> {
        self.driftprobe.iter().map(String::as_str)
    }

    fn read(tree: &Tree) -> Result<Commands> {
        let variants = |text: &str| -> BTreeSet<String> {
            let body = text.split("enum Command {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or("");
            let names =
                body.lines().filter_map(|line| line.strip_prefix("    ")).filter(|l| l.starts_with(char::is_uppercase));
            names
                .map(|line| line.chars().take_while(|c| c.is_alphanumeric()).collect::<String>().to_lowercase())
                .collect()
        };
        let args = need(tree, "crates/driftprobe-cli/src/args.rs")?;
        let remote = need(tree, "crates/driftprobe-cli/src/remote.rs")?;
        // Arguments of single commands lie in files of their own.
        let own = |file: &&File| file.path.starts_with("crates/driftprobe-cli/src/args/");
        let own = tree.files.iter().filter(own).flat_map(|file| file.text.lines());
        let lines = args.text.lines().chain(remote.text.lines()).chain(own);
        let fields = lines.filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'));
        Ok(Commands {
            driftprobe: variants(&args.text),
            xtask: variants(&need(tree, "xtask/src/main.rs")?.text),
            options: fields.map(|(name, _)| name.replace('_', "-")).chain(["help".into(), "version".into()]).collect(),
        })
    }

    fn check(&self, file: &File, findings: &mut Findings) {
        for (number, _, line) in fenced(file).into_iter().filter(|(_, language, _)| *language == Some("sh")) {
            let mut words = line.split_whitespace();
            let (program, command) = (words.next().unwrap_or(""), words.next().unwrap_or("--help"));
            let wrong = match program {
                "driftprobe" => !command.starts_with('-') && !self.driftprobe.contains(command),
                "cargo" if command == "xtask" => !self.xtask.contains(words.next().unwrap_or("")),
                "cargo" => !CARGO.contains(&command),
                _ => continue,
            };
            if wrong {
                findings.push(format!("{}:{number}: `{line}`: there is no such command", file.path));
            }
            let options = line.split_whitespace().filter_map(|word| word.strip_prefix("--")).filter(|o| !o.is_empty());
            for option in options.filter(|option| program == "driftprobe" && !self.options.contains(*option)) {
                findings.push(format!("{}:{number}: there is no option --{option}", file.path));
            }
        }
    }
}

/// A test that is named as `path.rs::name` is there.
fn named_tests(tree: &Tree, file: &File, findings: &mut Findings) {
    for (number, _, line) in fenced(file) {
        for (path, name) in spans(line, true).filter_map(|span| span.split_once(".rs::")) {
            let there = tree.get(&format!("{path}.rs")).is_some_and(|file| file.text.contains(&format!("fn {name}(")));
            if !there {
                findings.push(format!("{}:{number}: there is no test {path}.rs::{name}", file.path));
            }
        }
    }
}

/// ARCHITECTURE.md lists every source file under its crate's heading, and no other.
fn code_map(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let file = need(tree, "ARCHITECTURE.md")?;
    let (mut listed, mut under) = (BTreeSet::new(), "");
    for (_, _, line) in fenced(file) {
        if line.starts_with('#') {
            under = spans(line, true).next().unwrap_or("");
        }
        listed.extend(spans(line, true).filter(|s| s.ends_with(".rs") && !under.is_empty()).map(|s| (under, s)));
    }
    let there: BTreeSet<(&str, &str)> = tree.sources().map(|(name, within, _)| (name, within)).collect();
    for (name, path) in there.symmetric_difference(&listed) {
        findings.push(format!("ARCHITECTURE.md: {name}: {path} is listed and not there, or there and not listed"));
    }
    Ok(())
}

/// docs/reports.md has every reason, failure code and field of the code.
fn reports(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let text = &need(tree, "docs/reports.md")?.text;
    let mut expect = |what: String| {
        if !text.contains(&what) {
            findings.push(format!("docs/reports.md: lacks {what}"));
        }
    };
    for reason in ReasonCode::ALL {
        let blocks = if reason.blocking() { "yes" } else { "no" };
        expect(format!("| `{}` | {blocks} | {} |", reason.id(), reason.sentence()));
    }
    driftprobe::verdict::codes().for_each(|code| expect(format!("`{code}`")));
    for part in ["schema.rs", "schema/attention.rs", "schema/cause.rs", "schema/row.rs"] {
        fields(tree, part)?.into_iter().for_each(|field| expect(format!("`{field}`")));
    }
    for (page, part) in [
        ("docs/compare.md", "schema/compare.rs"),
        ("docs/gate.md", "schema/gate.rs"),
        ("docs/sweep.md", "schema/sweep.rs"),
        ("docs/logprobs.md", "schema/logprobs.rs"),
    ] {
        let text = &need(tree, page)?.text;
        let lacks = |field: &&str| !text.contains(&format!("| `{field}` |"));
        findings.extend(fields(tree, part)?.into_iter().filter(lacks).map(|field| format!("{page}: lacks `{field}`")));
    }
    let text = &need(tree, "docs/logprobs.md")?.text;
    let rows = Code::ALL.iter().map(|code| format!("| `{}` | {} |", code.id(), code.sentence()));
    findings.extend(rows.filter(|row| !text.contains(row)).map(|row| format!("docs/logprobs.md: lacks {row}")));
    Ok(())
}

/// docs/gate.md has each preset's formula and source, as the program has them.
fn presets(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let text = &need(tree, "docs/gate.md")?.text;
    for preset in PRESETS {
        let row = format!("| `{}` | {} | {} |", preset.id, preset.formula.replace('|', "\\|"), preset.source);
        if !text.contains(&row) {
            findings.push(format!("docs/gate.md: lacks {row}"));
        }
    }
    Ok(())
}

/// Public fields of a file of serialised types.
fn fields<'t>(tree: &'t Tree, part: &str) -> Result<Vec<&'t str>> {
    let lines = need(tree, &format!("crates/driftprobe/src/report/{part}"))?.text.lines();
    Ok(lines.filter_map(|line| Some(line.strip_prefix("    pub ")?.split_once(':')?.0)).collect())
}

/// docs/greta.md shows what the program prints today.
fn summaries(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let text = &need(tree, "docs/greta.md")?.text;
    for name in ["drift", "offset"] {
        let run = Run::open(&tree.root.join("crates/driftprobe-trace/tests/fixtures/greta").join(name))?;
        let summary = to_terminal(&analyze(&run, &run, Options::default())).plain();
        if !text.contains(&format!("```text\n{}\n```", summary.trim_end())) {
            findings.push(format!("docs/greta.md: the summary of {name} is not what driftprobe prints"));
        }
    }
    Ok(())
}

/// docs/engines.md has a row for every fixture that the cross-check runs.
fn crosscheck(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let text = &need(tree, "docs/engines.md")?.text;
    let table = text.split("<!-- crosscheck:begin -->").nth(1).and_then(|t| t.split("<!-- crosscheck:end -->").next());
    let table = table.context("docs/engines.md has no <!-- crosscheck:begin --> … <!-- crosscheck:end -->")?;
    let list: serde_json::Value = serde_json::from_str(&need(tree, "fixtures/expected.json")?.text)?;
    let models = list["fixtures"].as_array().into_iter().flatten().filter(|fixture| fixture["tokens"].is_number());
    for path in models.filter_map(|fixture| fixture["path"].as_str()) {
        if !table.contains(&format!("| {path} |")) {
            findings.push(format!("docs/engines.md: the table lacks {path}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn found(text: &str, check: impl Fn(&Tree, &File, &mut Findings)) -> usize {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let test = File { path: "xtask/src/t.rs".to_owned(), text: "fn it_holds() {}".to_owned() };
        let page = File { path: "docs/page.md".to_owned(), text: text.to_owned() };
        let tree = Tree { root, files: vec![page, test] };
        let mut findings = Findings::new();
        check(&tree, &tree.files[0], &mut findings);
        findings.len()
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let text = "# A `b` page!\n[1](trace-format.md) [2](#a-b-page) [3](../README.md) [4](https://x.y/z) `[5](z)`\n";
        assert_eq!(found(text, links), 0);
        assert_eq!(found("# A page\n[1](trace.md)\n[2](#page)\n<img src=\"x.svg\">\n", links), 3);
        assert_eq!(found("```text\n[1](nowhere)\n```\n[2](nowhere)", links), 1);
    }

    #[test]
    fn commands_and_options_that_do_not_exist_are_found() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let commands = Commands { driftprobe: set(&["run"]), xtask: set(&["tidy"]), options: set(&["layers"]) };
        let check = |_: &Tree, file: &File, findings: &mut Findings| commands.check(file, findings);
        let good = "```sh\ndriftprobe\ndriftprobe run --layers all\ncargo xtask tidy\nls --all\n```\ndriftprobe walk\n";
        assert_eq!(found(good, check), 0);
        assert_eq!(found("```sh\ndriftprobe walk\ndriftprobe run --layer 0\ncargo xtask tie\n```\n", check), 3);
    }

    #[test]
    fn unwritten_words_and_tests_that_are_not_there_are_found() {
        let words = |_: &Tree, file: &File, findings: &mut Findings| unwritten(file, findings);
        assert_eq!(found("Nothing is left to do.", words), 0);
        assert_eq!(found(concat!("T", "BD\nto come: fix", "me"), words), 2);
        assert_eq!(found("held by `xtask/src/t.rs::it_holds`", named_tests), 0);
        assert_eq!(found("held by `xtask/src/t.rs::it_breaks`, `xtask/src/u.rs::it_holds`", named_tests), 2);
    }
}

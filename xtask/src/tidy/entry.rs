//! Rules of the ways in: the README's commands are those of CI, every page can be reached from it, and the changelog knows
//! this version and every command.

use super::docs::Commands;
use super::{Findings, Tree, need};
use anyhow::Result;

pub fn check(tree: &Tree, commands: &Commands, findings: &mut Findings) -> Result<()> {
    let readme = &need(tree, "README.md")?.text;
    let pages = tree.files.iter().map(|file| file.path.as_str()).filter(|path| is_page(path));
    findings.extend(pages.filter(|page| !readme.contains(page)).map(|page| format!("README.md: does not name {page}")));
    findings.extend(untested(readme, &need(tree, ".ci/run")?.text));
    let version = need(tree, "Cargo.toml")?.text.lines().find_map(|line| line.strip_prefix("version = "));
    let changelog = &need(tree, "CHANGELOG.md")?.text;
    findings.extend(unheard(changelog, version.unwrap_or_default().trim_matches('"'), commands.driftprobe()));
    Ok(())
}

fn is_page(path: &str) -> bool {
    path.strip_prefix("docs/").is_some_and(|name| name.ends_with(".md") && !name.contains('/'))
}

/// The commands that the README gives first: CI runs its test command as it stands there, and there are two of them.
fn untested(readme: &str, ci: &str) -> Vec<String> {
    let first = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    let commands: Vec<&str> = first.lines().collect();
    let mut findings = vec![];
    if commands.len() != 2 {
        findings.push(format!("README.md: a newcomer needs {} commands, not two", commands.len()));
    }
    let test = commands.iter().find(|command| command.contains(" test"));
    let run = |command: &&str| ci.lines().any(|line| line.strip_prefix("part ") == Some(*command));
    if !test.is_some_and(run) {
        findings.push(format!("README.md: .ci/run does not run its test command {test:?}"));
    }
    findings
}

/// What the changelog does not speak of.
fn unheard<'c>(changelog: &str, version: &str, commands: impl Iterator<Item = &'c str>) -> Vec<String> {
    let headings = || changelog.lines().filter(|line| line.starts_with("## "));
    let mut findings = vec![];
    if version.is_empty() || !headings().any(|heading| heading.contains(version)) {
        findings.push(format!("CHANGELOG.md: has no entry for version {version}"));
    }
    let unknown = commands.filter(|command| !changelog.contains(&format!("`driftprobe {command}")));
    findings.extend(unknown.map(|command| format!("CHANGELOG.md: does not name `driftprobe {command}`")));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_readme_whose_test_command_ci_does_not_run_is_found() {
        let readme = "# x\n```sh\ncargo run --release\ncargo test\n```\n```sh\nmake\n```\n";
        assert!(untested(readme, "part cargo fmt\npart cargo test\n").is_empty());
        assert_eq!(untested(readme, "part cargo test -p xtask\n").len(), 1);
        assert_eq!(untested("```sh\napt-get install x\ncargo run\ncargo test\n```", "part cargo test\n").len(), 1);
    }

    #[test]
    fn versions_and_commands_without_an_entry_are_found() {
        let changelog = "## Unreleased (0.2.0)\n- `driftprobe run --all`\n";
        assert!(unheard(changelog, "0.2.0", ["run"].into_iter()).is_empty());
        assert_eq!(unheard(changelog, "0.3.0", ["run", "walk"].into_iter()).len(), 2);
        assert_eq!(unheard(changelog, "", [].into_iter()).len(), 1);
    }
}

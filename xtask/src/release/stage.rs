//! What an archive of the program holds.

use super::sbom;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Shells, and what their completion scripts are called.
const SHELLS: &[(&str, &str)] = &[("bash", "driftprobe.bash"), ("zsh", "_driftprobe"), ("fish", "driftprobe.fish")];

/// Lays out a new folder: `bin/`, `man/`, `completions/`, licences, README, CHANGELOG, `sbom.cdx.json`.
///
/// # Errors
/// If the folder is there, the binary does not run, or something cannot be written.
pub fn stage(root: &Path, (binary, target): (&Path, Option<&str>), out: &Path) -> Result<()> {
    let binary = binary.canonicalize().with_context(|| format!("{}: no such program", binary.display()))?;
    fs::create_dir(out).with_context(|| format!("{}: expected a folder that is not there yet", out.display()))?;
    for folder in ["bin", "man", "completions"] {
        fs::create_dir(out.join(folder))?;
    }
    fs::copy(&binary, out.join("bin/driftprobe"))?;
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "CHANGELOG.md"] {
        fs::copy(root.join(file), out.join(file)).context(file)?;
    }
    let commands = commands(&said(&binary, &["--help"])?);
    ensure!(commands.len() > 1, "{}: its --help lists no commands", binary.display());
    fs::write(out.join("man/driftprobe.1"), said(&binary, &["man"])?)?;
    for command in &commands {
        fs::write(out.join(format!("man/driftprobe-{command}.1")), said(&binary, &["man", command])?)?;
    }
    for (shell, file) in SHELLS {
        fs::write(out.join("completions").join(file), said(&binary, &["completions", shell])?)?;
    }
    fs::write(out.join("sbom.cdx.json"), sbom::of_workspace(root, target)?)?;
    println!("{}: {} manual pages, {} completions", out.display(), commands.len() + 1, SHELLS.len());
    Ok(())
}

/// What the program prints; never nothing.
fn said(binary: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary).args(arguments).output().with_context(|| binary.display().to_string())?;
    let what = || format!("{} {}", binary.display(), arguments.join(" "));
    ensure!(output.status.success(), "{}: {}", what(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    ensure!(!text.trim().is_empty(), "{} prints nothing", what());
    Ok(text)
}

/// The commands that a help text lists, but for `help` itself.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let first = |line: &str| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned);
    let own = |line: &&str| line.as_bytes().get(2).is_some_and(u8::is_ascii_lowercase);
    listed.filter(own).filter_map(first).filter(|name| name != "help").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_off_the_help() {
        let help = "Usage: x\n\nCommands:\n  run   Runs\n        and more\n  man   Prints\n  help  Helps\n\nOptions:\n  -h  Help\n";
        assert_eq!(commands(help), ["run", "man"]);
        assert!(commands("Usage: x\n").is_empty());
    }
}

//! What cargo says of the workspace.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root.
pub fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
}

/// What a cargo command prints.
///
/// # Errors
/// If it cannot be started, or fails: with what it said.
pub fn cargo(root: &Path, arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(root).output().context("cargo cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).context("cargo prints what is not UTF-8")
}

/// `cargo metadata` without the network, with further arguments.
///
/// # Errors
/// As [`cargo`].
pub fn metadata(root: &Path, more: &[&str]) -> Result<Value> {
    let arguments = [&["metadata", "--offline", "--format-version", "1"], more].concat();
    Ok(serde_json::from_str(&cargo(root, &arguments)?)?)
}

/// The packages of `metadata`.
///
/// # Errors
/// If it names none.
pub fn packages(metadata: &Value) -> Result<&[Value]> {
    metadata["packages"].as_array().map(Vec::as_slice).context("cargo metadata names no packages")
}

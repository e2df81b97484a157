//! Asking a script of the benchmark, in the Python that was named.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What `xtask/bench/<script>` answers: one JSON object.
pub fn ask(python: &Path, script: &str, args: &[&str]) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench").join(script);
    let output = Command::new(python).arg(path).args(args).output().with_context(|| python.display().to_string())?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

//! Packages as a registry would get them: their metadata, what lies in them, and what they need of each other.

use crate::cargo::{cargo, packages};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Whether a package goes to a registry.
fn is_published(package: &Value) -> bool {
    !package["publish"].as_array().is_some_and(Vec::is_empty)
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

/// What is wrong with the packages of this workspace, after cargo has packed them all.
///
/// # Errors
/// If cargo cannot pack them.
pub fn check(root: &Path, workspace: &Value) -> Result<Vec<String>> {
    let all = packages(workspace)?;
    let mut findings = stated(all);
    let published = || all.iter().filter(|package| is_published(package));
    let names: Vec<&str> = published().flat_map(|package| ["-p", text(package, "name")]).collect();
    cargo(root, &[&["package", "--offline", "--allow-dirty", "--no-verify", "--quiet"][..], &names].concat())?;
    for package in published() {
        let name = text(package, "name");
        let list = cargo(root, &["package", "--offline", "--allow-dirty", "--list", "-p", name])?;
        let folder = Path::new(text(package, "manifest_path")).parent().context("a manifest in no folder")?;
        findings.extend(contents(name, folder, &list.lines().collect())?);
    }
    Ok(findings)
}

/// Findings in what the manifests say.
fn stated(all: &[Value]) -> Vec<String> {
    let versions: BTreeMap<&str, &str> =
        all.iter().filter(|p| is_published(p)).map(|p| (text(p, "name"), text(p, "version"))).collect();
    let own: BTreeSet<&str> = all.iter().map(|package| text(package, "name")).collect();
    let mut findings = Vec::new();
    for package in all.iter().filter(|package| is_published(package)) {
        let name = text(package, "name");
        let mut find = |what: String| findings.push(format!("{name}: {what}"));
        for key in ["description", "license", "readme", "rust_version"] {
            if text(package, key).is_empty() {
                find(format!("has no {key}"));
            }
        }
        let keywords: Vec<&str> =
            package["keywords"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // The registry's limits.
        if keywords.is_empty() || keywords.len() > 5 || keywords.iter().any(|word| word.len() > 20) {
            find(format!("keywords {keywords:?}: expected one to five of at most 20 letters"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let (to, required) = (text(dependency, "name"), text(dependency, "req"));
            if !own.contains(to) || dependency["kind"] == "dev" {
                continue;
            }
            match versions.get(to) {
                None => find(format!("needs {to}, which is not published")),
                Some(version) if required != format!("^{version}") => {
                    find(format!("needs {to} {required}, and its version is {version}"));
                }
                Some(_) => {}
            }
        }
    }
    findings
}

/// Findings in the files of a package.
fn contents(name: &str, folder: &Path, list: &BTreeSet<&str>) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "Cargo.toml", "Cargo.lock"] {
        if !list.contains(file) {
            findings.push(format!("{name}: its package lacks {file}"));
        }
    }
    for source in list.iter().filter(|path| path.ends_with(".rs")) {
        let code = std::fs::read_to_string(folder.join(source)).with_context(|| format!("{name}: {source}"))?;
        for file in included(&code) {
            let path = plain(&Path::new(source).with_file_name(file));
            if !path.as_deref().is_some_and(|path| list.contains(path)) {
                findings.push(format!("{name}: {source} includes {file}, which its package lacks"));
            }
        }
    }
    Ok(findings)
}

/// Files that are compiled into the code, but for those of its tests.
fn included(code: &str) -> impl Iterator<Item = &str> {
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let starts = ["include_str!(\"", "include_bytes!(\""];
    starts.into_iter().flat_map(move |start| code.split(start).skip(1)).filter_map(|rest| Some(rest.split_once('"')?.0))
}

/// A path without `..`; none if it leaves its folder.
fn plain(path: &Path) -> Option<String> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir if !plain.pop() => return None,
            std::path::Component::ParentDir | std::path::Component::CurDir => {}
            part => plain.push(part),
        }
    }
    Some(plain.to_str()?.replace('\\', "/"))
}

/// Whether tag, versions and changelog speak of one release.
///
/// # Errors
/// If there are no packages.
pub fn tagged(workspace: &Value, tag: &str, changelog: &str) -> Result<Vec<String>> {
    let version = tag.strip_prefix('v').unwrap_or_default();
    let mut findings = Vec::new();
    for package in packages(workspace)?.iter().filter(|package| text(package, "version") != version) {
        findings.push(format!(
            "{}: has version {}, not that of {tag}",
            text(package, "name"),
            text(package, "version")
        ));
    }
    let is_heading = |line: &str| {
        let title = line.strip_prefix("## ").map(|rest| rest.trim_start_matches(['[', 'v']));
        title
            .and_then(|title| title.strip_prefix(version))
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
    };
    if version.is_empty() || !changelog.lines().any(is_heading) {
        findings.push(format!("CHANGELOG.md: has no heading of {tag}"));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, publish: Value) -> Value {
        json!({
            "name": name, "version": "0.2.0", "publish": publish, "description": "d", "license": "MIT", "readme": "README.md",
            "rust_version": "1.95", "keywords": ["llm"], "dependencies": [],
        })
    }

    #[test]
    fn manifests_that_a_registry_would_refuse_are_found() {
        let mut all = vec![package("a", Value::Null), package("b", Value::Null), package("t", json!([]))];
        let needs = |name: &str, req: &str, kind: Value| json!({"name": name, "req": req, "kind": kind});
        all[1]["dependencies"] =
            json!([needs("a", "^0.2.0", Value::Null), needs("t", "*", "dev".into()), needs("x", "*", Value::Null)]);
        assert_eq!(stated(&all), Vec::<String>::new());
        all[1]["dependencies"] = json!([needs("a", "^0.1.0", Value::Null), needs("t", "*", Value::Null)]);
        all[0]["description"] = Value::Null;
        all[0]["keywords"] = json!(["a", "b", "c", "d", "e", "f"]);
        let findings = stated(&all);
        assert_eq!(findings.len(), 4, "{findings:?}");
        assert!(
            findings[2].contains("b: needs a ^0.1.0") && findings[3].contains("b: needs t, which is not published")
        );
    }

    #[test]
    fn a_file_that_is_included_and_not_packed_is_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("src")).unwrap();
        let code = "const A: &str = include_str!(\"../a.txt\");\nconst B: &[u8] = include_bytes!(\"deep/b\");\n#[cfg(test)]\nconst C: &str = include_str!(\"../../c\");\n";
        std::fs::write(folder.path().join("src/lib.rs"), code).unwrap();
        let always = ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "Cargo.toml", "Cargo.lock", "src/lib.rs"];
        let mut list: BTreeSet<&str> = always.into_iter().chain(["a.txt", "src/deep/b"]).collect();
        assert_eq!(contents("x", folder.path(), &list).unwrap(), Vec::<String>::new());
        list.remove("src/deep/b");
        list.remove("LICENSE-MIT");
        let findings = contents("x", folder.path(), &list).unwrap();
        assert_eq!(
            findings,
            ["x: its package lacks LICENSE-MIT", "x: src/lib.rs includes deep/b, which its package lacks"]
        );
        assert_eq!(plain(Path::new("src/../../a")), None);
    }

    #[test]
    fn a_tag_is_that_of_versions_and_changelog() {
        let workspace = json!({"packages": [package("a", Value::Null)]});
        let found = |tag: &str, changelog: &str| tagged(&workspace, tag, changelog).unwrap().len();
        assert_eq!(found("v0.2.0", "# Changelog\n\n## 0.2.0\n"), 0);
        assert_eq!(found("v0.2.0", "## [0.2.0] - today\n"), 0);
        assert_eq!(found("v0.2.0", "## 0.2.01\n## 0.2.0.1\n## Unreleased\n"), 1);
        assert_eq!(found("v0.3.0", "## 0.3.0\n"), 1);
        assert_eq!(found("", "## \n"), 2);
    }
}

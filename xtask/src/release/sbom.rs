//! The program's bill of materials, out of `cargo metadata` and `Cargo.lock`: CycloneDX 1.5 in JSON, without time or place, so
//! that it is the same wherever it is made.

use crate::cargo::{metadata, packages};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The package of the program.
const PROGRAM: &str = "driftprobe-cli";

/// Of this workspace's program; `target`: as built for that target alone.
///
/// # Errors
/// If cargo fails, or a package has no licence.
pub fn of_workspace(root: &Path, target: Option<&str>) -> Result<String> {
    let filter: Vec<&str> = target.into_iter().flat_map(|target| ["--filter-platform", target]).collect();
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("Cargo.lock")?;
    let bill = bill(&metadata(root, &filter)?, &lock)?;
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

fn bill(metadata: &Value, lock: &str) -> Result<Value> {
    let by_id: BTreeMap<&str, &Value> =
        packages(metadata)?.iter().filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let program = by_id.iter().find(|(_, package)| package["name"] == PROGRAM);
    let (program, package) = program.with_context(|| format!("there is no package {PROGRAM}"))?;
    let edges = edges(metadata);
    let reached = reached(program, &edges);
    let hashes = hashes(lock);
    let mut components = Vec::new();
    for id in reached.iter().filter(|id| *id != program) {
        let package = by_id.get(id).with_context(|| format!("{id} is not among the packages"))?;
        components.push(component(package, "library", &hashes)?);
    }
    let of = |id: &str| by_id.get(id).map(|package| reference(package)).unwrap_or_default();
    let dependencies = reached.iter().map(|id| {
        let on: BTreeSet<String> = edges.get(id).into_iter().flatten().map(|to| of(to)).collect();
        json!({"ref": of(id), "dependsOn": on})
    });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(package, "application", &hashes)?},
        "components": components,
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

/// What each package needs to be built and to run; what only its tests need is left out.
fn edges(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node| Some((node["id"].as_str()?, needed(node)))).collect()
}

fn needed(node: &Value) -> BTreeSet<&str> {
    let deps = node["deps"].as_array().into_iter().flatten();
    let built = deps.filter(|dep| dep["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"] != "dev"));
    built.filter_map(|dep| dep["pkg"].as_str()).collect()
}

fn reached<'a>(from: &'a str, edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let (mut found, mut todo) = (BTreeSet::from([from]), vec![from]);
    while let Some(id) = todo.pop() {
        todo.extend(edges.get(id).into_iter().flatten().filter(|to| found.insert(to)));
    }
    found
}

/// Name, version and checksum of the packages that a lock file has from a registry.
fn hashes(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let of = |block| Some(((locked(block, "name")?, locked(block, "version")?), locked(block, "checksum")?));
    lock.split("[[package]]").filter_map(of).collect()
}

/// A field of a package in a lock file.
fn locked<'a>(block: &'a str, name: &str) -> Option<&'a str> {
    let field = |line: &'a str| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"');
    block.lines().find_map(field)
}

fn reference(package: &Value) -> String {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", text("name"), text("version"))
}

fn component(package: &Value, kind: &str, hashes: &BTreeMap<(&str, &str), &str>) -> Result<Value> {
    let text = |key: &str| package[key].as_str().filter(|text| !text.is_empty());
    let (name, version) = (text("name").context("a package without a name")?, text("version").unwrap_or_default());
    // Before SPDX expressions a slash stood for "or".
    let licence = text("license").with_context(|| format!("{name} {version} has no licence"))?.replace('/', " OR ");
    let mut component = json!({
        "type": kind, "bom-ref": reference(package), "name": name, "version": version, "purl": reference(package),
        "licenses": [{"expression": licence}],
    });
    if let Some(description) = text("description") {
        component["description"] = description.trim().into();
    }
    if let Some(hash) = hashes.get(&(name, version)) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": hash}]);
    }
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::{cargo, root};

    /// What cargo itself lists, by another command.
    #[test]
    fn every_dependency_is_named_with_version_and_licence() {
        let root = root().unwrap();
        let bill: Value = serde_json::from_str(&of_workspace(&root, None).unwrap()).unwrap();
        let components = bill["components"].as_array().unwrap();
        let named = |name: &str, version: &str| {
            components.iter().find(|component| component["name"] == name && component["version"] == version)
        };
        let list = ["tree", "--offline", "-p", PROGRAM, "-e", "normal,build", "--target", "all", "--prefix", "none"];
        let tree = cargo(&root, &[&list[..], &["--format", "{p}|{l}"]].concat()).unwrap();
        let mut from_a_registry = 0;
        for line in tree.lines().filter(|line| !line.starts_with(PROGRAM)) {
            let (package, licence) = line.split_once('|').unwrap();
            let mut words = package.split_whitespace();
            let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
            let found = named(name, version).unwrap_or_else(|| panic!("{name} {version} is not named"));
            let stated = found["licenses"][0]["expression"].as_str().unwrap();
            assert_eq!(stated, licence.trim_end_matches(" (*)").replace('/', " OR "), "{name}");
            if !package.contains("(/") {
                from_a_registry += 1;
                assert_eq!(found["hashes"][0]["content"].as_str().unwrap().len(), 64, "{name}");
            }
        }
        assert!(from_a_registry > 100, "{from_a_registry}");
        // What only tests use is in no program.
        assert!(components.iter().all(|c| c["name"] != "proptest" && c["name"] != "driftprobe-testkit"));
        assert_eq!(bill["metadata"]["component"]["name"], PROGRAM);
    }

    fn example(licence: &str) -> Value {
        let package = |id: &str, name: &str, licence: &str| json!({"id": id, "name": name, "version": "1.0.0", "license": licence});
        let dep = |to: &str, kind: Value| json!({"pkg": to, "dep_kinds": [{"kind": kind}]});
        json!({
            "packages": [
                package("p", PROGRAM, "MIT"), package("a", "a", "MIT/Apache-2.0"), package("b", "b", licence),
                package("t", "t", "MIT"),
            ],
            "resolve": {"nodes": [
                {"id": "p", "deps": [dep("a", Value::Null), dep("t", "dev".into())]},
                {"id": "a", "deps": [dep("b", "build".into())]},
            ]},
        })
    }

    #[test]
    fn what_tests_need_is_left_out_and_a_package_without_a_licence_is_refused() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"c0ffee\"\n";
        let bill = bill(&example("ISC"), lock).unwrap();
        let names: Vec<&str> =
            bill["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "c0ffee");
        assert_eq!(bill["dependencies"][0], json!({"ref": "pkg:cargo/a@1.0.0", "dependsOn": ["pkg:cargo/b@1.0.0"]}));
        let error = super::bill(&example(""), lock).unwrap_err();
        assert!(error.to_string().contains("b 1.0.0 has no licence"), "{error}");
    }
}

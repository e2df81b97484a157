//! `driftprobe report`: the reports once more, and pictures of a run.

use crate::{GRETA, driftprobe};
use predicates::prelude::*;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A small run of the embedded model, in both modes.
fn run(dir: &TempDir) {
    let quick = ["run", "--prompts", "Truth is the first", "--layers", "0,1", "--repeats", "0", "--out", "run"];
    driftprobe(dir).args(quick).assert().code(0).stdout(predicate::str::contains("wrote run/report/drift.html"));
}

fn read(dir: &TempDir, path: &str) -> Vec<u8> {
    let path = dir.path().join(Path::new(path));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn pictures_are_drawn_as_svg_and_as_png() {
    let dir = tempfile::tempdir().unwrap();
    run(&dir);
    for kind in ["heatmap", "growth", "modes", "attention"] {
        let command = ["report", "run", "--plot", kind];
        driftprobe(&dir).args(command).assert().code(0).stdout(format!("wrote run/report/{kind}.svg\n"));
        let svg = String::from_utf8(read(&dir, &format!("run/report/{kind}.svg"))).unwrap();
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{kind}");
        assert!(svg.contains("<title>") && svg.contains("<desc>") && svg.contains("<text "), "{kind}");
    }
    let png = ["report", "run", "--plot", "growth", "-o", "pictures/growth.PNG", "--scale", "1"];
    driftprobe(&dir).args(png).assert().code(0);
    let png = read(&dir, "pictures/growth.PNG");
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!((side(16), side(20)), (760, 380));
    assert!(png.len() > 5000, "{} bytes hold no picture", png.len());
    // Drawn again it is the same, byte for byte.
    driftprobe(&dir).args(["report", "run", "--plot", "growth", "-o", "b.png", "--scale", "1"]).assert().code(0);
    assert_eq!(read(&dir, "b.png"), png);
}

#[test]
fn reports_are_written_again_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    run(&dir);
    driftprobe(&dir).args(["report", "run", "-o", "again"]).assert().code(0).stderr("");
    for name in ["drift.html", "drift.md", "drift.tsv", "drift.json"] {
        assert_eq!(read(&dir, &format!("run/report/{name}")), read(&dir, &format!("again/{name}")), "{name}");
    }
    let page = String::from_utf8(read(&dir, "again/drift.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("PASS") && page.contains("class=\"plot\""));
}

#[test]
fn the_status_is_that_of_the_work_and_not_of_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    driftprobe(&dir).args(["report", GRETA, "-o", "out"]).assert().code(0);
    driftprobe(&dir).args(["report", GRETA, "--plot", "heatmap", "-o", "a.svg"]).assert().code(0);
    assert!(String::from_utf8(read(&dir, "out/drift.html")).unwrap().contains("INCONCLUSIVE"));
}

#[test]
fn what_cannot_be_drawn_is_said_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |args: &[&str], what: &str, hint: &str| {
        let told =
            predicate::str::contains(what).and(predicate::str::contains("hint: ")).and(predicate::str::contains(hint));
        driftprobe(&dir).args(args).assert().code(2).stderr(told).stdout("");
    };
    fails(&["report", GRETA, "--plot", "heatmap", "-o", "a.jpeg"], "a.jpeg", ".svg or .png");
    fails(&["report", GRETA, "--plot", "growth", "-o", "a.svg"], "drawn with the model", "there are: heatmap");
    fails(&["report", GRETA, "--plot", "modes", "-o", "a.svg"], "Only one mode was recorded", "heatmap");
    fails(&["report", "nowhere", "--plot", "growth", "-o", "a.svg"], "nowhere", "");
    let told = predicate::str::contains("heatmap, growth, modes, attention");
    driftprobe(&dir).args(["report", GRETA, "--plot", "pie"]).assert().code(2).stderr(told);
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was to be written");
}

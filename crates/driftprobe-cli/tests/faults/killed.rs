//! kill -9 at random moments: what lies there then is refused or known to be incomplete, and can be made anew.

use super::kill::{Found, Moments, Tree, entries, killed};
use super::support::{copy, driftprobe, ended, listed, passes, place, record, recorded, tree};
use driftprobe_testkit::Dice;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Instant;

fn is_complete(run: &Path) -> bool {
    let text = fs::read(run.join("manifest.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).is_ok_and(|manifest| manifest["complete"] == true)
}

/// What may be said of what a killed process left at `run`: that it passes if and only if it is one of the `whole` runs.
fn judged(dir: &Path, run: &str, whole: &[&Tree]) -> &'static str {
    let (code, said) = ended(&mut driftprobe(dir, &["analyze", run, "--simulate", "1e9", "--out", "elsewhere"]));
    let there = tree(&dir.join(run));
    let is_whole = whole.iter().any(|whole| recorded(whole) == recorded(&there)) && is_complete(&dir.join(run));
    // Of two passes the first is finished before the second begins.
    let first_pass = said.contains("NO_SECOND_PASS") || dir.join(run).join("search-1").is_dir();
    match code {
        0 => {
            assert!(is_whole, "PASS of {:#?}", listed(&there));
            "finished: PASS"
        }
        2 => {
            assert!(said.contains("error: ") && said.contains("hint: "), "{said}");
            assert!(!is_whole && (first_pass || !is_complete(&dir.join(run))), "a finished run was refused: {said}");
            "refused"
        }
        3 => {
            assert!(!is_whole, "a finished run does not pass: {said}");
            assert!(first_pass || !is_complete(&dir.join(run)), "a finished run does not pass: {said}");
            if is_complete(&dir.join(run)) { "first of two passes: INCONCLUSIVE" } else { "incomplete: INCONCLUSIVE" }
        }
        _ => panic!("exit status {code}: {said}\n{:#?}", listed(&there)),
    }
}

/// Reports that lie there are whole, and speak of one of these runs; beside an incomplete run none passes.
fn reports_are_whole(run: &Path, whole: &[&Tree]) {
    for (name, bytes) in tree(run).iter().filter(|(name, _)| name.starts_with("report/") && !name.ends_with(".part")) {
        assert!(
            whole.iter().any(|whole| whole.get(name) == Some(bytes)),
            "{name} is neither of the old nor of the new"
        );
        assert!(is_complete(run), "{name} beside an incomplete run");
    }
}

/// `driftprobe run` with these options: into a folder that is not there, and over a run of other settings.
fn run_is_killed(how: &[&str], kills: usize, seed: u64) -> Found {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "elsewhere-finished", &["--steps", "2"]));
    let finished = tree(&dir.join("elsewhere-finished"));
    let old_place = place();
    passes(&mut record(old_place.path(), "run", &["--steps", "2", "--repeats", "2"]));
    let old = tree(&old_place.path().join("run"));
    let new_place = place();
    let started = Instant::now();
    passes(&mut record(new_place.path(), "run", how));
    let takes = started.elapsed();
    let new = tree(&new_place.path().join("run"));
    let mut moments = Moments { dice: Dice(seed), takes, entries: entries(&new_place.path().join("run")) };
    let mut found = Found::default();
    for kill in 0..kills {
        let (over, moment) = (kill % 2 == 1, moments.next());
        if over {
            copy(&old_place.path().join("run"), &dir.join("run"));
        }
        let options = [how, if over { &["--overwrite"] } else { &[] }].concat();
        let hit = killed(&mut record(dir, "run", &options), moment, &dir.join("run"));
        let whole: &[&Tree] = if over { &[&old, &new] } else { &[&new] };
        reports_are_whole(&dir.join("run"), whole);
        let what = if dir.join("run").exists() { judged(dir, "run", whole) } else { "nothing there yet" };
        found.count(if hit { what } else { "had ended" });
        passes(&mut record(dir, "run", &[how, &["--overwrite"]].concat()));
        let again = tree(&dir.join("run"));
        assert!(again == new, "after {moment:?}: {:#?}, expected {:#?}", listed(&again), listed(&new));
        fs::remove_dir_all(dir.join("run")).unwrap();
    }
    assert!(tree(&dir.join("elsewhere-finished")) == finished, "a run elsewhere was touched");
    found
}

/// `analyze --by-prompt`: goes on where it was killed, to the same bytes.
fn analysis_by_prompt_is_killed(kills: usize, seed: u64) -> Found {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    let run = tree(&dir.join("run"));
    let analysis = |out| driftprobe(dir, &["analyze", "run", "--by-prompt", "--simulate", "1e9", "--out", out]);
    let started = Instant::now();
    passes(&mut analysis("whole"));
    let takes = started.elapsed();
    let whole = tree(&dir.join("whole"));
    let mut moments = Moments { dice: Dice(seed), takes, entries: entries(&dir.join("whole")) };
    let mut found = Found::default();
    for _ in 0..kills {
        let moment = moments.next();
        let hit = killed(&mut analysis("cut"), moment, &dir.join("cut"));
        for (name, bytes) in tree(&dir.join("cut")).iter().filter(|(name, _)| !name.ends_with(".part")) {
            assert!(whole.get(name) == Some(bytes), "after {moment:?}: {name} is not whole");
        }
        let (code, said) = ended(&mut driftprobe(dir, &["merge", "cut", "--out", "merged"]));
        let all =
            whole.keys().filter(|name| name.starts_with("units/")).all(|name| dir.join("cut").join(name).exists());
        assert!(code == 2 || code == 3 || (code == 0 && all), "after {moment:?}: {said}");
        found.count(match (hit, code) {
            (false, _) => "had ended",
            (_, 0) => "all prompts judged: PASS",
            (_, 3) => "prompts missing: INCONCLUSIVE",
            _ => "refused",
        });
        passes(&mut analysis("cut"));
        let mut again = tree(&dir.join("cut"));
        again.retain(|name, _| !name.ends_with(".part"));
        assert!(again == whole, "after {moment:?}: {:#?}", listed(&again));
        fs::remove_dir_all(dir.join("cut")).unwrap();
    }
    assert!(tree(&dir.join("run")) == run, "the run was touched");
    found
}

/// `analyze --layer-shard`: what it left is whole, and whoever judges the prompts comes to the same bytes with it.
fn layers_are_killed(kills: usize, seed: u64) -> Found {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    let share = |out| driftprobe(dir, &["analyze", "run", "--layer-shard", "1/2", "--out", out]);
    let judge = |out| driftprobe(dir, &["analyze", "run", "--by-prompt", "--simulate", "1e9", "--out", out]);
    let of_layers = |files: &Tree| -> Tree {
        let own = files.iter().filter(|(name, _)| name.starts_with("layers/") && !name.ends_with(".part"));
        own.map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
    };
    passes(&mut judge("whole"));
    let whole = tree(&dir.join("whole"));
    let started = Instant::now();
    passes(&mut share("shared"));
    let takes = started.elapsed();
    let shared = of_layers(&tree(&dir.join("shared")));
    assert!(shared.len() > 1, "{:?}", listed(&shared));
    let mut moments = Moments { dice: Dice(seed), takes, entries: entries(&dir.join("shared")) };
    let mut found = Found::default();
    for _ in 0..kills {
        let moment = moments.next();
        let hit = killed(&mut share("cut"), moment, &dir.join("cut"));
        let left = of_layers(&tree(&dir.join("cut")));
        for (name, bytes) in &left {
            assert!(shared.get(name) == Some(bytes), "after {moment:?}: {name} is not whole");
        }
        found.count(match (hit, left.len()) {
            (false, _) => "had ended",
            (_, 0) => "no layers of a prompt",
            (_, count) if count < shared.len() => "layers of some prompts",
            _ => "layers of all prompts",
        });
        passes(&mut judge("cut"));
        let mut again = tree(&dir.join("cut"));
        again.retain(|name, _| !name.ends_with(".part") && !name.starts_with("layers/"));
        assert!(again == whole, "after {moment:?}: {:#?}", listed(&again));
        fs::remove_dir_all(dir.join("cut")).unwrap();
    }
    found
}

/// Reports written over those of another run: each is the old one or the new one, whole.
fn report_is_killed(kills: usize, seed: u64) -> Found {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "sound", &[]));
    let (code, said) = ended(&mut record(dir, "faulty", &["--fault", "SCALE_WRONG@decode:layer1"]));
    assert_eq!(code, 1, "{said}");
    let commands: [&[&str]; 2] = [&["analyze"], &["gate", "--preset", "cosine"]];
    let mut found = Found::default();
    for (number, words) in commands.into_iter().enumerate() {
        let of = |run: &str, out: &str| {
            let mut command = driftprobe(dir, words);
            command.args([run, "--simulate", "1e9", "--out", out]);
            command
        };
        for folder in ["old", "new"] {
            let _ = fs::remove_dir_all(dir.join(folder));
        }
        assert_eq!(ended(&mut of("faulty", "old")).0, 1);
        let started = Instant::now();
        ended(&mut of("sound", "new"));
        let takes = started.elapsed();
        let (old, new) = (tree(&dir.join("old")), tree(&dir.join("new")));
        assert!(old.keys().eq(new.keys()) && old.len() == 4 && old != new);
        // Files are replaced at the very end.
        let mut moments = Moments { dice: Dice(seed + number as u64), takes, entries: 2 * old.len() };
        for _ in 0..kills.div_ceil(commands.len()) {
            copy(&dir.join("old"), &dir.join("out"));
            let moment = moments.next();
            let hit = killed(&mut of("sound", "out"), moment, &dir.join("out"));
            let there = tree(&dir.join("out"));
            for (name, bytes) in there.iter().filter(|(name, _)| !name.ends_with(".part")) {
                assert!([&old[name], &new[name]].contains(&bytes), "after {moment:?}: {name} is half a file");
            }
            let replaced = new.iter().filter(|(name, bytes)| there.get(*name) == Some(bytes)).count();
            found.count(match (hit, replaced) {
                (false, _) => "had ended".to_owned(),
                (_, 0) => "old reports".to_owned(),
                (_, 4) => "new reports".to_owned(),
                (_, some) => format!("{some} of 4 replaced"),
            });
            ended(&mut of("sound", "out"));
            let again = tree(&dir.join("out"));
            assert!(new.iter().all(|(name, bytes)| again.get(name) == Some(bytes)), "after {moment:?}");
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
    }
    found
}

/// `driftprobe export`: beside another run, and in place of one of the same name.
fn export_is_killed(kills: usize, seed: u64) -> Found {
    let dir = place();
    let dir = dir.path();
    for (run, more) in [("run", &[] as &[&str]), ("other", &["--steps", "2"])] {
        passes(&mut record(dir, run, &[more, &["--record-only"]].concat()));
    }
    let export = |run, to, name| driftprobe(dir, &["export", run, "--parquet", to, "--name", name, "--force"]);
    passes(&mut export("other", "kept", "kept"));
    passes(&mut export("other", "old", "run"));
    let started = Instant::now();
    passes(&mut export("run", "new", "run"));
    let takes = started.elapsed();
    let [kept, old, new] = ["kept", "old", "new"].map(|dataset| tree(&dir.join(dataset)));
    let of_run = |all: &Tree| all.iter().filter(|(name, _)| name.starts_with("run=run/")).map(own).collect::<Tree>();
    // Hidden folders are made and renamed, one partition after the other.
    let mut moments = Moments { dice: Dice(seed), takes, entries: 2 * entries(&dir.join("new")) };
    let mut found = Found::default();
    for kill in 0..kills {
        let (over, moment) = (kill % 2 == 1, moments.next());
        copy(&dir.join("kept"), &dir.join("dataset"));
        if over {
            copy(&dir.join("old"), &dir.join("dataset"));
        }
        let hit = killed(&mut export("run", "dataset", "run"), moment, &dir.join("dataset"));
        let there = tree(&dir.join("dataset"));
        assert!(kept.iter().all(|(name, bytes)| there.get(name) == Some(bytes)), "after {moment:?}: another run");
        let (run, hidden) = (of_run(&there), there.keys().any(|name| name.starts_with(".run=run.")));
        assert!(run.is_empty() || run == old || run == new, "after {moment:?}: {:#?}", listed(&run));
        let (code, said) = ended(&mut driftprobe(
            dir,
            &["analyze", "dataset", "--by-prompt", "--simulate", "1e9", "--out", "elsewhere"],
        ));
        let runs = if run.is_empty() { "of 1 run\n" } else { "of 2 runs\n" };
        assert!(code == 0 && said.contains(runs), "after {moment:?}: {said}");
        found.count(match (hit, run.is_empty(), run == new) {
            (false, ..) => "had ended",
            (_, true, _) if over => "the old run moved away",
            (_, true, _) if hidden => "a hidden part",
            (_, true, _) => "nothing there yet",
            (_, _, true) => "the run, whole",
            _ => "the old run, whole",
        });
        passes(&mut export("run", "dataset", "run"));
        let again = tree(&dir.join("dataset"));
        assert!(of_run(&again) == new, "after {moment:?}: {:#?}", listed(&again));
        assert_eq!(again.len(), kept.len() + new.len(), "after {moment:?}: {:#?}", listed(&again));
        let names: Vec<_> =
            fs::read_dir(dir.join("dataset")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "after {moment:?}: {names:?}");
        fs::remove_dir_all(dir.join("dataset")).unwrap();
    }
    found
}

fn own((name, bytes): (&String, &Vec<u8>)) -> (String, Vec<u8>) {
    (name.clone(), bytes.clone())
}

#[test]
fn a_run_that_is_killed_is_incomplete_or_finished_and_can_be_made_anew() {
    let found = run_is_killed(&[], 20, 1);
    assert!(found.of("had ended") < 20 && found.of("incomplete: INCONCLUSIVE") > 0, "{:?}", found.0);
}

#[test]
fn a_run_in_two_passes_that_is_killed_passes_with_both_of_them_only() {
    let found = run_is_killed(&["--two-pass"], 10, 7);
    assert!(found.of("had ended") < 10, "{:?}", found.0);
}

#[test]
fn a_compressed_run_that_is_killed_is_incomplete_or_finished_and_can_be_made_anew() {
    let found = run_is_killed(&["--compress"], 10, 8);
    assert!(found.of("had ended") < 10, "{:?}", found.0);
}

#[test]
fn an_export_that_is_killed_leaves_whole_runs_and_the_next_one_clears_the_rest() {
    let found = export_is_killed(20, 9);
    assert!(found.of("had ended") < 20 && found.of("a hidden part") > 0, "{:?}", found.0);
}

#[test]
fn an_analysis_by_prompt_that_is_killed_goes_on_to_the_same_bytes() {
    analysis_by_prompt_is_killed(20, 2);
}

#[test]
fn layers_that_are_killed_are_taken_up_whole_or_not() {
    let found = layers_are_killed(10, 13);
    assert!(found.of("had ended") < 10, "{:?}", found.0);
}

#[test]
fn a_report_that_is_killed_leaves_old_or_new_files() {
    report_is_killed(20, 3);
}

/// For docs/trust.md, as are the next four.
#[test]
#[ignore = "600 kills take minutes"]
fn two_hundred_kills_each() {
    run_is_killed(&[], 200, 4).show("run");
    analysis_by_prompt_is_killed(200, 5).show("analyze --by-prompt");
    report_is_killed(200, 6).show("reports of analyze and gate");
}

#[test]
#[ignore = "200 kills take minutes"]
fn two_hundred_kills_of_two_passes() {
    run_is_killed(&["--two-pass"], 200, 10).show("run --two-pass");
}

#[test]
#[ignore = "200 kills take minutes"]
fn two_hundred_kills_of_compressed_runs() {
    run_is_killed(&["--compress"], 200, 11).show("run --compress");
}

#[test]
#[ignore = "200 kills take minutes"]
fn two_hundred_kills_of_layers() {
    layers_are_killed(200, 14).show("analyze --layer-shard");
}

#[test]
#[ignore = "200 kills take minutes"]
fn two_hundred_kills_of_exports() {
    export_is_killed(200, 12).show("export");
}

//! kill -9 at random moments: what lies there then is refused or known to be incomplete, and can be made anew.

use super::support::{copy, driftprobe, ended, listed, passes, place, record, recorded, tree};
use driftprobe_testkit::Dice;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

type Tree = BTreeMap<String, Vec<u8>>;

/// Where a process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After this time.
    Time(Duration),
    /// When it has put so many entries into its folder.
    Entries(usize),
}

/// Moments of a process that takes so long and puts so many entries into its folder.
struct Moments {
    dice: Dice,
    takes: Duration,
    entries: usize,
}

impl Moments {
    fn next(&mut self) -> Moment {
        match self.dice.below(2) {
            0 => Moment::Time(self.takes.mul_f64(1.1 * self.dice.uniform())),
            _ => Moment::Entries(self.dice.below(self.entries + 1)),
        }
    }
}

/// Entries of a folder and of those in it, files that are on their way among them.
fn entries(dir: &Path) -> usize {
    let inside = |entry: fs::DirEntry| 1 + if entry.path().is_dir() { entries(&entry.path()) } else { 0 };
    fs::read_dir(dir).into_iter().flatten().flatten().map(inside).sum()
}

/// Whether it was still at work when it was killed.
fn killed(command: &mut Command, moment: Moment, watched: &Path) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    match moment {
        Moment::Time(time) => sleep(time),
        Moment::Entries(count) => {
            while entries(watched) < count && child.try_wait().unwrap().is_none() {
                sleep(Duration::from_micros(200));
            }
        }
    }
    // SIGKILL; one that has ended already is not hit.
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

/// How often what was found.
#[derive(Default)]
struct Found(BTreeMap<String, usize>);

impl Found {
    fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    fn show(&self, title: &str) {
        println!("{title}");
        self.0.iter().for_each(|(what, count)| println!("| {what} | {count} |"));
    }

    fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or_default()
    }
}

fn is_complete(run: &Path) -> bool {
    let text = fs::read(run.join("manifest.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).is_ok_and(|manifest| manifest["complete"] == true)
}

/// What may be said of what a killed process left at `run`: that it passes only if it is one of the `whole` runs.
fn judged(dir: &Path, run: &str, whole: &[&Tree]) -> &'static str {
    let (code, said) = ended(&mut driftprobe(dir, &["analyze", run, "--simulate", "1e9", "--out", "elsewhere"]));
    let there = tree(&dir.join(run));
    match code {
        0 => {
            let is_whole = whole.iter().any(|whole| recorded(whole) == recorded(&there));
            assert!(is_whole && is_complete(&dir.join(run)), "PASS of {:#?}", listed(&there));
            "finished: PASS"
        }
        2 => {
            assert!(said.contains("error: ") && said.contains("hint: "), "{said}");
            assert!(!is_complete(&dir.join(run)), "a finished run was refused: {said}");
            "refused"
        }
        3 => {
            assert!(!is_complete(&dir.join(run)), "a finished run does not pass: {said}");
            "incomplete: INCONCLUSIVE"
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

/// `driftprobe run`: into a folder that is not there, and over a run of other settings.
fn run_is_killed(kills: usize, seed: u64) -> Found {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "elsewhere-finished", &["--steps", "2"]));
    let finished = tree(&dir.join("elsewhere-finished"));
    let old_place = place();
    passes(&mut record(old_place.path(), "run", &["--steps", "2", "--repeats", "2"]));
    let old = tree(&old_place.path().join("run"));
    let new_place = place();
    let started = Instant::now();
    passes(&mut record(new_place.path(), "run", &[]));
    let takes = started.elapsed();
    let new = tree(&new_place.path().join("run"));
    let mut moments = Moments { dice: Dice(seed), takes, entries: entries(&new_place.path().join("run")) };
    let mut found = Found::default();
    for kill in 0..kills {
        let (over, moment) = (kill % 2 == 1, moments.next());
        if over {
            copy(&old_place.path().join("run"), &dir.join("run"));
        }
        let options: &[&str] = if over { &["--overwrite"] } else { &[] };
        let hit = killed(&mut record(dir, "run", options), moment, &dir.join("run"));
        let whole: &[&Tree] = if over { &[&old, &new] } else { &[&new] };
        reports_are_whole(&dir.join("run"), whole);
        let what = if dir.join("run").exists() { judged(dir, "run", whole) } else { "nothing there yet" };
        found.count(if hit { what } else { "had ended" });
        passes(&mut record(dir, "run", &["--overwrite"]));
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

#[test]
fn a_run_that_is_killed_is_incomplete_or_finished_and_can_be_made_anew() {
    let found = run_is_killed(20, 1);
    assert!(found.of("had ended") < 20 && found.of("incomplete: INCONCLUSIVE") > 0, "{:?}", found.0);
}

#[test]
fn an_analysis_by_prompt_that_is_killed_goes_on_to_the_same_bytes() {
    analysis_by_prompt_is_killed(20, 2);
}

#[test]
fn a_report_that_is_killed_leaves_old_or_new_files() {
    report_is_killed(20, 3);
}

/// For docs/trust.md.
#[test]
#[ignore = "600 kills take minutes"]
fn two_hundred_kills_each() {
    run_is_killed(200, 4).show("run");
    analysis_by_prompt_is_killed(200, 5).show("analyze --by-prompt");
    report_is_killed(200, 6).show("reports of analyze and gate");
}

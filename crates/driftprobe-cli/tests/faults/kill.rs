//! Processes killed (SIGKILL) at random moments, and counts of what was found then.

use driftprobe_testkit::Dice;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Files by their paths.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// Where a process is killed.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// After this time.
    Time(Duration),
    /// When it has put so many entries into its folder.
    Entries(usize),
}

/// Moments of a process that takes so long and puts so many entries into its folder.
pub struct Moments {
    pub dice: Dice,
    pub takes: Duration,
    pub entries: usize,
}

impl Moments {
    /// The next one.
    pub fn next(&mut self) -> Moment {
        match self.dice.below(2) {
            0 => Moment::Time(self.takes.mul_f64(1.1 * self.dice.uniform())),
            _ => Moment::Entries(self.dice.below(self.entries + 1)),
        }
    }
}

/// Entries of a folder and of those in it, files that are on their way among them.
pub fn entries(dir: &Path) -> usize {
    let inside = |entry: fs::DirEntry| 1 + if entry.path().is_dir() { entries(&entry.path()) } else { 0 };
    fs::read_dir(dir).into_iter().flatten().flatten().map(inside).sum()
}

/// Whether it was still at work when it was killed.
pub fn killed(command: &mut Command, moment: Moment, watched: &Path) -> bool {
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
pub struct Found(pub BTreeMap<String, usize>);

impl Found {
    pub fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    pub fn show(&self, title: &str) {
        println!("{title}");
        self.0.iter().for_each(|(what, count)| println!("| {what} | {count} |"));
    }

    pub fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or_default()
    }
}

//! Disks that are full, files that may not grow, folders that are read-only: told with the path, and nothing whole is lost.

use super::support::{BINARY, copy, driftprobe, ended, passes, place, record, recorded, refused, tree};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user who owns nothing.
const NOBODY: u32 = 65534;

/// A small disk of its own, for as long as it is wanted.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this process may not have one.
    fn new(at: &Path, kib: u64) -> Option<Disk> {
        fs::create_dir_all(at).unwrap();
        let disk = Disk(at.to_owned());
        let made =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "driftprobe"]).arg(at).output();
        let made = made.is_ok_and(|made| made.status.success());
        if !made {
            eprintln!("no disk of its own for this test: it takes root");
        }
        made.then_some(disk)
    }

    fn read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// What must hold of a run that could not be written to its end. (Where only its reports could not, it is whole.)
fn is_no_finished_run(dir: &Path, run: &str, whole: &BTreeMap<String, Vec<u8>>) {
    if dir.join(run).exists() && recorded(&tree(&dir.join(run))) != recorded(whole) {
        let (code, said) = ended(&mut driftprobe(dir, &["analyze", run, "--out", "looked"]));
        assert!(code == 3 || (code == 2 && said.contains("hint: ")), "{code}: {said}");
        assert!(!dir.join(run).join("report/drift.json").exists());
    }
}

/// A run under a limit on files, in blocks of the shell; `handler` is what the signal of it does.
fn limited(command: &Command, handler: &str, blocks: u64) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{handler} ulimit -f {blocks}; exec \"$@\"")).arg("sh").arg(BINARY);
    shell.args(command.get_args()).current_dir(command.get_current_dir().unwrap()).env("NO_COLOR", "1");
    shell
}

#[test]
fn a_full_disk_is_told_and_leaves_no_run_that_passes() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    let whole = tree(&dir.join("run"));
    let (mut full, mut kib) = (0, 8);
    loop {
        let Some(_disk) = Disk::new(&dir.join("disk"), kib) else { return };
        let (code, said) = ended(&mut record(dir, "disk/run", &[]));
        if code == 0 {
            assert!(tree(&dir.join("disk/run")) == whole, "at {kib} KiB");
            break;
        }
        full += 1;
        assert!(code == 2 && said.contains("No space left on device") && said.contains("hint: "), "{kib} KiB: {said}");
        assert!(said.contains("disk/run"), "{said}");
        is_no_finished_run(dir, "disk/run", &whole);
        kib += kib / 2;
        assert!(kib < 1 << 20, "never room enough");
    }
    assert!(full >= 3, "{full} disks were too small");
}

#[test]
fn reports_on_a_full_disk_stay_as_they_were() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    passes(&mut record(dir, "other", &["--layers", "0"]));
    let report = tree(&dir.join("run/report"));
    assert!(report != tree(&dir.join("other/report")));
    let kib = report.values().map(|bytes| bytes.len() as u64 / 1024 + 8).sum::<u64>();
    let Some(_disk) = Disk::new(&dir.join("disk"), kib) else { return };
    copy(&dir.join("run/report"), &dir.join("disk/report"));
    let over = ["analyze", "other", "--simulate", "1e9", "--out", "disk/report"];
    let said = refused(&mut driftprobe(dir, &over));
    assert!(said.contains("No space left on device") && said.contains("disk/report"), "{said}");
    assert!(tree(&dir.join("disk/report")) == report, "an old report is damaged");
    let said = refused(&mut driftprobe(dir, &["analyze", "run", "--by-prompt", "--out", "disk/units/and/more"]));
    assert!(said.contains("No space left on device"), "{said}");
}

#[test]
fn files_that_may_not_grow_are_told_or_end_the_process_and_leave_no_run_that_passes() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "run", &[]));
    let whole = tree(&dir.join("run"));
    let (mut told, mut blocks) = (0, 0);
    loop {
        let command = record(dir, "run", &["--overwrite"]);
        // Ignored, the signal of the limit becomes an error that the program sees.
        let (code, said) = ended(&mut limited(&command, "trap '' XFSZ;", blocks));
        if code == 0 {
            break;
        }
        assert!(code == 2 && said.contains("File too large") && said.contains("hint: "), "{blocks} blocks: {said}");
        is_no_finished_run(dir, "run", &whole);
        // By default it kills.
        let output = limited(&command, "", blocks).output().unwrap();
        assert!(output.status.signal().is_some(), "{:?}", output.status);
        is_no_finished_run(dir, "run", &whole);
        told += 1;
        blocks = (blocks * 2).max(1);
    }
    assert!(told >= 3 && blocks < 1 << 20, "{told} limits were too small, {blocks} blocks were enough");
}

#[test]
fn a_read_only_folder_is_told_and_what_lies_there_can_be_judged() {
    let dir = place();
    let dir = dir.path();
    let Some(disk) = Disk::new(&dir.join("disk"), 1 << 16) else { return };
    passes(&mut record(dir, "disk/run", &[]));
    let before = tree(&dir.join("disk"));
    disk.read_only();
    for command in [&mut record(dir, "disk/new", &[]), &mut record(dir, "disk/run", &["--overwrite"])] {
        let said = refused(command);
        assert!(said.contains("disk/") && said.contains("Read-only file system"), "{said}");
    }
    for more in [&[] as &[&str], &["--by-prompt"]] {
        let said = refused(driftprobe(dir, &["analyze", "disk/run", "--simulate", "1e9"]).args(more));
        assert!(said.contains("disk/run/report") && said.contains("--out"), "{said}");
        passes(driftprobe(dir, &["analyze", "disk/run", "--simulate", "1e9", "--out", "report"]).args(more));
    }
    assert!(tree(&dir.join("disk")) == before);
}

/// The program as a user who is not root; `None` where that user may not even start it.
fn as_nobody(mut command: Command) -> Option<Command> {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut probe = Command::new(BINARY);
    if is_root {
        probe.uid(NOBODY).gid(NOBODY);
    }
    let may = probe.arg("--version").current_dir("/").output().is_ok_and(|output| output.status.success());
    if !may {
        eprintln!("the program lies where another user cannot start it");
    }
    may.then_some(command)
}

#[test]
fn a_folder_that_may_not_be_written_is_told_and_what_lies_there_can_be_judged() {
    let dir = place();
    let dir = dir.path();
    passes(&mut record(dir, "theirs/run", &[]));
    fs::create_dir(dir.join("mine")).unwrap();
    let mode = |path: &str, mode| fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    ["", "theirs", "theirs/run", "theirs/run/report"].into_iter().for_each(|path| mode(path, 0o555));
    mode("mine", 0o777);
    let before = tree(&dir.join("theirs"));
    for command in [record(dir, "theirs/new", &[]), record(dir, "theirs/run", &["--overwrite"])] {
        let Some(mut command) = as_nobody(command) else { return };
        let said = refused(&mut command);
        assert!(said.contains("theirs/") && said.contains("Permission denied"), "{said}");
    }
    for more in [&[] as &[&str], &["--by-prompt"]] {
        let words = ["analyze", "theirs/run", "--simulate", "1e9"];
        let Some(mut command) = as_nobody(driftprobe(dir, &words)) else { return };
        let said = refused(command.args(more));
        assert!(said.contains("theirs/run/report") && said.contains("--out"), "{said}");
        let Some(mut command) = as_nobody(driftprobe(dir, &words)) else { return };
        passes(command.args(more).args(["--out", "mine/report"]));
        fs::remove_dir_all(dir.join("mine/report")).unwrap();
    }
    assert!(tree(&dir.join("theirs")) == before);
    ["", "theirs", "theirs/run", "theirs/run/report"].into_iter().for_each(|path| mode(path, 0o755));
}

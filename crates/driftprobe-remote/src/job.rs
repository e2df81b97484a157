//! The course of a remote run: connect, bring what is needed, start, follow, fetch, verify.

use crate::archive::{self, parse_list};
use crate::connection::{Broken, Connection, Output, to_file};
use crate::{RemoteError, script};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a lost connection is tried again before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(300);

/// Where to run.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// `user@host`, a host, or a name of the ssh config.
    pub destination: String,
    /// Port, if not the config's.
    pub port: Option<u16>,
    /// Private key, if not the config's.
    pub key: Option<PathBuf>,
    /// Another file than ~/.ssh/config.
    pub config: Option<PathBuf>,
    /// Folder there; `~/.driftprobe` if none.
    pub folder: Option<String>,
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Its name: letters, digits, `-`.
    pub id: String,
    /// Who asks, for others who find the machine in use.
    pub who: String,
    /// Variables set for it.
    pub environment: Vec<(String, String)>,
    /// Program and arguments. It runs in the job's folder and writes a run to `run`.
    pub command: Vec<String>,
    /// Files to be brought along: from here, to that name in the job's folder.
    pub files: Vec<(PathBuf, String)>,
}

/// How far it has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A connection is made.
    Connecting,
    /// A file goes there: name, bytes sent, bytes in all.
    Sending(String, u64, u64),
    /// What the job says; whole lines.
    Says(String),
    /// What it wrote comes back: bytes so far, packed.
    Fetching(u64),
    /// The connection was lost and is made again.
    Reconnecting,
}

/// Hears of the steps; `false` stops waiting (the job goes on).
pub type Watch<'a> = dyn FnMut(Step) -> bool + 'a;

/// How the job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status.
    pub status: i32,
}

/// A machine that is ready.
pub struct Remote {
    target: Target,
    connection: Connection,
    folder: String,
    /// `uname -sm`.
    machine: String,
}

impl Remote {
    /// Connects, and makes the folder there.
    ///
    /// # Errors
    /// When there is no connection, or the machine lacks a tool.
    pub fn connect(target: Target, watch: &mut Watch<'_>) -> Result<Remote, RemoteError> {
        watch(Step::Connecting);
        let connection = Connection::open(&target).map_err(|broken| lost(&target, broken))?;
        let mut remote = Remote { target, connection, folder: String::new(), machine: String::new() };
        let folder = remote.target.folder.clone().unwrap_or_default();
        let output = remote.script("looking around", script::PREPARE, &[&folder], None)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines();
        remote.folder = lines.next().unwrap_or_default().to_owned();
        remote.machine = lines.next().unwrap_or_default().to_owned();
        Ok(remote)
    }

    /// The folder there.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Brings this binary there, unless it lies there already, and gives its path.
    ///
    /// # Errors
    /// When the machine is of another kind, or it cannot be written.
    pub fn bring_binary(&self, binary: &Path, watch: &mut Watch<'_>) -> Result<String, RemoteError> {
        let ours = machine_here();
        if self.machine != ours {
            let destination = self.target.destination.clone();
            return Err(RemoteError::Architecture { destination, found: self.machine.clone(), ours });
        }
        let hash = archive::sha256(binary).map_err(io("read", binary))?;
        let path = format!("{}/bin/driftprobe-{}", self.folder, hash.get(..16).unwrap_or_default());
        let there = self.script("looking for the binary", script::HASH, &[&path], None)?;
        if !said_hash(&there, &hash) {
            self.bring((binary, &path), "755", &hash, watch)?;
        }
        Ok(path)
    }

    fn bring(
        &self,
        (from, to): (&Path, &str),
        mode: &str,
        hash: &str,
        watch: &mut Watch<'_>,
    ) -> Result<(), RemoteError> {
        let file = File::open(from).map_err(io("read", from))?;
        let total = file.metadata().map_err(io("read", from))?.len();
        let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut tell = |sent| {
            let _ = watch(Step::Sending(name.clone(), sent, total));
        };
        let mut counted = Counted { file, sent: 0, tell: &mut tell };
        let output = self.script("writing a file", script::RECEIVE, &[to, mode], Some(&mut counted))?;
        if said_hash(&output, hash) {
            return Ok(());
        }
        let message = format!("{to} arrived with another hash than {} has", from.display());
        Err(RemoteError::Refused { destination: self.target.destination.clone(), message })
    }

    /// Starts a job under the lock.
    ///
    /// # Errors
    /// [`RemoteError::Locked`] when another job holds it.
    pub fn start(&self, job: &Job, watch: &mut Watch<'_>) -> Result<(), RemoteError> {
        for (from, to) in &job.files {
            let hash = archive::sha256(from).map_err(io("read", from))?;
            self.bring((from, &format!("{}/{to}", self.job_folder(&job.id))), "600", &hash, watch)?;
        }
        let mut arguments: Vec<String> = vec![self.folder.clone(), job.id.clone(), job.who.clone()];
        arguments.extend(job.environment.iter().map(|(name, value)| format!("{name}={value}")));
        arguments.extend(job.command.iter().cloned());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.script("starting the job", script::START, &arguments, None)?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match said.strip_prefix("locked") {
            None => Ok(()),
            Some(owner) => Err(RemoteError::Locked {
                destination: self.target.destination.clone(),
                owner: if owner.trim().is_empty() { "another job".to_owned() } else { owner.trim().to_owned() },
                lock: format!("{}/lock", self.folder),
            }),
        }
    }

    /// Follows a job to its end, through lost connections.
    ///
    /// # Errors
    /// [`RemoteError::Lost`] when the connection cannot be made again, [`RemoteError::Stopped`] when `watch` says so.
    pub fn attach(&mut self, job: &str, watch: &mut Watch<'_>) -> Result<Outcome, RemoteError> {
        let folder = self.job_folder(job);
        let (mut read, mut line) = (1usize, Vec::new());
        let mut failing: Option<Instant> = None;
        loop {
            let Output { stdout, stderr, ok } =
                match self.connection.script(script::FOLLOW, &[&folder, &read.to_string()], None) {
                    Ok(output) => output,
                    Err(_) => {
                        self.reconnect(job, failing.get_or_insert_with(Instant::now), watch)?;
                        continue;
                    }
                };
            failing = None;
            read += stdout.len();
            let is_news = !stdout.is_empty();
            line.extend(stdout);
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let rest = line.split_off(end + 1);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line = rest;
                self.go_on(job, watch(Step::Says(text)))?;
            }
            if !ok || stderr == "gone" {
                return Err(self.failed("following the job", "it neither runs nor has it ended"));
            }
            if let Some(status) = stderr.lines().last().and_then(|last| last.strip_prefix("exit ")).filter(|_| !is_news)
            {
                return Ok(Outcome { status: status.trim().parse().unwrap_or(-1) });
            }
            self.go_on(job, watch(Step::Says(String::new())))?;
            if !is_news {
                std::thread::sleep(POLL);
            }
        }
    }

    fn go_on(&self, job: &str, goes_on: bool) -> Result<(), RemoteError> {
        if goes_on {
            return Ok(());
        }
        let destination = self.target.destination.clone();
        Err(RemoteError::Stopped { destination, job: job.to_owned(), folder: self.job_folder(job) })
    }

    fn reconnect(&mut self, job: &str, since: &Instant, watch: &mut Watch<'_>) -> Result<(), RemoteError> {
        if since.elapsed() > PATIENCE {
            let destination = self.target.destination.clone();
            return Err(RemoteError::Lost { destination, job: job.to_owned(), folder: self.job_folder(job) });
        }
        self.go_on(job, watch(Step::Reconnecting))?;
        std::thread::sleep(POLL);
        if let Ok(connection) = Connection::open(&self.target) {
            self.connection = connection;
        }
        Ok(())
    }

    /// Fetches what a job wrote into `out`, which must not be there, verifies it, and deletes the job's folder there.
    ///
    /// # Errors
    /// When something is missing, has another hash, or would be written elsewhere; what lies there is then kept.
    pub fn fetch(&self, job: &str, out: &Path, watch: &mut Watch<'_>) -> Result<u64, RemoteError> {
        let folder = self.job_folder(job);
        let list = self.script("listing what the job wrote", script::LIST, &[&folder], None)?;
        let refused = |message| RemoteError::Refused { destination: self.target.destination.clone(), message };
        let files = parse_list(&String::from_utf8_lossy(&list.stdout)).map_err(refused)?;
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(io("make the folder", parent))?;
        // Beside its place, so that it gets there by one rename, when it is verified.
        let part =
            tempfile::Builder::new().prefix(".driftprobe-").tempdir_in(parent).map_err(io("write in", parent))?;
        let packed = part.path().join("run.tar.gz");
        let mut file = File::create(&packed).map_err(io("write", &packed))?;
        let mut bytes = 0;
        let mut write = to_file(&mut file);
        let mut take = |part: &[u8]| {
            bytes += part.len() as u64;
            let _ = watch(Step::Fetching(bytes));
            write(part)
        };
        let streamed = self.connection.stream(script::PACK, &[&folder], (None, &mut take));
        let (ok, said) = streamed.map_err(|broken| lost(&self.target, broken))?;
        if !ok {
            return Err(self.failed("packing", &said));
        }
        let run = part.path().join("run");
        let packed = File::open(&packed).map_err(io("read", &packed))?;
        let total = archive::unpack(packed, &files, &run).map_err(refused)?;
        fs::rename(&run, out).map_err(io("write", out))?;
        self.script("deleting the job's folder", script::DELETE, &[&self.folder, job], None)?;
        Ok(total)
    }

    /// A job's folder there.
    pub fn job_folder(&self, job: &str) -> String {
        format!("{}/jobs/{job}", self.folder)
    }

    fn failed(&self, what: &'static str, message: &str) -> RemoteError {
        RemoteError::Remote { destination: self.target.destination.clone(), what, message: message.to_owned() }
    }

    fn script(
        &self,
        what: &'static str,
        script: &str,
        arguments: &[&str],
        input: Option<&mut dyn Read>,
    ) -> Result<Output, RemoteError> {
        let output = self.connection.script(script, arguments, input).map_err(|broken| lost(&self.target, broken))?;
        if output.ok { Ok(output) } else { Err(self.failed(what, &output.stderr)) }
    }
}

/// A file that tells how much of it has been read.
struct Counted<'a> {
    file: File,
    sent: u64,
    tell: &'a mut dyn FnMut(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.sent += read as u64;
        (self.tell)(self.sent);
        Ok(read)
    }
}

fn said_hash(output: &Output, hash: &str) -> bool {
    String::from_utf8_lossy(&output.stdout).split_whitespace().next() == Some(hash)
}

/// As `uname -sm` says it.
fn machine_here() -> String {
    let system = match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "Darwin",
        other => other,
    };
    let machine = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("macos", "aarch64") => "arm64",
        (_, machine) => machine,
    };
    format!("{system} {machine}")
}

fn lost(target: &Target, broken: Broken) -> RemoteError {
    RemoteError::Connect { destination: target.destination.clone(), message: broken.0 }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RemoteError {
    let path = path.to_owned();
    move |source| RemoteError::Io { action, path, source }
}

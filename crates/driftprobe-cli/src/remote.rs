//! `driftprobe run --remote`: the run is made on another machine, fetched, and judged here.

use crate::analyze;
use crate::args::RunArgs;
use crate::environment;
use crate::failure::Failure;
use crate::output::{self, Judged};
use crate::progress::{RemoteBar, stop};
use driftprobe::judge::examine::Oracle;
use driftprobe_model::Model;
use driftprobe_remote::{Job, Remote, RemoteError, Step, Target};
use driftprobe_trace::{REMOTE_FILE, Run, check_run, replace_run};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Builds there and runs what was built. `$1`: folder, from home if it is relative; `$2`: features; then the arguments. A shell
/// that ssh starts has not read the profile in which rustup puts cargo on the path.
const BUILD: &str = r#"
set -eu
source=$1 features=$2
shift 2
case $source in /*) ;; *) source=$HOME/$source ;; esac
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
(cd "$source" && cargo build --release -p driftprobe-cli ${features:+--features "$features"}) >&2
cd "$source"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
cd "$OLDPWD"
exec "$target/release/driftprobe" "$@"
"#;

/// Runs the command and returns the exit status.
pub fn run(args: &RunArgs, destination: &str) -> Result<u8, Failure> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(job_id()));
    if out.exists() && !args.overwrite {
        return Err(Failure::new(format!("{}: something lies there", out.display()), "name another folder with --out"));
    }
    if out.exists() {
        check_run(&out)?;
    }
    let bar = RemoteBar::new();
    let mut watch = |step: Step| {
        bar.show(&step);
        !stop().load(Ordering::SeqCst)
    };
    let a = &args.remote;
    let target = Target {
        destination: destination.to_owned(),
        port: a.remote_port,
        key: a.remote_key.clone(),
        config: a.remote_config.clone(),
        folder: a.remote_folder.clone(),
    };
    let mut remote = Remote::connect(target, &mut watch)?;
    let job = match &a.remote_attach {
        Some(id) => Job { id: id.clone(), ..Job::default() },
        None => {
            let job = job(args, &remote, &mut watch)?;
            remote.start(&job, &mut watch)?;
            job
        }
    };
    let outcome = remote.attach(&job.id, &mut watch)?;
    let ours = job.id.clone();
    if outcome.status != 0 && a.remote_command.is_none() && a.remote_attach.is_none() {
        let what =
            format!("job {ours} on {destination} ended with exit status {}; its words are above", outcome.status);
        return Err(Failure::new(what, format!("what it left lies in {}", remote.job_folder(&ours))));
    }
    fetch((&remote, &ours), &out, &mut watch)?;
    bar.finish();
    record(&out, destination, &job, outcome.status)?;
    judge(args, &out)
}

/// What is to run there.
fn job(args: &RunArgs, remote: &Remote, watch: &mut driftprobe_remote::Watch<'_>) -> Result<Job, Failure> {
    let a = &args.remote;
    let id = job_id();
    let (mut forwarded, files) = forwarded(args.command_line.iter().skip(1).cloned())?;
    forwarded.extend(["--record-only", "--out", "run"].map(str::to_owned));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut command = match (&a.remote_command, &a.remote_build, &a.remote_binary) {
        (Some(own), ..) => words(&["sh", "-c", own]),
        (_, Some(source), _) => {
            words(&["sh", "-c", BUILD, "driftprobe", source, a.remote_features.as_deref().unwrap_or_default()])
        }
        (.., Some(binary)) => vec![binary.clone()],
        _ => {
            let own = args.binary.as_deref().ok_or_else(|| {
                let hint = "name one that is there with --remote-binary, or sources with --remote-build";
                Failure::new("this program is no binary that could be copied there", hint)
            })?;
            vec![remote.bring_binary(own, watch)?]
        }
    };
    if a.remote_command.is_none() {
        command.extend(forwarded);
    }
    let mut environment = environment::variables();
    for (name, value) in environment::DETERMINISM {
        environment.entry((*name).to_owned()).or_insert_with(|| (*value).to_owned());
    }
    environment.insert("GRETA_SEED".to_owned(), args.seed.to_string());
    environment.insert("DRIFTPROBE_PROGRESS".to_owned(), "lines".to_owned());
    environment.insert("DRIFTPROBE_RUN".to_owned(), format!("{}/run", remote.job_folder(&id)));
    let environment = environment.into_iter().collect();
    Ok(Job { id, who: environment::who(), environment, command, files })
}

/// Files from here, and their names in the job's folder.
type Brought = Vec<(PathBuf, String)>;

/// `run` and its arguments without those that are for this side. Prompt files are brought along.
fn forwarded(arguments: impl Iterator<Item = String>) -> Result<(Vec<String>, Brought), Failure> {
    const HERE: &[&str] = &["--out", "--format"];
    let is_here = |name: &str| HERE.contains(&name) || name.starts_with("--remote");
    let (mut kept, mut files) = (Vec::new(), Vec::new());
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if argument == "--overwrite" {
        } else if is_here(name) {
            if !argument.contains('=') {
                arguments.next();
            }
        } else if name == "--prompts" {
            kept.push("--prompts".to_owned());
            let own = argument.split_once('=').map(|(_, value)| value.to_owned());
            let is_one = own.is_some();
            let mut values: Vec<String> = own.into_iter().collect();
            while let Some(value) = arguments.next_if(|next| !is_one && !next.starts_with("--")) {
                values.push(value);
            }
            for value in values {
                kept.push(brought(value, &mut files)?);
            }
        } else {
            kept.push(argument);
        }
    }
    Ok((kept, files))
}

/// A prompt as it is named there: a file, a folder's files, or the text itself.
fn brought(value: String, files: &mut Brought) -> Result<String, Failure> {
    let path = Path::new(&value);
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if path.is_file() {
        let there = format!("prompts/{}/{}", files.len(), name(path));
        files.push((path.to_owned(), there.clone()));
        return Ok(there);
    }
    if !path.is_dir() {
        return Ok(value);
    }
    let there = format!("prompts/{}", files.len());
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|e| Failure::io("list", path, &e))?;
    entries.sort();
    files.extend(entries.into_iter().filter(|file| file.is_file()).map(|file| {
        let to = format!("{there}/{}", name(&file));
        (file, to)
    }));
    Ok(there)
}

/// Fetches a run. One that lies in its place is not touched before the new one is here, whole.
fn fetch((remote, job): (&Remote, &str), out: &Path, watch: &mut driftprobe_remote::Watch<'_>) -> Result<(), Failure> {
    if !out.exists() {
        remote.fetch(job, out, watch)?;
        return Ok(());
    }
    let here = out.with_file_name(format!(".driftprobe-{job}"));
    remote.fetch(job, &here, watch)?;
    replace_run(out, &here).map_err(|e| {
        let hint = format!("what was fetched and is not in its place lies in {}", here.display());
        Failure::new(e.to_string(), hint)
    })
}

/// Where the run came from, beside what it is.
fn record(out: &Path, destination: &str, job: &Job, status: i32) -> Result<(), Failure> {
    let environment: serde_json::Map<String, serde_json::Value> =
        job.environment.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let told = json!({"destination": destination, "job": job.id, "exit_status": status, "command": job.command,
        "environment": environment});
    let path = out.join(REMOTE_FILE);
    fs::write(&path, format!("{told:#}\n")).map_err(|e| Failure::io("write", &path, &e))
}

/// Judges what was fetched, with the model if it lies here too.
fn judge(args: &RunArgs, out: &Path) -> Result<u8, Failure> {
    let here = args.engine.model == Path::new("DEMO") || args.engine.model.exists();
    let model = here.then(|| Model::open(&args.engine.model)).transpose()?;
    let oracle = model.as_ref().map(|model| Oracle { budget_flops: args.engine.simulate, ..Oracle::new(model) });
    let run = Run::open(out)?;
    let judged = Judged { analysis: analyze::judge_all(&run, oracle.as_ref())?, seen: run.seen() };
    output::write(&judged, &analyze::beside(out), args.format)?;
    if model.is_none() {
        let model = args.engine.model.display();
        output::tell(format_args!(
            "{model} does not lie here, so that rows were compared and not judged; with a copy of it:\n  driftprobe analyze {} --model PATH",
            out.display()
        ));
    }
    Ok(judged.analysis.exit_code())
}

fn job_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("job-{}-{}", since.as_secs(), std::process::id())
}

impl From<RemoteError> for Failure {
    fn from(e: RemoteError) -> Failure {
        Failure::new(e.to_string(), e.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &[&str]) -> (Vec<String>, Vec<String>) {
        let (kept, files) = forwarded(line.iter().map(|word| (*word).to_owned())).unwrap();
        (kept, files.into_iter().map(|(_, to)| to).collect())
    }

    #[test]
    fn what_is_for_this_side_stays_here() {
        let line = [
            "run",
            "--remote",
            "me@host",
            "--model",
            "m.gguf",
            "--out=x",
            "--remote-port=22",
            "--overwrite",
            "--format",
            "json",
            "--steps",
            "4",
        ];
        assert_eq!(split(&line).0, ["run", "--model", "m.gguf", "--steps", "4"]);
    }

    #[test]
    fn texts_go_as_they_are_and_files_are_brought() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/prompts/p0_short.txt");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/prompts");
        let (kept, files) = split(&["run", "--prompts", "a 'text'; rm -rf x", here, folder, "--steps", "2"]);
        let expected =
            ["run", "--prompts", "a 'text'; rm -rf x", "prompts/0/p0_short.txt", "prompts/1", "--steps", "2"];
        assert_eq!(kept, expected);
        assert_eq!(files.len(), 5);
        assert!(files.contains(&"prompts/1/p9_long.txt".to_owned()), "{files:?}");
    }
}

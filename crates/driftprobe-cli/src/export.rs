//! `driftprobe export`: runs as a partitioned Parquet dataset.

use crate::args::ExportArgs;
use crate::by_prompt::{folders, names};
use crate::failure::Failure;
use crate::output;
use crate::progress::SharedBar;
use driftprobe_parquet::{Export, export};
use std::path::PathBuf;

/// Runs the command and returns the exit status, which is that of a program that did its work.
pub fn run(args: &ExportArgs) -> Result<u8, Failure> {
    let runs: Vec<PathBuf> = folders(&args.runs)?.into_iter().collect();
    if let Some(run) = runs.iter().find(|run| driftprobe_parquet::is_dataset(run)) {
        let what = format!("{}: a dataset already", run.display());
        return Err(Failure::new(what, "name runs of JSON; copy the folders run=… to put datasets together"));
    }
    let names = match (&args.name, runs.as_slice()) {
        (None, _) => names(&runs),
        (Some(name), [_]) => vec![name.clone()],
        (Some(_), several) => {
            let what = format!("--name names one run; there are {}", several.len());
            return Err(Failure::new(what, "leave it out: runs are called by their folders"));
        }
    };
    let bar = SharedBar::new(runs.len() as u64, "exporting runs");
    let mut told = String::new();
    for (run, name) in runs.iter().zip(&names) {
        let wanted = Export { run, name, dataset: &args.parquet, payloads: !args.no_payloads, force: args.force };
        let exported = export(&wanted);
        bar.done();
        let exported = exported?;
        let (rows, payloads, bytes) = (exported.rows, exported.payloads, exported.bytes);
        let folder = exported.folder.display();
        told.push_str(&format!("{folder}: {rows} events, {payloads} with their rows, {bytes} bytes\n"));
    }
    bar.finish();
    output::print(&told)?;
    Ok(driftprobe::EXIT_PASS)
}

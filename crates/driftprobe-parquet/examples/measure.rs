//! Size and time of a run as JSON and as Parquet, the figures of docs/parquet.md: `… --example measure -- RUN`.

use driftprobe_parquet::{Export, export, open};
use driftprobe_trace::{Rows, Run, TraceError};
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let run = PathBuf::from(std::env::args().nth(1).ok_or("name a run")?);
    let folder = tempfile::tempdir()?;
    println!("json: events {} bytes, rows {} bytes", bytes(&run.join("traces"))?, bytes(&run.join("tensors"))?);
    for payloads in [false, true] {
        let dataset = folder.path().join(format!("{payloads}"));
        let wanted = Export { run: &run, name: "one", dataset: &dataset, payloads, force: false };
        let (exported, seconds) = timed(|| export(&wanted))?;
        let (bytes, rows) = (exported.bytes, exported.rows);
        println!("parquet, with rows {payloads}: {bytes} bytes, {rows} events, written in {seconds:.2} s");
    }
    for round in 1..=3 {
        let (run, seconds) = timed(|| Run::open(&run))?;
        let ((), more) = timed(|| all_rows(&run))?;
        println!("{round}: json opened in {seconds:.3} s, rows read and hashed in {more:.3} s");
        let (run, seconds) = timed(|| open(&folder.path().join("true")))?;
        let ((), more) = timed(|| all_rows(&run))?;
        println!("{round}: parquet opened in {seconds:.3} s, rows read and hashed in {more:.3} s");
    }
    Ok(())
}

fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let started = Instant::now();
    work().map(|done| (done, started.elapsed().as_secs_f64()))
}

fn all_rows(run: &Run) -> Result<(), TraceError> {
    run.events.iter().try_for_each(|event| run.verify(event).map(drop))
}

fn bytes(folder: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}

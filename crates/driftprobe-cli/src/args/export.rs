//! The options of `driftprobe export`.

use clap::Args;
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
Examples:
  driftprobe export runs/old --parquet dataset/
  driftprobe export runs/nightly --parquet dataset/ --no-payloads
  driftprobe export runs/old --parquet dataset/ --name baseline --force
  driftprobe analyze dataset/run=baseline

One row an event, in dataset/run=NAME/search=0/mode=as_designed/repeat=0/part-0.parquet
and so on: DuckDB, pandas and Polars open it, and so does driftprobe analyze, which
gives the same report. See docs/parquet.md.";

#[derive(Args)]
pub struct ExportArgs {
    /// Runs, and folders of runs
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Folder of the dataset; runs are added to those that lie there
    #[arg(long, value_name = "DATASET")]
    pub parquet: PathBuf,
    /// The run's name in the dataset [default: its folder's]
    #[arg(long)]
    pub name: Option<String>,
    /// Leave out the rows' bytes: hashes, statistics and samples remain
    #[arg(long)]
    pub no_payloads: bool,
    /// Replace runs of the same names
    #[arg(long)]
    pub force: bool,
}

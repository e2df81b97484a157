//! `cargo xtask numerics`: what the judging is worth, measured. False alarms on clean runs, and the catalogue of faults
//! found, placed and named; other tools' gates in the same runs; the smallest faults seen.

mod case;
mod clean;
mod contracts;
mod effect;
mod faults;
mod gates;
mod models;
mod rows;
mod smallest;
mod work;
mod write;

use anyhow::{Result, ensure};
use contracts::{Contract, contracts};
use driftprobe_model::Model;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[derive(clap::Args)]
pub struct Args {
    /// A small part, in less than a minute.
    #[arg(long)]
    quick: bool,
    /// Put the tables into this file, between its lines `<!-- numerics:begin -->` and `<!-- numerics:end -->`.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only the table of the smallest faults.
    #[arg(long, conflicts_with = "write")]
    smallest: bool,
    /// One fault of so many, in place of all; its tables are no evidence.
    #[arg(long, value_name = "N", default_value_t = 1)]
    one_of: usize,
    /// Only arithmetics whose name contains this; its tables are no evidence.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// What all tables share.
pub struct Bench {
    quick: bool,
    one_of: usize,
    only: String,
    models: BTreeMap<&'static str, Model>,
    scratch: TempDir,
}

impl Bench {
    fn new(args: &Args) -> Result<Bench> {
        let scratch = TempDir::new()?;
        let mut models = BTreeMap::new();
        for (name, _) in models::MODELS {
            models.insert(name, models::model(scratch.path(), name)?);
        }
        Ok(Bench { quick: args.quick, one_of: args.one_of.max(1), only: args.only.clone(), models, scratch })
    }

    /// A model by its name.
    fn model(&self, name: &str) -> &Model {
        &self.models[name]
    }

    /// Where runs are recorded, and go with this.
    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn contracts(&self) -> Vec<Contract> {
        let wanted = ["f32, naive", "bf16, blocked", "Q8_0 weights, q8_0 activations, naive"];
        let all = contracts().into_iter();
        let is_wanted = |c: &Contract| c.name().contains(&self.only);
        all.filter(|c| is_wanted(c) && (!self.quick || wanted.contains(&c.name().as_str()))).collect()
    }

    fn seeds(&self) -> u64 {
        if self.quick { 1 } else { 3 }
    }

    /// One fault of so many is injected.
    fn fault_step(&self) -> usize {
        if self.quick { 5 } else { self.one_of }
    }
}

pub fn run(args: Args) -> Result<()> {
    let whole = !args.quick && args.one_of <= 1 && args.only.is_empty();
    ensure!(args.write.is_none() || whole, "the document holds whole tables only");
    let bench = Bench::new(&args)?;
    if args.smallest {
        print!("{}", smallest::text(&bench)?);
        return Ok(());
    }
    let started = std::time::Instant::now();
    let clean = clean::table(&bench)?;
    println!("## False alarms\n\n{}", clean::text(&clean));
    eprintln!("{:.0} s", started.elapsed().as_secs_f64());
    let cases = faults::table(&bench)?;
    let tables = write::Tables::new(&clean, &cases);
    let text = write::text(&bench, &clean, &tables)?;
    print!("{text}");
    eprintln!("{:.0} s", started.elapsed().as_secs_f64());
    if let Some(path) = &args.write {
        write::put_between_markers(path, &text)?;
    }
    ensure!(clean.iter().all(|(_, c)| c.is_silent()), "there are false alarms");
    tables.ensure_targets()
}

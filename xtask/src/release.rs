//! `cargo xtask release`: what a release consists of, made and held against its rules without the network.

mod packages;
mod sbom;
mod stage;
mod workflows;

use crate::cargo::{metadata, root};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Hold packages, bill of materials, workflows and, with --tag, version and changelog against what a release needs.
    Check {
        /// The tag of the release, `v` and the workspace's version.
        #[arg(long)]
        tag: Option<String>,
    },
    /// Write the bill of materials of the program: CycloneDX, in JSON.
    Sbom {
        /// Where to.
        out: PathBuf,
        /// Of the program for this target alone [default: for all of them]
        #[arg(long)]
        target: Option<String>,
    },
    /// Lay out what an archive of the program holds: binary, manual pages, completions, licences, bill of materials.
    Stage {
        /// The program; it is run for its manual pages and completions.
        #[arg(long)]
        binary: PathBuf,
        /// A folder that is not there yet.
        #[arg(long)]
        out: PathBuf,
        /// The target that the program was built for [default: all of them, in the bill of materials]
        #[arg(long)]
        target: Option<String>,
    },
}

pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Check { tag } => check(tag.as_deref()),
        What::Sbom { out, target } => std::fs::write(&out, sbom::of_workspace(&root()?, target.as_deref())?)
            .with_context(|| out.display().to_string()),
        What::Stage { binary, out, target } => stage::stage(&root()?, (&binary, target.as_deref()), &out),
    }
}

fn check(tag: Option<&str>) -> Result<()> {
    let root = root()?;
    let workspace = metadata(&root, &["--no-deps"])?;
    let mut findings = packages::check(&root, &workspace)?;
    findings.extend(workflows::check(&root, &workspace)?);
    if let Some(tag) = tag {
        let changelog = std::fs::read_to_string(root.join("CHANGELOG.md")).context("CHANGELOG.md")?;
        findings.extend(packages::tagged(&workspace, tag, &changelog)?);
    }
    // It fails where a dependency has no licence.
    let bill = sbom::of_workspace(&root, None)?;
    for finding in &findings {
        println!("{finding}");
    }
    ensure!(findings.is_empty(), "{} findings", findings.len());
    println!("release: nothing found; the bill of materials has {} kB", bill.len() / 1000);
    Ok(())
}

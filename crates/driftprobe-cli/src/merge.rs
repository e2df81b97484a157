//! `driftprobe merge`: results of prompts, wherever they were judged, made into one verdict.

use crate::args::{Format, MergeArgs};
use crate::by_prompt::Store;
use crate::failure::Failure;
use crate::output;
use driftprobe::digest::{MergeError, Merged, Merging, Promise, Seen};
use driftprobe::report::merged::{to_json, to_markdown, to_terminal, to_tsv};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Runs the command and returns the exit status: that of the verdict.
pub fn run(args: &MergeArgs) -> Result<u8, Failure> {
    check_format(args.format)?;
    let folders: Vec<&Path> = args.folders.iter().map(|folder| folder.as_path()).collect();
    let merged = collect(&folders)?;
    let out = args.out.as_deref().or(folders.first().copied()).unwrap_or(Path::new("."));
    write(&merged, out, args.format)?;
    Ok(merged.exit_code)
}

/// Refuses what there is none of, before any work.
pub fn check_format(format: Format) -> Result<(), Failure> {
    match format {
        Format::Junit | Format::Github => {
            let hint = "gate the runs: driftprobe gate RUN… --format junit";
            Err(Failure::new("a merged report has no JUnit and no annotations of its own", hint))
        }
        _ => Ok(()),
    }
}

/// Results that do not make one verdict.
pub fn refused(e: MergeError) -> Failure {
    Failure::new(e.to_string(), e.hint())
}

/// Merges the results in these folders. They are read one at a time, in the order of the search.
pub fn collect(folders: &[&Path]) -> Result<Merged, Failure> {
    let stores: Vec<Store> = folders.iter().map(|folder| Store::new(folder)).collect();
    let mut promise = Promise::default();
    let mut judged: BTreeMap<(String, String), Vec<(&Store, String)>> = BTreeMap::new();
    let mut seen = Seen::default();
    for store in &stores {
        for plan in store.plans()? {
            promise.join(&plan.promise).map_err(refused)?;
            seen.join(&plan.seen).map_err(refused)?;
            for unit in plan.units {
                judged.entry((unit.run, unit.prompt)).or_default().push((store, unit.fingerprint));
            }
        }
    }
    let mut merging = Merging::default();
    for (run, prompt) in promise.units() {
        let key = (run.to_owned(), prompt.to_owned());
        let places = judged.remove(&key).unwrap_or_default();
        let mut found = places.iter().filter_map(|(store, fingerprint)| store.read_unit(run, prompt, fingerprint));
        let Some(digest) = found.next() else {
            let unusable = places.iter().find_map(|(store, _)| store.lying(run, prompt));
            merging.lacks(run, prompt, unusable.as_deref());
            continue;
        };
        if found.any(|other| !other.is_same(&digest)) {
            let (run, prompt) = key;
            return Err(refused(MergeError::Differing { run, prompt }));
        }
        merging.take(digest).map_err(refused)?;
    }
    match judged.into_keys().next() {
        Some((run, prompt)) => Err(refused(MergeError::NotPromised { run, prompt })),
        None => Ok(merging.end(&promise)),
    }
}

/// Writes merged.md, merged.tsv and merged.json into `folder` and prints what was asked for.
pub fn write(merged: &Merged, folder: &Path, format: Format) -> Result<(), Failure> {
    let files = [("merged.md", to_markdown(merged)), ("merged.tsv", to_tsv(merged)), ("merged.json", to_json(merged))];
    let [markdown, tsv, json] = files.each_ref().map(|(_, text)| text.clone());
    let written = output::into_folder(folder, files)?;
    let shown = match format {
        Format::Json => json,
        Format::Md => markdown,
        Format::Tsv => tsv,
        _ => {
            let mut text = to_terminal(merged).ansi() + "\n";
            written.iter().for_each(|path| {
                let _ = writeln!(text, "wrote {}", path.display());
            });
            text
        }
    };
    output::print(&shown)
}

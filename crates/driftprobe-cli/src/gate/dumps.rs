//! Dumps of logits gated: prefill's and decode's of one kind are found by what their metadata say.

use super::Gated;
use crate::failure::Failure;
use crate::same_file::same_file;
use driftprobe::gate::decide::SubjectMode;
use driftprobe::gate::guardrail::{DumpRow, SpanPromise, compare_dumps};
use driftprobe::gate::matrix::{Axes, Unit};
use driftprobe::gate::{Preset, Subject};
use driftprobe_import::{ImportError, LogitsDump};
use driftprobe_trace::{Mode, Phase};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What two dumps must have alike to be of one pair, besides `kv_aligned`.
const SETTINGS: [&str; 7] = ["dtype", "prompt_len", "gen_len", "seed", "prompt_id", "prompt", "model"];

/// Pairs the dumps up and gates each pair.
///
/// # Errors
/// If a dump cannot be read, or its phase or its partner is not told.
pub fn gate(dumps: &[LogitsDump], presets: &[&'static Preset]) -> Result<Vec<Gated>, Failure> {
    if dumps.is_empty() {
        return Ok(Vec::new());
    }
    if presets.is_empty() {
        let hint =
            "name gates, such as --preset guardrail: logits alone have no stages that the noise model could judge";
        return Err(Failure::new("dumps of logits and no --preset", hint));
    }
    let gated = |pair| match pair {
        Pair::Both(prefill, decode) => one(prefill, decode, presets),
        Pair::Lone(dump) => lone(dump, presets),
    };
    pairs(dumps)?.into_iter().map(gated).collect()
}

/// Dumps that belong together.
enum Pair<'a> {
    /// Prefill's and decode's.
    Both(&'a LogitsDump, &'a LogitsDump),
    /// One without the other phase's: a cell that it would fill stays empty.
    Lone(&'a LogitsDump),
}

fn pairs(dumps: &[LogitsDump]) -> Result<Vec<Pair<'_>>, Failure> {
    if let [one, other] = dumps
        && (settings(one) == settings(other) || one.phase().is_none() || other.phase().is_none())
    {
        return match (one.phase(), other.phase()) {
            (Some(Phase::Decode), Some(Phase::Prefill)) => Ok(vec![Pair::Both(other, one)]),
            (Some(first), Some(second)) if first == second => {
                let what = format!("{} and {} are both of {first}", one.folder.display(), other.folder.display());
                Err(Failure::new(what, "give one dump of prefill and one of decode"))
            }
            // Where neither says, the first is prefill's.
            _ => Ok(vec![Pair::Both(one, other)]),
        };
    }
    let mut groups: BTreeMap<Vec<(String, String)>, [Vec<&LogitsDump>; 2]> = BTreeMap::new();
    for dump in dumps {
        let Some(phase) = dump.phase() else {
            let hint = "write \"mode\": \"prefill\" or \"decode\" in its metadata.json, or name its folder so";
            return Err(Failure::new(format!("{}: nothing tells its phase", dump.folder.display()), hint));
        };
        let mut key = settings(dump);
        key.push(("kv_aligned".to_owned(), format!("{:?}", dump.number(&["kv_aligned"]))));
        let [prefill, decode] = groups.entry(key).or_default();
        if phase == Phase::Prefill { prefill.push(dump) } else { decode.push(dump) }
    }
    let mut pairs = Vec::new();
    for (key, [prefill, decode]) in groups {
        match (prefill.as_slice(), decode.as_slice()) {
            ([prefill], [decode]) => pairs.push(Pair::Both(prefill, decode)),
            ([lone], []) | ([], [lone]) => pairs.push(Pair::Lone(lone)),
            _ => {
                let key: Vec<String> = key.iter().map(|(name, value)| format!("{name} {value}")).collect();
                let all = prefill.iter().chain(&decode).map(|dump| dump.folder.display().to_string());
                let what = format!(
                    "{} dumps of prefill and {} of decode say the same of themselves ({}): {}",
                    prefill.len(),
                    decode.len(),
                    key.join(", "),
                    all.collect::<Vec<_>>().join(", ")
                );
                return Err(Failure::new(
                    what,
                    "each pair needs settings of its own in metadata.json, and both phases",
                ));
            }
        }
    }
    Ok(pairs)
}

fn settings(dump: &LogitsDump) -> Vec<(String, String)> {
    let value = |name: &&str| Some(((*name).to_owned(), dump.metadata.as_ref()?.get(*name)?.to_string()));
    SETTINGS.iter().filter_map(value).collect()
}

fn promise(dump: &LogitsDump) -> SpanPromise {
    let mode = dump.number(&["kv_aligned"]);
    SpanPromise {
        start: dump.number(&["token_span", "start"]),
        count: dump.number(&["token_span", "count"]).or_else(|| dump.number(&["gen_len"])),
        mode: mode.map(|aligned| if aligned == 1 { Mode::KvAligned } else { Mode::AsDesigned }),
        settings: settings(dump),
    }
}

/// Lines up to the first that cannot be read, whose error is kept.
fn rows<'a>(
    dump: &LogitsDump,
    error: &'a RefCell<Option<ImportError>>,
) -> Result<impl Iterator<Item = DumpRow> + use<'a>, Failure> {
    let lines = dump.lines()?;
    Ok(lines.map_while(move |line| match line {
        Ok(line) => {
            let logits = line.logits.iter().map(|value| f64::from(*value)).collect();
            Some(DumpRow { index: line.index, token: line.token, logits })
        }
        Err(e) => {
            error.borrow_mut().get_or_insert(e);
            None
        }
    }))
}

/// A dump whose partner is not there: nothing can be compared.
fn lone(dump: &LogitsDump, presets: &[&'static Preset]) -> Result<Gated, Failure> {
    let error = RefCell::new(None);
    let found = rows(dump, &error)?;
    let own = promise(dump);
    let mode = own.mode;
    let (phase, results) = match dump.phase() {
        Some(Phase::Decode) => {
            ("prefill", compare_dumps(presets, &[SpanPromise::default(), own], std::iter::empty(), found))
        }
        _ => ("decode", compare_dumps(presets, &[own, SpanPromise::default()], found, std::iter::empty())),
    };
    if let Some(e) = error.into_inner() {
        return Err(e.into());
    }
    let name = format!("{} / no dump of {phase} says the same of itself", dump.folder.display());
    let modes = vec![SubjectMode { mode, presets: results }];
    Ok((Subject { name, noise: None, modes, baseline: None }, vec![]))
}

fn one(prefill: &LogitsDump, decode: &LogitsDump, presets: &[&'static Preset]) -> Result<Gated, Failure> {
    if same_file(&prefill.file, &decode.file) {
        let hint = "give the dump of prefill and that of decode";
        return Err(Failure::new(format!("{}: both dumps are this one file", prefill.file.display()), hint));
    }
    let promises = [promise(prefill), promise(decode)];
    let error = RefCell::new(None);
    let results = compare_dumps(presets, &promises, rows(prefill, &error)?, rows(decode, &error)?);
    if let Some(e) = error.into_inner() {
        return Err(e.into());
    }
    let name = format!("{} / {}", prefill.folder.display(), decode.folder.display());
    let mode = promises[0].mode;
    let text = |key: &str| prefill.text(key).map(str::to_owned);
    let axes = Axes {
        prompt: text("prompt_id"),
        seed: prefill.number(&["seed"]),
        kv_aligned: mode.map(|mode| mode == Mode::KvAligned),
        dtype: text("dtype"),
        engine: text("engine"),
        context: prefill.number(&["prompt_len"]),
        steps: promises[0].count,
    };
    let presets = results.iter().map(|result| (result.preset.id, result.verdict, result.guardrail)).collect();
    let unit = Unit { run: name.clone(), axes, noise: None, presets };
    let modes = vec![SubjectMode { mode, presets: results }];
    Ok((Subject { name, noise: None, modes, baseline: None }, vec![unit]))
}

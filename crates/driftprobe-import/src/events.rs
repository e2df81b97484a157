//! GRETA's dumps: events that are kept as they are, and logits that become events.

use crate::error::{ImportError, Result};
use crate::keys::Key;
use crate::record::{Recorder, event};
use crate::report::{Report, Unmapped};
use crate::source::{Loose, loose};
use crate::{Request, rows};
use driftprobe_trace::{Event, Manifest, Phase, Point, Row, Rows as _};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Imports events and logits.
pub fn import(
    request: &Request,
    sources: &[(&Path, Option<Phase>)],
    manifest: Manifest,
    report: &mut Report,
) -> Result<()> {
    let mut found = Loose::default();
    for (path, phase) in sources {
        let one = loose(path, *phase)?;
        found.runs.extend(one.runs);
        found.logits.extend(one.logits);
        found.read.extend(one.read);
    }
    report.passes =
        found.read.iter().map(|file| (file.display().to_string(), "lines, as they say".to_owned())).collect();
    let events = events(request, &found, report)?;
    if events.is_empty() {
        let files: Vec<String> = found.read.iter().map(|file| file.display().to_string()).collect();
        let what = format!("no event of a known point in {}", files.join(", "));
        return Err(ImportError::new(what, "docs/trace-format.md lists the points and their other names"));
    }
    write(request, events, manifest, report)
}

type Recorded = (Event, Option<Row>);

fn events(request: &Request, found: &Loose, report: &mut Report) -> Result<Vec<Recorded>> {
    let mut events = Vec::new();
    for run in &found.runs {
        report.unmapped.extend(run.unmapped.iter().map(|event| Unmapped::new(&event.point, "no point has this name")));
        let notes = run.notes.iter().filter(|note| !matches!(note, driftprobe_trace::Note::ManifestMissing));
        report.notes.extend(notes.map(|note| format!("{}: {note}", run.dir.display())));
        for event in &run.events {
            let row = run.row(event)?;
            events.push((event.clone(), row));
        }
    }
    events.extend(logits(request, found, report)?);
    report.tensors = events.len() as u64;
    Ok(events)
}

/// Logits as events. Whether a line's token is the one that was fed or the one that was drawn is not told: it counts as fed
/// if it is the user's token everywhere.
fn logits(request: &Request, found: &Loose, report: &mut Report) -> Result<Vec<Recorded>> {
    let told = request.told.tokens.as_deref();
    let at = |index: u64| told.and_then(|tokens| tokens.get(usize::try_from(index).ok()?).copied());
    let named = found.logits.iter().filter(|row| row.token.is_some());
    if told.is_none() && named.count() > 0 {
        report.notes.push(
            "whether `token_id` of the logits was fed or drawn is not told: give the tokens by --tokens".to_owned(),
        );
    }
    let order: BTreeSet<u64> =
        found.logits.iter().filter(|row| row.phase == Phase::Decode).map(|row| row.index).collect();
    let prompt_id = Arc::from(request.prompt_id.as_str());
    let mut events = Vec::new();
    for row in &found.logits {
        if told.is_some() && at(row.index).is_none() {
            let what = format!("logits of token {}, the sequence has {}", row.index, told.map_or(0, <[u32]>::len));
            return Err(ImportError::new(what, "give all tokens that were fed (--tokens)"));
        }
        let step = order.range(..=row.index).count() as u64;
        let key = Key {
            index: Some(row.index),
            position: request.told.first_position.map(|first| first + row.index),
            token: at(row.index),
            step: if row.phase == Phase::Decode { step } else { 0 },
        };
        let values = rows::as_row(row.values.clone()).map_err(|what| ImportError::new(what, "logits are numbers"))?;
        events.push((event(&prompt_id, row.phase, (Point::Logits, -1), &key), Some(values)));
    }
    Ok(events)
}

fn write(request: &Request, events: Vec<Recorded>, manifest: Manifest, report: &mut Report) -> Result<()> {
    let prompts: BTreeSet<Arc<str>> = events.iter().map(|(event, _)| event.prompt_id.clone()).collect();
    let told = request.told.tokens.clone().filter(|_| prompts.len() == 1);
    if prompts.len() > 1 {
        report.unknown.push(format!("the tokens of {} prompts", prompts.len()));
    }
    let mut recorder = Recorder::create(&request.out, request.overwrite, manifest, &request.prompt_id)?;
    for prompt in &prompts {
        for phase in Phase::ALL {
            recorder.begin(prompt, phase)?;
            let of = events.iter().filter(|(event, _)| event.prompt_id == *prompt && event.phase == phase);
            for (event, row) in of {
                recorder.event(event.clone(), row.clone())?;
            }
        }
    }
    recorder.finish(told, report)
}

//! Dumps of tensors: mapped, told apart, cut into rows and written.

use crate::error::{ImportError, Result};
use crate::keys::{self, Key, Role};
use crate::load::Loader;
use crate::map::{Map, Sizes};
use crate::mapped::{Mapped, Mapping, points};
use crate::record::Recorder;
use crate::report::Report;
use crate::source::{self, Format, Pass};
use crate::{Progress, Request, rows};
use driftprobe_trace::{Manifest, Phase};
use std::path::Path;
use std::sync::Arc;

type Sources<'a> = (Format, &'a [(&'a Path, Option<Phase>)]);

/// Imports a dump of tensors.
pub fn import(
    request: &Request,
    sources: Sources<'_>,
    manifest: Manifest,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let mut loader = Loader::default();
    let passes = read(request, sources, &mut loader, report)?;
    let config = manifest.config.clone().map(Sizes::new);
    let map = map(request, sources.0, &passes)?;
    let names = passes.iter().flat_map(|pass| &pass.tensors).map(|named| named.name.as_str());
    let flags = map.flags(config.as_ref(), names);
    if config.is_none() {
        let by_names: Vec<String> =
            flags.iter().map(|(flag, set)| format!("{flag} {}", if *set { "yes" } else { "no" })).collect();
        if !by_names.is_empty() {
            report.notes.push(format!("no --model given; by the dump's names: {}", by_names.join(", ")));
        }
    }
    let mapping = Mapping { map: &map, flags };
    let mut mapped = Vec::new();
    for pass in passes {
        mapped.push(mapping.pass(pass, &mut loader, &mut report.unmapped)?);
    }
    report.map = (!map.name.is_empty()).then(|| map.name.clone());
    if mapped.iter().all(|pass| pass.items.is_empty() && pass.fixed.is_empty()) {
        return Err(nothing(&map.name, report));
    }
    mapped.retain(|pass| pass.tokens.is_some() || !pass.fixed.is_empty());
    let plan = keys::plan(&mapped, &request.told)?;
    report.notes.extend(plan.notes);
    report.passes =
        mapped.iter().zip(&plan.roles).map(|(pass, role)| (pass.label.clone(), role.says.clone())).collect();
    let recorder = Recorder::create(&request.out, request.overwrite, manifest, &request.prompt_id)?;
    let prompt_id = Arc::from(request.prompt_id.as_str());
    let mut writing = Writing { recorder, loader, config, prompt_id, progress, done: 0, total: 0 };
    writing.all(&mapped, &plan.roles)?;
    report.tensors = writing.done;
    writing.recorder.finish(plan.sequence, report)
}

/// The passes that are asked for.
fn read(request: &Request, sources: Sources<'_>, loader: &mut Loader, report: &mut Report) -> Result<Vec<Pass>> {
    let mut passes = Vec::new();
    for (path, phase) in sources.1 {
        for pass in source::passes(path, sources.0, request.rank, loader)? {
            let label = match sources.1.len() {
                1 => pass.label,
                _ => format!("{}/{}", path.display(), pass.label).trim_end_matches('/').to_owned(),
            };
            passes.push(Pass { label, phase: phase.or(pass.phase), ..pass });
        }
    }
    let Some(chosen) = &request.passes else { return Ok(passes) };
    let all = passes.len();
    let asked = |number: u64| chosen.iter().any(|(from, to)| (*from..=*to).contains(&number));
    let kept: Vec<Pass> = (1u64..).zip(passes).filter(|(number, _)| asked(*number)).map(|(_, pass)| pass).collect();
    if kept.is_empty() {
        return Err(ImportError::new(format!("--passes names none of the {all}"), "they are counted from 1"));
    }
    report.notes.push(format!("{} of the dump's {all} passes were chosen by --passes", kept.len()));
    Ok(kept)
}

/// The map: the one that is asked for, or the format's own. Rows whose names tell their place need none.
fn map(request: &Request, format: Format, passes: &[Pass]) -> Result<Map> {
    match (&request.map, format.usual_map()) {
        (Some(name), _) => Map::open(name),
        (None, Some(name)) => Map::open(name),
        (None, None) if passes.iter().flat_map(|pass| &pass.tensors).any(|named| named.fixed.is_some()) => {
            Map::parse("", "")
        }
        (None, None) => {
            let name = passes.iter().flat_map(|pass| &pass.tensors).next().map(|named| named.name.as_str());
            let what = format!("nothing tells what `{}` is", name.unwrap_or_default());
            let hint = format!(
                "name files LAYER.POINT.POSITION, or give a map: --map FILE, or one of {}",
                Map::names().join(", ")
            );
            Err(ImportError::new(what, hint))
        }
    }
}

fn nothing(map: &str, report: &Report) -> ImportError {
    let mut names: Vec<&str> = report.unmapped.iter().map(|unmapped| unmapped.name.as_str()).collect();
    names.dedup();
    names.truncate(5);
    let what =
        format!("the map {map} fits none of the {} tensors, such as {}", report.unmapped.len(), names.join(", "));
    let hint = format!("give another: --map FILE, or one of {}", Map::names().join(", "));
    ImportError::new(what, hint)
}

struct Writing<'a> {
    recorder: Recorder,
    loader: Loader,
    config: Option<Sizes>,
    prompt_id: Arc<str>,
    progress: &'a mut dyn FnMut(Progress<'_>),
    done: u64,
    total: u64,
}

impl Writing<'_> {
    fn all(&mut self, passes: &[Mapped<'_>], roles: &[Role]) -> Result<()> {
        let recorded = |phase: Phase| {
            passes.iter().zip(roles).filter(move |(_, role)| role.phase == Some(phase) && !role.rows.is_empty())
        };
        let tensors = |pass: &Mapped<'_>| (pass.items.len() + pass.fixed.len()) as u64;
        self.total = Phase::ALL.into_iter().flat_map(recorded).map(|(pass, _)| tensors(pass)).sum();
        for phase in Phase::ALL {
            let prompt_id = self.prompt_id.clone();
            self.recorder.begin(&prompt_id, phase)?;
            for (pass, role) in recorded(phase) {
                match pass.tokens {
                    Some(_) => self.block(phase, pass, &role.rows)?,
                    None => self.loose(phase, pass, &role.rows)?,
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, name: &str) {
        self.done += 1;
        (self.progress)(Progress { done: self.done, total: self.total, name });
    }

    fn block(&mut self, phase: Phase, pass: &Mapped<'_>, rows: &[(u64, Key)]) -> Result<()> {
        let numbers: Vec<u64> = rows.iter().map(|(row, _)| *row).collect();
        for item in &pass.items {
            self.step(&item.named.name);
            if points(item.entry).is_empty() {
                continue;
            }
            let tensor = self.loader.load(&item.named.origin)?;
            for cut in rows::cut(pass, item, &tensor, &numbers, self.config.as_ref())? {
                let Some((_, key)) = rows.iter().find(|(row, _)| *row == cut.row) else { continue };
                self.recorder.row(phase, (cut.point, cut.layer), key, pass.tokens, cut.values)?;
            }
        }
        Ok(())
    }

    fn loose(&mut self, phase: Phase, pass: &Mapped<'_>, rows: &[(u64, Key)]) -> Result<()> {
        for (row, key) in rows {
            let Some(named) = pass.fixed.get(*row as usize) else { continue };
            let Some(fixed) = &named.fixed else { continue };
            self.step(&named.name);
            let tensor = self.loader.load(&named.origin)?;
            let shape = tensor.shape.clone();
            let values = rows::as_row(tensor)
                .and_then(|values| rows::check(fixed.point, &values, self.config.as_ref()).map(|()| values));
            let values = values.map_err(|what| {
                let what = format!("{} of shape {shape:?}: {what}", named.origin.describe());
                ImportError::new(what, "write the row of one token as floats")
            })?;
            self.recorder.row(phase, (fixed.point, fixed.layer), key, None, values)?;
        }
        Ok(())
    }
}

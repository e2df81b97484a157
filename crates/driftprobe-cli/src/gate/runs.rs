//! A run gated: judged as `analyze` judges it, presets applied to each of its modes.

use super::Gated;
use crate::analyze::{judge_modes, model_of, search_rounds};
use crate::failure::Failure;
use crate::lying;
use driftprobe::gate::apply::{Gated as Of, apply};
use driftprobe::gate::decide::{Noise, SubjectMode};
use driftprobe::gate::matrix::{Axes, Unit};
use driftprobe::gate::{Preset, PresetResult, Subject, baseline};
use driftprobe::judge::PairVerdict;
use driftprobe::judge::examine::Oracle;
use driftprobe::search::with_search;
use driftprobe::verdict::modes::{alone, combine};
use driftprobe::{Analysis, Verdict};
use driftprobe_model::Model;
use driftprobe_trace::{Contract, Manifest, Mode, PromptInfo, Run};
use std::path::Path;

/// How runs are judged.
pub struct Settings<'a> {
    /// The presets.
    pub presets: &'a [&'static Preset],
    /// The model in place of each manifest's.
    pub model: Option<&'a Path>,
    /// The contract in place of each manifest's.
    pub contract: Option<&'a Contract>,
    /// Operations that simulating may take.
    pub budget_flops: f64,
    /// Whether presets are applied prompt by prompt too, as a matrix asks for.
    pub by_prompt: bool,
}

/// A run judged, mode by mode.
pub struct Judged {
    run: Run,
    model: Option<Model>,
    analysis: Analysis,
    aligned: Option<(Run, Analysis)>,
}

/// Judges the run at `path`.
///
/// # Errors
/// If the run or the model cannot be read.
pub fn judge(path: &Path, settings: &Settings<'_>) -> Result<Judged, Failure> {
    let run = lying::open(path)?;
    let model = model_of(&run, settings.model)?;
    let (analysis, aligned) = {
        let oracle = oracle(model.as_ref(), settings);
        judge_modes(&run, oracle.as_ref())?
    };
    // A mode that the run promises and that is not here is a reason for the presets too.
    let analysis = if aligned.is_none() { alone(analysis) } else { analysis };
    Ok(Judged { run, model, analysis, aligned })
}

fn oracle<'a>(model: Option<&'a Model>, settings: &Settings<'a>) -> Option<Oracle<'a>> {
    let Settings { contract, budget_flops, .. } = *settings;
    // With what the run would have shown: one in which nothing would have is no PASS.
    model.map(|model| Oracle { contract, budget_flops, ..Oracle::new(model) })
}

impl Judged {
    /// Each mode: its run and its analysis.
    fn modes(&self) -> impl Iterator<Item = (&Run, &Analysis)> {
        std::iter::once((&self.run, &self.analysis)).chain(self.aligned.iter().map(|(run, analysis)| (run, analysis)))
    }
}

/// Gates the run at `path`.
///
/// # Errors
/// As [`judge`].
pub fn gate(path: &Path, settings: &Settings<'_>, baseline: Option<&Judged>) -> Result<Gated, Failure> {
    let judged = judge(path, settings)?;
    let name = path.display().to_string();
    let of = |run: &Run, analysis: &Analysis, prompt: Option<&str>| {
        apply(settings.presets, Of { analysis, rows: run, model: judged.model.as_ref(), prompt })
    };
    let mut modes = Vec::new();
    let mut units = Vec::new();
    for (run, analysis) in judged.modes() {
        modes.push(SubjectMode { mode: mode(analysis), presets: of(run, analysis, None) });
        if settings.by_prompt {
            units.extend(prompts(analysis).map(|(prompt, axes)| Unit {
                run: name.clone(),
                axes,
                noise: Some(verdict(analysis, &prompt.id)),
                presets: of(run, analysis, Some(&prompt.id)).iter().map(short).collect(),
            }));
        }
    }
    let baseline = baseline.map(|baseline| compare(&judged, baseline));
    let seen = judged.run.seen();
    let noise = noise(judged, settings)?;
    seen.unchanged()?;
    Ok((Subject { name, noise: Some(noise), modes, baseline }, units))
}

fn short(result: &PresetResult) -> (&'static str, Verdict, Option<driftprobe::gate::GuardrailVerdict>) {
    (result.preset.id, result.verdict, result.guardrail)
}

fn mode(analysis: &Analysis) -> Option<Mode> {
    analysis.manifest.as_ref().and_then(|manifest| manifest.mode)
}

/// The verdict of both modes and of the search that followed, as `analyze` gives it.
fn noise(judged: Judged, settings: &Settings<'_>) -> Result<Noise, Failure> {
    let oracle = oracle(judged.model.as_ref(), settings);
    let rounds = search_rounds(&judged.run, oracle.as_ref())?;
    let analysis = match judged.aligned {
        None => judged.analysis,
        Some((_, aligned)) => combine(judged.analysis, aligned),
    };
    Ok(Noise::of(&with_search(analysis, rounds)))
}

/// Each mode against the baseline's of the same name; of modes that one of them lacks, nothing is known.
fn compare(judged: &Judged, baseline: &Judged) -> baseline::Outcome {
    let mut pairs = Vec::new();
    let mut lacking = Vec::new();
    for (_, ours) in judged.modes() {
        match baseline.modes().find(|(_, theirs)| mode(theirs) == mode(ours)) {
            Some((_, theirs)) => pairs.push((ours, theirs)),
            None => lacking.push(format!("the baseline has no mode {}", mode(ours).map_or("of that name", Mode::id))),
        }
    }
    for (_, theirs) in baseline.modes().filter(|(_, theirs)| judged.modes().all(|(_, ours)| mode(ours) != mode(theirs)))
    {
        lacking.push(format!("the run has no mode {}", mode(theirs).map_or("of that name", Mode::id)));
    }
    baseline::compare(&pairs, lacking)
}

/// What the noise model says of one prompt: a run that passes passes for each; one that fails does so where a row fails.
fn verdict(analysis: &Analysis, prompt: &str) -> Verdict {
    let fails = analysis.pairs.iter().any(|pair| {
        *pair.prefill.prompt_id == *prompt && matches!(pair.verdict, PairVerdict::Fault | PairVerdict::NonFinite)
    });
    match analysis.verdict.verdict {
        Verdict::Pass => Verdict::Pass,
        Verdict::Fail if fails => Verdict::Fail,
        // It fails elsewhere, or by what all prompts show together.
        Verdict::Fail | Verdict::Inconclusive => Verdict::Inconclusive,
    }
}

/// What a run says of itself, prompt by prompt.
fn prompts(analysis: &Analysis) -> impl Iterator<Item = (&PromptInfo, Axes)> {
    let of = |manifest: &Manifest, prompt: &PromptInfo| Axes {
        prompt: Some(prompt.id.clone()),
        seed: manifest.seed,
        kv_aligned: manifest.mode.map(|mode| mode == Mode::KvAligned),
        dtype: manifest.contract.as_ref().and_then(|contract| contract.flat.activations.clone()),
        engine: manifest.engine.as_ref().and_then(|engine| engine.name.clone()),
        context: Some(prompt.tokens.len() as u64),
        steps: manifest.steps.map(u64::from),
    };
    let all = analysis.manifest.iter();
    let all = all.flat_map(|manifest| manifest.prompts.iter().flatten().map(move |prompt| (manifest, prompt)));
    all.map(move |(manifest, prompt)| (prompt, of(manifest, prompt)))
}

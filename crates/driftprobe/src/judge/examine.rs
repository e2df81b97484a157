//! What the model says of a run: every recorded stage of both phases, judged by itself.

mod beforehand;
mod left_out;
mod mixed;
mod slots;
mod sound;
mod standing;
#[cfg(test)]
mod tests;

pub use beforehand::beforehand;
pub use sound::Sound;

use crate::cause::bugs::bug_of;
use crate::cause::{self, Cause, Examined, PowerRow};
use crate::oracle::fit::{Finding, fit};
use crate::oracle::replay::Beforehand;
use crate::oracle::{Input, PhaseJudgement, Replay, StageJudgement};
use crate::pair::place::Part;
use crate::progress::{Progress, Watch, Work};
use crate::simulate::{Simulation, Study};
use crate::verdict::reason::ReasonCode;
use driftprobe_model::Model;
use driftprobe_trace::{Contract, Event, Phase, Point, Recording, Rows, Run, TraceError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a run is held against.
#[derive(Clone, Copy)]
pub struct Oracle<'a> {
    /// The model that the engine ran.
    pub model: &'a Model,
    /// A contract in place of the manifest's.
    pub contract: Option<&'a Contract>,
    /// Operations that simulating the prompts from their tokens may take; see [`crate::simulate::cost_flops`].
    pub budget_flops: f64,
    /// Whether to say what the run would have shown of each bug of the catalogue. It is found out in any case where no row within
    /// the layers is in both phases: there nothing else may tell that nothing would have been seen.
    pub power: bool,
    /// Stages that somebody judged already: of the same rows, with the same model and contract.
    pub beforehand: Option<&'a Beforehand>,
}

impl<'a> Oracle<'a> {
    /// Operations that simulations may take, if not told otherwise: minutes on a few cores.
    pub const BUDGET_FLOPS: f64 = 2e12;

    /// With the manifest's own contract and an ordinary budget.
    pub fn new(model: &'a Model) -> Oracle<'a> {
        Oracle { model, contract: None, budget_flops: Self::BUDGET_FLOPS, power: true, beforehand: None }
    }

    /// Replays a run's stages as its contract, or the one in its place, declares them.
    fn replay<'r>(&self, run: &'r Run) -> Replay<'r>
    where
        'a: 'r,
    {
        let replay = Replay::new(self.model, run.manifest.as_ref());
        match self.contract {
            Some(contract) => replay.with_contract(contract),
            None => replay,
        }
    }
}

/// Why the oracle says nothing of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The manifest names other weights.
    Fingerprint {
        /// The manifest's.
        recorded: String,
        /// The model's.
        found: String,
    },
    /// The manifest's shape is not the model's.
    Shape(String),
    /// Neither embeddings nor matrices of either phase are the model's.
    Weights {
        /// Rows of them that are not.
        faulty: usize,
    },
    /// A row could not be read while it was judged.
    Rows(String),
}

impl Doubt {
    fn rows(error: TraceError) -> Doubt {
        Doubt::Rows(error.to_string())
    }

    /// What it is against a PASS.
    pub fn code(&self) -> ReasonCode {
        match self {
            Doubt::Fingerprint { .. } | Doubt::Shape(_) | Doubt::Weights { .. } => ReasonCode::WrongModel,
            Doubt::Rows(_) => ReasonCode::ReadingFindings,
        }
    }
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Doubt::Fingerprint { recorded, found } => {
                write!(f, "the run was made with weights {recorded}, the model given has {found}")
            }
            Doubt::Shape(what) | Doubt::Rows(what) => write!(f, "{what}"),
            Doubt::Weights { faulty } => write!(
                f,
                "all {faulty} rows of embeddings and matrices, in both phases, are not what these weights give"
            ),
        }
    }
}

/// The judgements of both phases.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    /// Prefill's and decode's.
    pub phases: [PhaseJudgement; 2],
    /// Arithmetics that the contract does not declare and the record shows.
    pub contract_findings: Vec<Finding>,
    /// Numbers of the manifest's config that are not the model's.
    pub config_differs: Vec<String>,
    /// The run against its tokens alone.
    pub study: Study,
    /// The first fault of each phase and what explains it.
    pub causes: Vec<Cause>,
    /// What the run would have shown of each bug of the catalogue.
    pub power: Vec<PowerRow>,
    /// The four usual suspects of attention, each tested.
    pub suspects: Vec<Examined>,
    /// Which rows were left out on purpose.
    recording: Option<Recording>,
    /// Where each stage's judgement stands.
    index: BTreeMap<RowKey, usize>,
    gaps: BTreeMap<RowKey, usize>,
    /// Each row against the tokens, and the rows of each recorded cache.
    tokens: BTreeMap<RowKey, Vec<usize>>,
    /// Points and layers at which only all rows together show a fault.
    systematic: BTreeSet<(Phase, Point, Option<i32>)>,
    /// Where in the computation each phase is at fault first, by whatever shows it.
    first: BTreeMap<Phase, Place>,
}

/// A row of one phase: phase, prompt, index of the token and place.
type RowKey = (Phase, Arc<str>, u64, Input);

/// Where in the computation: before, in or behind the layers, the layer, and the point.
type Place = (Part, i32, Point);

fn place_of(input: Input) -> Place {
    (Part::of(input.point), input.layer, input.point)
}

/// What is known of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It is what its own inputs, or the tokens, give.
    Clean,
    /// It is not.
    Fault(String),
    /// A stretch that was not recorded lies before it, in which this phase leaves what the model gives.
    Gap(String),
    /// Of a cache: its last rows are, up to its own; those of earlier positions are not known.
    LastRows(String),
    /// It was left out on purpose. What is recorded of it is within rounding, and so is what follows it.
    LeftOut,
    /// It was left out on purpose, and nothing shows that what lies around it is sound.
    LeftOpen(String),
    /// Not known.
    Unknown(String),
}

/// Whether the weights themselves are in doubt: every embedding and every matrix product of both phases is at fault.
fn weights_in_doubt(phases: &[PhaseJudgement; 2]) -> Option<Doubt> {
    let told = |stage: &&StageJudgement| {
        use Point::*;
        let weighed = matches!(stage.point, EmbedOut | VProj | AttnProjOut | MlpGate | MlpUp | MlpOut | Logits);
        weighed && (stage.outcome.is_fault() || stage.outcome.is_clean())
    };
    let all: Vec<&StageJudgement> = phases.iter().flat_map(|phase| &phase.stages).filter(told).collect();
    let points: BTreeSet<Point> = all.iter().map(|stage| stage.point).collect();
    let both = phases.iter().all(|phase| phase.stages.iter().any(|stage| told(&stage)));
    let doubtful = both && points.len() > 2 && all.iter().all(|stage| stage.outcome.is_fault());
    doubtful.then_some(Doubt::Weights { faulty: all.len() })
}

fn side(phase: Phase) -> usize {
    match phase {
        Phase::Prefill => 0,
        Phase::Decode => 1,
    }
}

/// Judges both phases, by rows that are what was recorded.
///
/// # Errors
/// When the model is not the one that the run was made with.
pub fn examine(
    (run, rows): (&Run, &Sound<'_>),
    oracle: &Oracle<'_>,
    progress: &mut Watch<'_>,
) -> Result<Examination, Doubt> {
    same_model(run, oracle.model)?;
    let mut replay = oracle.replay(run);
    progress(Progress { work: Work::Stages, done: 0, total: 1 });
    let none = Beforehand::default();
    let known = oracle.beforehand.unwrap_or(&none);
    let judge = |phase| replay.phase_after(known, &run.events, rows, phase);
    let both = rayon::join(|| judge(Phase::Prefill), || judge(Phase::Decode));
    let mut phases = [both.0.map_err(Doubt::rows)?, both.1.map_err(Doubt::rows)?];
    if let Some(doubt) = weights_in_doubt(&phases) {
        return Err(doubt);
    }
    let events = &run.events;
    let findings =
        fit(&mut replay, (events, rows), &mut phases, &|replay, judged| explained(replay, events, rows, judged))
            .map_err(Doubt::rows)?;
    let mut simulation = Simulation::new(oracle.model, run.manifest.as_ref())
        .with_fitted(replay.fitted())
        .with_budget(oracle.budget_flops);
    if let Some(contract) = oracle.contract {
        simulation = simulation.with_contract(contract);
    }
    let study = simulation.watched(events, rows, progress).map_err(Doubt::rows)?;
    progress(Progress { work: Work::Bugs, done: 0, total: 1 });
    let mut all = Examination::new(phases, findings, study);
    all.recording = run.manifest.as_ref().and_then(|manifest| manifest.recording.clone());
    all.config_differs = config_differs(run, oracle.model);
    all.causes = cause::find(&replay, events, rows, &all.phases).map_err(Doubt::rows)?;
    all.name_slots(&simulation, run, rows);
    all.name_mixed(&simulation, run, rows);
    if oracle.power || of_ends_alone(events) {
        all.power = cause::power(&replay, events, rows).map_err(Doubt::rows)?;
    }
    all.suspects = cause::examine(&all.causes, &all.power);
    Ok(all)
}

/// The places within the layers that events of a phase are of.
pub fn within_layers(events: &[Event], phase: Phase) -> BTreeSet<(i32, Point)> {
    let own = events.iter().filter(|event| event.phase == phase && Part::of(event.point) == Part::Layer);
    own.map(|event| (event.layer, event.point)).collect()
}

/// Whether no place within the layers is recorded in both phases.
fn of_ends_alone(events: &[Event]) -> bool {
    within_layers(events, Phase::Prefill).is_disjoint(&within_layers(events, Phase::Decode))
}

/// Whether a bug explains what is at fault, so that no wider noise is needed; one that is itself a matter of precision does
/// not, since an arithmetic may explain the rows as well.
fn explained(replay: &Replay<'_>, events: &[Event], rows: &dyn Rows, judged: &PhaseJudgement) -> bool {
    let causes = cause::find(replay, events, rows, std::slice::from_ref(judged)).unwrap_or_default();
    causes
        .iter()
        .flat_map(|cause| &cause.candidates)
        .any(|candidate| !bug_of(candidate.id).is_some_and(|bug| bug.of_precision))
}

fn same_model(run: &Run, model: &Model) -> Result<(), Doubt> {
    let Some(manifest) = &run.manifest else { return Ok(()) };
    let recorded = manifest.model.as_ref().and_then(|model| model.fingerprint.as_ref());
    if let Some(recorded) = recorded {
        let found = model.weights.fingerprint();
        return if *recorded == found { Ok(()) } else { Err(Doubt::Fingerprint { recorded: recorded.clone(), found }) };
    }
    let ours = model.config.to_hugging_face();
    let sizes = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"];
    let Some(theirs) = &manifest.config else { return Ok(()) };
    for name in sizes {
        if let (Some(theirs), Some(ours)) = (theirs.get(name), ours.get(name))
            && theirs != ours
        {
            return Err(Doubt::Shape(format!("the run's {name} is {theirs}, that of the model given {ours}")));
        }
    }
    Ok(())
}

/// Numbers of the manifest's config that are not the model's; of those that it does not give, nothing is said.
fn config_differs(run: &Run, model: &Model) -> Vec<String> {
    /// GGUF files hold f32, where a config.json may have more digits.
    const REL_ERROR_MAX: f64 = 1e-6;
    let Some(theirs) = run.manifest.as_ref().and_then(|manifest| manifest.config.as_ref()) else { return vec![] };
    let names = [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "head_dim",
        "rms_norm_eps",
        "rope_theta",
        "attention_scale",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "embed_scale",
    ];
    let ours = model.config.to_hugging_face();
    let differing = names.into_iter().filter_map(|name| {
        let theirs = theirs.get(name)?.as_f64()?;
        let ours = ours.get(name)?.as_f64();
        let same = ours.is_some_and(|ours| (theirs - ours).abs() <= REL_ERROR_MAX * ours.abs());
        let ours = ours.map_or_else(|| "none".to_owned(), |ours| ours.to_string());
        (!same).then(|| format!("{name} is {theirs} in the manifest, {ours} in the model"))
    });
    differing.collect()
}

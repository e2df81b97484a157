//! What the model says of a run: every recorded stage of both phases, judged by itself.

use crate::oracle::fit::{Finding, fit};
use crate::oracle::{Input, PhaseJudgement, Replay, StageJudgement};
use driftprobe_model::Model;
use driftprobe_trace::{Contract, Event, Phase, Point, Row, Rows, Run, TraceError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a run is held against.
#[derive(Clone, Copy)]
pub struct Oracle<'a> {
    /// The model that the engine ran.
    pub model: &'a Model,
    /// A contract in place of the manifest's.
    pub contract: Option<&'a Contract>,
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
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Doubt::Fingerprint { recorded, found } => {
                write!(f, "the run was made with weights {recorded}, the model given has {found}")
            }
            Doubt::Shape(what) => write!(f, "{what}"),
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
    /// Where each stage's judgement stands.
    index: BTreeMap<(Phase, Arc<str>, u64, Input), usize>,
    /// Points and layers at which only all rows together show a fault.
    systematic: BTreeSet<(Phase, Point, Option<i32>)>,
}

impl Examination {
    /// The judgement of one row.
    pub fn of(&self, event: &Event) -> Option<&StageJudgement> {
        let pos = event.logical_tok_idx.or(event.pos_id)?;
        let place = Input { point: event.point, layer: event.layer };
        let at = self.index.get(&(event.phase, event.prompt_id.clone(), pos, place))?;
        self.phases.get(side(event.phase))?.stages.get(*at)
    }

    /// Whether all rows of this event's point together show a fault that none of them shows by itself.
    pub fn is_systematic(&self, event: &Event) -> bool {
        [Some(event.layer), None].into_iter().any(|layer| self.systematic.contains(&(event.phase, event.point, layer)))
    }

    /// Every stage at fault, of both phases.
    pub fn faults(&self) -> impl Iterator<Item = &StageJudgement> {
        self.phases.iter().flat_map(|phase| &phase.stages).filter(|stage| stage.outcome.is_fault())
    }

    /// Fields that the contract leaves open and that were assumed, with the points that need them.
    pub fn assumed(&self) -> BTreeMap<&'static str, BTreeSet<Point>> {
        let mut all: BTreeMap<&'static str, BTreeSet<Point>> = BTreeMap::new();
        for stage in self.phases.iter().flat_map(|phase| &phase.stages) {
            for field in &stage.assumed {
                all.entry(field).or_default().insert(stage.point);
            }
        }
        all
    }

    fn new(phases: [PhaseJudgement; 2], contract_findings: Vec<Finding>) -> Examination {
        let mut all = Examination { phases, contract_findings, ..Examination::default() };
        for phase in &all.phases {
            for (at, stage) in phase.stages.iter().enumerate() {
                let place = Input { point: stage.point, layer: stage.layer };
                all.index.insert((stage.phase, stage.prompt_id.clone(), stage.pos, place), at);
            }
            let by_row: BTreeSet<Point> =
                phase.stages.iter().filter(|s| s.outcome.is_fault()).map(|s| s.point).collect();
            let flagged = phase.systematic.iter().filter(|s| s.test.is_flagged() && !by_row.contains(&s.point));
            let flagged: Vec<_> = flagged.map(|s| (s.phase, s.point, s.layer)).collect();
            let of_layers: BTreeSet<Point> = flagged.iter().filter(|f| f.2.is_some()).map(|f| f.1).collect();
            // Where single layers show it, the sum over all of them says nothing more.
            all.systematic.extend(flagged.into_iter().filter(|f| f.2.is_some() || !of_layers.contains(&f.1)));
        }
        all
    }
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

/// Judges both phases.
///
/// # Errors
/// When the model is not the one that the run was made with.
pub fn examine(run: &Run, rows: &dyn Rows, oracle: &Oracle<'_>) -> Result<Examination, Doubt> {
    same_model(run, oracle.model)?;
    let mut replay = Replay::new(oracle.model, run.manifest.as_ref());
    if let Some(contract) = oracle.contract {
        replay = replay.with_contract(contract);
    }
    let rows = Readable(rows);
    let judge = |phase| replay.phase(&run.events, &rows, phase).unwrap_or_default();
    let mut phases = [judge(Phase::Prefill), judge(Phase::Decode)];
    if let Some(doubt) = weights_in_doubt(&phases) {
        return Err(doubt);
    }
    let refuse = &mut |_: &Replay<'_>, _, _| false;
    let findings = fit(&mut replay, (&run.events, &rows), &mut phases, refuse).unwrap_or_default();
    Ok(Examination::new(phases, findings))
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

/// Rows without those that cannot be read: comparing them has told of the damage already.
struct Readable<'a>(&'a dyn Rows);

impl Rows for Readable<'_> {
    fn row(&self, event: &Event) -> Result<Option<Row>, TraceError> {
        Ok(self.0.row(event).unwrap_or(None))
    }
}

//! What the model says of a run: every recorded stage of both phases, judged by itself.

use crate::attribute::in_words;
use crate::oracle::fit::{Finding, fit};
use crate::oracle::{Input, Outcome, PhaseJudgement, Replay, StageJudgement};
use crate::place::Part;
use crate::simulate::{Gap, Shown, Simulation, Study, TokenJudgement};
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
    /// Operations that simulating the prompts from their tokens may take; see [`crate::simulate::cost_flops`].
    pub budget_flops: f64,
}

impl<'a> Oracle<'a> {
    /// Operations that simulations may take, if not told otherwise: minutes on a few cores.
    pub const BUDGET_FLOPS: f64 = 2e12;

    /// With the manifest's own contract and an ordinary budget.
    pub fn new(model: &'a Model) -> Oracle<'a> {
        Oracle { model, contract: None, budget_flops: Self::BUDGET_FLOPS }
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
    /// The run against its tokens alone.
    pub study: Study,
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
    /// Not known.
    Unknown(String),
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

    fn new(phases: [PhaseJudgement; 2], contract_findings: Vec<Finding>, study: Study) -> Examination {
        let mut all = Examination { phases, contract_findings, study, ..Examination::default() };
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
        for (at, gap) in all.study.gaps.iter().enumerate() {
            all.gaps.insert((gap.phase, gap.prompt_id.clone(), gap.pos as u64, gap.to), at);
        }
        for (at, token) in all.study.tokens.iter().enumerate() {
            let place = Input { point: token.point, layer: token.layer };
            all.tokens.entry((token.phase, token.prompt_id.clone(), token.pos as u64, place)).or_default().push(at);
        }
        all.first = all.first_places();
        all
    }

    /// Where each phase is at fault first: a stage, a stretch that was not recorded, or a row that nothing else judges.
    fn first_places(&self) -> BTreeMap<Phase, Place> {
        let mut first: BTreeMap<Phase, Place> = BTreeMap::new();
        let mut found = |phase, place| {
            let known = first.entry(phase).or_insert(place);
            *known = place.min(*known);
        };
        for stage in self.faults() {
            found(stage.phase, place_of(Input { point: stage.point, layer: stage.layer }));
        }
        for (phase, point, layer) in &self.systematic {
            let layer = layer.or_else(|| {
                self.phases.iter().flat_map(|p| &p.stages).filter(|s| s.point == *point).map(|s| s.layer).min()
            });
            found(*phase, place_of(Input { point: *point, layer: layer.unwrap_or(-1) }));
        }
        for gap in self.study.gaps.iter().filter(|gap| gap.flagged) {
            found(gap.phase, place_of(gap.to));
        }
        for token in self.study.tokens.iter().filter(|token| token.flagged) {
            let place = Input { point: token.point, layer: token.layer };
            let key = (token.phase, token.prompt_id.clone(), token.pos as u64, place);
            let judged = self.index.get(&key).and_then(|at| self.phases.get(side(token.phase))?.stages.get(*at));
            // A stage that is clean given its inputs, or a copy, has inherited what is wrong.
            let inherited = judged.is_some_and(|stage| stage.outcome.is_clean()) && token.slot.is_none();
            if !inherited {
                found(token.phase, place_of(place));
            }
        }
        first
    }

    /// What is known of a row, by its stage, else by the stretch before it, else by the tokens alone.
    pub fn standing(&self, event: &Event) -> Standing {
        let Some(pos) = event.logical_tok_idx.or(event.pos_id) else {
            return Standing::Unknown("the event names no position".to_owned());
        };
        let stage = self.of(event);
        if let Some(stage) = stage.filter(|stage| stage.outcome.is_fault()) {
            return Standing::Fault(in_words(&stage.outcome));
        }
        if self.is_systematic(event) {
            return Standing::Fault("small in this row, too much over all rows of the point together".to_owned());
        }
        let place = Input { point: event.point, layer: event.layer };
        let key = (event.phase, event.prompt_id.clone(), pos, place);
        if matches!(event.point, Point::KCache | Point::VCache) {
            return self.cache_standing(&key, stage);
        }
        if stage.is_some_and(|stage| stage.outcome.is_clean()) {
            return Standing::Clean;
        }
        if let Some(gap) = self.gaps.get(&key).and_then(|at| self.study.gaps.get(*at)) {
            return if gap.flagged { Standing::Gap(gap_in_words(gap)) } else { Standing::Clean };
        }
        let why = match stage.map(|stage| &stage.outcome) {
            Some(Outcome::Unjudged(why)) => why.to_string(),
            _ => "nothing of this row to judge".to_owned(),
        };
        let mut tokens = self.tokens.get(&key).into_iter().flatten().filter_map(|at| self.study.tokens.get(*at));
        let Some(token) = tokens.rfind(|token| token.shown == Shown::Row) else {
            return Standing::Unknown(why);
        };
        match (token.flagged, self.is_first(event.phase, place)) {
            (false, _) => Standing::Clean,
            (true, true) => Standing::Fault(token_in_words(token)),
            (true, false) => Standing::Unknown(why),
        }
    }

    /// Of a cache: its own row by its stage, those of earlier positions by the tokens.
    fn cache_standing(&self, key: &RowKey, stage: Option<&StageJudgement>) -> Standing {
        let tokens = self.tokens.get(key).into_iter().flatten().filter_map(|at| self.study.tokens.get(*at));
        let slots: Vec<&TokenJudgement> = tokens.filter(|token| token.slot.is_some()).collect();
        let wrong = slots.iter().find(|token| token.flagged);
        match (wrong, stage.map(|stage| &stage.outcome)) {
            (Some(token), _) if self.is_first(key.0, key.3) => Standing::Fault(token_in_words(token)),
            // What reaches the cache has been wrong before.
            (Some(_), Some(Outcome::Exact { .. })) => Standing::Clean,
            (None, Some(Outcome::Exact { compared })) => {
                let partial = stage.is_some_and(|stage| *compared < stage.values);
                match partial && slots.is_empty() {
                    true => Standing::Unknown(
                        "what was written to the rows of earlier positions was not recorded".to_owned(),
                    ),
                    false => Standing::Clean,
                }
            }
            (None, _) if !slots.is_empty() => Standing::Clean,
            (_, Some(Outcome::Unjudged(why))) => Standing::Unknown(why.to_string()),
            _ => Standing::Unknown("nothing of this row to judge".to_owned()),
        }
    }

    /// Whether nothing earlier in the computation of the phase is at fault. K and V of one layer count as one.
    fn is_first(&self, phase: Phase, place: Input) -> bool {
        let Some((part, layer, point)) = self.first.get(&phase).copied() else { return true };
        let cache = |point| matches!(point, Point::KCache | Point::VCache);
        (part, layer, point) >= place_of(place)
            || ((part, layer) == (Part::of(place.point), place.layer) && cache(point) && cache(place.point))
    }
}

fn gap_in_words(gap: &Gap) -> String {
    format!(
        "{:.3e} times the distance that rounding makes, from {} of layer {} on, replayed through what was not recorded",
        gap.ratio, gap.from.point, gap.from.layer
    )
}

fn token_in_words(token: &TokenJudgement) -> String {
    let what = token.slot.map_or_else(|| "the row".to_owned(), |slot| format!("the row of position {slot}"));
    format!("{what} is {:.3e} times as far from what the tokens give as rounding makes it", token.distance_ratio)
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
    let mut simulation = Simulation::new(oracle.model, run.manifest.as_ref())
        .with_fitted(replay.fitted())
        .with_budget(oracle.budget_flops);
    if let Some(contract) = oracle.contract {
        simulation = simulation.with_contract(contract);
    }
    let study = simulation.study(&run.events, &rows).unwrap_or_default();
    Ok(Examination::new(phases, findings, study))
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

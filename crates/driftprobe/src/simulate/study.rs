//! All prompts of a run, held against simulations of them.

use super::drift::{Drift, EndToEnd};
use super::gap::{Gap, Gaps};
use super::lane::{Base, Formats, Kind, Lane};
use super::lockstep::{Lockstep, Sequence, whole};
use super::random::derived;
use super::record::Record;
use super::token::{TokenJudgement, Tokens};
use super::{Simulation, cost_flops};
use crate::oracle::judgement::Unjudged;
use crate::oracle::stage::Input;
use crate::oracle::stats::exceeds;
use crate::progress::{Progress, Watch, Work};
use driftprobe_trace::{Event, Mode, Phase, PromptInfo, Rows, TraceError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What simulations say of a run.
#[derive(Clone, Debug, Default)]
pub struct Study {
    /// Each recorded row, and each cached row of an earlier position, against the tokens alone: prompts in the order of
    /// the manifest, then stages in the order of the computation.
    pub tokens: Vec<TokenJudgement>,
    /// Stretches of the computation that are not recorded.
    pub gaps: Vec<Gap>,
    /// The difference of the two phases; none if there is nothing to compare.
    pub end_to_end: Option<EndToEnd>,
    /// Prompts that were not simulated, and why.
    pub skipped: Vec<(Arc<str>, Skipped)>,
}

/// Why a prompt was not simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Skipped {
    /// The manifest does not name its tokens.
    #[error("the manifest does not name the prompt's tokens")]
    NoTokens,
    /// It would cost more than allowed.
    #[error("simulating it takes {flops:.1e} operations, which is more than is left of {budget:.1e}")]
    Budget {
        /// Operations it would take.
        flops: f64,
        /// Operations allowed for the whole run.
        budget: f64,
    },
    /// A stage cannot be computed.
    #[error(transparent)]
    Stage(Unjudged),
}

/// Numbers of the lanes of one prompt.
pub struct Cast {
    /// In float64.
    pub exact: usize,
    /// The draws of each phase; the n-th of both belong together.
    pub draws: BTreeMap<Phase, Vec<usize>>,
    /// For each phase the exact computation between what the phase has recorded.
    pub replay: BTreeMap<Phase, usize>,
    /// The same between what each draw would have recorded.
    pub replayed_draws: BTreeMap<Phase, Vec<usize>>,
}

/// What all observers see.
pub struct Scene<'a, 's> {
    /// The lanes.
    pub lockstep: &'s mut Lockstep<'a>,
    /// Which is which.
    pub cast: &'s Cast,
    /// What is recorded.
    pub record: &'s Record<'a>,
    /// The prompt.
    pub prompt_id: &'s Arc<str>,
    /// What an engine stores at this place, at least: its unit roundoff by phase.
    pub unit: BTreeMap<Phase, f64>,
}

impl Simulation<'_> {
    /// Simulates every prompt of a run, and holds against it what the run recorded.
    ///
    /// # Errors
    /// If a payload is damaged or missing.
    pub fn study(&self, events: &[Event], rows: &dyn Rows) -> Result<Study, TraceError> {
        self.watched(events, rows, &mut |_| {})
    }

    /// As [`Simulation::study`], telling how far it has got.
    ///
    /// # Errors
    /// If a payload is damaged or missing.
    pub fn watched(&self, events: &[Event], rows: &dyn Rows, progress: &mut Watch<'_>) -> Result<Study, TraceError> {
        let mut study = Study::default();
        let mut drift = Drift::new(self.draws);
        let mut meter = Meter { done: 0.0, total: self.work(events), progress };
        let mut left = self.budget_flops;
        let mut ids: Vec<&Arc<str>> = events.iter().map(|e| &e.prompt_id).collect();
        let prompts = self.manifest.and_then(|m| m.prompts.as_deref()).unwrap_or_default();
        let number = |id: &str| prompts.iter().position(|p| p.id == id).unwrap_or(usize::MAX);
        ids.sort_by(|a, b| (number(a), a).cmp(&(number(b), b)));
        ids.dedup();
        for id in ids {
            let Some(prompt) = prompts.iter().find(|p| p.id == id.as_ref()) else {
                study.skipped.push((id.clone(), Skipped::NoTokens));
                continue;
            };
            let flops = cost_flops(&self.model.config, prompt.tokens.len(), 2 * self.draws);
            if exceeds(flops, left) {
                let budget = self.budget_flops;
                study.skipped.push((id.clone(), Skipped::Budget { flops, budget }));
                continue;
            }
            left -= flops;
            let own = (events.iter().filter(|e| e.prompt_id == *id), rows);
            let record = Record::new(own, &self.model.config, prompt.tokens.len());
            let formats = Formats::of(events.iter(), self.declares_activations()).fitted(self.fitted);
            let seed = derived(self.seed, &[number(id) as u64]);
            let tell = &mut |part: f64| meter.tell(part * flops);
            if let Err(why) = self.prompt((id, prompt, seed), (&record, &formats), (&mut study, &mut drift), tell)? {
                study.skipped.push((id.clone(), Skipped::Stage(why)));
            }
            meter.done += flops;
        }
        study.end_to_end = drift.finish();
        Ok(study)
    }

    /// Operations of all prompts that the budget takes.
    fn work(&self, events: &[Event]) -> f64 {
        let recorded: BTreeSet<&str> = events.iter().map(|event| event.prompt_id.as_ref()).collect();
        let prompts = self.manifest.and_then(|m| m.prompts.as_deref()).unwrap_or_default();
        let flops = |prompt: &PromptInfo| cost_flops(&self.model.config, prompt.tokens.len(), 2 * self.draws);
        prompts
            .iter()
            .filter(|prompt| recorded.contains(prompt.id.as_str()))
            .map(flops)
            .fold(0.0, |sum, flops| if exceeds(sum + flops, self.budget_flops) { sum } else { sum + flops })
    }

    fn declares_activations(&self) -> bool {
        self.contract.is_some_and(|c| c.flat.activations.is_some())
    }

    fn prompt(
        &self,
        (prompt_id, prompt, seed): (&Arc<str>, &PromptInfo, u64),
        (record, formats): (&Record<'_>, &Formats),
        (study, drift): (&mut Study, &mut Drift),
        tell: &mut dyn FnMut(f64),
    ) -> Result<Result<(), Unjudged>, TraceError> {
        let sequence = Sequence { model: self.model, contract: self.contract, formats, tokens: &prompt.tokens };
        let (lanes, cast) = self.lanes(record, prompt.tokens.len(), seed)?;
        let ends: BTreeSet<usize> = Phase::ALL.into_iter().flat_map(|p| record.all_positions(p)).collect();
        let mut lockstep = Lockstep::new(sequence, lanes, ends);
        let (mut tokens, mut gaps, mut own_drift) = (Tokens::default(), Gaps::default(), Drift::new(self.draws));
        let stages = lockstep.stages().len();
        for number in 0..stages {
            tell(number as f64 / stages as f64);
            if let Err(why) = lockstep.step(number) {
                return Ok(Err(why));
            }
            let Some(stage) = lockstep.stages().get(number) else { continue };
            let place = Input { point: stage.point, layer: stage.layer };
            let mut unit = BTreeMap::new();
            for phase in Phase::ALL {
                match formats.arithmetic(self.contract, Some(phase), place.point).output() {
                    Ok(output) => drop(unit.insert(phase, output.unit_roundoff())),
                    Err(why) => return Ok(Err(why.into())),
                }
            }
            let mut scene = Scene { lockstep: &mut lockstep, cast: &cast, record, prompt_id, unit };
            own_drift.look(place, &scene)?;
            tokens.look(place, &scene)?;
            gaps.look(place, &mut scene, &tokens)?;
        }
        drift.merge(own_drift);
        study.tokens.extend(tokens.finish());
        study.gaps.extend(gaps.finish());
        Ok(Ok(()))
    }

    /// The lanes of a prompt: exact, the draws of both phases, and replays.
    fn lanes(&self, record: &Record<'_>, tokens: usize, seed: u64) -> Result<(Vec<Lane>, Cast), TraceError> {
        let mut lanes = vec![whole(Kind::Exact, tokens)];
        let mut cast =
            Cast { exact: 0, draws: BTreeMap::new(), replay: BTreeMap::new(), replayed_draws: BTreeMap::new() };
        let first = record.all_positions(Phase::Decode).first().copied().unwrap_or(tokens);
        let aligned = self.manifest.and_then(|m| m.mode) == Some(Mode::KvAligned);
        let shared = aligned || record.shares_caches(first)?;
        let mut push = |lane: Lane| {
            lanes.push(lane);
            lanes.len() - 1
        };
        for draw in 0..self.draws as u64 {
            let kind = |phase, part| Kind::Draw(phase, derived(seed, &[draw, part]));
            let prefill = push(whole(kind(Phase::Prefill, 0), tokens));
            let lane = if shared { prefill } else { push(whole(kind(Phase::Prefill, 1), first)) };
            let positions = (first..tokens).collect();
            let decode = push(Lane { kind: kind(Phase::Decode, 2), positions, base: Some(Base { lane, aligned }) });
            cast.draws.entry(Phase::Prefill).or_default().push(prefill);
            cast.draws.entry(Phase::Decode).or_default().push(decode);
        }
        for phase in Phase::ALL {
            let positions: Vec<usize> = record.all_positions(phase).into_iter().collect();
            let base = Some(Base { lane: 0, aligned: false });
            let mut replay = || push(Lane { kind: Kind::Exact, positions: positions.clone(), base });
            cast.replay.insert(phase, replay());
            cast.replayed_draws.insert(phase, (0..self.draws).map(|_| replay()).collect());
        }
        Ok((lanes, cast))
    }
}

/// Tells how far a simulation has got.
struct Meter<'a, 'w> {
    /// Operations of the prompts that are done.
    done: f64,
    total: f64,
    progress: &'a mut Watch<'w>,
}

impl Meter<'_, '_> {
    /// With so many operations of the next prompt.
    fn tell(&mut self, flops: f64) {
        let millions = |flops: f64| (flops / 1e6) as u64;
        let (done, total) = (millions(self.done + flops), millions(self.total));
        (self.progress)(Progress { work: Work::Simulation, done, total });
    }
}

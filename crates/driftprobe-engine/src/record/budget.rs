//! What to keep whole where not everything may be kept: planned before a recording begins, by one fixed order.
//!
//! Statistics, hashes and a few values of every row come first: without room for them nothing is recorded. Then whole rows:
//!
//! 1. the ends of the pass: `embed_out`, `final_norm_in`, `final_norm_out`, `logits`, whose drift is what a user sees;
//! 2. `residual_post_mlp` of every layer: from each the next can be computed, so that no layer is left unjudged as a whole;
//! 3. samples, spread over every row that is not whole;
//! 4. all points of the first layer, of the last, and then of the layer in the middle of the largest stretch that has none.
//!    What grows with the context (caches, scores, probabilities) goes with its layer where it is no larger than the
//!    rest of it, and otherwise after all layers, in the same order.
//!
//! What does not fit is left out, and what comes after it may still fit. The plan holds for all prompts, phases, repeats and
//! modes: otherwise a row of one would lack its partner in the other. And for all shards: they are parts of one run.

use super::Plan;
use super::cost::{Cost, costs};
use super::sizes::Sizes;
use crate::tap::Selection;
use crate::{Engine, EngineError};
use driftprobe_trace::{
    LeftOutBy, Manifest, Phase, Point, PromptInfo, RECORDING_VERSION, Recording, ShardInfo, grouped, sampled_at,
};
use std::collections::{BTreeMap, BTreeSet};

/// Values of a row that is not kept whole which its event holds, at most.
const SAMPLES: u64 = 64;
/// What a manifest holds beside its prompts and layers, at most.
const MANIFEST_BYTES: u64 = 16 << 10;

/// What a shard's manifest says of its machine is taken for a multiple of this.
const MACHINE_BYTES: u64 = 8 << 10;

/// A layer (−1: none) and a point.
type Place = (i32, Point);

/// Which rows are kept whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPlan {
    whole: BTreeSet<Place>,
    recording: Recording,
    /// Bytes of payloads and events that one mode may take.
    limit: Option<u64>,
    /// Bytes that all modes together may take, with their manifests.
    bytes: Option<u64>,
}

/// What a plan may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes of all modes together, and of all shards.
    pub bytes: u64,
    /// Modes that are recorded with the plan.
    pub modes: u64,
}

impl RowPlan {
    /// Plans what to keep of a recording that is to take no more than a budget. `base` is the manifest that it will have.
    ///
    /// # Errors
    /// When the budget does not hold even the statistics of all rows, with what they take; or the engine fails.
    pub fn within(engine: &dyn Engine, plan: &Plan, base: &Manifest, budget: Budget) -> Result<RowPlan, EngineError> {
        RowPlan::share_within(engine, (plan, &plan.prompts), base, budget)
    }

    /// The same for one shard of a recording: its `plan` has the shard's own prompts, `all` are those of all shards, whose
    /// budget it is, and `base` says how many shards there are. All shards get one plan, whichever machine makes it, and
    /// each the part of the budget that its prompts are of the whole.
    ///
    /// # Errors
    /// When the budget does not hold even the statistics of all rows of all shards, with what they take; or the engine fails.
    pub fn share_within(
        engine: &dyn Engine,
        (plan, all): (&Plan, &[PromptInfo]),
        base: &Manifest,
        budget: Budget,
    ) -> Result<RowPlan, EngineError> {
        let sizes = sizes(engine, plan)?;
        let together = Planner::new((plan, all), &sizes, (base, shards(base)));
        let each = budget.bytes / budget.modes.max(1);
        let least = together.total(&BTreeSet::new(), 0);
        if least > each {
            let all = least.saturating_mul(budget.modes);
            let what = format!(
                "{} bytes do not hold the statistics of {} rows, which take up to {all}",
                budget.bytes,
                together.rows() * budget.modes
            );
            let hint = format!(
                "allow {} or more, or trace fewer prompts, --steps, --layers, --points or --repeats",
                in_units(all)
            );
            return Err(EngineError::request(what, hint));
        }
        let (whole, samples) = together.fill(each);
        let total = together.total(&whole, samples);
        let planned = total.saturating_mul(budget.modes);
        let recording = together.recording((LeftOutBy::Budget, &whole), samples, (Some(budget.bytes), planned));
        let own = Planner::new((plan, &plan.prompts), &sizes, (base, 1));
        let share = part_of(each, (own.total(&whole, samples), total));
        let limit = Some(share.saturating_sub(own.manifests));
        Ok(RowPlan { whole, recording, limit, bytes: Some(share.saturating_mul(budget.modes)) })
    }

    /// The first of two passes: fingerprints of every row, and whole rows only at the ends and between the layers.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn first_pass(engine: &dyn Engine, plan: &Plan, base: &Manifest, modes: u64) -> Result<RowPlan, EngineError> {
        let planner = Planner::new((plan, &plan.prompts), &sizes(engine, plan)?, (base, 1));
        let whole: BTreeSet<Place> =
            planner.costs.keys().copied().filter(|place| place.0 < 0 || place.1 == Point::ResidualPostMlp).collect();
        let planned = planner.total(&whole, SAMPLES).saturating_mul(modes);
        let recording = planner.recording((LeftOutBy::FirstPass, &whole), SAMPLES, (None, planned));
        Ok(RowPlan { whole, recording, limit: None, bytes: None })
    }

    /// What the manifest says of it.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Bytes that this recording may take in all its modes and repeats; of a shard, its part of the budget of all.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    pub(super) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Whether rows of this place are kept whole.
    pub fn keeps(&self, point: Point, layer: i32) -> bool {
        self.whole.contains(&(if point.layered() { layer } else { -1 }, point))
    }

    /// The indices at which a row that is not kept is sampled; none: its first values.
    pub(super) fn sample(&self, point: Point, shape: &[u64]) -> Option<Vec<u64>> {
        (self.recording.samples > 0).then(|| sampled_at(point, shape, self.recording.samples))
    }
}

/// What is known before a recording begins.
struct Planner {
    costs: BTreeMap<Place, Cost>,
    /// The run itself and its repeats.
    times: u64,
    /// Bytes of their manifests.
    manifests: u64,
}

impl Planner {
    /// Of these prompts by this plan, in so many shards with manifests like `base`.
    fn new((plan, prompts): (&Plan, &[PromptInfo]), sizes: &Sizes, (base, shards): (&Manifest, u64)) -> Planner {
        let times = 1 + u64::from(plan.repeats);
        let tokens: u64 = prompts.iter().map(|p| (p.tokens.len() + plan.chosen()) as u64).sum();
        let texts: u64 =
            prompts.iter().map(|p| 200 + 6 * (p.id.len() + p.text.as_ref().map_or(0, String::len)) as u64).sum();
        let each = MANIFEST_BYTES.saturating_add(base_bytes(base)).saturating_add(40 * plan.layers.len() as u64);
        let once = each.saturating_mul(shards).saturating_add(20 * tokens + texts);
        Planner { costs: costs((plan, prompts), sizes, SAMPLES), times, manifests: once.saturating_mul(times) }
    }

    fn rows(&self) -> u64 {
        self.costs.values().map(|cost| cost.rows).sum()
    }

    /// Bytes of one mode with these rows whole. Repeats keep no rows.
    fn total(&self, whole: &BTreeSet<Place>, samples: u64) -> u64 {
        let one = |(place, cost): (&Place, &Cost)| {
            let (kept, sampled) = if whole.contains(place) { (cost.payload, 0) } else { (0, cost.sample) };
            let sampled = if samples > 0 { sampled } else { 0 };
            let text = cost.event.saturating_add(sampled);
            text.saturating_mul(self.times).saturating_add(kept)
        };
        self.costs.iter().map(one).fold(self.manifests, u64::saturating_add)
    }

    /// What fits, in the order of what matters.
    fn fill(&self, bytes: u64) -> (BTreeSet<Place>, u64) {
        let (mut whole, mut samples) = (BTreeSet::new(), 0);
        let layers = spread(self.costs.keys().map(|place| place.0).filter(|layer| *layer >= 0).collect());
        let has = |place: &Place| self.costs.contains_key(place);
        let ends: Vec<Place> = self.costs.keys().copied().filter(|place| place.0 < 0).collect();
        let between: Vec<Place> = layers.iter().map(|layer| (*layer, Point::ResidualPostMlp)).filter(has).collect();
        for place in ends.into_iter().chain(between) {
            self.add(&mut whole, &[place], (samples, bytes));
        }
        if self.total(&whole, SAMPLES) <= bytes {
            samples = SAMPLES;
        }
        let mut later = Vec::new();
        for layer in layers {
            let of = |growing: bool| -> Vec<Place> {
                let here = self.costs.keys().copied().filter(|place| place.0 == layer);
                here.filter(|place| grows(place.1) == growing).collect()
            };
            let (steady, growing) = (of(false), of(true));
            let size =
                |places: &[Place]| places.iter().filter_map(|place| self.costs.get(place)).map(|c| c.payload).sum();
            let (rest, grown): (u64, u64) = (size(&steady), size(&growing));
            let together = grown <= rest;
            let all: Vec<Place> = steady.iter().chain(&growing).copied().collect();
            if !(together && self.add(&mut whole, &all, (samples, bytes))) {
                self.add(&mut whole, &steady, (samples, bytes));
                later.push(growing);
            }
        }
        for growing in later {
            self.add(&mut whole, &growing, (samples, bytes));
        }
        (whole, samples)
    }

    /// Keeps these places whole if they fit.
    fn add(&self, whole: &mut BTreeSet<Place>, places: &[Place], (samples, bytes): (u64, u64)) -> bool {
        let mut more = whole.clone();
        more.extend(places.iter().copied());
        let fits = self.total(&more, samples) <= bytes;
        if fits {
            *whole = more;
        }
        fits
    }

    fn recording(
        &self,
        (by, whole): (LeftOutBy, &BTreeSet<Place>),
        samples: u64,
        (bytes, planned_bytes): (Option<u64>, u64),
    ) -> Recording {
        let sampled = self.costs.keys().copied().filter(|place| !whole.contains(place)).collect();
        Recording {
            version: RECORDING_VERSION,
            by,
            bytes,
            planned_bytes,
            whole: grouped(whole),
            sampled: grouped(&sampled),
            samples,
            extra: Default::default(),
        }
    }
}

/// How large the rows of a plan are.
fn sizes(engine: &dyn Engine, plan: &Plan) -> Result<Sizes, EngineError> {
    super::check(engine, plan)?;
    let selection = Phase::ALL.map(|phase| Selection {
        points: engine.points(phase).into_iter().filter(|point| plan.points.contains(point)).collect(),
        layers: plan.layers.clone(),
    });
    Sizes::of(engine, selection)
}

/// How many shards a recording has.
fn shards(base: &Manifest) -> u64 {
    base.shard.as_ref().map_or(1, |shard| u64::from(shard.of).max(1))
}

/// What a manifest takes before a recording begins; of a shard, the same on every machine.
fn base_bytes(base: &Manifest) -> u64 {
    let size = |manifest: &Manifest| serde_json::to_vec_pretty(manifest).map_or(0, |text| text.len() as u64);
    let Some(shard) = &base.shard else { return size(base) };
    let mut alike = base.clone();
    // What says which machine and which shard it is.
    alike.shard = Some(ShardInfo { index: shard.of, ..shard.clone() });
    (alike.env, alike.host) = Default::default();
    if let Some(model) = &mut alike.model {
        model.path = None;
    }
    let alike = size(&alike);
    alike.saturating_add(size(base).saturating_sub(alike).max(1).next_multiple_of(MACHINE_BYTES))
}

/// As much of `bytes` as `part` is of `whole`.
fn part_of(bytes: u64, (part, whole): (u64, u64)) -> u64 {
    let share = u128::from(bytes) * u128::from(part.min(whole)) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(bytes)
}

/// Rows of these points hold something of every position before.
const fn grows(point: Point) -> bool {
    point.is_cache() || point.is_per_key()
}

/// Layers in the order in which they matter: the first, the last, and then always the one in the middle of the largest
/// stretch that has none yet, the earliest of equal ones.
fn spread(layers: BTreeSet<i32>) -> Vec<i32> {
    let all: Vec<i32> = layers.into_iter().collect();
    let mut taken: BTreeSet<usize> = BTreeSet::new();
    let mut order: Vec<usize> = Vec::new();
    let mut next = (!all.is_empty()).then_some(0);
    while let Some(at) = next {
        taken.insert(at);
        order.push(at);
        let last = all.len() - 1;
        let stretches = taken.iter().zip(taken.iter().skip(1)).filter(|(from, to)| *to - *from > 1);
        let largest = stretches.max_by_key(|(from, to)| (*to - *from, usize::MAX - **from));
        next = match largest {
            _ if !taken.contains(&last) => Some(last),
            Some((from, to)) => Some(from + (to - from) / 2),
            None => None,
        };
    }
    order.into_iter().filter_map(|at| all.get(at).copied()).collect()
}

/// Bytes in the unit that a person would give, rounded up.
fn in_units(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{}kB", bytes.div_ceil(1000)),
        10_000_000..10_000_000_000 => format!("{}MB", bytes.div_ceil(1_000_000)),
        _ => format!("{}GB", bytes.div_ceil(1_000_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_taken_from_the_ends_and_then_from_the_middle_of_what_is_open() {
        assert_eq!(spread((0..9).collect()), [0, 8, 4, 2, 6, 1, 3, 5, 7]);
        assert_eq!(spread([3].into()), [3]);
        assert_eq!(spread([3, 5].into()), [3, 5]);
        assert_eq!(spread([].into()), Vec::<i32>::new());
    }
}

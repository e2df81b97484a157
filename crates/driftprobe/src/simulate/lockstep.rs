//! Many lanes through the forward pass at once, stage by stage, so that they share each pass over a weight.

use super::lane::{Formats, Kind, Lane};
use super::random::Normal;
use crate::oracle::arithmetic::Arithmetic;
use crate::oracle::evaluate::{self, Expectation, Layer, Spread, Task};
use crate::oracle::judgement::Unjudged;
use crate::oracle::stage::{Input, Op, Stage, Way, graph};
use driftprobe_model::{Config, Model};
use driftprobe_trace::{Contract, Phase, Point};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Rows that are multiplied before any is kept; bounds the memory of what is known of a row beside its values.
const ROWS_AT_ONCE: usize = 256;

/// What a simulation starts from.
#[derive(Clone, Copy)]
pub struct Sequence<'a> {
    /// The model.
    pub model: &'a Model,
    /// What its engine claims of its arithmetic.
    pub contract: Option<&'a Contract>,
    /// In which types rows are stored.
    pub formats: &'a Formats,
    /// The tokens.
    pub tokens: &'a [u32],
}

/// Lanes, and the rows of the stages that later ones still need.
pub struct Lockstep<'a> {
    sequence: Sequence<'a>,
    /// Positions of which the last norm and the logits are wanted.
    ends: BTreeSet<usize>,
    stages: Vec<Stage>,
    /// For each stage the points that nothing reads after it.
    expired: Vec<Vec<Point>>,
    lanes: Vec<Lane>,
    /// For each lane the rows of a point, by index of the position. Points of the layer at hand and what enters it.
    rows: Vec<BTreeMap<Point, Vec<Vec<f64>>>>,
    arithmetics: BTreeMap<(Option<Phase>, Point), Arithmetic>,
}

impl<'a> Lockstep<'a> {
    /// Lanes at the beginning of a sequence.
    pub fn new(sequence: Sequence<'a>, lanes: Vec<Lane>, ends: BTreeSet<usize>) -> Lockstep<'a> {
        let stages = graph(&sequence.model.config);
        let rows = lanes.iter().map(|_| BTreeMap::new()).collect();
        Lockstep { sequence, ends, expired: expired(&stages), stages, lanes, rows, arithmetics: BTreeMap::new() }
    }

    /// The stages, in order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// What a lane has at the stage computed last, or at one that is still needed.
    pub fn row(&self, lane: usize, point: Point, pos: usize) -> Option<&[f64]> {
        let index = self.lanes.get(lane)?.index(pos)?;
        self.rows.get(lane)?.get(&point)?.get(index).map(Vec::as_slice).filter(|row| !row.is_empty())
    }

    /// Puts another row in the place of what a lane has computed.
    pub fn replace(&mut self, (lane, point, pos): (usize, Point, usize), row: &[f64]) {
        let index = self.lanes.get(lane).and_then(|l| l.index(pos));
        let rows = self.rows.get_mut(lane).and_then(|rows| rows.get_mut(&point));
        if let Some(own) = index.zip(rows).and_then(|(index, rows)| rows.get_mut(index)) {
            own.clear();
            own.extend_from_slice(row);
        }
    }

    /// The cached row `[kv_heads, head_dim]` of position `slot` that the row at `pos` reads.
    pub fn cached(&self, lane: usize, point: Point, (pos, slot): (usize, usize)) -> Option<&[f64]> {
        let of = self.lanes.get(lane)?;
        let own = of.index(slot).is_some() && !(of.base.is_some_and(|b| b.aligned) && slot != pos);
        if own { self.row(lane, point, slot) } else { self.cached(of.base?.lane, point, (slot, slot)) }
    }

    /// Computes the next stage in all lanes: number `number` of [`Lockstep::stages`].
    ///
    /// # Errors
    /// Says what cannot be computed.
    pub fn step(&mut self, number: usize) -> Result<(), Unjudged> {
        for point in number.checked_sub(1).and_then(|before| self.expired.get(before)).into_iter().flatten() {
            self.rows.iter_mut().for_each(|rows| drop(rows.remove(point)));
        }
        let Some(stage) = self.stages.get(number).cloned() else { return Ok(()) };
        self.resolve(stage.point);
        let mut computed: Vec<Vec<Vec<f64>>> = self.lanes.iter().map(|l| vec![Vec::new(); l.positions.len()]).collect();
        let only_ends = matches!(stage.point, Point::FinalNormOut | Point::Logits);
        let places = self
            .lanes
            .iter()
            .enumerate()
            .flat_map(|(lane, of)| of.positions.iter().enumerate().map(move |(index, pos)| (lane, index, *pos)));
        let places: Vec<_> = places.filter(|(.., pos)| !only_ends || self.ends.contains(pos)).collect();
        let mut matrix = Matrix::of(self.sequence.model, &stage)?;
        for places in places.chunks(ROWS_AT_ONCE) {
            let task = |(lane, _, pos): &(usize, usize, usize)| self.task(&stage, *lane, *pos);
            let tasks = places.par_iter().map(task).collect::<Result<Vec<_>, _>>()?;
            let expectations = match &mut matrix {
                Some(matrix) => matrix.evaluate(places, &tasks),
                None => self.evaluate(&stage, &tasks),
            };
            for ((lane, index, pos), expectation) in places.iter().zip(expectations) {
                let seed = self.lanes.get(*lane).and_then(|lane| lane.seed(number, *pos));
                if let Some(row) = computed.get_mut(*lane).and_then(|rows| rows.get_mut(*index)) {
                    *row = stored(expectation?, seed);
                }
            }
        }
        for (rows, computed) in self.rows.iter_mut().zip(computed) {
            rows.insert(stage.point, computed);
        }
        Ok(())
    }

    fn resolve(&mut self, point: Point) {
        let phases: BTreeSet<Option<Phase>> = self.lanes.iter().map(Lane::phase).collect();
        for phase in phases {
            let arithmetic = self.sequence.formats.arithmetic(self.sequence.contract, phase, point);
            let tokens = if phase == Some(Phase::Decode) { 1 } else { self.sequence.tokens.len() as u64 };
            let arithmetic = arithmetic.of_pass(tokens);
            self.arithmetics.insert((phase, point), arithmetic);
        }
    }

    fn evaluate(&self, stage: &Stage, tasks: &[Task]) -> Vec<Result<Expectation, Unjudged>> {
        let layer = usize::try_from(stage.layer).unwrap_or(0);
        let one = |task: &Task| match way(stage, &task.arithmetic) {
            Some(way) => evaluate::evaluate(self.sequence.model, way.op, task, layer),
            None => Err(Unjudged::NoPayload),
        };
        tasks.par_iter().map(one).collect()
    }

    fn task(&self, stage: &Stage, lane: usize, pos: usize) -> Result<Task, Unjudged> {
        let phase = self.lanes.get(lane).and_then(Lane::phase);
        let arithmetic = self.arithmetics.get(&(phase, stage.point)).cloned().ok_or(Unjudged::NoPayload)?;
        let way = way(stage, &arithmetic).ok_or(Unjudged::NoPayload)?;
        let places = way.inputs.as_slice();
        let input = |place: &Input| match place.point {
            Point::KCache | Point::VCache => self.gathered(lane, place.point, pos),
            _ => self.row(lane, place.point, pos).map(<[f64]>::to_vec),
        };
        let inputs: Option<Vec<Vec<f64>>> = places.iter().map(input).collect();
        let mut inputs = inputs.ok_or_else(|| Unjudged::InputsMissing(places.to_vec()))?;
        evaluate::as_read(way.op, self.sequence.model.config.head_dim, &arithmetic, &mut inputs)?;
        Ok(Task {
            inputs,
            others: Vec::new(),
            pos,
            pos_id: pos as u64,
            token: self.sequence.tokens.get(pos).copied(),
            recorded_len: width(&self.sequence.model.config, stage.point, pos),
            arithmetic,
        })
    }

    /// All cached rows up to a position's own, `[kv_heads, rows, head_dim]`.
    pub fn gathered(&self, lane: usize, point: Point, pos: usize) -> Option<Vec<f64>> {
        let c = &self.sequence.model.config;
        let rows: Option<Vec<&[f64]>> = (0..=pos).map(|slot| self.cached(lane, point, (pos, slot))).collect();
        let rows = rows?;
        let mut all = Vec::with_capacity(c.num_key_value_heads * c.head_dim * (pos + 1));
        for head in 0..c.num_key_value_heads {
            for row in &rows {
                all.extend_from_slice(row.get(head * c.head_dim..(head + 1) * c.head_dim)?);
            }
        }
        Some(all)
    }
}

/// Values of one row of a point. Of the cache it is one position's.
pub fn width(c: &Config, point: Point, pos: usize) -> usize {
    use Point::*;
    match point {
        QProjOut | QPreRope | QPostRope | AttnOut => c.num_attention_heads * c.head_dim,
        KProjOut | KPreRope | VProj | KPostRope | KCache | VCache => c.num_key_value_heads * c.head_dim,
        AttnScores | AttnProbs => c.num_attention_heads * (pos + 1),
        MlpGate | MlpUp | MlpAct => c.intermediate_size,
        Logits => c.vocab_size,
        _ => c.hidden_size,
    }
}

/// A matrix and what the first lane's rows had in it: the other lanes' rows are so near to them that the squares of their
/// products are the same but for rounding, and only their sums are computed.
struct Matrix {
    layer: Layer,
    spreads: BTreeMap<usize, Spread>,
}

impl Matrix {
    /// The matrix of a stage, if it is one's.
    fn of(model: &Model, stage: &Stage) -> Result<Option<Matrix>, Unjudged> {
        match stage.ways.first().map(|way| way.op) {
            Some(Op::Linear { weight, bias, softcap }) => {
                Ok(Some(Matrix { layer: Layer::new(model, (weight, bias, softcap))?, spreads: BTreeMap::new() }))
            }
            _ => Ok(None),
        }
    }

    /// The rows of (lane, index, position), the first lane's before all others.
    fn evaluate(&mut self, places: &[(usize, usize, usize)], tasks: &[Task]) -> Vec<Result<Expectation, Unjudged>> {
        let first = places.iter().take_while(|(lane, ..)| *lane == 0).count();
        let (of_first, others) = tasks.split_at(first);
        let mut all = Vec::with_capacity(tasks.len());
        for ((_, _, pos), found) in places.iter().zip(self.layer.pass_with_spread(of_first)) {
            all.push(found.map(|(expectation, spread)| {
                self.spreads.insert(*pos, spread);
                expectation
            }));
        }
        let spreads: Option<Vec<&Spread>> =
            places.iter().skip(first).map(|(_, _, pos)| self.spreads.get(pos)).collect();
        match spreads {
            Some(spreads) if !others.is_empty() => all.extend(self.layer.evaluate_like(others, &spreads)),
            _ => all.extend(self.layer.evaluate(others)),
        }
        all
    }
}

fn stored(expectation: Expectation, seed: Option<u64>) -> Vec<f64> {
    match (expectation, seed) {
        (Expectation::Exact { candidates, .. }, _) => candidates.into_iter().next().unwrap_or_default(),
        (Expectation::Noisy(expected), None) => expected.y,
        (Expectation::Noisy(expected), Some(seed)) => {
            let mut normal = Normal::new(seed);
            let noisy = |(y, variance): (&f64, &f64)| expected.output.round(y + variance.sqrt() * normal.next());
            expected.y.iter().zip(&expected.variance).map(noisy).collect()
        }
    }
}

/// For each stage the points that no later one reads.
/// The way in which a lane computes a stage: attention all at once where that is how it is declared, else step by step.
fn way<'s>(stage: &'s Stage, arithmetic: &Arithmetic) -> Option<&'s Way> {
    if arithmetic.is_fused() { stage.ways.last() } else { stage.ways.first() }
}

fn expired(stages: &[Stage]) -> Vec<Vec<Point>> {
    let mut last: BTreeMap<(Point, i32), usize> = BTreeMap::new();
    for (number, stage) in stages.iter().enumerate() {
        last.insert((stage.point, stage.layer), number);
        let fused = stage.ways.last().filter(|_| stage.point == Point::AttnOut);
        for input in stage.ways.first().into_iter().chain(fused).flat_map(|way| &way.inputs) {
            last.insert((input.point, input.layer), number);
        }
    }
    let mut expired = vec![Vec::new(); stages.len()];
    for ((point, _), number) in last {
        if let Some(points) = expired.get_mut(number) {
            points.push(point);
        }
    }
    expired
}

/// A lane of the whole sequence.
pub fn whole(kind: Kind, tokens: usize) -> Lane {
    Lane { kind, positions: (0..tokens).collect(), base: None }
}

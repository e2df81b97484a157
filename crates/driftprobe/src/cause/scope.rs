//! The first fault of a phase, and the rows that are looked at for it.

use crate::oracle::stage::Input;
use crate::oracle::{Outcome, PhaseJudgement, Replay, StageJudgement};
use driftprobe_trace::{Phase, Point};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Layers that are looked at.
const LAYERS_MAX: usize = 6;
/// Faulty rows that are looked at, and clean ones beside them.
const ROWS_MAX: (usize, usize) = (36, 12);

/// Where a fault is.
#[derive(Clone, Debug)]
pub struct Scope {
    pub phase: Phase,
    pub prompt_id: Arc<str>,
    pub pos: u64,
    pub point: Point,
    pub layer: i32,
    /// All layers whose rows of this point are at fault.
    pub layers: Vec<i32>,
    pub layers_looked_at: BTreeSet<i32>,
    pub systematic: bool,
    rows: BTreeSet<(Arc<str>, i32, u64)>,
}

impl Scope {
    /// The first fault: by prompt, position, and the order of the computation. Where no row is at fault the first finding
    /// over many rows.
    pub fn first(replay: &Replay<'_>, judgement: &[PhaseJudgement], phase: Phase) -> Option<Scope> {
        let order: BTreeMap<(Point, i32), usize> =
            replay.stages().iter().enumerate().map(|(i, s)| ((s.point, s.layer), i)).collect();
        let all = || judgement.iter().flat_map(|j| &j.stages).filter(|j| j.phase == phase);
        let mut prompts: Vec<&Arc<str>> = Vec::new();
        let mut first: Option<((usize, u64, usize), &StageJudgement)> = None;
        for judged in all() {
            let prompt = prompts.iter().position(|p| **p == judged.prompt_id).unwrap_or_else(|| {
                prompts.push(&judged.prompt_id);
                prompts.len() - 1
            });
            let place = order.get(&(judged.point, judged.layer)).copied().unwrap_or(usize::MAX);
            let key = (prompt, judged.pos, place);
            if judged.outcome.is_fault() && first.is_none_or(|(k, _)| key < k) {
                first = Some((key, judged));
            }
        }
        match first {
            Some((_, fault)) => {
                let (prompt_id, pos) = (fault.prompt_id.clone(), fault.pos);
                let faulty = all().filter(|j| j.point == fault.point && j.outcome.is_fault());
                let layers: BTreeSet<i32> = faulty.map(|j| j.layer).collect();
                Some(Scope::new((phase, fault.point, fault.layer), (prompt_id, pos), layers, &all))
            }
            None => Scope::systematic(judgement, phase, &all),
        }
    }

    /// The first point with a finding over many rows: of one layer if one has it by itself.
    fn systematic<'j, I: Iterator<Item = &'j StageJudgement>>(
        judgement: &[PhaseJudgement],
        phase: Phase,
        all: &dyn Fn() -> I,
    ) -> Option<Scope> {
        let found = judgement.iter().flat_map(|j| &j.systematic).filter(|s| s.phase == phase && s.test.is_flagged());
        let found: Vec<(Point, Option<i32>)> = found.map(|s| (s.point, s.layer)).collect();
        let point = found.iter().map(|(point, _)| *point).min()?;
        let own: BTreeSet<i32> = found.iter().filter(|f| f.0 == point).filter_map(|f| f.1).collect();
        let judged = || all().filter(|j| j.point == point && !matches!(j.outcome, Outcome::Unjudged(_)));
        let layers = if own.is_empty() { judged().map(|j| j.layer).collect() } else { own };
        let layer = *layers.first()?;
        let first = judged().find(|j| j.layer == layer)?;
        let mut scope = Scope::new((phase, point, layer), (first.prompt_id.clone(), first.pos), layers, all);
        scope.systematic = true;
        Some(scope)
    }

    fn new<'j, I: Iterator<Item = &'j StageJudgement>>(
        (phase, point, layer): (Phase, Point, i32),
        (prompt_id, pos): (Arc<str>, u64),
        layers: BTreeSet<i32>,
        all: &dyn Fn() -> I,
    ) -> Scope {
        let from_first = layers.iter().copied().filter(|l| *l != layer).take(LAYERS_MAX - 1);
        let looked_at: BTreeSet<i32> = std::iter::once(layer).chain(from_first).collect();
        let rows = || all().filter(|j| j.point == point && looked_at.contains(&j.layer));
        let key = |j: &StageJudgement| (j.prompt_id.clone(), j.layer, j.pos);
        let faulty = rows().filter(|j| j.outcome.is_fault()).take(ROWS_MAX.0).map(key);
        let mut chosen: BTreeSet<(Arc<str>, i32, u64)> = faulty.collect();
        chosen.insert((prompt_id.clone(), layer, pos));
        let room = ROWS_MAX.0.saturating_sub(chosen.len()) + ROWS_MAX.1;
        chosen.extend(rows().filter(|j| j.outcome.is_clean()).take(room).map(key));
        let (layers, layers_looked_at) = (layers.into_iter().collect(), looked_at);
        Scope { phase, prompt_id, pos, point, layer, layers, layers_looked_at, systematic: false, rows: chosen }
    }

    /// Whether a row is looked at.
    pub fn has(&self, prompt_id: &str, place: Input, pos: u64) -> bool {
        place.point == self.point && self.rows.contains(&(Arc::from(prompt_id), place.layer, pos))
    }
}

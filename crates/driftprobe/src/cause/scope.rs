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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::stats::{Direction, Element, RowStatistics, ScoreTest};
    use crate::oracle::{SystematicJudgement, Unjudged};
    use Phase::{Decode, Prefill};
    use Point::{AttnOut, MlpOut, VProj};
    use driftprobe_model::Model;

    fn row(prompt: &str, (point, layer): (Point, i32), pos: u64, outcome: Outcome) -> StageJudgement {
        StageJudgement {
            prompt_id: prompt.into(),
            phase: Decode,
            point,
            layer,
            pos,
            outcome,
            assumed: vec![],
            values: 4,
            inputs: vec![],
            fitted: false,
        }
    }

    fn fault() -> Outcome {
        Outcome::Mismatch { compared: 4, differing: 4, first: 0, largest: 1.0 }
    }

    fn clean() -> Outcome {
        Outcome::Clean(RowStatistics::default())
    }

    /// The first fault of decode.
    fn first(stages: Vec<StageJudgement>, systematic: Vec<SystematicJudgement>) -> Option<Scope> {
        let model = Model::demo().unwrap();
        Scope::first(&Replay::new(&model, None), &[PhaseJudgement { stages, systematic }], Decode)
    }

    fn place(scope: &Scope) -> (&str, u64, Point, i32) {
        (&scope.prompt_id, scope.pos, scope.point, scope.layer)
    }

    #[test]
    fn the_first_fault_is_by_prompt_position_and_order_of_the_computation() {
        let stages = vec![
            row("p", (VProj, 2), 3, fault()),
            row("p", (VProj, 1), 3, fault()),
            row("p", (AttnOut, 1), 3, fault()),
            row("p", (VProj, 5), 4, fault()),
            row("p", (VProj, 4), 2, clean()),
            row("p", (VProj, 0), 2, Outcome::Unjudged(Unjudged::NoPayload)),
            StageJudgement { phase: Prefill, ..row("p", (VProj, 0), 0, fault()) },
            row("q", (VProj, 0), 0, fault()),
        ];
        let found = first(stages.clone(), vec![]).unwrap();
        assert_eq!((place(&found), found.systematic), (("p", 3, VProj, 1), false));
        assert_eq!(found.layers, [0, 1, 2, 5]);
        // The last point of one layer comes before the first of the next.
        let with = [vec![row("p", (MlpOut, 0), 3, fault())], stages.clone()].concat();
        assert_eq!(place(&first(with, vec![]).unwrap()), ("p", 3, MlpOut, 0));
        // Prompts are in the order in which they came.
        let mut turned = stages.clone();
        turned.rotate_right(1);
        assert_eq!(place(&first(turned, vec![]).unwrap()), ("q", 0, VProj, 0));
        assert!(first(vec![stages[4].clone(), stages[5].clone(), stages[6].clone()], vec![]).is_none());
    }

    #[test]
    fn what_is_looked_at_are_faulty_and_clean_rows_of_the_point_in_layers_at_fault() {
        let found = first(
            vec![
                row("p", (VProj, 1), 3, fault()),
                row("p", (VProj, 1), 4, clean()),
                row("p", (VProj, 2), 4, clean()),
                row("p", (VProj, 1), 5, Outcome::Unjudged(Unjudged::NoPayload)),
                row("p", (AttnOut, 1), 5, fault()),
                row("p", (AttnOut, 1), 6, clean()),
            ],
            vec![],
        );
        let found = found.unwrap();
        let has = |prompt: &str, point, layer, pos| found.has(prompt, Input { point, layer }, pos);
        assert!(has("p", VProj, 1, 3) && has("p", VProj, 1, 4));
        for (prompt, point, layer, pos) in [
            ("q", VProj, 1, 3),
            ("p", AttnOut, 1, 3),
            ("p", VProj, 2, 4),
            ("p", VProj, 1, 5),
            ("p", VProj, 1, 6),
            ("p", VProj, 1, 7),
        ] {
            assert!(!has(prompt, point, layer, pos), "{prompt} {point} {layer} {pos}");
        }
    }

    #[test]
    fn no_more_than_six_layers_and_48_rows_are_looked_at() {
        let layers = (0..9).map(|layer| row("p", (VProj, layer), if layer == 7 { 3 } else { 4 }, fault()));
        let found = first(layers.collect(), vec![]).unwrap();
        assert_eq!((found.layer, found.layers.len()), (7, 9));
        assert_eq!(found.layers_looked_at, [0, 1, 2, 3, 4, 7].into());
        // 36 that are at fault; clean ones take the places that those leave, and 12 more.
        for (faulty, expected) in [(50, [36, 12]), (10, [10, 38])] {
            let stages = (0..50).filter(|pos| *pos < faulty).map(|pos| row("p", (VProj, 1), pos, fault()));
            let stages = stages.chain((100..160).map(|pos| row("p", (VProj, 1), pos, clean())));
            let found = first(stages.collect(), vec![]).unwrap();
            let at = Input { point: VProj, layer: 1 };
            let count = |all: std::ops::Range<u64>| all.filter(|pos| found.has("p", at, *pos)).count();
            assert_eq!([count(0..50), count(100..160)], expected, "{faulty}");
        }
    }

    /// A test over many rows, whose score is the root of the number of its cells.
    fn over_all(point: Point, layer: Option<i32>, cells: usize) -> SystematicJudgement {
        let mut test = ScoreTest::default();
        let element = Element { residual: 1.0, derivative: 1.0, variance: 0.0, total: 1.0, shared: 0.0 };
        (0..cells).for_each(|_| test.add(std::iter::once(element)));
        SystematicJudgement { phase: Decode, point, layer, direction: Direction::Gain, test }
    }

    #[test]
    fn where_no_row_is_at_fault_it_is_the_first_point_that_all_rows_together_show() {
        let stages = vec![
            row("p", (VProj, 0), 3, Outcome::Unjudged(Unjudged::NoPayload)),
            row("p", (VProj, 2), 9, clean()),
            row("p", (VProj, 1), 4, clean()),
            row("p", (AttnOut, 0), 3, clean()),
            row("p", (AttnOut, 3), 3, clean()),
        ];
        let found = |tests: Vec<SystematicJudgement>| first(stages.clone(), tests);
        let all = found(vec![over_all(AttnOut, Some(3), 100), over_all(VProj, None, 100)]).unwrap();
        assert_eq!((place(&all), all.systematic), (("p", 4, VProj, 1), true));
        assert_eq!(all.layers, [1, 2]);
        // Where one layer shows it by itself it is that layer's.
        let own = found(vec![over_all(VProj, None, 100), over_all(VProj, Some(2), 100)]).unwrap();
        assert_eq!((place(&own), own.layers.as_slice()), (("p", 9, VProj, 2), [2].as_slice()));
        // What found nothing, or was of the other phase, is none.
        let unflagged = found(vec![over_all(VProj, None, 60), over_all(AttnOut, Some(3), 100)]).unwrap();
        assert_eq!(place(&unflagged), ("p", 3, AttnOut, 3));
        assert!(found(vec![over_all(VProj, None, 60)]).is_none());
        assert!(found(vec![SystematicJudgement { phase: Prefill, ..over_all(VProj, None, 100) }]).is_none());
    }
}

//! Where no one arithmetic explains a phase: is there one for passes of few tokens and another for those of many? Engines have
//! kernels for one row and kernels for tiles of rows.

use super::{Tried, explains};
use crate::oracle::judgement::{PhaseJudgement, StageJudgement};
use crate::oracle::replay::Replay;
use crate::oracle::variants::Variant;
use driftprobe_trace::{ContractFields, Event, FewRows, Phase, Point, Rows, TraceError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A row: prompt, layer, position.
type Key = (Arc<str>, i32, u64);

/// Two arithmetics for one point, told apart by the tokens of the pass, and what they make of its rows.
pub fn fit(
    replay: &Replay<'_>,
    (events, rows): (&[Event], &dyn Rows),
    (phase, point): (Phase, Point),
    (declared, tried): (&[&StageJudgement], &[Tried]),
) -> Result<Option<(Variant, PhaseJudgement)>, TraceError> {
    let lengths = lengths(events, (phase, point));
    let distinct: BTreeSet<u64> = lengths.values().copied().collect();
    for below in distinct.into_iter().skip(1) {
        let clean = |stages: &mut dyn Iterator<Item = &StageJudgement>, few: bool| {
            let (mut count, mut all) = (0usize, true);
            for stage in stages {
                let length = lengths.get(&(stage.prompt_id.clone(), stage.layer, stage.pos));
                if length.is_some_and(|length| (*length < below) == few) {
                    (count, all) = (count + 1, all && stage.outcome.is_clean());
                }
            }
            count > 0 && all
        };
        let first = |few: bool| tried.iter().find(|one| clean(&mut one.stages.iter(), few));
        let many_declared = clean(&mut declared.iter().copied(), false);
        let (few, many) = (first(true), first(false).filter(|_| !many_declared));
        let Some(few) = few.filter(|_| many_declared || many.is_some()) else { continue };
        let variant = combined(below, &few.variant, many.map(|many| &many.variant));
        let better = replay.only(point, phase, &variant.fields).phase(events, rows, phase)?;
        if explains(&better, &variant, declared.len()) {
            return Ok(Some((variant, better)));
        }
    }
    Ok(None)
}

/// Tokens of the pass of each row.
fn lengths(events: &[Event], (phase, point): (Phase, Point)) -> BTreeMap<Key, u64> {
    let of = events.iter().filter(|e| e.phase == phase && e.point == point);
    let one = |e: &Event| {
        let pos = e.token_index()?;
        Some(((e.prompt_id.clone(), e.layer, pos), e.seq_len?))
    };
    of.filter_map(one).collect()
}

fn combined(below: u64, few: &Variant, many: Option<&Variant>) -> Variant {
    let many_fields = many.map(|many| many.fields.clone()).unwrap_or_default();
    let many_id = many.map_or("declared", |many| &many.id);
    let many_says = many.map_or("what is declared", |many| &many.says);
    Variant {
        id: format!("{many_id};below {below} tokens:{}", few.id),
        says: format!("in passes of fewer than {below} tokens {}; in longer ones {many_says}", few.says),
        fields: ContractFields {
            few_rows: Some(FewRows { below, fields: Box::new(few.fields.clone()) }),
            ..many_fields
        },
        widens: false,
    }
}

//! Cached rows of earlier positions that the tokens show to be wrong: which row is it?

use super::{Examination, place_of};
use crate::cause::{Candidate, Cause, Foreign, Freedom, Part, WrongSlot, name_slot};
use crate::oracle::Input;
use crate::simulate::{Pass, Simulation, TokenJudgement};
use driftprobe_model::Config;
use driftprobe_trace::{Event, Phase, Point, PromptInfo, Rows, Run};
use std::collections::{BTreeMap, BTreeSet};

/// Other prompts in which a row is looked for.
const FOREIGN_MAX: usize = 8;
/// Least part of its norm by which a row may be off and still be the same row.
const TOLERANCE_MIN: f64 = 1e-4;

/// Rows of one part by position; `None` where not known.
type Known = Vec<Option<Vec<f64>>>;

impl Examination {
    /// Names wrong cache slots, where they are what is at fault first in a phase.
    pub(super) fn name_slots(&mut self, simulation: &Simulation<'_>, run: &Run, rows: &dyn Rows) {
        for phase in Phase::ALL {
            let Some(wrong) = self.first_wrong_slot(phase) else { continue };
            let found = self.name_slot(&wrong, simulation, run, rows);
            self.causes.retain(|cause| cause.phase != phase);
            self.causes.push(found);
        }
        self.causes.sort_by_key(|cause| cause.phase);
    }

    /// The first flagged slot of a phase, if nothing before it in the computation is at fault.
    fn first_wrong_slot(&self, phase: Phase) -> Option<TokenJudgement> {
        let slots = self.study.tokens.iter().filter(|t| t.flagged && t.phase == phase && t.slot.is_some());
        let place = |token: &TokenJudgement| Input { point: token.point, layer: token.layer };
        let first = slots.min_by_key(|token| place_of(place(token)))?;
        let earlier = self.faults().any(|stage| {
            stage.phase == phase && place_of(Input { point: stage.point, layer: stage.layer }) <= place_of(place(first))
        });
        (!earlier && self.is_first_of_both(phase, place(first))).then(|| first.clone())
    }

    fn name_slot(&self, wrong: &TokenJudgement, simulation: &Simulation<'_>, run: &Run, rows: &dyn Rows) -> Cause {
        let config = simulation.config();
        let prompts = run.manifest.as_ref().and_then(|m| m.prompts.as_deref()).unwrap_or_default();
        let (part, own_source, other_source) = match wrong.point {
            Point::KCache => (Part::K, Point::KPostRope, Point::VProj),
            _ => (Part::V, Point::VProj, Point::KPostRope),
        };
        let recorded = recorded_rows(config, run, rows, wrong);
        let own = prompts.iter().find(|p| *p.id == *wrong.prompt_id);
        let pass = own.and_then(|prompt| exact(simulation, prompt, wrong.layer));
        let of = |pass: &Option<Pass>, point, count: usize| -> Known {
            (0..count).map(|pos| pass.as_ref()?.row(point, wrong.layer, pos).map(<[f64]>::to_vec)).collect()
        };
        let count = own.map_or(0, |prompt| prompt.tokens.len());
        let (expected, expected_other) = (of(&pass, own_source, count), of(&pass, other_source, count));
        let others = prompts.iter().filter(|p| *p.id != *wrong.prompt_id).take(FOREIGN_MAX);
        let foreign: Vec<Foreign> = others
            .map(|prompt| {
                let pass = exact(simulation, prompt, wrong.layer);
                (prompt.id.as_str().into(), of(&pass, own_source, prompt.tokens.len()))
            })
            .collect();
        let slot = wrong.slot.unwrap_or(0);
        let candidates = match recorded.get(slot).cloned().flatten() {
            None => Vec::new(),
            Some(row) => name_slot(&WrongSlot {
                part,
                slot,
                newest: slot == wrong.pos,
                recorded: &row,
                expected: &expected,
                expected_other: &expected_other,
                cache: &recorded,
                foreign: &foreign,
                tolerance: self.tolerance(wrong, &recorded, &expected),
            }),
        };
        let (wrong_slots, all_slots) = self.slots_of(wrong);
        // One mistake with one slot leaves the others alone; where many are wrong, something before the cache is.
        let candidates =
            candidates.into_iter().filter(|name| name.freedom != Freedom::Loose || wrong_slots * 4 <= all_slots.max(4));
        let candidates: Vec<Candidate> = candidates.map(Candidate::named).collect();
        let layers = self.layers_alike(wrong);
        let evidence = match candidates.is_empty() {
            true => format!(
                "the row of position {slot} is none of this prompt, nor of the others, nor one of a known mistake"
            ),
            false => String::new(),
        };
        Cause {
            phase: wrong.phase,
            prompt_id: wrong.prompt_id.clone(),
            pos: wrong.pos as u64,
            point: wrong.point,
            layer: wrong.layer,
            layers: layers.into_iter().collect(),
            systematic: false,
            tested: candidates.clone(),
            candidates,
            noise_rms_before: wrong.distance_ratio,
            evidence,
        }
    }

    /// The layers in which no other slots are wrong than in the first: behind a wrong row the rows of later positions are off
    /// too, and have only inherited that.
    fn layers_alike(&self, wrong: &TokenJudgement) -> BTreeSet<i32> {
        let mut slots: BTreeMap<i32, BTreeSet<usize>> = BTreeMap::new();
        for t in self.study.tokens.iter().filter(|t| t.flagged && t.layer >= wrong.layer) {
            let alike = (t.phase, t.point, &t.prompt_id) == (wrong.phase, wrong.point, &wrong.prompt_id);
            if let Some(slot) = t.slot.filter(|_| alike) {
                slots.entry(t.layer).or_default().insert(slot);
            }
        }
        let own = slots.get(&wrong.layer).cloned().unwrap_or_default();
        let alike = slots.into_iter().filter(|(_, slots)| slots.is_subset(&own)).map(|(layer, _)| layer);
        alike.chain([wrong.layer]).collect()
    }

    /// How many rows of this cache are wrong, of how many that were held against the tokens.
    fn slots_of(&self, wrong: &TokenJudgement) -> (usize, usize) {
        let key = |t: &TokenJudgement| (t.phase, t.point, t.layer, t.pos, t.prompt_id.clone());
        let slots: Vec<&TokenJudgement> =
            self.study.tokens.iter().filter(|t| t.slot.is_some() && key(t) == key(wrong)).collect();
        (slots.iter().filter(|t| t.flagged).count(), slots.len())
    }

    /// By which part of its norm a row of this cache may be off: four times what the sound ones are.
    fn tolerance(&self, wrong: &TokenJudgement, recorded: &Known, expected: &Known) -> f64 {
        let key = |t: &TokenJudgement| (t.phase, t.point, t.layer, t.pos, t.prompt_id.clone());
        let sound = self.study.tokens.iter().filter(|t| !t.flagged && key(t) == key(wrong)).filter_map(|t| t.slot);
        let off = sound.filter_map(|slot| {
            let (row, own) = (recorded.get(slot)?.as_ref()?, expected.get(slot)?.as_ref()?);
            let away: f64 = row.iter().zip(own).map(|(a, b)| (a - b) * (a - b)).sum();
            let norm: f64 = own.iter().map(|x| x * x).sum();
            Some((away / norm).sqrt())
        });
        4.0 * off.fold(TOLERANCE_MIN, f64::max)
    }
}

/// K and V of every position of a prompt at one layer, in float64.
fn exact(simulation: &Simulation<'_>, prompt: &PromptInfo, layer: i32) -> Option<Pass> {
    let wanted = |place: Input| place.layer == layer && matches!(place.point, Point::KPostRope | Point::VProj);
    simulation.exact(&prompt.tokens, &wanted).ok()
}

/// The recorded rows of a cache `[kv_heads, rows, head_dim]`, by position.
fn recorded_rows(config: &Config, run: &Run, rows: &dyn Rows, wrong: &TokenJudgement) -> Known {
    let is_it = |e: &&Event| {
        (e.phase, e.point, e.layer) == (wrong.phase, wrong.point, wrong.layer)
            && e.prompt_id == wrong.prompt_id
            && e.logical_tok_idx.or(e.pos_id) == Some(wrong.pos as u64)
    };
    let row = run.events.iter().find(is_it).and_then(|event| rows.row(event).ok().flatten());
    let values = row.map(|row| row.to_f64()).unwrap_or_default();
    let (heads, width) = (config.num_key_value_heads, config.head_dim);
    let count = values.len() / (heads * width).max(1);
    let first = (wrong.pos + 1).saturating_sub(count);
    let of_slot = |slot: usize| -> Option<Vec<f64>> {
        let at = slot.checked_sub(first)?;
        let head = |head: usize| values.get((head * count + at) * width..(head * count + at + 1) * width);
        (0..heads).map(head).collect::<Option<Vec<_>>>().map(|parts| parts.concat())
    };
    (0..=wrong.pos).map(of_slot).collect()
}

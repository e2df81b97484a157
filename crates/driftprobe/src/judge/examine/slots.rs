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
            && e.token_index() == Some(wrong.pos as u64)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Outcome, PhaseJudgement, StageJudgement};
    use crate::simulate::{Shown, Study};
    use crate::testing::{Memory, event, manifest, shaped};
    use Phase::{Decode, Prefill};
    use Point::{KCache, MlpOut, VCache};

    /// A row of a cache of decode, at position 9.
    fn token((point, layer): (Point, i32), slot: Option<usize>, flagged: bool) -> TokenJudgement {
        let (prompt_id, phase, pos, shown, distance_ratio, score) = ("p".into(), Decode, 9, Shown::Row, 9.0, 9.0);
        TokenJudgement { prompt_id, phase, point, layer, pos, slot, shown, distance_ratio, score, flagged }
    }

    fn wrong(place: (Point, i32), slot: usize) -> TokenJudgement {
        token(place, Some(slot), true)
    }

    fn of(faults: &[(Phase, Point, i32)], tokens: Vec<TokenJudgement>) -> Examination {
        let fault = |&(phase, point, layer): &(Phase, Point, i32)| StageJudgement {
            prompt_id: "p".into(),
            phase,
            point,
            layer,
            pos: 9,
            outcome: Outcome::Mismatch { compared: 4, differing: 4, first: 0, largest: 1.0 },
            assumed: vec![],
            values: 4,
            inputs: vec![],
            fitted: false,
        };
        let phases = Phase::ALL.map(|phase| PhaseJudgement {
            stages: faults.iter().filter(|one| one.0 == phase).map(fault).collect(),
            systematic: vec![],
        });
        Examination::new(phases, vec![], Study { tokens, ..Study::default() })
    }

    #[test]
    fn the_first_wrong_slot_is_one_before_which_nothing_is_at_fault() {
        let tokens = vec![
            wrong((VCache, 2), 3),
            wrong((KCache, 2), 4),
            wrong((KCache, 3), 1),
            token((KCache, 1), Some(0), false),
            TokenJudgement { phase: Prefill, ..token((KCache, 1), Some(0), false) },
            token((KCache, 0), None, true),
        ];
        // A cache that is wrong as a whole is no slot, and would be first.
        let slots = || tokens.iter().filter(|token| token.slot.is_some()).cloned().collect::<Vec<_>>();
        let first = |faults: &[(Phase, Point, i32)]| of(faults, slots()).first_wrong_slot(Decode);
        assert_eq!(first(&[]), Some(wrong((KCache, 2), 4)));
        assert_eq!(of(&[], slots()).first_wrong_slot(Prefill), None);
        assert_eq!(of(&[], tokens.clone()).first_wrong_slot(Decode), None);
        // Another fault of the phase before it, or of the cache itself; not one behind it.
        for (point, layer, named) in [(MlpOut, 1, false), (KCache, 2, false), (MlpOut, 2, true), (KCache, 3, true)] {
            assert_eq!(first(&[(Decode, point, layer)]).is_some(), named, "{point} {layer}");
        }
        // Of the other phase, whose rows a cache may hold, only one before it counts.
        for (point, layer, named) in [(MlpOut, 1, false), (KCache, 2, true), (MlpOut, 2, true)] {
            assert_eq!(first(&[(Prefill, point, layer)]).is_some(), named, "{point} {layer} of prefill");
        }
    }

    #[test]
    fn layers_are_alike_if_no_slot_is_wrong_that_is_not_wrong_in_the_first() {
        let own = wrong((KCache, 2), 3);
        let tokens = vec![
            own.clone(),
            wrong((KCache, 2), 5),
            wrong((KCache, 3), 3),
            wrong((KCache, 4), 3),
            wrong((KCache, 4), 6),
            wrong((KCache, 1), 3),
            wrong((VCache, 5), 3),
            token((KCache, 6), Some(3), false),
            TokenJudgement { prompt_id: "q".into(), ..wrong((KCache, 7), 3) },
            TokenJudgement { phase: Prefill, ..wrong((KCache, 8), 3) },
        ];
        assert_eq!(of(&[], tokens).layers_alike(&own), [2, 3].into());
        assert_eq!(of(&[], vec![]).layers_alike(&own), [2].into());
    }

    #[test]
    fn slots_are_counted_and_measured_by_those_of_the_same_cache() {
        let own = wrong((KCache, 2), 3);
        let sound = |slot| token((KCache, 2), Some(slot), false);
        let tokens = vec![
            own.clone(),
            wrong((KCache, 2), 2),
            sound(0),
            sound(1),
            sound(4),
            token((KCache, 2), None, true),
            token((VCache, 2), Some(2), false),
            token((KCache, 3), Some(2), false),
            TokenJudgement { pos: 8, ..sound(2) },
            TokenJudgement { prompt_id: "q".into(), ..sound(2) },
            TokenJudgement { phase: Prefill, ..sound(2) },
        ];
        let all = of(&[], tokens);
        assert_eq!(all.slots_of(&own), (2, 5));
        // The sound rows are off by nothing and by a hundredth of their norm, 5; one is not known.
        let known = |rows: [Option<[f64; 2]>; 5]| rows.map(|row| row.map(|row| row.to_vec())).to_vec();
        let expected =
            known([Some([3.0, 4.0]), Some([3.0, 4.0]), Some([1.0, 0.0]), Some([1.0, 0.0]), Some([3.0, 4.0])]);
        let recorded = known([Some([3.0, 4.0]), Some([3.03, 4.04]), Some([9.0, 9.0]), Some([9.0, 9.0]), None]);
        assert!((all.tolerance(&own, &recorded, &expected) - 0.04).abs() < 1e-9);
        assert!((all.tolerance(&own, &expected, &expected) - 4.0 * TOLERANCE_MIN).abs() < 1e-12);
    }

    #[test]
    fn a_recorded_cache_is_taken_apart_by_position_the_last_row_being_its_own() {
        let mut config = driftprobe_model::Model::demo().unwrap().config;
        (config.num_key_value_heads, config.head_dim) = (2, 2);
        let values: Vec<f32> = (1..=12).map(|value| value as f32).collect();
        let mut memory = Memory::default();
        let (row, other) = (shaped(&[2, 3, 2], &values), shaped(&[2, 3, 2], &[0.0; 12]));
        // [heads, rows, width] of positions 1 to 3.
        for (prompt, phase, point, layer, pos) in [
            ("q", Decode, KCache, 2, 3),
            ("p", Prefill, KCache, 2, 3),
            ("p", Decode, VCache, 2, 3),
            ("p", Decode, KCache, 1, 3),
            ("p", Decode, KCache, 2, 2),
        ] {
            memory.record(event(prompt, phase, point, layer, pos, 7), other.clone());
        }
        memory.record(event("p", Decode, KCache, 2, 3, 7), row);
        let of = |pos| recorded_rows(&config, &memory.run, &memory, &TokenJudgement { pos, ..wrong((KCache, 2), 1) });
        let expected = [[1.0, 2.0, 7.0, 8.0], [3.0, 4.0, 9.0, 10.0], [5.0, 6.0, 11.0, 12.0]];
        let expected: Known = std::iter::once(None).chain(expected.map(|row| Some(row.to_vec()))).collect();
        assert_eq!(of(3), expected);
        assert_eq!(of(4), vec![None; 5], "of that position nothing is recorded");
    }

    const TOKENS: [[u32; 6]; 2] = [[3, 141, 59, 26, 53, 58], [9, 79, 32, 384, 62, 64]];

    /// K's cache of decode of layer 1, six positions of prompt "p", beside a prompt "q": `of` says whose row is in a slot: prompt,
    /// position, how many times; with the judgements of all slots.
    fn cached(of: impl Fn(usize) -> (usize, usize, f64)) -> (Memory, Vec<TokenJudgement>) {
        let model = driftprobe_model::Model::demo().unwrap();
        let (heads, width) = (model.config.num_key_value_heads, model.config.head_dim);
        let mut memory = Memory::default();
        memory.run.manifest = Some(manifest(&[("q", &TOKENS[1]), ("p", &TOKENS[0])], &[1], &[KCache], 1));
        let passes = {
            let simulation = Simulation::new(&model, memory.run.manifest.as_ref());
            TOKENS.map(|tokens| {
                exact(&simulation, &PromptInfo { id: "p".into(), tokens: tokens.to_vec(), ..Default::default() }, 1)
                    .unwrap()
            })
        };
        let value = |head: usize, slot: usize, at: usize| {
            let (prompt, pos, times) = of(slot);
            (times * passes[prompt].row(Point::KPostRope, 1, pos).unwrap()[head * width + at]) as f32
        };
        let places = (0..heads).flat_map(|head| (0..6).map(move |slot| (head, slot)));
        let values: Vec<f32> = places
            .flat_map(|(head, slot)| (0..width).map(move |at| (head, slot, at)))
            .map(|(head, slot, at)| value(head, slot, at))
            .collect();
        memory.record(event("p", Decode, KCache, 1, 5, 7), shaped(&[heads as u64, 6, width as u64], &values));
        let judged =
            (0..6).map(|slot| TokenJudgement { pos: 5, ..token((KCache, 1), Some(slot), of(slot) != (0, slot, 1.0)) });
        (memory, judged.collect())
    }

    fn named((memory, tokens): &(Memory, Vec<TokenJudgement>), causes: Vec<Cause>) -> Vec<Cause> {
        let model = driftprobe_model::Model::demo().unwrap();
        let simulation = Simulation::new(&model, memory.run.manifest.as_ref());
        let mut all = of(&[], tokens.clone());
        all.causes = causes;
        all.name_slots(&simulation, &memory.run, memory);
        all.causes
    }

    fn ids(causes: &[Cause]) -> Vec<&'static str> {
        causes.iter().flat_map(|cause| &cause.candidates).map(|candidate| candidate.id).collect()
    }

    #[test]
    fn a_wrong_slot_is_named_by_the_rows_of_all_prompts_and_by_nobodys_only_if_the_others_are_sound() {
        let changed = |wrong: &'static [usize], to: (usize, usize, f64)| {
            cached(move |slot| if wrong.contains(&slot) { to } else { (0, slot, 1.0) })
        };
        assert_eq!(ids(&named(&changed(&[2], (1, 3, 1.0)), vec![])), ["KV_FOREIGN_ROW"]);
        assert_eq!(named(&changed(&[], (0, 0, 1.0)), vec![]), []);
        // As large as a row, and nobody's: what it was before, or somebody else's. One slot of six may be so, two may not.
        let nobodys = ["KV_STALE_SLOT", "KV_FOREIGN_ROW"];
        assert_eq!(ids(&named(&changed(&[2], (0, 2, 0.8)), vec![])), nobodys);
        let many = named(&changed(&[2, 3], (0, 2, 0.8)), vec![]);
        assert!(ids(&many).is_empty() && many[0].evidence.contains("the row of position 2 is none of this prompt"));
    }

    #[test]
    fn only_the_newest_slot_may_hold_what_was_in_it_before_a_write_that_failed() {
        // The row of the position before, in the last slot and in another one.
        let newest = cached(|slot| if slot == 5 { (0, 4, 1.0) } else { (0, slot, 1.0) });
        let earlier = cached(|slot| if slot == 4 { (0, 3, 1.0) } else { (0, slot, 1.0) });
        assert_eq!(ids(&named(&newest, vec![])), ["KV_DUPLICATED_SLOT", "KV_STALE_SLOT"]);
        assert_eq!(ids(&named(&earlier, vec![])), ["KV_DUPLICATED_SLOT"]);
    }

    #[test]
    fn a_cause_by_its_slot_takes_the_place_of_its_phases_alone() {
        let wrong = cached(|slot| if slot == 2 { (1, 3, 1.0) } else { (0, slot, 1.0) });
        let [found] = named(&wrong, vec![]).try_into().unwrap();
        let other = |phase| Cause { phase, point: MlpOut, candidates: vec![], ..found.clone() };
        assert_eq!(named(&wrong, vec![other(Decode), other(Prefill)]), [other(Prefill), found.clone()]);
    }
}

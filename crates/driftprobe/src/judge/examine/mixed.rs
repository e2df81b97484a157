//! Heads of several tokens mixed up: `[heads, tokens]` read as `[tokens, heads]`, which only the tokens can show.

use super::Examination;
use crate::cause::{Candidate, Cause, Freedom, SlotName};
use crate::oracle::Input;
use crate::simulate::{Pass, Simulation};
use driftprobe_trace::{Phase, Point, Rows, Run};

/// Largest part of its norm by which a head may be off and still be the one it is taken for.
const ALIKE: f64 = 0.2;

impl Examination {
    /// Names attention's output where no row by itself explains it, and heads of other tokens do.
    pub(super) fn name_mixed(&mut self, simulation: &Simulation<'_>, run: &Run, rows: &dyn Rows) {
        for cause in &mut self.causes {
            let is_open = cause.candidates.is_empty() && (cause.phase, cause.point) == (Phase::Prefill, Point::AttnOut);
            if !is_open || mixed(cause, simulation, run, rows) != Some(true) {
                continue;
            }
            let parameters = vec![("is".to_owned(), "[heads, tokens] for [tokens, heads]".to_owned())];
            let found = Candidate::named(SlotName { id: "HEAD_LAYOUT", parameters, freedom: Freedom::Fixed });
            cause.tested.retain(|tested| tested.id != found.id);
            cause.tested.insert(0, found.clone());
            cause.candidates = vec![found];
            cause.evidence.clear();
        }
    }
}

/// Whether head j of every recorded row t is what the tokens give for head i / n of token i mod n, i = t·heads + j, n the
/// prompt's tokens; and at least one head is nothing like its own.
fn mixed(cause: &Cause, simulation: &Simulation<'_>, run: &Run, rows: &dyn Rows) -> Option<bool> {
    let config = simulation.config();
    let (heads, width) = (config.num_attention_heads, config.head_dim);
    let prompts = run.manifest.as_ref()?.prompts.as_deref()?;
    let tokens = &prompts.iter().find(|prompt| *prompt.id == *cause.prompt_id)?.tokens;
    let place = Input { point: cause.point, layer: cause.layer };
    let pass = simulation.exact(tokens, &|wanted| wanted == place).ok()?;
    let (mut any, mut strange) = (false, false);
    for event in &run.events {
        let is_it = (event.phase, event.point, event.layer) == (cause.phase, cause.point, cause.layer);
        if !is_it || event.prompt_id != cause.prompt_id {
            continue;
        }
        let row = rows.row(event).ok().flatten()?.to_f64();
        let pos = usize::try_from(event.token_index()?).ok()?;
        for (place, recorded) in row.chunks(width.max(1)).enumerate() {
            let at = pos * heads + place;
            let of = |pos, number| head(&pass, (cause.layer, pos), (number, width));
            if !is_alike(recorded, of(at % tokens.len(), at / tokens.len())?) {
                return Some(false);
            }
            (any, strange) = (true, strange || !is_alike(recorded, of(pos, place)?));
        }
    }
    Some(any && strange)
}

fn head(pass: &Pass, (layer, pos): (i32, usize), (number, width): (usize, usize)) -> Option<&[f64]> {
    pass.row(Point::AttnOut, layer, pos)?.get(number * width..(number + 1) * width)
}

fn is_alike(recorded: &[f64], exact: &[f64]) -> bool {
    let square = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>();
    let away = square(&mut recorded.iter().zip(exact).map(|(a, b)| a - b));
    recorded.len() == exact.len() && away <= ALIKE * ALIKE * square(&mut exact.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, event, manifest};
    use Phase::{Decode, Prefill};
    use Point::{AttnOut, MlpOut};
    use driftprobe_model::Model;
    use driftprobe_trace::Row;

    const TOKENS: [u32; 5] = [3, 141, 59, 26, 353];

    fn open(phase: Phase, point: Point) -> Cause {
        Cause {
            phase,
            prompt_id: "p".into(),
            pos: 0,
            point,
            layer: 1,
            layers: vec![1],
            systematic: false,
            candidates: vec![],
            noise_rms_before: 9.0,
            tested: vec![],
            evidence: "nobody knows".to_owned(),
        }
    }

    /// Attention's output in prefill of layer 1, whose head `head` of token `pos` is what the tokens give for `of(pos, head)`.
    fn attended(tokens: &[u32], of: impl Fn(usize, usize) -> (usize, usize)) -> Memory {
        let model = Model::demo().unwrap();
        let (heads, width) = (model.config.num_attention_heads, model.config.head_dim);
        let place = Input { point: AttnOut, layer: 1 };
        let pass = Simulation::new(&model, None).exact(tokens, &|wanted| wanted == place).unwrap();
        let mut memory = Memory::default();
        memory.run.manifest = Some(manifest(&[("o", &[1]), ("p", tokens)], &[1], &[AttnOut], 1));
        // What is not looked at may be anything.
        for (prompt, phase, point, layer) in [
            ("o", Prefill, AttnOut, 1),
            ("p", Decode, AttnOut, 1),
            ("p", Prefill, MlpOut, 1),
            ("p", Prefill, AttnOut, 2),
        ] {
            memory.record(event(prompt, phase, point, layer, 0, 7), Row::from_f32(&vec![9.0; heads * width]));
        }
        for pos in 0..tokens.len() {
            let row = (0..heads).flat_map(|number| {
                let (pos, number) = of(pos, number);
                pass.row(AttnOut, 1, pos).unwrap()[number * width..][..width].to_vec()
            });
            let row: Vec<f32> = row.map(|value| value as f32).collect();
            memory.record(event("p", Prefill, AttnOut, 1, pos as u64, 7), Row::from_f32(&row));
        }
        memory
    }

    fn heads() -> usize {
        Model::demo().unwrap().config.num_attention_heads
    }

    /// `[heads, tokens]` read as `[tokens, heads]`.
    fn turned(pos: usize, head: usize) -> (usize, usize) {
        let at = pos * heads() + head;
        (at % TOKENS.len(), at / TOKENS.len())
    }

    fn named(memory: &Memory, cause: Cause) -> Cause {
        let model = Model::demo().unwrap();
        let simulation = Simulation::new(&model, memory.run.manifest.as_ref());
        let mut examination = Examination { causes: vec![cause], ..Examination::default() };
        examination.name_mixed(&simulation, &memory.run, memory);
        examination.causes.remove(0)
    }

    #[test]
    fn heads_of_other_tokens_are_named_where_all_of_them_are_in_the_places_of_the_mistake() {
        let is_named = |memory: &Memory| {
            let cause = named(memory, open(Prefill, AttnOut));
            let ids: Vec<&str> = cause.candidates.iter().map(|candidate| candidate.id).collect();
            assert!(
                ids.is_empty() != cause.evidence.is_empty() && (ids.is_empty() || ids == ["HEAD_LAYOUT"]),
                "{ids:?}"
            );
            !ids.is_empty()
        };
        assert!(is_named(&attended(&TOKENS, turned)));
        // As they should be, with one head that is another one, and other ways to mix them.
        assert!(!is_named(&attended(&TOKENS, |pos, head| (pos, head))));
        assert!(!is_named(&attended(&TOKENS, |pos, head| if (pos, head) == (3, 1) {
            (4, 0)
        } else {
            turned(pos, head)
        })));
        assert!(!is_named(&attended(&TOKENS, |pos, head| (TOKENS.len() - 1 - pos, head))));
        // One token has nothing to be mixed up with.
        assert!(!is_named(&attended(&TOKENS[..1], |pos, head| (pos, head))));
        // Rows that are not recorded, or whose prompt nobody knows, show nothing.
        let mut nothing = attended(&TOKENS, turned);
        nothing.run.events.truncate(4);
        assert!(!is_named(&nothing));
        let mut unknown = attended(&TOKENS, turned);
        unknown.run.manifest.as_mut().unwrap().prompts = None;
        assert!(!is_named(&unknown));
    }

    #[test]
    fn only_what_nothing_else_explains_is_named_and_that_comes_first() {
        let memory = attended(&TOKENS, turned);
        let name = |id| Candidate::named(SlotName { id, parameters: vec![], freedom: Freedom::Fixed });
        let mut tested = vec![name("OTHER"), name("HEAD_LAYOUT")];
        tested[1].accepted = false;
        let found = named(&memory, Cause { tested, ..open(Prefill, AttnOut) });
        let ids = |all: &[Candidate]| all.iter().map(|one| one.id).collect::<Vec<_>>();
        assert_eq!((ids(&found.candidates), ids(&found.tested)), (vec!["HEAD_LAYOUT"], vec!["HEAD_LAYOUT", "OTHER"]));
        assert!(found.tested[0].accepted);
        for cause in [
            open(Decode, AttnOut),
            open(Prefill, MlpOut),
            Cause { candidates: vec![name("OTHER")], ..open(Prefill, AttnOut) },
        ] {
            assert_eq!(named(&memory, cause.clone()), cause);
        }
    }

    #[test]
    fn a_head_is_alike_up_to_a_fifth_of_its_norm() {
        // Of norm 5.
        assert!(is_alike(&[3.0, 5.0], &[3.0, 4.0]) && is_alike(&[2.2, 4.5], &[3.0, 4.0]));
        for other in [vec![3.0, 5.1], vec![2.0, 4.5], vec![-3.0, -4.0], vec![4.0, 3.0], vec![f64::NAN, 4.0]] {
            assert!(!is_alike(&other, &[3.0, 4.0]), "{other:?}");
        }
        assert!(!is_alike(&[3.0], &[3.0, 0.0]) && !is_alike(&[3.0, 0.0], &[3.0]));
    }
}

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
        let pos = usize::try_from(event.logical_tok_idx.or(event.pos_id)?).ok()?;
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

//! Heads in wrong places: where a projection writes them, or where the output projection reads them.

use super::{Narrowed, Outputs, clean};
use crate::cause::attention::{listed, moved};
use crate::cause::fit::distance;
use crate::cause::trial::{Expect, Trial};
use crate::oracle::replay::cases::Case;
use crate::oracle::stage::Op;
use driftprobe_model::{Model, WeightId};

/// Pairs of heads are looked for among as many.
const HEADS_MAX: usize = 64;
/// Outputs by which a pair of heads is chosen.
const FEW_OUTPUTS: usize = 32;

/// Of the stages that give heads, and the one that takes them.
pub(super) fn trials<'a>(model: &'a Model, narrowed: &Narrowed) -> Vec<Trial<'a>> {
    let config = &model.config;
    match narrowed.cases.first().map(|c| c.op) {
        Some(Op::Linear { weight: WeightId::QProj(_), .. }) => written(model, narrowed, config.num_attention_heads),
        Some(Op::Linear { weight: WeightId::KProj(_) | WeightId::VProj(_), .. }) => {
            written(model, narrowed, config.num_key_value_heads)
        }
        Some(Op::Linear { weight: WeightId::OProj(_), .. }) => read(model, narrowed),
        _ => Vec::new(),
    }
}

/// Index i of `[rows, columns]` read as `[columns, rows]`.
fn transposed(i: usize, rows: usize, columns: usize) -> usize {
    i % rows * columns + i / rows
}

/// Outputs of heads in another order, or `[head_dim, heads]` for `[heads, head_dim]` and the other way round.
fn written<'a>(model: &'a Model, narrowed: &Narrowed, heads: usize) -> Vec<Trial<'a>> {
    let width = model.config.head_dim;
    let from = |of: &dyn Fn(usize) -> usize| Outputs(narrowed.outputs.0.iter().map(|j| of(*j)).collect());
    if heads < 2 {
        return Vec::new();
    }
    let layouts = [(heads, width), (width, heads)].map(|(rows, columns)| {
        let outputs = from(&|j| transposed(j, rows, columns));
        Trial::new("HEAD_LAYOUT", clean(model, &outputs)).with("rows of", rows)
    });
    let mut all: Vec<Trial<'a>> = layouts.into();
    all.extend(order(model, narrowed, (heads, width)).map(|order| {
        let outputs = from(&|j| order.get(j / width).map_or(j, |from| from * width + j % width));
        Trial::new("HEAD_SWAP", clean(model, &outputs)).with("heads", moved(&order))
    }));
    all
}

/// Which head stands in the place of each, by the last row; none if each is in its own.
fn order(model: &Model, narrowed: &Narrowed, (heads, width): (usize, usize)) -> Option<Vec<usize>> {
    let case = narrowed.cases.last()?;
    let place = |head: usize, from: usize| {
        let own = narrowed.outputs.0.iter().enumerate().filter(|(_, j)| *j / width == head);
        let (at, outputs): (Vec<usize>, Vec<usize>) = own.map(|(at, j)| (at, from * width + j % width)).unzip();
        let few = only(case, &at);
        distance(std::slice::from_ref(&few), &clean(model, &Outputs(outputs)))
    };
    let heads_tried = heads.min(HEADS_MAX);
    let best = |head: usize| {
        let own = (0.5 * place(head, head), head);
        let others = (0..heads_tried).map(|from| (place(head, from), from));
        others.fold(own, |best, other| if other.0 < best.0 { other } else { best }).1
    };
    let order: Vec<usize> = (0..heads).map(|head| if head < heads_tried { best(head) } else { head }).collect();
    order.iter().enumerate().any(|(place, from)| place != *from).then_some(order)
}

fn only(case: &Case, at: &[usize]) -> Case {
    let mut case = case.clone();
    case.recorded = at.iter().filter_map(|i| case.recorded.get(*i).copied()).collect();
    case.task.recorded_len = case.recorded.len();
    case
}

/// Inputs of heads in another order, or laid out the other way.
fn read<'a>(model: &'a Model, narrowed: &Narrowed) -> Vec<Trial<'a>> {
    let (heads, width) = (model.config.num_attention_heads, model.config.head_dim);
    if heads < 2 {
        return Vec::new();
    }
    let layouts = [(heads, width), (width, heads)].map(|(rows, columns)| {
        let of = move |i: usize| transposed(i, rows, columns);
        Trial::new("HEAD_LAYOUT", moved_inputs(model, &narrowed.outputs, of)).with("rows of", rows)
    });
    let mut all: Vec<Trial<'a>> = layouts.into();
    let swapped = move |one: usize, other: usize| {
        move |i: usize| match i / width {
            head if head == one => other * width + i % width,
            head if head == other => one * width + i % width,
            _ => i,
        }
    };
    let few = Outputs(narrowed.outputs.0.iter().copied().take(FEW_OUTPUTS).collect());
    let at: Vec<usize> = (0..few.0.len()).collect();
    let Some(case) = narrowed.cases.last().map(|case| only(case, &at)) else { return all };
    let one = std::slice::from_ref(&case);
    let pairs = (0..heads.min(HEADS_MAX)).flat_map(|a| (0..a).map(move |b| (b, a)));
    let ranked = pairs.map(|(a, b)| (distance(one, &moved_inputs(model, &few, swapped(a, b))), (a, b)));
    let best = ranked.min_by(|a, b| a.0.total_cmp(&b.0));
    all.extend(best.map(|(_, (a, b))| {
        let expect = moved_inputs(model, &narrowed.outputs, swapped(a, b));
        Trial::new("HEAD_SWAP", expect).with("heads", listed(&[a, b]))
    }));
    all
}

/// With input `of(i)` in the place of input i.
fn moved_inputs<'a>(model: &'a Model, outputs: &Outputs, of: impl Fn(usize) -> usize + 'a) -> Expect<'a> {
    let clean = clean(model, outputs);
    Box::new(move |case| {
        let mut case = case.clone();
        for x in case.task.inputs.iter_mut().take(1) {
            *x = (0..x.len()).map(|i| x.get(of(i)).copied().unwrap_or(f64::NAN)).collect();
        }
        clean(&case)
    })
}

#[cfg(test)]
mod tests {
    use super::transposed;

    #[test]
    fn a_transposition_undoes_the_other_one() {
        for i in 0..24 {
            assert_eq!(transposed(transposed(i, 4, 6), 6, 4), i);
        }
        assert_eq!((transposed(1, 4, 6), transposed(4, 4, 6)), (6, 1));
    }
}

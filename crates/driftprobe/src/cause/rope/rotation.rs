//! The rotation done in another way: pairs and table laid out differently, turned backwards, a sign or a half lost.

use crate::cause::trial::{Expect, Trial, noisy_of};
use crate::oracle::Float;
use crate::oracle::evaluate::Expectation;
use crate::oracle::judgement::Unjudged;
use crate::oracle::noise::relative_rms;
use crate::oracle::replay::cases::Case;
use driftprobe_model::reference::{RopePrecision, RopeTable, pair};
use driftprobe_model::{Model, RopeLayout};

/// What x₁ and x₂ of a pair are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// (x₁cos − x₂sin, x₂cos + x₁sin).
    Right,
    /// (x₁cos + x₂sin, x₂cos − x₁sin).
    Backwards,
    /// (x₁cos + x₂sin, x₂cos + x₁sin).
    Unsigned,
    /// (x₁sin − x₂cos, x₂sin + x₁cos).
    Exchanged,
}

/// How a head is rotated.
#[derive(Clone, Copy, Debug)]
struct Rotation {
    /// Which values are a pair.
    pairs: RopeLayout,
    /// In which order the table holds the frequencies.
    table: RopeLayout,
    turn: Turn,
    /// Values of a head that are rotated, all of which pair with each other; the rest stays.
    width: usize,
}

/// The other layout.
pub(super) fn other(layout: RopeLayout) -> RopeLayout {
    match layout {
        RopeLayout::Half => RopeLayout::Interleaved,
        RopeLayout::Interleaved => RopeLayout::Half,
    }
}

/// All of them.
pub(super) fn trials(model: &Model) -> Vec<Trial<'_>> {
    let (own, width) = (model.config.rope.layout, model.config.head_dim);
    let other = other(own);
    let right = Rotation { pairs: own, table: own, turn: Turn::Right, width };
    let all = [
        ("pairs", other.id(), Rotation { pairs: other, ..right }),
        ("table", other.id(), Rotation { table: other, ..right }),
        ("turned", "backwards", Rotation { turn: Turn::Backwards, ..right }),
        ("turned", "without a sign", Rotation { turn: Turn::Unsigned, ..right }),
        ("turned", "by cos for sin", Rotation { turn: Turn::Exchanged, ..right }),
        ("turned", "the first half of each head", Rotation { width: width / 4 * 2, ..right }),
    ];
    let one = |(what, how, rotation): (&str, &str, Rotation)| {
        let expect: Expect<'_> = Box::new(move |case| rotated(model, case, &rotation));
        Trial::new("ROPE_LAYOUT", expect).with(what, how)
    };
    all.map(one).into()
}

/// The row as this rotation gives it. Roundings whose place is known are emulated, as the oracle does; noise is that of any
/// rotation by an angle: (x₁² + x₂²)[3(cu)² + (cu·pos·θᵢ)²(2 + i)].
fn rotated(model: &Model, case: &Case, rotation: &Rotation) -> Result<Expectation, Unjudged> {
    let mut expected = noisy_of(model, case)?;
    let (config, arithmetic) = (&model.config, &case.task.arithmetic);
    let (width, pos) = (rotation.width, case.task.pos_id as f64);
    let frequencies = config.rope.frequencies(config.head_dim);
    let table = RopeTable::new(config, case.task.pos_id, RopePrecision::F64);
    let coarse = Some(arithmetic.rope_table()?).filter(|f| *f < Float::F32);
    let inner = arithmetic.inner()?.filter(|f| *f < Float::F32);
    let product = |x: f64| inner.map_or(x, |format| format.round(x));
    let cu = relative_rms(arithmetic.elementwise()?);
    let u = Float::F32.unit_roundoff();
    let heads = case.task.input(0).chunks_exact(config.head_dim.max(1));
    let outputs = expected.y.chunks_exact_mut(config.head_dim.max(1));
    let variances = expected.variance.chunks_exact_mut(config.head_dim.max(1));
    for ((x, y), variance) in heads.zip(outputs).zip(variances) {
        y.copy_from_slice(x);
        variance.fill(0.0);
        for i in 0..width / 2 {
            let (first, second) = pair(rotation.pairs, width, i);
            for (at, partner, sign) in [(first, second, -1.0), (second, first, 1.0)] {
                // Which frequency the table has at this place.
                let of = (0..width / 2).find(|j| <[usize; 2]>::from(pair(rotation.table, width, *j)).contains(&at));
                let of = of.unwrap_or(i);
                let (Some(c), Some(s), Some(f)) = (table.cos.get(of), table.sin.get(of), frequencies.get(of)) else {
                    continue;
                };
                let error = u * (2.0 + pos * f * (2.0 + of as f64).sqrt());
                let round = |x: f64| coarse.map_or((x, 0.0), |format| format.round_doubtful(x, error));
                let ((c, c_doubt), (s, s_doubt)) = (round(*c), round(*s));
                let (own, sin) = match rotation.turn {
                    Turn::Right => (c, sign * s),
                    Turn::Backwards => (c, -sign * s),
                    Turn::Unsigned => (c, s),
                    Turn::Exchanged => (s, sign * c),
                };
                let (Some(a), Some(b)) = (x.get(at), x.get(partner)) else { continue };
                y[at] = product(a * own) + product(b * sin);
                let angle = if coarse.is_some() { 0.0 } else { (cu * pos * f).powi(2) * (2.0 + of as f64) };
                let doubt = c_doubt.max(s_doubt).powi(2);
                variance[at] = (a * a + b * b) * (3.0 * cu * cu + angle + doubt);
            }
        }
    }
    Ok(Expectation::Noisy(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_each_others_other() {
        assert_eq!(other(other(RopeLayout::Half)), RopeLayout::Half);
        assert_ne!(other(RopeLayout::Half), RopeLayout::Half);
    }
}

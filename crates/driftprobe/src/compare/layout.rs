//! Q and K of two files of the same weights: one pairs elements i and i + d/2 in the rotary embedding, the other 2i and 2i + 1,
//! and their rows hold the same values in another order.

use super::Side;
use driftprobe_model::RopeLayout;
use driftprobe_trace::{Event, Point, Row};

/// How rows of the second run come into the order of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reorder {
    /// Of the first run.
    to: RopeLayout,
    /// d.
    head_dim: usize,
}

impl Reorder {
    /// None where both have one order, or it is not known of one.
    pub(super) fn between([first, second]: &[Side<'_>; 2]) -> Option<Reorder> {
        let (to, from) = (layout(first)?, layout(second)?);
        let head_dim =
            second.oracle.map(|oracle| oracle.model.config.head_dim).or_else(|| number(second, "head_dim"))?;
        (to != from && head_dim > 0 && head_dim.is_multiple_of(2)).then_some(Reorder { to, head_dim })
    }

    /// Whether rows of the point are rotated, or are what is.
    pub(super) fn concerns(point: Point) -> bool {
        use Point::*;
        matches!(point, QProjOut | KProjOut | QPreRope | KPreRope | QPostRope | KPostRope | KCache)
    }

    /// An event of the second run whose hash and sample are of another order than the first's.
    pub(super) fn event(event: Event) -> Event {
        if Reorder::concerns(event.point) { Event { hash: None, sample: None, ..event } } else { event }
    }

    /// The row in the first run's order; none where it does not consist of whole heads.
    pub(super) fn row(self, row: &Row) -> Option<Row> {
        let (size, half) = (row.dtype.size_bytes(), self.head_dim / 2);
        let elements: Vec<&[u8]> = row.bytes().chunks_exact(size).collect();
        if !elements.len().is_multiple_of(self.head_dim) {
            return None;
        }
        let source = |at: usize| match self.to {
            RopeLayout::Half => at % half * 2 + at / half,
            RopeLayout::Interleaved => at % 2 * half + at / 2,
        };
        let heads = elements.chunks(self.head_dim);
        let bytes = heads.flat_map(|head| (0..head.len()).filter_map(move |at| head.get(source(at))));
        Row::new(row.dtype, row.shape.clone(), bytes.flat_map(|element| element.iter().copied()).collect()).ok()
    }
}

fn layout(side: &Side<'_>) -> Option<RopeLayout> {
    if let Some(oracle) = &side.oracle {
        return Some(oracle.model.config.rope.layout);
    }
    let named = side.run.manifest.as_ref()?.config.as_ref()?.get("rope_layout")?.as_str()?;
    [RopeLayout::Half, RopeLayout::Interleaved].into_iter().find(|layout| layout.id() == named)
}

fn number(side: &Side<'_>, name: &str) -> Option<usize> {
    let value = side.run.manifest.as_ref()?.config.as_ref()?.get(name)?.as_u64()?;
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_head_is_reordered_there_and_back() {
        let halves = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0];
        let pairs = [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0];
        let reordered =
            |to, values: &[f32]| Reorder { to, head_dim: 4 }.row(&Row::from_f32(values)).map(|row| row.to_f64());
        let as_f64 = |values: [f32; 8]| Some(values.map(f64::from).to_vec());
        assert_eq!(reordered(RopeLayout::Interleaved, &halves), as_f64(pairs));
        assert_eq!(reordered(RopeLayout::Half, &pairs), as_f64(halves));
        assert_eq!(reordered(RopeLayout::Half, &pairs[..7]), None);
    }
}

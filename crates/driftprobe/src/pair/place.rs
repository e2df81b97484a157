//! Where a row stands in the search for the first failure: prompt, then position, then layer, then point.
//!
//! Embedding comes before layer 0, the last norm and the logits after the last layer. Counts of codes play no part: an
//! `ATTN_OUT_DRIFT` at layer 0 precedes a `Q_PRE_ROPE_DRIFT` at layer 4, however many of the latter there are.

use driftprobe_trace::{Event, Point};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sort key of a row; the derived order is the order of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Rank of the prompt: manifest order, then the prompts the manifest does not name, by id.
    pub prompt: usize,
    /// Position of the token; where the row names none, the smallest that is known of its prompt.
    pub position: u64,
    /// Where in the forward pass the layer stands.
    pub part: Part,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point.
    pub point: Point,
}

/// The three parts of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Before the first layer.
    Embedding,
    /// A layer.
    Layer,
    /// After the last layer.
    Head,
}

impl Part {
    /// The part a point belongs to.
    pub fn of(point: Point) -> Part {
        match (point.layered(), point) {
            (true, _) => Part::Layer,
            (false, Point::EmbedOut) => Part::Embedding,
            (false, _) => Part::Head,
        }
    }
}

/// Gives every event its [`Place`], independent of the order in which the events were read.
#[derive(Clone, Debug, Default)]
pub struct Places {
    ranks: BTreeMap<Arc<str>, usize>,
    first_position: BTreeMap<Arc<str>, u64>,
}

impl Places {
    /// Ranks prompts: `named` (the manifest's order) first, then those only events name.
    pub fn new<'a>(named: impl Iterator<Item = &'a str>, events: &[Event]) -> Places {
        let mut places = Places::default();
        for id in named {
            let rank = places.ranks.len();
            places.ranks.entry(Arc::from(id)).or_insert(rank);
        }
        let mut others: Vec<&Arc<str>> = events.iter().map(|event| &event.prompt_id).collect();
        others.sort_unstable();
        others.dedup();
        for id in others {
            let rank = places.ranks.len();
            places.ranks.entry(id.clone()).or_insert(rank);
        }
        for event in events {
            if let Some(position) = event.position() {
                let first = places.first_position.entry(event.prompt_id.clone()).or_insert(position);
                *first = position.min(*first);
            }
        }
        places
    }

    /// Rank of a prompt; an unknown one comes last.
    pub fn rank(&self, prompt_id: &str) -> usize {
        self.ranks.get(prompt_id).copied().unwrap_or(usize::MAX)
    }

    /// The place of an event.
    pub fn of(&self, event: &Event) -> Place {
        Place {
            prompt: self.rank(&event.prompt_id),
            position: event.position().or_else(|| self.first_position.get(&event.prompt_id).copied()).unwrap_or(0),
            part: Part::of(event.point),
            layer: event.layer,
            point: event.point,
        }
    }
}

/// An event's place in words: `p0_short, position 37, layer 0, attn_out`.
pub fn describe(event: &Event) -> String {
    describe_row(&event.prompt_id, event.position(), event.layer, &event.point_spelling)
}

/// A row's place in words.
pub fn describe_row(prompt_id: &str, position: Option<u64>, layer: i32, point: &str) -> String {
    let mut out = prompt_id.to_owned();
    if let Some(position) = position {
        out.push_str(&format!(", position {position}"));
    }
    if layer >= 0 {
        out.push_str(&format!(", layer {layer}"));
    }
    out + ", " + point
}

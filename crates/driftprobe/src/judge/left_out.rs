//! What a recording left out on purpose, counted on its events and said in words.

use driftprobe_trace::{LeftOutBy, Run};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What was left out of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Why.
    pub by: LeftOutBy,
    /// Bytes that the recording might take, if it was limited.
    pub budget_bytes: Option<u64>,
    /// Rows, of both phases, that are not kept whole.
    pub rows: u64,
    /// Rows in all.
    pub of_rows: u64,
    /// Layers with such rows.
    pub layers: Vec<i32>,
    /// Layers in all.
    pub of_layers: u64,
    /// Values that the largest sample holds, and of how many.
    pub largest_sample: (u64, u64),
    /// Values known of all such rows together, and of how many.
    pub values: (u64, u64),
}

impl LeftOut {
    /// What the run's manifest says was left out, as its events have it; none where nothing was.
    pub fn of(run: &Run) -> Option<LeftOut> {
        let recording = run.manifest.as_ref()?.recording.as_ref()?;
        let (mut layers, mut all_layers) = (BTreeSet::new(), BTreeSet::new());
        let (mut rows, mut values, mut largest) = (0, (0u64, 0u64), (0, 0));
        for event in &run.events {
            if event.layer >= 0 {
                all_layers.insert(event.layer);
            }
            if event.payload.is_some() || !recording.is_left_out(event.point, event.layer) {
                continue;
            }
            rows += 1;
            if event.layer >= 0 {
                layers.insert(event.layer);
            }
            let known = event.sample.as_ref().map_or(0, |sample| sample.values.len() as u64);
            let of = event.elements().unwrap_or(0);
            values = (values.0 + known, values.1.saturating_add(of));
            largest = largest.max((known, of));
        }
        (rows > 0).then(|| LeftOut {
            by: recording.by,
            budget_bytes: recording.bytes,
            rows,
            of_rows: run.events.len() as u64,
            layers: layers.into_iter().collect(),
            of_layers: all_layers.len() as u64,
            largest_sample: largest,
            values,
        })
    }

    /// `rows at 12 of 24 layers (1 to 11, 13) known by samples, at most 64 of 4096 values of a row: …`.
    pub fn in_words(&self) -> String {
        let why = match (self.by, self.budget_bytes) {
            (LeftOutBy::Budget, Some(bytes)) => format!("within {bytes} bytes, "),
            (LeftOutBy::Budget, None) => String::new(),
            (LeftOutBy::FirstPass, _) => "in the first of two passes, ".to_owned(),
        };
        let layers = match self.layers.is_empty() {
            true => String::new(),
            false => format!(" at {} of {} layers ({})", self.layers.len(), self.of_layers, ranges(&self.layers)),
        };
        let ((known, of), (all_known, all)) = (self.largest_sample, self.values);
        format!(
            "{why}{} of {} rows{layers} are known by statistics, hashes and samples only, at most {known} of a row's {of} \
             values, {all_known} of {all} in all; nothing is said of the others by themselves",
            self.rows, self.of_rows
        )
    }
}

/// `0 to 3, 5, 7 to 9`.
pub(crate) fn ranges(layers: &[i32]) -> String {
    let mut parts: Vec<(i32, i32)> = vec![];
    for layer in layers {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*layer) => *last = *layer,
            _ => parts.push((*layer, *layer)),
        }
    }
    let one = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    parts.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn layers_are_said_in_as_few_words_as_they_take() {
        assert_eq!(ranges(&[0, 1, 2, 3, 5, 7, 8]), "0 to 3, 5, 7, 8");
        assert_eq!(ranges(&[]), "");
    }
}

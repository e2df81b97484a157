//! What tracing does to an engine: both phases once more without a tap, and their logits against the traced ones.

use super::choose::hash_of;
use super::{Pass, Recorder};
use crate::tap::Tap;
use crate::{EngineError, Session};
use driftprobe_trace::{LogitsCompared, PromptInfo};

impl Recorder<'_> {
    /// Runs both phases of a prompt untraced. `traced` are the logits of prefill and of decode. What was computed untraced
    /// already, to choose tokens, is computed again only if it was not the same.
    pub(super) fn unwatched(
        &mut self,
        aligned: Option<&dyn Session>,
        (index, prompt): (usize, &PromptInfo),
        first: usize,
        traced: [&[f32]; 2],
    ) -> Result<(), EngineError> {
        let engine = self.engine;
        let prefill = {
            let mut rows = self.rows(vec![], &prompt.id, (Pass::Prefill, 0));
            let mut session = engine.unwatched_session()?;
            session.prefill(&prompt.tokens, first..prompt.tokens.len(), &mut Tap::watched(&mut rows))?
        };
        let vocab = engine.vocab();
        let hashes: Vec<u64> = traced[1].chunks(vocab.max(1)).map(hash_of).collect();
        let known = self.chosen.get(index).filter(|_| self.decodes_as_chosen());
        let same = known.is_some_and(|known| *known == hashes);
        let mut decode = match same {
            true => traced[1].to_vec(),
            false => self.decode(aligned, None, (index, prompt), (first, 0))?,
        };
        let known = self.chosen.get(index).filter(|_| self.decodes_as_chosen());
        for (row, hash) in decode.chunks_mut(vocab.max(1)).zip(known.into_iter().flatten()) {
            // Computed without a tap twice, and not alike: how far that is from the traced row is not known.
            if hash_of(row) != *hash {
                row.fill(f32::NAN);
            }
        }
        add(&mut self.observer.prefill, (traced[0], &prefill), vocab);
        add(&mut self.observer.decode, (traced[1], &decode), vocab);
        Ok(())
    }
}

/// Adds rows of `vocab` logits. Rows that one side lacks count, and are not equal.
fn add(compared: &mut LogitsCompared, (traced, untraced): (&[f32], &[f32]), vocab: usize) {
    let rows = traced.len().max(untraced.len()).div_ceil(vocab.max(1));
    let row = |all: &[f32], at: usize| all.chunks(vocab.max(1)).nth(at).unwrap_or_default().to_vec();
    let mut largest = compared.max_abs.unwrap_or(if compared.rows == 0 { 0.0 } else { f64::NAN });
    for at in 0..rows {
        let (a, b) = (row(traced, at), row(untraced, at));
        let same = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
        compared.rows += 1;
        compared.equal += u64::from(same);
        for (a, b) in a.iter().zip(&b).filter(|(a, b)| a.to_bits() != b.to_bits()) {
            let distance = (f64::from(*a) - f64::from(*b)).abs();
            // Once NaN, always NaN.
            largest = if largest.is_nan() || distance.is_nan() { f64::NAN } else { largest.max(distance) };
        }
    }
    compared.max_abs = Some(largest).filter(|largest| largest.is_finite());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_seen_and_nothing_equal_counts_as_different() {
        let mut compared = LogitsCompared::default();
        add(&mut compared, (&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0]), 2);
        assert_eq!((compared.rows, compared.equal, compared.max_abs), (2, 2, Some(0.0)));
        add(&mut compared, (&[1.0, 2.0], &[1.0, 2.5]), 2);
        assert_eq!((compared.rows, compared.equal, compared.max_abs), (3, 2, Some(0.5)));
        add(&mut compared, (&[1.0, f32::NAN], &[1.0, 0.0]), 2);
        assert_eq!((compared.rows, compared.equal, compared.max_abs), (4, 2, None));
        add(&mut compared, (&[1.0, 2.0], &[1.0, 2.0]), 2);
        assert_eq!((compared.equal, compared.max_abs), (3, None), "what was not finite stays so");
    }

    #[test]
    fn rows_that_one_side_lacks_are_not_equal() {
        let mut compared = LogitsCompared::default();
        add(&mut compared, (&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0]), 2);
        assert_eq!((compared.rows, compared.equal), (2, 1));
    }
}

//! One call's tokens, as llama.cpp takes them.

use llama_cpp_sys_2 as sys;
use std::ops::Range;

/// Tokens of one sequence at consecutive positions, and which of their outputs are wanted.
pub struct Batch {
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    outputs: Vec<i8>,
}

impl Batch {
    /// Tokens from position `first`, with the outputs of the positions in `flagged`. None if a number does not fit.
    pub fn new(tokens: &[u32], first: usize, flagged: &Range<usize>) -> Option<Batch> {
        let end = first.checked_add(tokens.len())?;
        Some(Batch {
            tokens: tokens.iter().map(|t| i32::try_from(*t).ok()).collect::<Option<_>>()?,
            positions: (first..end).map(|pos| i32::try_from(pos).ok()).collect::<Option<_>>()?,
            outputs: (first..end).map(|pos| i8::from(flagged.contains(&pos))).collect(),
        })
    }

    /// As llama.cpp takes it: pointers into this batch, which must outlive their use. All tokens are of sequence 0.
    pub fn raw(&mut self) -> sys::llama_batch {
        sys::llama_batch {
            n_tokens: i32::try_from(self.tokens.len()).unwrap_or(0),
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: std::ptr::null_mut(),
            seq_id: std::ptr::null_mut(),
            logits: self.outputs.as_mut_ptr(),
        }
    }
}

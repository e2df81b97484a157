//! The tokens behind a prompt: the engine's own greedy choice, by a decode that nobody taps.

use super::{Pass, Recorder};
use crate::EngineError;
use crate::tap::Tap;
use driftprobe_trace::{Mode, PromptInfo, xxh3_64};

impl Recorder<'_> {
    /// Whether choosing tokens computes what the run's own decode does, but for the tap.
    pub(super) fn decodes_as_chosen(&self) -> bool {
        self.both || self.plan.mode == Mode::AsDesigned
    }

    /// Each prompt with the k − 1 tokens that the engine itself chooses behind it.
    pub(super) fn extended_prompts(&mut self) -> Result<Vec<PromptInfo>, EngineError> {
        let mut prompts = self.plan.prompts.clone();
        if self.plan.chosen() == 0 {
            return Ok(prompts);
        }
        for prompt in &mut prompts {
            let (tokens, hashes) = self.choose(prompt)?;
            prompt.tokens.extend(tokens);
            self.chosen.push(hashes);
        }
        Ok(prompts)
    }

    /// Decodes a prompt's last token and what follows, untraced: the tokens, and hashes of the logits of all steps.
    fn choose(&mut self, prompt: &PromptInfo) -> Result<(Vec<u32>, Vec<u64>), EngineError> {
        let engine = self.engine;
        let session = &mut *engine.unwatched_session()?;
        let Some((last, before)) = prompt.tokens.split_last() else { return Ok((vec![], vec![])) };
        self.feed(session, &prompt.id, before, 0)?;
        let (mut token, mut tokens, mut hashes) = (*last, vec![], vec![]);
        loop {
            let mut rows = self.rows(vec![], &prompt.id, (Pass::Decode(Mode::AsDesigned), 0));
            let logits = session.decode(token, &mut Tap::watched(&mut rows))?;
            hashes.push(hash_of(&logits));
            if hashes.len() == self.plan.steps {
                return Ok((tokens, hashes));
            }
            token = greedy(&logits);
            tokens.push(token);
        }
    }
}

/// Hash of a row of logits.
pub(super) fn hash_of(logits: &[f32]) -> u64 {
    xxh3_64(&logits.iter().flat_map(|logit| logit.to_le_bytes()).collect::<Vec<_>>())
}

/// The token with the largest logit; the first of equals.
pub fn greedy(logits: &[f32]) -> u32 {
    let best =
        logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, l)| if *l > best.1 { (i, *l) } else { best });
    u32::try_from(best.0).unwrap_or(u32::MAX)
}

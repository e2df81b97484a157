//! Whole generations of an engine: decode generates and scores, and one prefill of the whole scores again.

use crate::progress::TerminalWatcher;
use driftprobe::logprobs::logprob;
use driftprobe::simulate::uniform;
use driftprobe_engine::record::{Progress, Watcher, greedy};
use driftprobe_engine::{Engine, EngineError, Receiver, Session, Tap, TappedRow};
use driftprobe_trace::{Phase, PromptInfo};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Tokens behind each prompt.
    pub tokens: usize,
    /// 0: the likeliest.
    pub temperature: f64,
    /// Of the draws.
    pub seed: u64,
}

impl Sampling {
    /// In words.
    pub fn says(&self) -> String {
        let Sampling { tokens, temperature, seed } = *self;
        match temperature {
            0.0 => format!("{tokens} behind each prompt, the likeliest each time"),
            _ => format!(
                "{tokens} behind each prompt, drawn at temperature {temperature} with seed {seed}; log-probabilities are \
                 those at temperature 1"
            ),
        }
    }

    /// The token that follows.
    fn choose(&self, logits: &[f32], place: [u64; 2]) -> u32 {
        if self.temperature == 0.0 {
            return greedy(logits);
        }
        let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, logit| largest.max(f64::from(*logit)));
        let weight = |logit: &f32| ((f64::from(*logit) - largest) / self.temperature).exp();
        let target = uniform(self.seed, &place) * logits.iter().map(weight).sum::<f64>();
        let mut sum = 0.0;
        let reached = logits.iter().position(|logit| {
            sum += weight(logit);
            sum >= target
        });
        // What is no number chooses nothing, and shows in the scores.
        reached.and_then(|at| u32::try_from(at).ok()).unwrap_or_else(|| greedy(logits))
    }
}

/// One sequence, scored by both phases.
pub struct Generated {
    /// Its prompt's id.
    pub id: String,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// All tokens: the prompt's, and those generated.
    pub tokens: Vec<u32>,
    /// ln p of each generated token by prefill.
    pub prefill: Vec<f64>,
    /// The same by decode, as it generated them.
    pub decode: Vec<f64>,
}

/// Tells of the progress, and hears that it should end.
struct Follower<'a> {
    watcher: &'a mut TerminalWatcher,
    id: &'a str,
    phase: Phase,
    done: &'a mut u64,
    total: u64,
}

impl Receiver for Follower<'_> {
    fn row(&mut self, _: TappedRow) -> Result<(), EngineError> {
        Ok(())
    }

    fn layer(&mut self, layer: usize, tokens: usize) -> Result<(), EngineError> {
        let (prompt_id, phase, done, total) = (self.id, self.phase, *self.done, self.total);
        let progress = Progress { prompt_id, phase, repeat: 0, layer, done, total };
        *self.done += tokens as u64;
        if self.watcher.go_on(&progress) { Ok(()) } else { Err(EngineError::Interrupted) }
    }
}

/// Generates behind every prompt; nobody taps.
///
/// # Errors
/// When the engine fails, or somebody asks to stop.
pub fn generate(
    engine: &dyn Engine,
    prompts: &[PromptInfo],
    sampling: &Sampling,
) -> Result<Vec<Generated>, EngineError> {
    let tokens = |prompt: &PromptInfo| 2 * (prompt.tokens.len() + sampling.tokens - 1);
    let total = (prompts.iter().map(tokens).sum::<usize>() * engine.layers()) as u64;
    let mut watcher = TerminalWatcher::new();
    let mut done = 0;
    let one = |(number, prompt): (usize, &PromptInfo)| {
        let id = prompt.id.as_str();
        let mut follower = Follower { watcher: &mut watcher, id, phase: Phase::Decode, done: &mut done, total };
        let (tokens, decode) = rollout(engine, &prompt.tokens, (number as u64, sampling), &mut follower)?;
        follower.phase = Phase::Prefill;
        let first = prompt.tokens.len();
        let prefill = score(engine, &tokens, first, &mut follower)?;
        Ok(Generated { id: prompt.id.clone(), prompt: first, tokens, prefill, decode })
    };
    let all = prompts.iter().enumerate().map(one).collect();
    watcher.finish();
    all
}

/// All tokens, and decode's scores of those that it has generated. Decode feeds the prompt's last token too, so that every
/// score is decode's.
fn rollout(
    engine: &dyn Engine,
    prompt: &[u32],
    (number, sampling): (u64, &Sampling),
    follower: &mut Follower<'_>,
) -> Result<(Vec<u32>, Vec<f64>), EngineError> {
    let session: &mut dyn Session = &mut *engine.unwatched_session()?;
    let mut tokens = prompt.to_vec();
    let (mut scores, mut fed) = (Vec::with_capacity(sampling.tokens), 0);
    if let Some((last, before)) = prompt.split_last() {
        if !before.is_empty() {
            session.prefill(before, 0..0, &mut Tap::watched(follower))?;
        }
        fed = *last;
    }
    for step in 0..sampling.tokens {
        let logits = session.decode(fed, &mut Tap::watched(follower))?;
        fed = sampling.choose(&logits, [number, step as u64]);
        scores.push(logprob(&logits, fed));
        tokens.push(fed);
    }
    Ok((tokens, scores))
}

/// Prefill's scores of the tokens from `first` on.
fn score(
    engine: &dyn Engine,
    tokens: &[u32],
    first: usize,
    follower: &mut Follower<'_>,
) -> Result<Vec<f64>, EngineError> {
    let Some((_, fed)) = tokens.split_last() else { return Ok(Vec::new()) };
    let session: &mut dyn Session = &mut *engine.unwatched_session()?;
    let logits = session.prefill(fed, first.saturating_sub(1)..fed.len(), &mut Tap::watched(follower))?;
    let rows = logits.chunks_exact(engine.vocab().max(1));
    Ok(rows.zip(tokens.iter().skip(first)).map(|(row, token)| logprob(row, *token)).collect())
}

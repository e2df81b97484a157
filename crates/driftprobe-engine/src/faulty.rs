//! The faulty engine: the embedded one with one real fault, which propagates as it would in any engine.
//!
//! A fault replaces one stage of the forward pass in one phase (or both) and one layer (or all); everything else is the
//! clean engine's own code, and the tap shows honestly what was computed. It knows nothing of how faults are looked for.
//!
//! A fault of the decode phase is not in the prefill that fills decode's cache, and a fault of the prefill phase alone is
//! not in it either, so that the other phase is always the clean engine's, bit for bit. A fault of both phases is there too.
//! Faults of reading the cache leave the cache itself alone: [`Session::kv`] gives what was written.
//!
//! | group | what it replaces |
//! |---|---|
//! | [`RopeFault`] | the rotary embedding of Q and K |
//! | [`MaskFault`] | which keys a row sees |
//! | [`CacheFault`] | what goes into the cache, or what attention gets from it |
//! | [`HeadsFault`] | which head is which |
//! | [`ScoresFault`] | scale, soft cap and softmax |
//! | [`NormFault`] | a norm |
//! | [`LinearFault`] | a matrix |
//! | [`MlpFault`] | the MLP's wiring, and the residual adds |
//! | [`EndsFault`] | embedding and output matrix |

mod cache;
mod ends;
mod fault;
mod heads;
mod linear;
mod mask;
mod mlp;
mod names;
mod norm;
mod rope;
mod scoped;
mod scores;

pub use crate::embedded::interference::{Matrix, Norm, Residual};
pub use cache::{CacheFault, Part, Precision};
pub use ends::EndsFault;
pub use fault::{Fault, FaultKind, Scope, Subject};
pub use heads::HeadsFault;
pub use linear::LinearFault;
pub use mask::MaskFault;
pub use mlp::{MlpFault, Swap, WrongActivation};
pub use norm::NormFault;
pub use rope::RopeFault;
pub use scores::{Cap, ScoresFault};

use crate::embedded::EmbeddedEngine;
use crate::embedded::interference::NoInterference;
use crate::embedded::session::EmbeddedSession;
use crate::settings::Settings;
use crate::tap::Tap;
use crate::{Engine, EngineError, KvRows, Session};
use driftprobe_trace::{Contract, EngineInfo, Phase, Point};
use fault::Workshop;
use scoped::Scoped;
use std::ops::Range;

/// The embedded engine with one fault.
pub struct FaultyEngine {
    clean: EmbeddedEngine,
    fault: Fault,
    interference: Scoped,
}

impl FaultyEngine {
    /// Readies a model and the fault. Rows of another sequence, where the fault needs such, are those of `donor`.
    ///
    /// # Errors
    /// As [`EmbeddedEngine::new`], and when the fault does not apply to the subject.
    pub fn with_donor(subject: &Subject<'_>, fault: Fault, donor: &[u32]) -> Result<FaultyEngine, EngineError> {
        fault.applies(subject).map_err(|why| {
            EngineError::request(format!("{fault}: {why}"), "choose a fault that the model and the settings can have")
        })?;
        let clean = EmbeddedEngine::new(subject.model, subject.settings.clone())?;
        let workshop = Workshop { subject: *subject, scope: fault.scope, clean: &clean, donor };
        let interference = Scoped { scope: fault.scope, fault: fault.build(&workshop)? };
        Ok(FaultyEngine { clean, fault, interference })
    }

    /// As [`FaultyEngine::with_donor`], with a sequence that has nothing to do with any prompt.
    ///
    /// # Errors
    /// As there.
    pub fn new(subject: &Subject<'_>, fault: Fault) -> Result<FaultyEngine, EngineError> {
        let vocab = subject.config().vocab_size;
        let donor = (0..subject.tokens + 1).map(|i| u32::try_from((i * 37 + 11) % vocab).unwrap_or(0));
        FaultyEngine::with_donor(subject, fault, &donor.collect::<Vec<_>>())
    }

    /// The fault.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        self.clean.settings()
    }
}

impl Engine for FaultyEngine {
    /// The clean engine's, under another name, and the fault.
    fn info(&self) -> EngineInfo {
        let mut info = self.clean.info();
        info.name = Some("driftprobe-faulty".to_owned());
        info.extra.insert("fault".to_owned(), self.fault.to_string().into());
        info
    }

    /// What the engine would claim if it knew nothing of its fault.
    fn contract(&self) -> Contract {
        self.clean.contract()
    }

    fn points(&self, phase: Phase) -> Vec<Point> {
        self.clean.points(phase)
    }

    fn layers(&self) -> usize {
        self.clean.layers()
    }

    fn vocab(&self) -> usize {
        self.clean.vocab()
    }

    fn session(&self) -> Result<Box<dyn Session + '_>, EngineError> {
        Ok(Box::new(FaultySession { session: self.clean.session_with(&self.interference)?, engine: self }))
    }
}

struct FaultySession<'m> {
    session: EmbeddedSession<'m>,
    engine: &'m FaultyEngine,
}

impl Session for FaultySession<'_> {
    fn len(&self) -> usize {
        self.session.len()
    }

    /// A prefill that is asked for no logits only fills the cache for a decode. A fault of the prefill phase alone is
    /// not in it: the decode phase is then the clean engine's, bit for bit.
    fn prefill(&mut self, tokens: &[u32], logits: Range<usize>, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError> {
        let spared = logits.is_empty() && self.engine.fault.scope.phase == Some(Phase::Prefill);
        self.session.interference = if spared { &NoInterference } else { &self.engine.interference };
        let result = self.session.prefill(tokens, logits, tap);
        self.session.interference = &self.engine.interference;
        result
    }

    fn decode(&mut self, token: u32, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError> {
        self.session.decode(token, tap)
    }

    fn kv(&self, layer: usize, rows: Range<usize>) -> Result<KvRows, EngineError> {
        self.session.kv(layer, rows)
    }

    fn set_kv(&mut self, layer: usize, first: usize, rows: &KvRows) -> Result<(), EngineError> {
        self.session.set_kv(layer, first, rows)
    }
}

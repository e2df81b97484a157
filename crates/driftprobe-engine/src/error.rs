//! What can go wrong while an engine runs.

use driftprobe_model::ModelError;
use driftprobe_trace::TraceError;

/// Why an engine could not go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The tensor library or the device failed.
    #[error("tensor library: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The model's files are not what they should be.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The run could not be written.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The request makes no sense for this model.
    #[error("{what}")]
    Request {
        /// What is wrong, with the offending value.
        what: String,
        /// What to ask for instead.
        hint: String,
    },
    /// An engine that is not ours failed.
    #[error("{what}")]
    Foreign {
        /// What it says.
        what: String,
        /// What to try.
        hint: String,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl EngineError {
    /// A request that makes no sense, and what to ask for instead.
    pub fn request(what: impl Into<String>, hint: impl Into<String>) -> Self {
        EngineError::Request { what: what.into(), hint: hint.into() }
    }

    /// A remedy, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            EngineError::Request { hint, .. } | EngineError::Foreign { hint, .. } => Some(hint.clone()),
            EngineError::Model(e) => e.hint(),
            EngineError::Trace(e) => Some(e.hint().to_owned()),
            EngineError::Tensor(_) | EngineError::Interrupted => None,
        }
    }
}

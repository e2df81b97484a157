//! One mode of a recording on its way to its folder.

use crate::EngineError;
use driftprobe_trace::{Manifest, Mode, PromptInfo, RunWriter};
use std::path::PathBuf;

/// A run, or a repeat of one, that is being written.
pub(super) struct Output {
    pub(super) mode: Mode,
    pub(super) writer: RunWriter,
    /// As it was when the recording began.
    manifest: Manifest,
}

impl Output {
    /// Takes the folder.
    pub(super) fn start(mode: Mode, dir: PathBuf, base: Manifest, overwrite: bool) -> Result<Output, EngineError> {
        let begin = if overwrite { RunWriter::overwrite } else { RunWriter::create };
        let manifest = Manifest { mode: Some(mode), ..base };
        let writer = begin(&dir, manifest.clone())?;
        Ok(Output { mode, writer, manifest })
    }

    /// Begins anew, with a manifest that says what is recorded.
    pub(super) fn promise(&mut self, prompts: Vec<PromptInfo>) -> Result<(), EngineError> {
        self.manifest.prompts = Some(prompts);
        self.writer.restart(self.manifest.clone())?;
        Ok(())
    }

    /// What is recorded.
    pub(super) fn prompts(&self) -> Vec<PromptInfo> {
        self.manifest.prompts.clone().unwrap_or_default()
    }

    /// A repeat of this run, in its own folder.
    pub(super) fn repeat(&self, repeat: u32) -> Result<Output, EngineError> {
        let manifest = Manifest { repeat, repeats: None, modes: None, ..self.manifest.clone() };
        let writer = self.writer.inside(&format!("repeat-{repeat}"), manifest.clone())?;
        Ok(Output { mode: self.mode, writer, manifest })
    }

    /// Ends it.
    pub(super) fn finish(self, complete: bool) -> Result<Manifest, EngineError> {
        Ok(self.writer.finish(complete)?)
    }
}

//! One mode of a recording on its way to its folder.

use crate::EngineError;
use driftprobe_trace::{Manifest, Mode, PromptInfo, RunWriter};
use std::path::PathBuf;

/// A run, or a repeat of one, that is being written.
pub(super) struct Output {
    pub(super) mode: Mode,
    pub(super) writer: RunWriter,
    dir: PathBuf,
}

impl Output {
    /// Takes the folder.
    pub(super) fn start(mode: Mode, dir: PathBuf, base: Manifest, overwrite: bool) -> Result<Output, EngineError> {
        let begin = if overwrite { RunWriter::overwrite } else { RunWriter::create };
        let writer = begin(&dir, Manifest { mode: Some(mode), ..base })?;
        Ok(Output { mode, writer, dir })
    }

    /// Begins anew, with a manifest that says what is recorded.
    pub(super) fn promise(&mut self, prompts: Vec<PromptInfo>) -> Result<(), EngineError> {
        let manifest = Manifest { prompts: Some(prompts), ..self.writer.manifest().clone() };
        self.writer = RunWriter::overwrite(&self.dir, manifest)?;
        Ok(())
    }

    /// What is recorded.
    pub(super) fn prompts(&self) -> Vec<PromptInfo> {
        self.writer.manifest().prompts.clone().unwrap_or_default()
    }

    /// A repeat of this run, in its own folder.
    pub(super) fn repeat(&self, repeat: u32) -> Result<Output, EngineError> {
        let manifest = Manifest { repeat, observer: None, ..self.writer.manifest().clone() };
        let dir = self.dir.join(format!("repeat-{repeat}"));
        Ok(Output { mode: self.mode, writer: RunWriter::overwrite(&dir, manifest)?, dir })
    }

    /// Ends it.
    pub(super) fn finish(self, complete: bool) -> Result<Manifest, EngineError> {
        Ok(self.writer.finish(complete)?)
    }
}

//! Writing the payloads of one prompt and phase, compressed where that is asked for and pays.

use super::{Pending, RunWriter};
use crate::filename::FileNames;
use crate::folder::replace_file;
use crate::packed::{PACKED_SUFFIX, pack};
use crate::run::TENSORS_DIR;
use crate::tensors::{self, Tensor};
use crate::{Compression, PayloadRef, TraceError};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

impl RunWriter {
    pub(super) fn write_payloads(&mut self, pending: &mut Pending) -> Result<(), TraceError> {
        if pending.rows.iter().all(|(_, row)| row.is_none()) {
            return Ok(());
        }
        let stem = self.names.unique(&pending.prompt_id, &format!(".{}.safetensors", pending.phase));
        let mut file = format!("{TENSORS_DIR}/{stem}");
        let mut keys = FileNames::default();
        let mut list = Vec::new();
        let mut named = Vec::new();
        for (at, (event, row)) in pending.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            let row_index = event.logical_tok_idx.unwrap_or_default();
            let key: Arc<str> = Arc::from(keys.unique_key(format!("{}.{}.{row_index}", event.point, event.layer)));
            list.push(((event.layer, event.point, row_index), Tensor { key: key.clone(), row }));
            named.push((at, key));
        }
        if self.compress {
            // A cache is that of the position before and one row more: what is alike lies side by side.
            list.sort_by_key(|(place, _)| *place);
        }
        let list: Vec<Tensor<'_>> = list.into_iter().map(|(_, tensor)| tensor).collect();
        let path = self.dir.join(&file);
        let laid = tensors::lay_out(&list).map_err(|e| TraceError::io("write", &path)(e.into()))?;
        let plain = laid.len();
        let packed = if self.compress { pack(&laid) } else { None };
        let bytes = packed.as_ref().map_or(plain, |packed| packed.len() as u64);
        self.count(bytes, &path)?;
        match &packed {
            None => tensors::write(&path, &laid).map_err(TraceError::io("write", &path))?,
            Some(packed) => {
                file.push_str(PACKED_SUFFIX);
                let path = self.dir.join(&file);
                replace_file(&path, |out| out.write_all(packed)).map_err(TraceError::io("write", &path))?;
            }
        }
        if self.compress {
            let said = self.manifest.compression.get_or_insert_with(Compression::default);
            said.files += u64::from(packed.is_some());
            said.files_left_plain += u64::from(packed.is_none());
            said.plain_bytes += plain;
            said.bytes += bytes;
        }
        let file: Arc<str> = Arc::from(file);
        for (at, key) in named {
            if let Some((event, _)) = pending.rows.get_mut(at) {
                event.payload = Some(PayloadRef { file: file.clone(), key });
            }
        }
        Ok(())
    }

    /// Counts bytes that are about to be written, if they may be.
    pub(super) fn count(&mut self, next: u64, path: &Path) -> Result<(), TraceError> {
        let all = self.written.saturating_add(next);
        match self.limit.filter(|limit| all > *limit) {
            Some(limit) => Err(TraceError::Limit { path: path.to_owned(), next, limit }),
            None => {
                self.written = all;
                Ok(())
            }
        }
    }
}

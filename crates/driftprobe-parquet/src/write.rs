//! Writing one file of events: row groups of bounded size that end where a prompt does.

use crate::buffer::Buffer;
use crate::columns::{COLUMNS, Entry, Kind, PAYLOAD, schema};
use crate::error::parquet_error;
use driftprobe_trace::TraceError;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::Result;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a group from which on it ends with its prompt: smaller ones would cost more in the file's footer than they hold.
const GROUP_ROWS_MIN: usize = 1024;

/// Rows of a group at most, however long its prompt is.
const GROUP_ROWS_MAX: usize = 65_536;

/// Bytes of a group's values beyond which it ends, wherever that is.
const GROUP_BYTES_MAX: usize = 64 << 20;

/// Columns that people select by; the file says their smallest and largest value for each row group.
const SELECTED_BY: &[&str] = &["event", "prompt_id", "phase", "point", "layer", "step", "pos_id", "logical_tok_idx"];

/// A file that is being written.
pub struct Writer {
    path: PathBuf,
    file: SerializedFileWriter<BufWriter<File>>,
    buffers: Vec<Buffer>,
    prompt: String,
    rows_pending: usize,
    /// Rows so far.
    pub rows: u64,
}

impl Writer {
    /// Starts a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path) -> std::result::Result<Writer, TraceError> {
        let file = BufWriter::new(File::create(path).map_err(TraceError::io("write", path))?);
        let started = schema()
            .and_then(|schema| Ok((schema, properties()?)))
            .and_then(|(schema, properties)| SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)));
        let file = started.map_err(parquet_error(path, ""))?;
        let buffers = buffers();
        Ok(Writer { path: path.to_owned(), file, buffers, prompt: String::new(), rows_pending: 0, rows: 0 })
    }

    /// Adds one row, which is of this prompt.
    ///
    /// # Errors
    /// What the system says.
    pub fn push(&mut self, entry: &Entry<'_>, prompt: &str) -> std::result::Result<(), TraceError> {
        let bytes: usize = self.buffers.iter().map(Buffer::bytes).sum();
        let full = self.rows_pending >= GROUP_ROWS_MAX || bytes >= GROUP_BYTES_MAX;
        if full || (self.rows_pending >= GROUP_ROWS_MIN && prompt != self.prompt) {
            self.flush()?;
        }
        if prompt != self.prompt {
            prompt.clone_into(&mut self.prompt);
        }
        for (column, buffer) in COLUMNS.iter().zip(&mut self.buffers) {
            buffer.push((column.get)(entry));
        }
        self.rows_pending += 1;
        self.rows += 1;
        Ok(())
    }

    /// Writes what is pending and the footer; bytes of the file.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(mut self) -> std::result::Result<u64, TraceError> {
        self.flush()?;
        let Writer { path, file, .. } = self;
        let file = file.into_inner().map_err(parquet_error(&path, ""))?;
        let file = file.into_inner().map_err(|e| TraceError::io("write", &path)(e.into_error()))?;
        file.sync_all().map_err(TraceError::io("write", &path))?;
        Ok(file.metadata().map_err(TraceError::io("write", &path))?.len())
    }

    fn flush(&mut self) -> std::result::Result<(), TraceError> {
        if self.rows_pending == 0 {
            return Ok(());
        }
        self.rows_pending = 0;
        let pending = std::mem::replace(&mut self.buffers, buffers());
        let mut write = || -> Result<()> {
            let mut group = self.file.next_row_group()?;
            for buffer in &pending {
                if let Some(mut column) = group.next_column()? {
                    buffer.write(&mut column)?;
                    column.close()?;
                }
            }
            group.close().map(drop)
        };
        write().map_err(parquet_error(&self.path, ""))
    }
}

fn buffers() -> Vec<Buffer> {
    COLUMNS.iter().map(|column| Buffer::new(column.kind)).collect()
}

/// Payloads lie as they are, so that a reader maps them: rows of floats hardly become smaller. All else is compressed.
fn properties() -> Result<WriterProperties> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(None)
        .set_created_by(concat!("driftprobe ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_column_compression(ColumnPath::from(PAYLOAD), Compression::UNCOMPRESSED);
    for column in COLUMNS {
        let path = match column.kind {
            Kind::U64s | Kind::F64s | Kind::Texts => {
                ColumnPath::new(vec![column.name.to_owned(), "list".to_owned(), "element".to_owned()])
            }
            _ => ColumnPath::from(column.name),
        };
        // Values that hardly ever come twice.
        let unlike = matches!(column.kind, Kind::F64 | Kind::F64s | Kind::Bytes) || column.name == "hash";
        properties = properties.set_column_dictionary_enabled(path.clone(), !unlike);
        if SELECTED_BY.contains(&column.name) {
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::Chunk);
        }
    }
    Ok(properties.build())
}

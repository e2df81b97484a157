//! One Parquet file: mapped, its schema held against ours, its row groups read as events.

mod content;

use crate::column::{Batch, Cursor, Known};
use crate::columns::{COLUMNS, Cell, EVENT, Entry, PAYLOAD};
use crate::error::{COPY_AGAIN, SEE_SCHEMA, fault, guarded, parquet_error};
use crate::footer;
use crate::layout::name_of;
use crate::pages::column_reader;
use bytes::Bytes;
use driftprobe_trace::{Dtype, PayloadRef, Reading, Source, Text, TraceError};
use memmap2::Mmap;
use parquet::data_type::ByteArray;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 1024;

/// Rows of a file that are read whatever its size; of a larger one, one for so many bytes. Columns that repeat one value take
/// no more than a few bytes for any number of rows, each of which is an event in memory.
const ROWS_MAX: u64 = 1 << 14;
const ROW_BYTES_MIN: u64 = 2;

/// Bytes that texts and lists of a file's rows may take together; more, for a larger file: so many times its size. A dictionary
/// holds a text once for any number of rows.
const HELD_BYTES_MAX: u64 = 64 << 20;
const HELD_RATIO_MAX: u64 = 256;
/// … of which each row group may take its part by its rows, and this.
const HELD_BYTES_OF_GROUP: u64 = 64 << 10;

/// Columns that tell partitions apart: some writers put them into the files too.
const PARTITIONED_BY: &[&str] = &["run", "search", "mode", "repeat"];

/// A file that is open.
pub struct Table {
    /// Where it lies.
    pub path: PathBuf,
    /// What rows that say no source of their own are said to be of.
    name: Arc<str>,
    bytes: Bytes,
    reader: SerializedFileReader<Bytes>,
    columns: Vec<Known>,
    payload: Option<Known>,
    /// Columns that this version does not know.
    unknown: Vec<String>,
    /// Number of the first row of each group, from 0, and their rows.
    groups: Vec<(u64, u64)>,
}

/// Where in a dataset's partition a payload's bytes lie, and what the table says of them beside the event.
#[derive(Clone, Debug)]
pub struct Place {
    /// Index of the row group.
    pub group: usize,
    /// Row in it.
    pub row: usize,
    /// The payload's dtype, if it is said beside the event.
    pub dtype: Option<Dtype>,
    /// Its shape, likewise.
    pub shape: Option<Vec<u64>>,
}

/// The events of a row group, and where their payloads lie.
pub struct Group {
    /// The events.
    pub reading: Reading,
    /// The payloads.
    pub payloads: Vec<(PayloadRef, Place)>,
    /// Rows that are events of no prompt: their kinds.
    pub others: Vec<String>,
}

impl Table {
    /// Opens the file at `path`, which is called `name` in its partition.
    ///
    /// # Errors
    /// If it is no Parquet file, or one of other columns or types.
    pub fn open(path: &Path, name: &str) -> Result<Table, TraceError> {
        guarded(path, || Table::open_unguarded(path, name))
    }

    fn open_unguarded(path: &Path, name: &str) -> Result<Table, TraceError> {
        let file = File::open(path).map_err(TraceError::io("open", path))?;
        let len = file.metadata().map_err(TraceError::io("open", path))?.len();
        if len == 0 {
            return Err(fault(path, "", "an empty file", COPY_AGAIN));
        }
        // SAFETY: the map is only read. Another process could change or truncate the file meanwhile, which a reader of
        // finished files accepts, as it does of payloads; the writer renames whole files into place.
        let map = unsafe { Mmap::map(&file) }.map_err(TraceError::io("map", path))?;
        Table::over(path, name, Bytes::from_owner(map))
    }

    /// A file of these bytes.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Table, TraceError> {
        guarded(path, || Table::over(path, &name_of(path), Bytes::from(bytes)))
    }

    fn over(path: &Path, name: &str, bytes: Bytes) -> Result<Table, TraceError> {
        let schema = footer::schema(&bytes).map_err(parquet_error(path, ""))?;
        let options = ReadOptionsBuilder::new().with_parquet_schema(schema).build();
        let reader = SerializedFileReader::new_with_options(bytes.clone(), options);
        let reader = reader.map_err(parquet_error(path, ""))?;
        let mut table = Table {
            path: path.to_owned(),
            name: Arc::from(name),
            bytes,
            reader,
            columns: Vec::new(),
            payload: None,
            unknown: Vec::new(),
            groups: Vec::new(),
        };
        table.find_columns()?;
        table.count_rows()?;
        table.payload_places()?;
        Ok(table)
    }

    fn find_columns(&mut self) -> Result<(), TraceError> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let refuse = |name: &str, what: String| fault(&self.path, format!("column {name}"), what, SEE_SCHEMA);
        for (at, root) in schema.root_schema().get_fields().iter().enumerate() {
            let Some(column) = COLUMNS.iter().find(|column| column.name == root.name()) else {
                if !PARTITIONED_BY.contains(&root.name()) {
                    self.unknown.push(root.name().to_owned());
                }
                continue;
            };
            if self.columns.iter().chain(&self.payload).any(|known| known.column.name == column.name) {
                return Err(refuse(column.name, "it is there twice".to_owned()));
            }
            let mut leaves = (0..schema.num_columns()).filter(|leaf| schema.get_column_root_idx(*leaf) == at);
            let (Some(leaf), None) = (leaves.next(), leaves.next()) else {
                return Err(refuse(column.name, "expected one value a row, found a group of several".to_owned()));
            };
            let known = Known::new(column, leaf, &schema.column(leaf), root.is_optional())
                .map_err(|what| refuse(column.name, what))?;
            match column.name == PAYLOAD {
                true => self.payload = Some(known),
                false => self.columns.push(known),
            }
        }
        match self.columns.iter().any(|known| known.column.name == EVENT) {
            true => Ok(()),
            false => Err(refuse(EVENT, "there is no such column: this is not a table of events".to_owned())),
        }
    }

    fn count_rows(&mut self) -> Result<(), TraceError> {
        let metadata = self.reader.metadata();
        let refuse = |what: String| fault(&self.path, "", what, COPY_AGAIN);
        let mut before = 0u64;
        let mut groups = Vec::new();
        for group in metadata.row_groups() {
            let rows = u64::try_from(group.num_rows()).map_err(|_| refuse("a row group of less than no row".into()))?;
            groups.push((before, rows));
            before = before.checked_add(rows).ok_or_else(|| refuse("more rows than can be counted".into()))?;
        }
        let told = metadata.file_metadata().num_rows();
        if u64::try_from(told).ok() != Some(before) {
            return Err(refuse(format!("its footer says {told} rows; its row groups have {before}")));
        }
        let most = ROWS_MAX.max(self.bytes.len() as u64 / ROW_BYTES_MIN);
        if before > most {
            return Err(refuse(format!("{before} rows in {} bytes: at most {most} are read", self.bytes.len())));
        }
        self.groups = groups;
        Ok(())
    }

    /// Row groups.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Rows of all groups.
    pub fn rows(&self) -> u64 {
        self.groups.last().map_or(0, |(before, rows)| before + rows)
    }

    /// Whether rows can have payloads here.
    pub fn has_payloads(&self) -> bool {
        self.payload.is_some()
    }

    /// Reads one row group's events, or those `only` of one prompt; `complete` as the manifest says.
    ///
    /// # Errors
    /// If the bytes make no sense, hold more or fewer rows than the footer says, or hold what no line of JSON might.
    pub fn read(&self, group: usize, complete: bool, only: Option<&str>) -> Result<Group, TraceError> {
        guarded(&self.path, || self.read_unguarded(group, complete, only))
    }

    fn read_unguarded(&self, group: usize, complete: bool, only: Option<&str>) -> Result<Group, TraceError> {
        let Some((before, rows)) = self.groups.get(group).copied() else {
            return Err(fault(&self.path, "", format!("there is no row group {group}"), COPY_AGAIN));
        };
        let at = |known: &Known| format!("row group {group}, column {}", known.column.name);
        let reader =
            self.reader.get_row_group(group).map_err(parquet_error(&self.path, format!("row group {group}")))?;
        let mut batches = Vec::with_capacity(self.columns.len());
        for known in &self.columns {
            let column = column_reader(&self.bytes, &*reader, known.leaf);
            let column = column.map_err(parquet_error(&self.path, at(known)))?;
            batches.push(Batch::new(known.clone(), column));
        }
        let mut room = self.room(rows);
        let mut found = Group { reading: Reading::new(complete), payloads: Vec::new(), others: Vec::new() };
        let mut done = 0u64;
        while done < rows {
            let now = usize::try_from(rows - done).unwrap_or(BATCH_ROWS).min(BATCH_ROWS);
            for (batch, known) in batches.iter_mut().zip(&self.columns) {
                let read = batch.fill(now).map_err(parquet_error(&self.path, at(known)))?;
                if read != now {
                    let had = done + read as u64;
                    let what = format!("the footer says {rows} rows, the column ends after {had}");
                    return Err(fault(&self.path, at(known), what, COPY_AGAIN));
                }
                room = room.checked_sub(batch.held()).ok_or_else(|| {
                    let what = format!("its texts and lists would take more than {} bytes", self.room(rows));
                    fault(&self.path, at(known), what, COPY_AGAIN)
                })?;
            }
            let mut cursors = vec![Cursor::default(); batches.len()];
            for row in done..done + now as u64 {
                self.take(&batches, &mut cursors, (group, before, row), &mut found, only)?;
            }
            done += now as u64;
        }
        for (batch, known) in batches.iter_mut().zip(&self.columns) {
            if batch.fill(1).map_err(parquet_error(&self.path, at(known)))? > 0 {
                let what = format!("the footer says {rows} rows, the column holds more");
                return Err(fault(&self.path, at(known), what, COPY_AGAIN));
            }
        }
        Ok(found)
    }

    /// Bytes that texts and lists of so many rows may take.
    fn room(&self, rows: u64) -> u64 {
        let all = HELD_BYTES_MAX.max(HELD_RATIO_MAX.saturating_mul(self.bytes.len() as u64));
        let part = u128::from(all) * u128::from(rows) / u128::from(self.rows().max(1));
        u64::try_from(part).unwrap_or(all).saturating_add(HELD_BYTES_OF_GROUP)
    }

    /// Takes one row of a group.
    fn take(
        &self,
        batches: &[Batch],
        cursors: &mut [Cursor],
        (group, before, row): (usize, u64, u64),
        found: &mut Group,
        only: Option<&str>,
    ) -> Result<(), TraceError> {
        let mut entry = Entry::default();
        let number = before + row + 1;
        let refuse = |entry: &Entry<'_>, column: &str, what: String| {
            let from = match (entry.source_file, entry.source_line) {
                (Some(file), Some(line)) => format!(" ({file}:{line})"),
                _ => String::new(),
            };
            let column = if column.is_empty() { String::new() } else { format!(", column {column}") };
            fault(
                &self.path,
                format!("row {number}{from}{column}"),
                what,
                "correct what wrote this row, by docs/parquet.md",
            )
        };
        for (batch, cursor) in batches.iter().zip(cursors) {
            let column = batch.column();
            let put = match batch.next(cursor) {
                Ok(Cell::Null) => Ok(()),
                Ok(cell) => (column.set)(&mut entry, cell),
                Err(what) => Err(what),
            };
            put.map_err(|what| refuse(&entry, column.name, what))?;
        }
        let kind = said(&entry.raw.event).filter(|kind| !matches!(kind.as_ref(), "stage_trace" | "stage_logits"));
        if only.is_some_and(|id| kind.is_some() || said(&entry.raw.prompt_id).is_none_or(|of| of != id)) {
            return Ok(());
        }
        found.others.extend(kind.map(Cow::into_owned));
        entry.join_payload().map_err(|(column, what)| refuse(&entry, &column, what))?;
        entry.raw.unknown.extend(self.unknown.iter().cloned());
        let dtype = entry.payload_dtype.map(|name| {
            let unknown = || format!("`{name}` is no dtype of a row: expected f64, f32, f16 or bf16");
            Dtype::parse(name).ok_or_else(|| refuse(&entry, "payload_dtype", unknown()))
        });
        let dtype = dtype.transpose()?;
        let source = match (entry.source_file, entry.source_line) {
            (Some(file), Some(line)) => Source { file: self.shared(found, file), line },
            _ => Source { file: self.name.clone(), line: number },
        };
        let (shape, raw) = (entry.payload_shape.take(), std::mem::take(&mut entry.raw));
        let known = found.reading.events().len();
        found.reading.take(raw, source).map_err(|(key, what)| {
            let column = if key == "payload.file" { "payload_file" } else { &key };
            refuse(&entry, column, what)
        })?;
        let event = found.reading.events().get(known);
        if let Some(payload) = event.and_then(|event| event.payload.clone()) {
            let row = usize::try_from(row).unwrap_or(usize::MAX);
            found.payloads.push((payload, Place { group, row, dtype, shape }));
        }
        Ok(())
    }

    /// The name of a source's file, in the memory of the event's before it if that is of the same one.
    fn shared(&self, found: &Group, file: &str) -> Arc<str> {
        match found.reading.events().last().map(|event| &event.source.file) {
            Some(last) if **last == *file => last.clone(),
            _ => Arc::from(file),
        }
    }

    /// The payloads of a row group, row by row, and how many bytes are in memory for them.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn payloads(&self, group: usize) -> Result<(Vec<Option<ByteArray>>, u64), TraceError> {
        guarded(&self.path, || self.payloads_unguarded(group))
    }

    fn payloads_unguarded(&self, group: usize) -> Result<(Vec<Option<ByteArray>>, u64), TraceError> {
        let at = format!("row group {group}, column {PAYLOAD}");
        let (Some(known), Some((_, rows))) = (&self.payload, self.groups.get(group)) else {
            return Err(fault(&self.path, at, "there is none", COPY_AGAIN));
        };
        let reader = self.reader.get_row_group(group).map_err(parquet_error(&self.path, &at))?;
        let column = column_reader(&self.bytes, &*reader, known.leaf).map_err(parquet_error(&self.path, &at))?;
        let mut batch = Batch::new(known.clone(), column);
        let mut all = Vec::new();
        // One more than there should be, so that it would be seen.
        while batch.fill(BATCH_ROWS).map_err(parquet_error(&self.path, &at))? > 0 {
            batch.drain_bytes(&mut all);
            if all.len() as u64 > *rows {
                break;
            }
        }
        if all.len() as u64 != *rows {
            let what = format!("the footer says {rows} rows, the column holds {}", all.len());
            return Err(fault(&self.path, at, what, COPY_AGAIN));
        }
        let chunk = reader.metadata().column(known.leaf);
        // What is not compressed is not copied: it lies where the file is mapped.
        let mapped = matches!(chunk.compression_codec(), parquet::basic::CompressionCodec::UNCOMPRESSED);
        let bytes = if mapped { 0 } else { all.iter().flatten().map(|bytes| bytes.len() as u64).sum() };
        Ok((all, bytes))
    }
}

/// A field's text, if it is there.
fn said<'a>(field: &Option<Option<Text<'a>>>) -> Option<Cow<'a, str>> {
    field.as_ref()?.as_ref().map(|text| text.0.clone())
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({})", self.path.display())
    }
}

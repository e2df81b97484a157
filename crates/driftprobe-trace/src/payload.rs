//! Payloads: safetensors files under a run's folder, mapped when first asked for and kept.
//!
//! A path in an event is data from a stranger: it may not leave the run's folder, by itself or through a link.

use crate::files::regular;
use crate::packed::{PACKED_SUFFIX, Packed};
use crate::{Dtype, Event, PayloadRef, Row, TraceError};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that lie in a mapped file.
#[derive(Clone)]
pub struct MappedBytes {
    file: Arc<TensorFile>,
    range: Range<usize>,
}

impl MappedBytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.file.bytes {
            Bytes::Plain(bytes) => (**bytes).as_ref().get(self.range.clone()).unwrap_or_default(),
            // Rows of compressed files have bytes of their own.
            Bytes::Packed(_) => &[],
        }
    }
}

/// Where a file's bytes are.
enum Bytes {
    /// As they are.
    Plain(Box<dyn AsRef<[u8]> + Send + Sync>),
    /// Compressed.
    Packed(Packed),
}

/// One safetensors file with its checked header.
struct TensorFile {
    bytes: Bytes,
    header: Metadata,
    data_at: usize,
}

impl TensorFile {
    /// A file of these bytes, `packed` ones if its name says so.
    fn new(bytes: Box<dyn AsRef<[u8]> + Send + Sync>, packed: bool) -> Result<TensorFile, String> {
        let invalid = |e: String| format!("the file is not valid safetensors: {e}");
        if packed {
            let packed = Packed::open(bytes)?;
            let (header, data_at) = unpacked_header(&packed).map_err(invalid)?;
            return Ok(TensorFile { bytes: Bytes::Packed(packed), header, data_at });
        }
        let (len, header) = SafeTensors::read_metadata((*bytes).as_ref()).map_err(|e| invalid(e.to_string()))?;
        Ok(TensorFile { bytes: Bytes::Plain(bytes), header, data_at: 8 + len })
    }

    /// The row of this key, checked against what `event` says of it.
    fn row(self: &Arc<TensorFile>, key: &str, event: &Event) -> Result<Row, String> {
        let (dtype, shape, range) = self.locate(key, event)?;
        if let Bytes::Packed(packed) = &self.bytes {
            // What the tensor's own type and shape take is all that is decompressed for it.
            crate::row::check_len(dtype, &shape, range.len()).map_err(|e| e.to_string())?;
            let bytes = packed.bytes(range.start as u64..range.end as u64)?;
            return Row::new(dtype, shape, bytes).map_err(|e| e.to_string());
        }
        Row::mapped(dtype, shape, MappedBytes { file: self.clone(), range }).map_err(|e| e.to_string())
    }

    /// Dtype and shape of the row that an event points to, and where it lies in the file.
    fn locate(&self, key: &str, event: &Event) -> Result<(Dtype, Vec<u64>, Range<usize>), String> {
        let info = self.header.info(key).ok_or("the file holds no such tensor")?;
        let dtype = dtype_of(info.dtype)
            .ok_or_else(|| format!("its dtype is {:?}; rows are F64, F32, F16 or BF16", info.dtype))?;
        if let Some(stated) = event.dtype.filter(|&d| d != dtype) {
            return Err(format!("its dtype is {dtype}, the event says {stated}"));
        }
        let shape: Vec<u64> = info.shape.iter().map(|&d| d as u64).collect();
        if let Some(stated) = &event.shape
            && crate::row::element_count(stated) != crate::row::element_count(&shape)
        {
            return Err(format!("its shape is {shape:?}, the event says {stated:?}"));
        }
        let (start, end) = info.data_offsets;
        let place = |at: usize| self.data_at.checked_add(at).ok_or("its bytes lie beyond what can be counted");
        Ok((dtype, event.shape.clone().unwrap_or(shape), place(start)?..place(end)?))
    }
}

/// A payload file in memory.
pub struct PayloadFile(Arc<TensorFile>);

impl PayloadFile {
    /// A file of these bytes: of safetensors, or of such a one compressed.
    ///
    /// # Errors
    /// As [`Rows::row`](crate::Rows::row).
    pub fn new(bytes: Vec<u8>, packed: bool) -> Result<PayloadFile, String> {
        TensorFile::new(Box::new(bytes), packed).map(|file| PayloadFile(Arc::new(file)))
    }

    /// Names of its tensors, in the order of their bytes.
    pub fn names(&self) -> Vec<String> {
        self.0.header.offset_keys()
    }

    /// The row that `event` has in it; `None` if the event has no payload.
    ///
    /// # Errors
    /// As [`Rows::row`](crate::Rows::row).
    pub fn row(&self, event: &Event) -> Result<Option<Row>, String> {
        event.payload.as_ref().map(|payload| self.0.row(&payload.key, event)).transpose()
    }
}

/// The mapped files of a run.
#[derive(Clone, Default)]
pub struct Payloads {
    files: Arc<Mutex<HashMap<Arc<str>, Arc<TensorFile>>>>,
    /// The first name of each file that was opened.
    names: Arc<Mutex<HashMap<Identity, Arc<str>>>>,
}

impl std::fmt::Debug for Payloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payloads")
    }
}

impl Payloads {
    /// The row that `event` points to, checked against what the event says of it.
    pub fn row(&self, dir: &Path, event: &Event) -> Result<Option<Row>, TraceError> {
        let Some(payload) = &event.payload else { return Ok(None) };
        let refuse = |message: String| refusal(dir, event, payload, message);
        let file = self.file(dir, payload).map_err(&refuse)?;
        file.row(&payload.key, event).map(Some).map_err(refuse)
    }

    fn file(&self, dir: &Path, payload: &PayloadRef) -> Result<Arc<TensorFile>, String> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&payload.file) {
            return Ok(file.clone());
        }
        let (file, identity) = open(dir, &payload.file)?;
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let first = names.entry(identity).or_insert_with(|| payload.file.clone());
        if *first != payload.file {
            return Err(format!("the same file as {first}, by another name or link: its rows are no second evidence"));
        }
        let file = Arc::new(file);
        files.insert(payload.file.clone(), file.clone());
        Ok(file)
    }
}

fn refusal(dir: &Path, event: &Event, payload: &PayloadRef, message: String) -> TraceError {
    TraceError::Payload {
        path: dir.join(&*payload.file),
        key: payload.key.to_string(),
        event: event.source.clone(),
        message,
    }
}

/// Why a path may not be a payload's, if so.
pub fn path_fault(file: &str) -> Option<&'static str> {
    if file.is_empty() {
        return Some("an empty path");
    }
    if file.contains(['\\', '\0']) {
        return Some("a path with a backslash or NUL; paths are relative to the run's folder and `/`-separated");
    }
    if file.starts_with('/')
        || Path::new(file).components().any(|c| matches!(c, Component::ParentDir | Component::Prefix(_)))
    {
        return Some("a path that is absolute or has `..`; payloads lie in the run's folder");
    }
    // One file has one name: otherwise the two phases could point to the same bytes unnoticed.
    if file.split('/').any(|part| part.is_empty() || part == ".") {
        return Some("a path with `.` or an empty part; a payload's path is written in one way only");
    }
    None
}

/// What tells one file from another, whatever they are called.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Identity {
    /// Device and inode.
    #[cfg(unix)]
    Inode(u64, u64),
    /// Where links are followed to.
    #[cfg(not(unix))]
    Path(PathBuf),
}

#[cfg(unix)]
fn identity(_: &Path, metadata: &std::fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity::Inode(metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(canonical: &Path, _: &std::fs::Metadata) -> Identity {
    Identity::Path(canonical.to_owned())
}

fn open(dir: &Path, name: &str) -> Result<(TensorFile, Identity), String> {
    if let Some(fault) = path_fault(name) {
        return Err(fault.to_owned());
    }
    let canonical = |path: PathBuf| path.canonicalize().map_err(|e| format!("cannot open the file: {e}"));
    let root = canonical(dir.to_owned())?;
    let path = canonical(dir.join(name))?;
    if !path.starts_with(&root) {
        return Err("the path leads out of the run's folder through a link".to_owned());
    }
    let file = regular(&path).and_then(|_| File::open(&path)).map_err(|e| format!("cannot open the file: {e}"))?;
    let metadata = file.metadata().map_err(|e| format!("cannot open the file: {e}"))?;
    let identity = identity(&path, &metadata);
    // SAFETY: the map is only read. Another process could change or truncate the file meanwhile, which a reader of a
    // run's finished files accepts, as every program that maps safetensors does; the writer never changes a tensor file
    // in place, it renames a whole one into place.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| format!("cannot map the file: {e}"))?;
    Ok((TensorFile::new(Box::new(map), name.ends_with(PACKED_SUFFIX))?, identity))
}

/// The header of a compressed file, and where the tensors' bytes begin. As of a plain file, they lie one behind the other
/// and fill it.
fn unpacked_header(packed: &Packed) -> Result<(Metadata, usize), String> {
    let head = packed.head()?;
    let (len, json) = head.split_first_chunk::<8>().ok_or("its header is cut short")?;
    if u64::from_le_bytes(*len) != json.len() as u64 {
        return Err("its first frame is not its header".to_owned());
    }
    let header: Metadata = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let mut offsets: Vec<(usize, usize)> = header.tensors().values().map(|info| info.data_offsets).collect();
    offsets.sort_unstable();
    let mut end = 0;
    for (start, stop) in offsets {
        if start != end || stop < start {
            return Err("its tensors overlap, or do not lie one behind the other".to_owned());
        }
        end = stop;
    }
    if packed.plain_len() != (head.len() as u64).saturating_add(end as u64) {
        return Err("its frames do not hold as much as its header says".to_owned());
    }
    Ok((header, head.len()))
}

fn dtype_of(dtype: safetensors::Dtype) -> Option<Dtype> {
    Some(match dtype {
        safetensors::Dtype::F64 => Dtype::F64,
        safetensors::Dtype::F32 => Dtype::F32,
        safetensors::Dtype::F16 => Dtype::F16,
        safetensors::Dtype::BF16 => Dtype::Bf16,
        _ => return None,
    })
}

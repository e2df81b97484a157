//! `.pt` files: a zip archive with a pickle and, uncompressed, the values of its tensors.
//!
//! torch never compresses, so a compressed entry is refused and no file can hold more than its own length.

use crate::error::{ImportError, Result};
use crate::pickle::{self, PICKLE_BYTES_MAX, View};
use crate::tensor::Tensor;
use driftprobe_trace::{element_count, regular};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zip::{CompressionMethod, ZipArchive};

/// A tensor may be larger than its storage (strides of zero), but not by more than this.
const EXPANDED_BYTES_MAX: u64 = 64 << 20;
/// Most entries of an archive.
const ENTRIES_MAX: usize = 1 << 20;

const HINT: &str = "write it with torch.save(tensors, path), as tensors in plain dicts, lists and tuples";

/// Bytes that can be read from anywhere.
trait Source: Read + Seek + Send {}

impl<T: Read + Seek + Send> Source for T {}

/// An opened `.pt` file.
pub struct TorchFile {
    path: PathBuf,
    archive: ZipArchive<Box<dyn Source>>,
    /// Number of the entry of each storage.
    entries: BTreeMap<String, usize>,
    tensors: Vec<(String, View)>,
    /// The storage that was read last.
    last: Option<(String, Arc<Vec<u8>>)>,
}

impl TorchFile {
    /// Opens a file and reads its pickle.
    ///
    /// # Errors
    /// If it is no archive of torch, is compressed or damaged, or if its pickle is refused.
    pub fn open(path: &Path) -> Result<TorchFile> {
        let file = regular(path).and_then(|_| File::open(path)).map_err(|e| ImportError::io("open", path, &e))?;
        TorchFile::of(path, Box::new(BufReader::new(file)))
    }

    /// Reads the pickle of a file of these bytes; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`TorchFile::open`].
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<TorchFile> {
        TorchFile::of(path, Box::new(Cursor::new(bytes)))
    }

    fn of(path: &Path, mut file: Box<dyn Source>) -> Result<TorchFile> {
        let mut magic = [0; 4];
        if file.read_exact(&mut magic).is_err() || magic != *b"PK\x03\x04" {
            let hint = "write it with torch 1.6 or later, whose torch.save makes zip archives";
            return Err(ImportError::file(path, "byte 0: no zip archive, so none of torch's files of today", hint));
        }
        let refuse = |what: String| ImportError::file(path, what, HINT);
        // The archive's reader seeks by itself.
        let archive = ZipArchive::new(file).map_err(|e| refuse(format!("not a whole zip archive: {e}")))?;
        let mut opened =
            TorchFile { path: path.to_owned(), archive, entries: BTreeMap::new(), tensors: vec![], last: None };
        let pickle = opened.index()?;
        let size = opened.size(pickle)?;
        if size > PICKLE_BYTES_MAX {
            return Err(refuse(format!("data.pkl is {size} bytes long, expected at most {PICKLE_BYTES_MAX}")));
        }
        let bytes = opened.read_entry(pickle)?;
        let objects = pickle::read(&bytes).map_err(|e| refuse(format!("data.pkl: {e}")))?;
        opened.tensors = objects.tensors().map_err(|what| refuse(format!("data.pkl: {what}")))?;
        Ok(opened)
    }

    /// The names of the tensors, and their shapes. The name of a file's only value is empty.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.tensors.iter().map(|(name, view)| (name.as_str(), view.shape.as_slice()))
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// If there is none of this name, or its storage is missing, damaged or too small.
    pub fn read(&mut self, name: &str) -> Result<Tensor> {
        let refuse = |what: String| ImportError::file(&self.path, format!("tensor `{name}`: {what}"), HINT);
        let found = self.tensors.iter().find(|(known, _)| known == name);
        let (_, view) = found.ok_or_else(|| refuse("the file holds no such tensor".to_owned()))?;
        let view = view.clone();
        let bytes =
            self.storage(&view.storage.key).map_err(|e| ImportError::new(format!("{e} (tensor `{name}`)"), HINT))?;
        gather(&view, &bytes).map_err(|what| ImportError::file(&self.path, format!("tensor `{name}`: {what}"), HINT))
    }

    /// Lists the archive's entries; the number of the pickle's.
    fn index(&mut self) -> Result<usize> {
        let path = self.path.clone();
        let refuse = |what: String| ImportError::file(&path, what, HINT);
        if self.archive.len() > ENTRIES_MAX {
            return Err(refuse(format!("{} entries, expected at most {ENTRIES_MAX}", self.archive.len())));
        }
        let mut pickle = None;
        for number in 0..self.archive.len() {
            let entry = self.archive.by_index_raw(number);
            let name = entry.and_then(|entry| Ok(entry.name()?.into_owned()));
            let name = name.map_err(|e| refuse(format!("entry {number}: {e}")))?;
            let Some((folder, rest)) = name.split_once('/') else { continue };
            if rest == "data.pkl" && pickle.replace((number, folder.to_owned())).is_some() {
                return Err(refuse("two entries called data.pkl".to_owned()));
            }
            if rest == "byteorder" && self.read_entry(number)?.trim_ascii() != b"little" {
                return Err(refuse("its values are not little-endian".to_owned()));
            }
            if let Some(key) = rest.strip_prefix("data/") {
                self.entries.insert(key.to_owned(), number);
            }
        }
        pickle.map(|(number, _)| number).ok_or_else(|| refuse("the archive holds no data.pkl".to_owned()))
    }

    /// Bytes of an entry, which lies there as it is.
    fn size(&mut self, number: usize) -> Result<u64> {
        let path = &self.path;
        let entry = self.archive.by_index_raw(number).map_err(|e| ImportError::file(path, e, HINT))?;
        let name = format!("{number} of the archive");
        if entry.compression() != CompressionMethod::Stored || entry.size() != entry.compressed_size() {
            let hint = "torch.save never compresses: write the file again, not with a zip tool";
            return Err(ImportError::file(path, format!("entry {name} is compressed"), hint));
        }
        Ok(entry.size())
    }

    /// Reads an entry, checked by its CRC.
    fn read_entry(&mut self, number: usize) -> Result<Vec<u8>> {
        let size = self.size(number)?;
        let path = &self.path;
        let refuse = |what: String| ImportError::file(path, what, "the file is damaged or cut off: copy it again");
        let entry = self.archive.by_index(number).map_err(|e| refuse(format!("entry {number}: {e}")))?;
        let name = format!("{number} of the archive");
        // Not allocated by what the header claims: it grows as bytes come.
        let mut bytes = Vec::new();
        entry.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| refuse(format!("entry {name}: {e}")))?;
        if bytes.len() as u64 != size {
            return Err(refuse(format!("entry {name} ends after {} of {size} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    fn storage(&mut self, key: &str) -> Result<Arc<Vec<u8>>> {
        if let Some((last, bytes)) = &self.last
            && last == key
        {
            return Ok(bytes.clone());
        }
        let number = self.entries.get(key).copied();
        let number =
            number.ok_or_else(|| ImportError::file(&self.path, format!("there is no entry data/{key}"), HINT))?;
        let bytes = Arc::new(self.read_entry(number)?);
        self.last = Some((key.to_owned(), bytes.clone()));
        Ok(bytes)
    }
}

/// The values of a view, in row-major order.
fn gather(view: &View, storage: &[u8]) -> std::result::Result<Tensor, String> {
    let width = view.storage.kind.size_bytes();
    let held = storage.len() / width;
    if view.end().is_none_or(|end| end > held as u64) {
        return Err(format!(
            "shape {:?}, strides {:?}, offset {} need more than the {held} values of storage {}",
            view.shape, view.strides, view.offset, view.storage.key
        ));
    }
    let count = element_count(&view.shape).and_then(|count| count.checked_mul(width as u64));
    let allowed = (storage.len() as u64).max(EXPANDED_BYTES_MAX);
    let Some(bytes) = count.filter(|bytes| *bytes <= allowed) else {
        return Err(format!("shape {:?} is larger than its storage by far: an expanded view", view.shape));
    };
    let mut out = Vec::with_capacity(bytes as usize);
    // An empty tensor may have axes of any length, which are not walked.
    if bytes > 0 {
        append(view, 0, view.offset as usize, (width, storage), &mut out);
    }
    Tensor::new(view.storage.kind, view.shape.clone(), out)
}

/// Appends the part of a view below `axis`. Inside of the storage: that was checked.
fn append(view: &View, axis: usize, offset: usize, from: (usize, &[u8]), out: &mut Vec<u8>) {
    let (width, storage) = from;
    let (Some(size), Some(stride)) = (view.shape.get(axis), view.strides.get(axis)) else {
        out.extend_from_slice(storage.get(offset * width..(offset + 1) * width).unwrap_or_default());
        return;
    };
    if axis + 1 == view.shape.len() && *stride == 1 {
        out.extend_from_slice(storage.get(offset * width..(offset + *size as usize) * width).unwrap_or_default());
        return;
    }
    for index in 0..*size as usize {
        append(view, axis + 1, offset + index * *stride as usize, from, out);
    }
}

//! Weights as views into mapped files.

use crate::{ModelError, dequant, gguf};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use xxhash_rust::xxh3::Xxh3;

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are GGUF's own")]
#[expect(non_camel_case_types, reason = "the names are GGUF's own")]
pub enum WeightDtype {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl WeightDtype {
    /// Name in upper case, as GGUF spells it.
    pub const fn id(self) -> &'static str {
        match self {
            WeightDtype::F32 => "F32",
            WeightDtype::F16 => "F16",
            WeightDtype::Bf16 => "BF16",
            WeightDtype::Q4_0 => "Q4_0",
            WeightDtype::Q4_1 => "Q4_1",
            WeightDtype::Q5_0 => "Q5_0",
            WeightDtype::Q5_1 => "Q5_1",
            WeightDtype::Q8_0 => "Q8_0",
            WeightDtype::Q2_K => "Q2_K",
            WeightDtype::Q3_K => "Q3_K",
            WeightDtype::Q4_K => "Q4_K",
            WeightDtype::Q5_K => "Q5_K",
            WeightDtype::Q6_K => "Q6_K",
        }
    }

    /// Values a block (1 for plain floats) and its size in bytes.
    pub const fn block(self) -> (usize, usize) {
        match self {
            WeightDtype::F32 => (1, 4),
            WeightDtype::F16 | WeightDtype::Bf16 => (1, 2),
            WeightDtype::Q4_0 => (32, 18),
            WeightDtype::Q4_1 => (32, 20),
            WeightDtype::Q5_0 => (32, 22),
            WeightDtype::Q5_1 => (32, 24),
            WeightDtype::Q8_0 => (32, 34),
            WeightDtype::Q2_K => (256, 84),
            WeightDtype::Q3_K => (256, 110),
            WeightDtype::Q4_K => (256, 144),
            WeightDtype::Q5_K => (256, 176),
            WeightDtype::Q6_K => (256, 210),
        }
    }

    /// Whether values stand in blocks with a common scale.
    pub const fn is_quantised(self) -> bool {
        self.block().0 > 1
    }
}

/// Refuses a path that leads, through links or not, to a device, a pipe or a folder: opening it might wait forever, and
/// reading it never end. The length otherwise.
pub fn regular(path: &Path) -> Result<u64, ModelError> {
    let metadata = std::fs::metadata(path).map_err(ModelError::io(path))?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(ModelError::malformed(path, "is not a regular file")),
    }
}

/// A file's bytes: mapped, or built into the binary.
#[derive(Clone)]
pub struct FileBytes(Arc<Source>);

enum Source {
    Mapped(Mmap),
    Fixed(&'static [u8]),
    Held(Vec<u8>),
}

impl FileBytes {
    /// Maps a file. Nothing is read until it is looked at.
    pub fn map(path: &Path) -> Result<FileBytes, ModelError> {
        regular(path)?;
        let file = File::open(path).map_err(ModelError::io(path))?;
        // SAFETY: the mapping is read-only and private to this process's reads. A file that another process truncates
        // while it is mapped would fault; weight files are not rewritten in place by the tools that make them.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;
        Ok(FileBytes(Arc::new(Source::Mapped(map))))
    }

    pub(crate) fn fixed(bytes: &'static [u8]) -> FileBytes {
        FileBytes(Arc::new(Source::Fixed(bytes)))
    }

    /// Bytes in memory.
    pub(crate) fn held(bytes: Vec<u8>) -> FileBytes {
        FileBytes(Arc::new(Source::Held(bytes)))
    }

    /// All of it.
    pub fn as_slice(&self) -> &[u8] {
        match &*self.0 {
            Source::Mapped(map) => map,
            Source::Fixed(bytes) => bytes,
            Source::Held(bytes) => bytes,
        }
    }
}

/// Where a tensor lies. Its range has been checked to be inside the file and to fit dtype and shape.
#[derive(Clone)]
pub(crate) struct WeightEntry {
    pub bytes: FileBytes,
    pub offset: usize,
    pub len: usize,
    pub dtype: WeightDtype,
    pub shape: Vec<usize>,
}

/// All tensors of a model, under their Hugging Face names. A clone is another view of the same files.
#[derive(Clone)]
pub struct Weights {
    path: PathBuf,
    files: Vec<FileBytes>,
    entries: BTreeMap<String, WeightEntry>,
    /// Taken once: the files are mapped and do not change.
    fingerprint: OnceLock<String>,
}

impl Weights {
    pub(crate) fn new(path: PathBuf, files: Vec<FileBytes>, entries: BTreeMap<String, WeightEntry>) -> Weights {
        Weights { path, files, entries, fingerprint: OnceLock::new() }
    }

    /// Maps the tensors of a GGUF file under the names that they have there. No config is read: the file need not be a
    /// model that can be computed.
    ///
    /// # Errors
    /// When the file cannot be read, is no GGUF file, or holds a tensor of a type that is not supported.
    pub fn open_gguf(path: &Path) -> Result<Weights, ModelError> {
        gguf::open_tensors(path)
    }

    /// File or folder, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A view of one tensor.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn get(&self, name: &str) -> Result<Weight, ModelError> {
        let entry = self.entries.get(name);
        let entry = entry.ok_or_else(|| ModelError::malformed(&self.path, format!("tensor {name} is missing")))?;
        Ok(Weight { name: name.to_owned(), entry: entry.clone() })
    }

    /// Shape and storage type of one tensor, if it is there.
    pub fn describe(&self, name: &str) -> Option<(&[usize], WeightDtype)> {
        self.entries.get(name).map(|e| (e.shape.as_slice(), e.dtype))
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<WeightEntry> {
        self.entries.remove(name)
    }

    /// `xxh3-128:` and lower-case hex of the weight files' bytes, shards in file-name order.
    pub fn fingerprint(&self) -> String {
        let take = || {
            let mut hasher = Xxh3::new();
            for file in &self.files {
                hasher.update(file.as_slice());
            }
            format!("xxh3-128:{:032x}", hasher.digest128())
        };
        self.fingerprint.get_or_init(take).clone()
    }

    /// Size of all weight files in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.as_slice().len() as u64).sum()
    }
}

/// A view of one tensor: `[rows, cols]`, or `[cols]` for vectors (one row). Rows are what a linear layer's outputs are.
#[derive(Clone)]
pub struct Weight {
    name: String,
    entry: WeightEntry,
}

impl Weight {
    /// Values in memory rather than in a file: what a weight would be if it were something else. `[rows, cols]`, the bytes
    /// row after row; `None` if they are not as many as that takes.
    pub fn held(name: &str, dtype: WeightDtype, (rows, cols): (usize, usize), bytes: Vec<u8>) -> Option<Weight> {
        let (values, size) = dtype.block();
        let len = rows.checked_mul(cols / values)?.checked_mul(size)?;
        if !cols.is_multiple_of(values) || bytes.len() != len {
            return None;
        }
        let bytes = FileBytes::held(bytes);
        let entry = WeightEntry { bytes, offset: 0, len, dtype, shape: vec![rows, cols] };
        Some(Weight { name: name.to_owned(), entry })
    }

    /// Hugging Face name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Storage type.
    pub fn dtype(&self) -> WeightDtype {
        self.entry.dtype
    }

    /// Shape, slowest dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    /// Rows (outputs); 1 for a vector.
    pub fn rows(&self) -> usize {
        let shape = self.shape();
        shape.iter().take(shape.len().saturating_sub(1)).product()
    }

    /// Values a row (inputs).
    pub fn cols(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }

    /// The stored bytes, row after row.
    pub fn bytes(&self) -> &[u8] {
        &self.entry.bytes.as_slice()[self.entry.offset..self.entry.offset + self.entry.len]
    }

    /// Bytes a row.
    pub fn row_size_bytes(&self) -> usize {
        let (values, bytes) = self.dtype().block();
        self.cols() / values * bytes
    }

    /// The stored values in place, when they are f32 and the file has them aligned.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if self.dtype() != WeightDtype::F32 {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes()).ok()
    }

    /// Dequantises rows into `out`, which has `rows.len() × cols` values.
    ///
    /// # Panics
    /// When the rows are not there or `out` has another length: both are the caller's.
    pub fn dequantise_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        assert!(rows.end <= self.rows() && out.len() == rows.len() * self.cols(), "rows of {}", self.name);
        let size = self.row_size_bytes();
        dequant::dequantise(self.dtype(), &self.bytes()[rows.start * size..rows.end * size], out);
    }

    /// Dequantises the whole tensor. For vectors and for tests; large matrices stay mapped.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.cols()];
        self.dequantise_rows(0..self.rows(), &mut out);
        out
    }
}

//! Compressed payload files: Zstandard frames that make up a safetensors file, and a table of where each begins.
//!
//! The file is of the seekable format (zstd's `contrib/seekable_format`, version 0.1.1): `zstd -d` gives the safetensors file
//! back. The first frame holds its header; each further one some whole tensors, as far as [`FRAME_BYTES`] go, or one that is
//! larger. So a tensor is read by decompressing one frame, whose size is known beforehand.

use crate::tensors::Laid;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// How names of compressed payload files end.
pub const PACKED_SUFFIX: &str = ".zst";

/// Bytes of tensors that share a frame, at most.
const FRAME_BYTES: u64 = 1 << 20;
/// Compressed bytes per 100 of what they were, at most, for a file to be kept compressed.
const KEPT_PERCENT_MAX: u64 = 90;
/// Bytes after which compressing is given up where it has not paid so far.
const TRIAL_BYTES: u64 = 4 << 20;

const SEEK_TABLE: [u8; 4] = 0x184D_2A5Eu32.to_le_bytes();
const SEEKABLE: [u8; 4] = 0x8F92_EAB1u32.to_le_bytes();
/// A frame's entry in the table: its compressed and its decompressed size.
const ENTRY_BYTES: usize = 8;
/// Behind the entries: number of frames, a descriptor, and [`SEEKABLE`].
const FOOTER_BYTES: usize = 9;
/// A header beyond it is none that safetensors reads.
const HEADER_BYTES_MAX: u64 = 100_000_008;
/// How far back a frame may refer.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// Bytes that any frame may hold; a larger one, so many times its size.
const PLAIN_BYTES_MAX: u64 = 64 << 20;
const PLAIN_RATIO_MAX: u64 = 256;
/// Decompressed frames of a file that are kept for the next row, in bytes: rows of a position lie in many frames.
const KEPT_BYTES: usize = 64 << 20;

/// A compressed file, where compressing pays: it must save a tenth. Tried on the first tensors before the rest.
pub fn pack(file: &Laid<'_>) -> Option<Vec<u8>> {
    let mut out = Packing::default();
    out.frame(&file.head())?;
    let mut together: Vec<u8> = Vec::new();
    for bytes in file.tensors() {
        if !together.is_empty() && (together.len() + bytes.len()) as u64 > FRAME_BYTES {
            out.frame(&together)?;
            together.clear();
            if out.plain >= TRIAL_BYTES && !out.pays() {
                return None;
            }
        }
        together.extend_from_slice(bytes);
    }
    if !together.is_empty() {
        out.frame(&together)?;
    }
    let packed = out.end()?;
    (packed.len() as u64 * 100 <= file.len() * KEPT_PERCENT_MAX).then_some(packed)
}

#[derive(Default)]
struct Packing {
    bytes: Vec<u8>,
    table: Vec<u8>,
    plain: u64,
}

impl Packing {
    /// None: too large for the table, or for a reader.
    fn frame(&mut self, plain: &[u8]) -> Option<()> {
        let packed = compress_to_vec(plain, CompressionLevel::Fastest);
        if plain.len() as u64 > plain_max(packed.len()) {
            return None;
        }
        self.table.extend(u32::try_from(packed.len()).ok()?.to_le_bytes());
        self.table.extend(u32::try_from(plain.len()).ok()?.to_le_bytes());
        self.bytes.extend(packed);
        self.plain += plain.len() as u64;
        Some(())
    }

    fn pays(&self) -> bool {
        self.bytes.len() as u64 * 100 <= self.plain * KEPT_PERCENT_MAX
    }

    fn end(mut self) -> Option<Vec<u8>> {
        let frames = u32::try_from(self.table.len() / ENTRY_BYTES).ok()?;
        let size = u32::try_from(self.table.len() + FOOTER_BYTES).ok()?;
        self.bytes.extend(SEEK_TABLE);
        self.bytes.extend(size.to_le_bytes());
        self.bytes.extend(self.table);
        self.bytes.extend(frames.to_le_bytes());
        // No checksums: events have hashes of their rows.
        self.bytes.push(0);
        self.bytes.extend(SEEKABLE);
        Some(self.bytes)
    }
}

/// A frame: where it lies in the file, and which bytes of what it was it holds.
#[derive(Clone, Debug)]
struct Frame {
    packed: Range<usize>,
    plain: Range<u64>,
}

/// A compressed file that is read.
pub struct Packed {
    file: Box<dyn AsRef<[u8]> + Send + Sync>,
    frames: Vec<Frame>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    frames: BTreeMap<usize, Arc<Vec<u8>>>,
    order: VecDeque<usize>,
    bytes: usize,
}

impl Packed {
    /// Reads the table of a file, and checks that its frames fill it.
    pub fn open(file: Box<dyn AsRef<[u8]> + Send + Sync>) -> Result<Packed, String> {
        let frames =
            frames((*file).as_ref()).ok_or("its table of frames (zstd's seekable format) is damaged or not there")?;
        Ok(Packed { file, frames, kept: Mutex::default() })
    }

    /// What the first frame holds: the header of the safetensors file and the 8 bytes before it.
    pub fn head(&self) -> Result<Vec<u8>, String> {
        let first = self.frames.first().ok_or("it holds no frame")?;
        let size = first.plain.end;
        if !(8..=HEADER_BYTES_MAX).contains(&size) {
            return Err(format!("its header would take {size} bytes"));
        }
        self.decompress(first)
    }

    /// Bytes of the whole file as it was.
    pub fn plain_len(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.plain.end)
    }

    /// Some bytes of the file as it was, all of one tensor. A frame that holds more than them is no larger than frames of
    /// several tensors are, so that no more is ever decompressed than the tensor's own size or that.
    pub fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>, String> {
        let at = self.frames.partition_point(|frame| frame.plain.end <= range.start);
        let frame = self.frames.get(at).filter(|frame| frame.plain.contains(&range.start) || range.is_empty());
        let Some(frame) = frame.filter(|frame| range.is_empty() || range.end <= frame.plain.end) else {
            return Err("its bytes do not lie in one frame".to_owned());
        };
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let size = frame.plain.end - frame.plain.start;
        if size > FRAME_BYTES && frame.plain != range {
            return Err(format!(
                "its frame would take {size} bytes, more than the tensor's {}",
                range.end - range.start
            ));
        }
        let plain = self.kept(at, frame)?;
        let from = |at: u64| usize::try_from(at - frame.plain.start).ok();
        let own = from(range.start).zip(from(range.end)).and_then(|(start, end)| plain.get(start..end));
        own.map(<[u8]>::to_vec).ok_or_else(|| "its frame is too short".to_owned())
    }

    fn kept(&self, at: usize, frame: &Frame) -> Result<Arc<Vec<u8>>, String> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plain) = lock().frames.get(&at) {
            return Ok(plain.clone());
        }
        let plain = Arc::new(self.decompress(frame)?);
        let mut kept = lock();
        if plain.len() <= KEPT_BYTES && kept.frames.insert(at, plain.clone()).is_none() {
            kept.order.push_back(at);
            kept.bytes += plain.len();
        }
        while kept.bytes > KEPT_BYTES {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.bytes -= kept.frames.remove(&oldest).map_or(0, |plain| plain.len());
        }
        Ok(plain)
    }

    fn decompress(&self, frame: &Frame) -> Result<Vec<u8>, String> {
        let mut packed = (*self.file).as_ref().get(frame.packed.clone()).unwrap_or_default();
        let size = frame.plain.end - frame.plain.start;
        let most = plain_max(packed.len());
        if size > most {
            return Err(format!(
                "its frame of {} bytes is to hold {size}, more than the {most} that are read",
                packed.len()
            ));
        }
        let damaged = |what: &dyn std::fmt::Display| format!("its frame cannot be decompressed: {what}");
        let mut plain = Vec::new();
        {
            let decoder = StreamingDecoder::new_with_max_window_size(&mut packed, WINDOW_BYTES_MAX);
            let mut decoder = decoder.map_err(|e| damaged(&e))?;
            // One byte more than there should be tells a frame that holds more.
            decoder.by_ref().take(size.saturating_add(1)).read_to_end(&mut plain).map_err(|e| damaged(&e))?;
        }
        if plain.len() as u64 != size {
            let found = if plain.len() as u64 > size { "more".to_owned() } else { format!("{} bytes", plain.len()) };
            return Err(format!("its frame is to hold {size} bytes and holds {found}"));
        }
        if !packed.is_empty() {
            return Err("bytes are left behind its frame".to_owned());
        }
        Ok(plain)
    }
}

/// What a frame of so many bytes may hold.
fn plain_max(packed: usize) -> u64 {
    PLAIN_BYTES_MAX.max(PLAIN_RATIO_MAX.saturating_mul(packed as u64))
}

/// The frames of a file, if its table is there and they fill the file.
fn frames(file: &[u8]) -> Option<Vec<Frame>> {
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    let footer = file.get(file.len().checked_sub(FOOTER_BYTES)?..)?;
    let count = usize::try_from(number(footer.get(..4)?)?).ok()?;
    if footer.get(4..)? != [&[0][..], &SEEKABLE].concat() {
        return None;
    }
    let size = count.checked_mul(ENTRY_BYTES)?.checked_add(FOOTER_BYTES)?;
    let start = file.len().checked_sub(size.checked_add(8)?)?;
    let head = file.get(start..start + 8)?;
    if head.get(..4)? != SEEK_TABLE || usize::try_from(number(head.get(4..)?)?).ok()? != size {
        return None;
    }
    let table = file.get(start + 8..file.len() - FOOTER_BYTES)?;
    let (mut at, mut plain) = (0usize, 0u64);
    let mut frames = Vec::new();
    for entry in table.chunks_exact(ENTRY_BYTES) {
        let packed = usize::try_from(number(entry.get(..4)?)?).ok()?;
        let size = u64::from(number(entry.get(4..)?)?);
        let (end, plain_end) = (at.checked_add(packed)?, plain.checked_add(size)?);
        frames.push(Frame { packed: at..end, plain: plain..plain_end });
        (at, plain) = (end, plain_end);
    }
    (at == start).then_some(frames)
}

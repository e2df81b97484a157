//! A run's trace files cut into blocks of whole lines, which are read on all cores and put together in their order.

use crate::TraceError;
use crate::lines::{Lines, MAX_LINE_BYTES};
use crate::run::{Reading, TraceFile, io_error};
use rayon::prelude::*;
use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a block, as long as no line is longer: some thousand events.
const BLOCK_BYTES: u64 = 1 << 20;

/// Some lines of a file, and what stopped its reader behind them.
struct Block<'a> {
    file: &'a TraceFile,
    /// Lines before it.
    lines_before: u64,
    bytes: Vec<u8>,
    error: Option<io::Error>,
}

/// The blocks of all files, one after the other.
struct Blocks<'a> {
    files: std::slice::Iter<'a, TraceFile>,
    open: Option<(&'a TraceFile, Box<dyn BufRead + Send>, u64)>,
}

impl<'a> Blocks<'a> {
    fn next_block(&mut self) -> Result<Option<Block<'a>>, TraceError> {
        loop {
            let (file, mut reader, lines_before) = match self.open.take() {
                Some(open) => open,
                None => {
                    let Some(file) = self.files.next() else { return Ok(None) };
                    (file, Lines::reader(&file.path).map_err(io_error("open", &file.path))?, 0)
                }
            };
            let mut bytes = Vec::new();
            let error = fill(&mut reader, &mut bytes).err();
            if bytes.is_empty() && error.is_none() {
                continue;
            }
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            if error.is_none() {
                self.open = Some((file, reader, lines_before + lines));
            }
            return Ok(Some(Block { file, lines_before, bytes, error }));
        }
    }
}

/// Reads about a block, to the end of a line if there is one within its permitted length.
fn fill(reader: &mut dyn BufRead, bytes: &mut Vec<u8>) -> io::Result<()> {
    reader.take(BLOCK_BYTES).read_to_end(bytes)?;
    if bytes.last().is_some_and(|byte| *byte != b'\n') {
        reader.take(MAX_LINE_BYTES + 1).read_until(b'\n', bytes)?;
    }
    Ok(())
}

/// Reads all files; the first refusal in their order counts.
///
/// # Errors
/// As [`Run::open`](crate::Run::open).
pub fn read(files: &[TraceFile], complete: bool) -> Result<Reading, TraceError> {
    let mut blocks = Blocks { files: files.iter(), open: None };
    // What lies behind a refusal need not be read; what lies before it has been handed out already.
    let refused = AtomicUsize::new(usize::MAX);
    let mut number = 0;
    let handed_out = std::iter::from_fn(|| {
        if refused.load(Ordering::Relaxed) < number {
            return None;
        }
        let block = blocks.next_block().transpose()?;
        number += 1;
        Some((number, block))
    });
    let mut parts: Vec<(usize, Result<Reading, TraceError>)> = handed_out
        .par_bridge()
        .map(|(number, block)| {
            let part = block.and_then(|block| block.read(complete));
            if part.is_err() {
                refused.fetch_min(number, Ordering::Relaxed);
            }
            (number, part)
        })
        .collect();
    parts.sort_by_key(|(number, _)| *number);
    let mut whole = Reading::new(complete);
    let events = parts.iter().flat_map(|(_, part)| part.as_ref().ok()).map(|part| part.events.len()).sum();
    whole.events.reserve_exact(events);
    for (_, part) in parts {
        whole.append(part?);
    }
    Ok(whole)
}

impl Block<'_> {
    fn read(self, complete: bool) -> Result<Reading, TraceError> {
        let mut reading = Reading::new(complete);
        let mut lines = Lines::of(self.bytes, self.error, self.lines_before);
        reading.lines(self.file, &mut lines)?;
        Ok(reading)
    }
}

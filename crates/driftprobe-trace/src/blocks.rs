//! A run's trace files cut into blocks of whole lines, which are read on all cores and put together in their order.

use crate::TraceError;
use crate::lines::{Lines, MAX_LINE_BYTES};
use crate::reading::Reading;
use crate::run::TraceFile;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
                    (file, Lines::reader(&file.path).map_err(TraceError::io("open", &file.path))?, 0)
                }
            };
            let mut bytes = Vec::new();
            let error = fill(&mut reader, &mut bytes).err();
            if bytes.is_empty() && error.is_none() {
                continue;
            }
            let lines = memchr::memchr_iter(b'\n', &bytes).count() as u64;
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

/// What was read of the blocks so far, in their order.
struct Gathered {
    /// Of blocks of which an earlier one is still being read.
    waiting: Mutex<(usize, BTreeMap<usize, Reading>)>,
    whole: Mutex<Reading>,
    /// The earliest refusal.
    refused: Mutex<Option<(usize, TraceError)>>,
}

impl Gathered {
    fn add(&self, number: usize, part: Result<Reading, TraceError>) {
        match part {
            Ok(part) => drop(held(&self.waiting).1.insert(number, part)),
            Err(error) => {
                let mut refused = held(&self.refused);
                if refused.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
                    *refused = Some((number, error));
                }
            }
        }
        // Who finds another at it goes on reading.
        if let Ok(mut whole) = self.whole.try_lock() {
            self.append(&mut whole);
        }
    }

    /// Appends what has its turn.
    fn append(&self, whole: &mut Reading) {
        let next = || {
            let mut waiting = held(&self.waiting);
            let (number, parts) = &mut *waiting;
            let part = parts.remove(number);
            *number += usize::from(part.is_some());
            part
        };
        while let Some(part) = next() {
            whole.append(part);
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads all files; the first refusal in their order counts.
///
/// # Errors
/// As [`Run::open`](crate::Run::open).
pub fn read(files: &[TraceFile], complete: bool) -> Result<Reading, TraceError> {
    let mut blocks = Blocks { files: files.iter(), open: None };
    let gathered =
        Gathered { waiting: Mutex::default(), whole: Mutex::new(Reading::new(complete)), refused: Mutex::default() };
    // What lies behind a refusal need not be read; what lies before it has been handed out already.
    let handed_out = std::iter::from_fn(|| match held(&gathered.refused).is_some() {
        true => None,
        false => blocks.next_block().transpose(),
    });
    handed_out.enumerate().par_bridge().for_each(|(number, block)| {
        gathered.add(number, block.and_then(|block| block.read(complete)));
    });
    if let Some((_, error)) = held(&gathered.refused).take() {
        return Err(error);
    }
    gathered.append(&mut held(&gathered.whole));
    Ok(gathered.whole.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Block<'_> {
    fn read(self, complete: bool) -> Result<Reading, TraceError> {
        let mut reading = Reading::new(complete);
        let mut lines = Lines::of(self.bytes, self.error, self.lines_before);
        reading.lines(self.file, &mut lines)?;
        Ok(reading)
    }
}

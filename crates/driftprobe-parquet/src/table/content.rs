//! What a table holds beside its payloads, and where those lie.

use super::Table;
use crate::error::{COPY_AGAIN, fault, guarded};
use crate::layout::Content;
use driftprobe_trace::{TraceError, xxh3_128, xxh3_128_text};
use parquet::file::reader::FileReader;
use std::ops::Range;

impl Table {
    /// What it holds: a hash over all but the payloads, which are as many bytes as all else many times over.
    ///
    /// # Errors
    /// If its footer says that payloads lie where they cannot.
    pub fn content(&self) -> Result<Content, TraceError> {
        guarded(&self.path, || {
            let mut hashes = Vec::new();
            let mut at = 0usize;
            for place in self.payload_places()? {
                hashes.extend(xxh3_128(self.bytes.get(at..place.start).unwrap_or_default()).to_le_bytes());
                at = place.end;
            }
            hashes.extend(xxh3_128(self.bytes.get(at..).unwrap_or_default()).to_le_bytes());
            Ok(Content { rows: self.rows(), hash: xxh3_128_text(&hashes) })
        })
    }

    /// Where the payloads of each row group lie: within the file, one behind the other.
    pub(super) fn payload_places(&self) -> Result<Vec<Range<usize>>, TraceError> {
        let groups = self.reader.metadata().row_groups();
        let chunks = self.payload.iter().flat_map(|known| groups.iter().map(|group| group.column(known.leaf)));
        let mut places: Vec<Range<usize>> = Vec::new();
        for (start, len) in chunks.map(|chunk| chunk.byte_range()) {
            let place = usize::try_from(start).ok().zip(usize::try_from(start.saturating_add(len)).ok());
            let before = places.last().map_or(0, |last| last.end);
            match place.filter(|(start, end)| before <= *start && start <= end && *end <= self.bytes.len()) {
                Some((start, end)) => places.push(start..end),
                None => return Err(fault(&self.path, "", "its footer says that payloads lie elsewhere", COPY_AGAIN)),
            }
        }
        Ok(places)
    }
}

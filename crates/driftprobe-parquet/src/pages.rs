//! Pages of a column, looked at before the library makes room for what they claim.
//!
//! A page's header says how large the page is once it is decompressed, and how many values it has. The library makes room for
//! that much, and some claims are more than any machine has: what a page's bytes cannot hold is refused here.

use crate::thrift::{Compact, I32, STRUCT, TRUE, expect};
use bytes::Bytes;
use parquet::basic::{CompressionCodec, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::RowGroupReader;
use parquet::schema::types::ColumnDescPtr;

/// Bytes that all pages of a column of a row group may take once decompressed; more, if the column has more itself.
const PLAIN_BYTES_MAX: u64 = 512 << 20;
/// … as many times its size.
const PLAIN_RATIO_MAX: u64 = 256;
/// Bytes of a value of a dictionary, at least: a text's length, a small number.
const VALUE_BYTES_MIN: usize = 4;
/// Values that a page of lists, or of lengths that come before texts, may have whatever its size.
const VALUES_MAX: u64 = 4096;

/// The library's reader of one column of a row group of `file`, in front of which each page is looked at.
///
/// # Errors
/// If the pages lie outside the file, or claim what their bytes cannot hold.
pub fn column_reader(file: &Bytes, group: &dyn RowGroupReader, leaf: usize) -> Result<ColumnReader> {
    let metadata = group.metadata();
    let chunk = metadata.columns().get(leaf).ok_or_else(|| refused("the row group does not have it"))?;
    let (start, len) = chunk.byte_range();
    let range = usize::try_from(start).ok().zip(usize::try_from(start.saturating_add(len)).ok());
    let pages = range.and_then(|(start, end)| file.get(start..end));
    let pages = pages.ok_or_else(|| refused("the footer says that its pages lie outside the file"))?;
    check_sizes(pages, chunk.compression_codec())?;
    let described = metadata.schema_descr().column(leaf);
    let rows = u64::try_from(metadata.num_rows()).unwrap_or(0);
    let pages = Looked { inner: group.get_column_page_reader(leaf)?, described: described.clone(), rows };
    Ok(get_column_reader(described, Box::new(pages)))
}

fn refused(what: impl Into<String>) -> ParquetError {
    ParquetError::General(what.into())
}

/// Holds the sizes that a column's page headers claim against what its compressed bytes can be unpacked to.
fn check_sizes(mut pages: &[u8], codec: CompressionCodec) -> Result<()> {
    let most = PLAIN_BYTES_MAX.max(PLAIN_RATIO_MAX.saturating_mul(pages.len() as u64));
    // What one compressed byte can stand for: a copy of 64 bytes takes three in Snappy, a block of 128 KiB four in Zstandard.
    let ratio = match codec {
        CompressionCodec::UNCOMPRESSED => 1,
        CompressionCodec::SNAPPY => 22,
        _ => 32 << 10,
    };
    let mut all = 0u64;
    while !pages.is_empty() {
        let header = header(pages).ok_or_else(|| refused("a page header that makes no sense"))?;
        let rest = pages.get(header.len..).unwrap_or_default();
        let Some((_, behind)) = usize::try_from(header.packed).ok().and_then(|packed| rest.split_at_checked(packed))
        else {
            return Err(refused(format!("a page claims {} bytes, the column ends before", header.packed)));
        };
        if header.plain > header.packed.saturating_mul(ratio) {
            let (packed, plain) = (header.packed, header.plain);
            return Err(refused(format!("a page of {packed} bytes claims {plain} bytes, more than they can hold")));
        }
        all = all.saturating_add(header.plain);
        if all > most {
            return Err(refused(format!("its pages claim more than {most} bytes, too many for its size")));
        }
        pages = behind;
    }
    Ok(())
}

/// What a page's header says of its size, and its own length.
struct Header {
    plain: u64,
    packed: u64,
    len: usize,
}

/// Types of a page header's fields.
const PAGE: &[u8] = &[I32, I32, I32, I32, STRUCT, STRUCT, STRUCT, STRUCT];

/// The page header that `bytes` begin with.
fn header(bytes: &[u8]) -> Option<Header> {
    let mut from = Compact::new(bytes, 0);
    let (mut plain, mut packed, mut last) = (None, None, 0);
    while let (Some(id), kind) = from.field(last)? {
        expect(PAGE, id, kind)?;
        match id {
            2 => plain = u32::try_from(from.signed()?).ok(),
            3 => packed = u32::try_from(from.signed()?).ok(),
            5 => from.skip(kind, &[I32, I32, I32, I32])?,
            7 => from.skip(kind, &[I32, I32, TRUE])?,
            8 => from.skip(kind, &[I32, I32, I32, I32, I32, I32, TRUE])?,
            _ => from.skip(kind, &[])?,
        }
        last = id;
    }
    Some(Header { plain: u64::from(plain?), packed: u64::from(packed?), len: from.at() })
}

/// Pages as the library reads them, each looked at.
struct Looked {
    inner: Box<dyn PageReader>,
    described: ColumnDescPtr,
    /// Rows of the group.
    rows: u64,
}

impl Looked {
    fn look(&self, page: &Page) -> Result<()> {
        let bytes = page.buffer();
        let values = u64::from(page.num_values());
        if page.is_dictionary_page() {
            let most = bytes.len() / VALUE_BYTES_MIN;
            return match values > most as u64 {
                true => Err(refused(format!("a dictionary of {} bytes claims {values} values", bytes.len()))),
                false => Ok(()),
            };
        }
        let lists = self.described.max_rep_level() > 0;
        let most = VALUES_MAX.saturating_add((bytes.len() as u64).saturating_mul(64));
        if lists && values > most.saturating_add(self.rows.saturating_mul(64)) {
            return Err(refused(format!("a page of {} bytes claims {values} values of lists", bytes.len())));
        }
        match page.encoding() {
            Encoding::DELTA_BYTE_ARRAY => Err(refused("the encoding DELTA_BYTE_ARRAY is not read")),
            Encoding::DELTA_LENGTH_BYTE_ARRAY => {
                let lengths = self.lengths(page).ok_or_else(|| refused("the lengths of a page make no sense"))?;
                match lengths > values || values > most {
                    true => Err(refused(format!("a page of {} bytes claims {lengths} lengths", bytes.len()))),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// How many lengths a page of texts claims that has all lengths before the texts.
    fn lengths(&self, page: &Page) -> Option<u64> {
        let bytes = page.buffer();
        let at = match page {
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                usize::try_from(u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len)).ok()?
            }
            Page::DataPage { def_level_encoding, rep_level_encoding, .. } => {
                let levels = [
                    (self.described.max_rep_level(), rep_level_encoding),
                    (self.described.max_def_level(), def_level_encoding),
                ];
                let mut at = 0usize;
                for (_, encoding) in levels.into_iter().filter(|(most, _)| *most > 0) {
                    let len = bytes.get(at..at.checked_add(4)?).filter(|_| *encoding == Encoding::RLE)?;
                    let len = usize::try_from(u32::from_le_bytes(len.try_into().ok()?)).ok()?;
                    at = at.checked_add(4)?.checked_add(len)?;
                }
                at
            }
            Page::DictionaryPage { .. } => return None,
        };
        let mut from = Compact::new(bytes, at);
        // Size of a block, number of its parts, number of all values.
        from.varint().and(from.varint())?;
        from.varint()
    }
}

impl PageReader for Looked {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.get_next_page()?;
        page.map(|page| self.look(&page).map(|()| page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

impl Iterator for Looked {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

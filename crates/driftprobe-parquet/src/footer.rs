//! The footer's schema, looked at before the library builds it: it goes down as deep as groups lie in groups, and makes room for
//! as many columns as a group claims.

use crate::thrift::{BINARY, Compact, I8, I32, LIST, STRUCT, TRUE, expect};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::schema::types::SchemaDescPtr;

/// Columns and groups of columns.
const ELEMENTS_MAX: u64 = 256;
/// Length of the footer, and four letters.
const END_BYTES: usize = 8;

/// The schema of a file of these bytes.
///
/// # Errors
/// If there is no footer, or its schema is none that is read.
pub fn schema(file: &[u8]) -> Result<SchemaDescPtr> {
    let refused = |what: &str| ParquetError::General(what.to_owned());
    let footer = footer(file).ok_or_else(|| refused("no Parquet file, or one that is cut off: there is no footer"))?;
    match elements(footer).ok_or_else(|| refused("its schema makes no sense"))? {
        0..=ELEMENTS_MAX => ParquetMetaDataReader::decode_schema(footer),
        more => Err(refused(&format!("its schema has {more} columns and groups, at most {ELEMENTS_MAX} are read"))),
    }
}

fn footer(file: &[u8]) -> Option<&[u8]> {
    let (before, end) = file.split_at_checked(file.len().checked_sub(END_BYTES)?)?;
    let (len, letters) = end.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok().filter(|_| letters == b"PAR1")?;
    before.get(before.len().checked_sub(len)?..)
}

/// Number of the schema's elements, each of which claims no more children than there are elements.
fn elements(footer: &[u8]) -> Option<u64> {
    let mut from = Compact::new(footer, 0);
    // Every writer has the version first, then the schema.
    if from.field(0)? != (Some(1), I32) {
        return None;
    }
    from.signed()?;
    if from.field(1)? != (Some(2), LIST) {
        return None;
    }
    let (kind, count) = from.list()?;
    if kind != STRUCT || count > ELEMENTS_MAX {
        return (kind == STRUCT).then_some(count);
    }
    for _ in 0..count {
        element(&mut from, count)?;
    }
    Some(count)
}

fn element(from: &mut Compact<'_>, count: u64) -> Option<()> {
    let mut last = 0;
    while let (Some(id), kind) = from.field(last)? {
        expect(&[I32, I32, I32, BINARY, I32, I32, I32, I32, I32, STRUCT], id, kind)?;
        match id {
            5 => drop(u64::try_from(from.signed()?).ok().filter(|children| *children < count)?),
            10 => logical_type(from)?,
            _ => from.skip(kind, &[])?,
        }
        last = id;
    }
    Some(())
}

/// A struct of one field, which says the type, with what the library knows of each.
fn logical_type(from: &mut Compact<'_>) -> Option<()> {
    let mut last = 0;
    while let (Some(id), kind) = from.field(last)? {
        let known: &[u8] = match id {
            // Decimals, times of day and of all time, integers, variants, geometries, geographies.
            5 => &[I32, I32],
            7 | 8 => &[TRUE, STRUCT],
            10 => &[I8, TRUE],
            16 => &[I8],
            17 => &[BINARY],
            18 => &[BINARY, I32],
            _ => &[],
        };
        (kind == STRUCT).then_some(())?;
        from.skip(kind, known)?;
        last = id;
    }
    Some(())
}

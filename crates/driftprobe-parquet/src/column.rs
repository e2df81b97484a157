//! One column of a row group as it is read: some rows at a time, whatever program wrote it in whatever type that holds the same.

use crate::columns::{Cell, Column, Kind};
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::errors::Result;
use parquet::schema::types::ColumnDescriptor;

/// How a file holds a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Bytes,
    Signed32,
    Unsigned32,
    Signed64,
    Unsigned64,
    Single,
    Double,
    /// Nothing but nulls.
    Nothing,
}

/// A column of ours and where a file holds it.
#[derive(Clone)]
pub struct Known {
    /// The column.
    pub column: &'static Column,
    /// Index of its values among the file's.
    pub leaf: usize,
    stored: Stored,
    /// Level of a value that is there.
    defined: i16,
    /// Level of a list that has an element, if it is a list.
    listed: Option<i16>,
    /// Whether a list may be null.
    nullable: bool,
}

impl Known {
    /// The column as `leaf` of a file, which is described so.
    ///
    /// # Errors
    /// If it is of a type that does not hold what the column does.
    pub fn new(
        column: &'static Column,
        leaf: usize,
        described: &ColumnDescriptor,
        root_is_optional: bool,
    ) -> std::result::Result<Known, String> {
        let is_list = matches!(column.kind, Kind::U64s | Kind::F64s | Kind::Texts);
        let repeated = described.max_rep_level();
        let flat = described.path().parts().len() == 1;
        let stored = stored(column.kind, described).filter(|_| match is_list {
            true => repeated == 1,
            false => repeated == 0 && flat,
        });
        let stored = stored.ok_or_else(|| format!("expected {}, found {}", wanted(column.kind), found(described)))?;
        Ok(Known {
            column,
            leaf,
            stored,
            defined: described.max_def_level(),
            listed: is_list.then(|| described.repeated_ancestor_def_level()),
            nullable: root_is_optional,
        })
    }
}

/// What a column is to be, in words.
fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::I32 | Kind::U32 | Kind::U64 => "an integer",
        Kind::F64 => "a float or a double",
        Kind::U64s => "a list of integers",
        Kind::F64s => "a list of floats or doubles",
        Kind::Texts => "a list of texts",
        Kind::Bytes => "bytes",
    }
}

/// What a column is, in words.
fn found(described: &ColumnDescriptor) -> String {
    let mut text = described.physical_type().to_string();
    match (described.logical_type_ref(), described.converted_type()) {
        (Some(logical), _) => text.push_str(&format!(" ({logical:?})")),
        (None, ConvertedType::NONE) => {}
        (None, converted) => text.push_str(&format!(" ({converted})")),
    }
    match described.max_rep_level() {
        0 => text,
        1 => format!("a list of {text}"),
        _ => format!("lists of lists of {text}"),
    }
}

fn stored(kind: Kind, described: &ColumnDescriptor) -> Option<Stored> {
    let (logical, converted) = (described.logical_type_ref(), described.converted_type());
    let physical = described.physical_type();
    if matches!(logical, Some(LogicalType::Unknown)) {
        return Some(Stored::Nothing);
    }
    let plain = logical.is_none() && converted == ConvertedType::NONE;
    match kind {
        Kind::Text | Kind::Texts => {
            let text = match logical {
                Some(logical) => matches!(logical, LogicalType::String | LogicalType::Enum | LogicalType::Json),
                None => matches!(
                    converted,
                    ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON
                ),
            };
            (physical == Physical::BYTE_ARRAY && text).then_some(Stored::Bytes)
        }
        Kind::Bytes => (physical == Physical::BYTE_ARRAY && plain).then_some(Stored::Bytes),
        Kind::F64 | Kind::F64s => match physical {
            Physical::FLOAT if plain => Some(Stored::Single),
            Physical::DOUBLE if plain => Some(Stored::Double),
            _ => None,
        },
        Kind::I32 | Kind::U32 | Kind::U64 | Kind::U64s => {
            let signed = match (logical, converted) {
                (Some(LogicalType::Integer(integer)), _) => integer.is_signed,
                (Some(_), _) => return None,
                (None, ConvertedType::NONE | ConvertedType::INT_8 | ConvertedType::INT_16) => true,
                (None, ConvertedType::INT_32 | ConvertedType::INT_64) => true,
                (None, ConvertedType::UINT_8 | ConvertedType::UINT_16) => false,
                (None, ConvertedType::UINT_32 | ConvertedType::UINT_64) => false,
                (None, _) => return None,
            };
            match (physical, signed) {
                (Physical::INT32, true) => Some(Stored::Signed32),
                (Physical::INT32, false) => Some(Stored::Unsigned32),
                (Physical::INT64, true) => Some(Stored::Signed64),
                (Physical::INT64, false) => Some(Stored::Unsigned64),
                _ => None,
            }
        }
    }
}

/// Values of some rows.
enum Values {
    Bytes(Vec<ByteArray>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// Some rows of a column.
pub struct Batch {
    known: Known,
    reader: ColumnReader,
    values: Values,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

/// How far a batch has been gone through.
#[derive(Clone, Copy, Default)]
pub struct Cursor {
    level: usize,
    value: usize,
}

impl Batch {
    /// The column that `reader` reads.
    pub fn new(known: Known, reader: ColumnReader) -> Batch {
        let values = match &reader {
            ColumnReader::Int32ColumnReader(_) => Values::I32(Vec::new()),
            ColumnReader::Int64ColumnReader(_) => Values::I64(Vec::new()),
            ColumnReader::FloatColumnReader(_) => Values::F32(Vec::new()),
            ColumnReader::DoubleColumnReader(_) => Values::F64(Vec::new()),
            _ => Values::Bytes(Vec::new()),
        };
        Batch { known, reader, values, definition: Vec::new(), repetition: Vec::new() }
    }

    /// The column.
    pub fn column(&self) -> &'static Column {
        self.known.column
    }

    /// Reads the next rows in place of those before, at most so many; how many there were.
    ///
    /// # Errors
    /// If the file's bytes make no sense.
    pub fn fill(&mut self, rows: usize) -> Result<usize> {
        let Batch { reader, values, definition, repetition, .. } = self;
        definition.clear();
        repetition.clear();
        let mut read = 0;
        macro_rules! fill {
            ($reader:expr, $all:expr) => {{
                $all.clear();
                while read < rows {
                    match $reader.read_records(rows - read, Some(definition), Some(repetition), $all)?.0 {
                        0 => break,
                        more => read += more,
                    }
                }
            }};
        }
        match (reader, values) {
            (ColumnReader::ByteArrayColumnReader(reader), Values::Bytes(all)) => fill!(reader, all),
            (ColumnReader::Int32ColumnReader(reader), Values::I32(all)) => fill!(reader, all),
            (ColumnReader::Int64ColumnReader(reader), Values::I64(all)) => fill!(reader, all),
            (ColumnReader::FloatColumnReader(reader), Values::F32(all)) => fill!(reader, all),
            (ColumnReader::DoubleColumnReader(reader), Values::F64(all)) => fill!(reader, all),
            // Of other types there is no column of ours but one of nothing but nulls.
            _ => {}
        }
        Ok(read)
    }

    /// Bytes that what was read takes where each value is held by itself.
    pub fn held(&self) -> u64 {
        let bytes = match &self.values {
            Values::Bytes(all) => all.iter().map(ByteArray::len).sum(),
            Values::I32(all) => all.len() * 8,
            Values::I64(all) => all.len() * 8,
            Values::F32(all) => all.len() * 8,
            Values::F64(all) => all.len() * 8,
        };
        bytes as u64
    }

    /// The value of the next row; the cursor goes on.
    ///
    /// # Errors
    /// If it is not what the column holds.
    pub fn next(&self, cursor: &mut Cursor) -> std::result::Result<Cell<'_>, String> {
        let Some(listed) = self.known.listed else {
            return match self.defined(cursor)? {
                true => self.value(cursor),
                false => Ok(Cell::Null),
            };
        };
        let first = self.level(cursor)?;
        if first < listed {
            cursor.level += 1;
            return Ok(if self.known.nullable && first == 0 { Cell::Null } else { self.list(Vec::new())? });
        }
        let mut cells = Vec::new();
        loop {
            cells.push(match self.defined(cursor)? {
                true => self.value(cursor)?,
                false => Cell::Null,
            });
            // The next value is this list's unless a row begins with it.
            if self.repetition.get(cursor.level).is_none_or(|level| *level == 0) {
                return self.list(cells);
            }
        }
    }

    fn level(&self, cursor: &Cursor) -> std::result::Result<i16, String> {
        match self.known.defined {
            0 => Ok(0),
            _ => self.definition.get(cursor.level).copied().ok_or_else(|| "the column ends here".to_owned()),
        }
    }

    /// Whether there is a value; the cursor goes on to the next level.
    fn defined(&self, cursor: &mut Cursor) -> std::result::Result<bool, String> {
        let level = self.level(cursor)?;
        cursor.level += 1;
        Ok(level == self.known.defined)
    }

    fn value(&self, cursor: &mut Cursor) -> std::result::Result<Cell<'_>, String> {
        let at = cursor.value;
        cursor.value += 1;
        let ended = || "the column ends here".to_owned();
        let unsigned = matches!(self.known.stored, Stored::Unsigned32 | Stored::Unsigned64);
        if self.known.stored == Stored::Nothing {
            return Err("a value in a column that has no type".to_owned());
        }
        Ok(match &self.values {
            Values::Bytes(all) => {
                let bytes = all.get(at).ok_or_else(ended)?.data();
                match self.known.column.kind {
                    Kind::Bytes => Cell::Bytes(bytes),
                    _ => Cell::Text(std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?),
                }
            }
            Values::I32(all) => {
                let value = *all.get(at).ok_or_else(ended)?;
                Cell::Int(if unsigned { i128::from(value as u32) } else { i128::from(value) })
            }
            Values::I64(all) => {
                let value = *all.get(at).ok_or_else(ended)?;
                Cell::Int(if unsigned { i128::from(value as u64) } else { i128::from(value) })
            }
            Values::F32(all) => Cell::Float(f64::from(*all.get(at).ok_or_else(ended)?)),
            Values::F64(all) => Cell::Float(*all.get(at).ok_or_else(ended)?),
        })
    }

    /// A list of these values. A number that is null is NaN, as it is in JSON.
    fn list(&self, cells: Vec<Cell<'_>>) -> std::result::Result<Cell<'_>, String> {
        let wrong = || "a null in the list".to_owned();
        match self.known.column.kind {
            Kind::F64s => {
                let number = |cell| match cell {
                    Cell::Float(value) => Ok(value),
                    Cell::Null => Ok(f64::NAN),
                    _ => Err(wrong()),
                };
                cells.into_iter().map(number).collect::<std::result::Result<_, _>>().map(Cell::Floats)
            }
            Kind::U64s => {
                let integer = |cell| match cell {
                    Cell::Int(value) => {
                        u64::try_from(value).map_err(|_| format!("{value} is outside what the field can hold"))
                    }
                    _ => Err(wrong()),
                };
                cells.into_iter().map(integer).collect::<std::result::Result<_, _>>().map(Cell::Ints)
            }
            _ => {
                let text = |cell| if let Cell::Text(text) = cell { Ok(text.to_owned()) } else { Err(wrong()) };
                cells.into_iter().map(text).collect::<std::result::Result<_, _>>().map(Cell::Texts)
            }
        }
    }
}

impl Batch {
    /// Moves the bytes of the rows that were read behind those in `all`, a place for each row.
    pub fn drain_bytes(&mut self, all: &mut Vec<Option<ByteArray>>) {
        let Values::Bytes(values) = &mut self.values else { return };
        let mut values = values.drain(..);
        match self.known.defined {
            0 => all.extend(values.map(Some)),
            defined => all.extend(self.definition.iter().map(|level| match *level == defined {
                true => values.next(),
                false => None,
            })),
        }
    }
}

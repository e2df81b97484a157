//! One column's values of a row group, on their way to the file.

use crate::columns::{Cell, Kind};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::writer::SerializedColumnWriter;

/// Bytes of values that are given to the column's writer at once: it looks only between two such batches whether its page is
/// full.
const BATCH_BYTES: usize = 1 << 20;

enum Values {
    Texts(Vec<ByteArray>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Values of one column with their levels.
pub struct Buffer {
    kind: Kind,
    values: Values,
    definition: Vec<i16>,
    repetition: Vec<i16>,
    bytes: usize,
}

impl Buffer {
    /// An empty one of a column of this kind.
    pub fn new(kind: Kind) -> Buffer {
        let values = match kind {
            Kind::Text | Kind::Texts | Kind::Bytes => Values::Texts(Vec::new()),
            Kind::I32 | Kind::U32 => Values::I32(Vec::new()),
            Kind::U64 | Kind::U64s => Values::I64(Vec::new()),
            Kind::F64 | Kind::F64s => Values::F64(Vec::new()),
        };
        Buffer { kind, values, definition: Vec::new(), repetition: Vec::new(), bytes: 0 }
    }

    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds one row's value.
    pub fn push(&mut self, cell: Cell<'_>) {
        match cell {
            Cell::Null => {
                self.definition.push(0);
                if self.is_list() {
                    self.repetition.push(0);
                }
            }
            Cell::Ints(list) => self.list(list.len(), list.into_iter().map(|value| Cell::Int(i128::from(value)))),
            Cell::Floats(list) => self.list(list.len(), list.into_iter().map(Cell::Float)),
            Cell::Texts(list) => self.list(list.len(), list.iter().map(|text| Cell::Text(text))),
            one => {
                self.definition.push(1);
                self.value(&one);
            }
        }
    }

    fn is_list(&self) -> bool {
        matches!(self.kind, Kind::U64s | Kind::F64s | Kind::Texts)
    }

    fn list<'c>(&mut self, len: usize, cells: impl Iterator<Item = Cell<'c>>) {
        if len == 0 {
            self.definition.push(1);
            self.repetition.push(0);
        }
        for (number, cell) in cells.enumerate() {
            self.definition.push(2);
            self.repetition.push(i16::from(number > 0));
            self.value(&cell);
        }
    }

    /// Integers keep their 64 (or 32) bits, which the column's type says to be signed or not.
    fn value(&mut self, cell: &Cell<'_>) {
        let bytes = match (&mut self.values, cell) {
            (Values::Texts(all), Cell::Text(text)) => push_bytes(all, text.as_bytes()),
            (Values::Texts(all), Cell::Bytes(bytes)) => push_bytes(all, bytes),
            (Values::I32(all), Cell::Int(value)) => {
                all.push(*value as i32);
                4
            }
            (Values::I64(all), Cell::Int(value)) => {
                all.push(*value as i64);
                8
            }
            (Values::F64(all), Cell::Float(value)) => {
                all.push(*value);
                8
            }
            // A column's getter gives what its kind says.
            _ => 0,
        };
        self.bytes += bytes;
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, column: &mut SerializedColumnWriter<'_>) -> Result<()> {
        let repetition = self.is_list().then_some(self.repetition.as_slice());
        let definition = Some(self.definition.as_slice());
        match &self.values {
            Values::I32(all) => drop(column.typed::<Int32Type>().write_batch(all, definition, repetition)?),
            Values::I64(all) => drop(column.typed::<Int64Type>().write_batch(all, definition, repetition)?),
            Values::F64(all) => drop(column.typed::<DoubleType>().write_batch(all, definition, repetition)?),
            Values::Texts(all) if self.kind == Kind::Bytes => self.write_bytes(all, column)?,
            Values::Texts(all) => drop(column.typed::<ByteArrayType>().write_batch(all, definition, repetition)?),
        }
        Ok(())
    }

    /// Writes large values some at a time, so that no page grows beyond what its header can say.
    fn write_bytes(&self, all: &[ByteArray], column: &mut SerializedColumnWriter<'_>) -> Result<()> {
        let writer = column.typed::<ByteArrayType>();
        let (mut levels, mut values) = (self.definition.as_slice(), all);
        while !levels.is_empty() {
            let (mut rows, mut taken, mut bytes) = (0, 0, 0);
            while let Some(level) = levels.get(rows).filter(|_| bytes < BATCH_BYTES) {
                if *level == 1 {
                    bytes += values.get(taken).map_or(0, ByteArray::len);
                    taken += 1;
                }
                rows += 1;
            }
            let (now, later) = levels.split_at_checked(rows).unwrap_or((levels, &[]));
            let (of_now, of_later) = values.split_at_checked(taken).unwrap_or((values, &[]));
            writer.write_batch(of_now, Some(now), None)?;
            (levels, values) = (later, of_later);
        }
        Ok(())
    }
}

/// Adds bytes, in the memory of those before them if they are the same.
fn push_bytes(all: &mut Vec<ByteArray>, bytes: &[u8]) -> usize {
    match all.last().filter(|last| last.data() == bytes) {
        Some(last) => all.push(last.clone()),
        None => all.push(ByteArray::from(bytes)),
    }
    bytes.len()
}

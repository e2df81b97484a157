//! The columns: what an event's fields are called in a table, of which type, and how they get there and back.

use driftprobe_trace::{Hash64, Num, RawEvent, RawPayload, Text};
use parquet::errors::ParquetError;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type;
use std::borrow::Cow;

/// What a column holds; every value may be null, which is "not known".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text in UTF-8.
    Text,
    /// A signed integer of 32 bits.
    I32,
    /// An unsigned integer of 32 bits.
    U32,
    /// An unsigned integer of 64 bits.
    U64,
    /// A double; NaN and the infinities are values.
    F64,
    /// A list of unsigned integers of 64 bits.
    U64s,
    /// A list of doubles.
    F64s,
    /// A list of texts.
    Texts,
    /// Bytes.
    Bytes,
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Not known.
    Null,
    /// A text.
    Text(&'a str),
    /// An integer of any type.
    Int(i128),
    /// A number.
    Float(f64),
    /// A list of integers.
    Ints(Vec<u64>),
    /// A list of numbers.
    Floats(Vec<f64>),
    /// A list of texts.
    Texts(Vec<String>),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// One row of the table.
#[derive(Clone, Debug, Default)]
pub struct Entry<'a> {
    /// The event.
    pub raw: RawEvent<'a>,
    /// Where it was read, if it was read elsewhere: the file.
    pub source_file: Option<&'a str>,
    /// … and the line, from 1.
    pub source_line: Option<u64>,
    /// Where its payload was: the file.
    pub payload_file: Option<&'a str>,
    /// … and the tensor's name.
    pub payload_key: Option<&'a str>,
    /// The payload's dtype, where the event does not say it.
    pub payload_dtype: Option<&'a str>,
    /// The payload's shape, where the event does not say it.
    pub payload_shape: Option<Vec<u64>>,
    /// The payload's bytes.
    pub payload: Option<&'a [u8]>,
}

/// One column.
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its value in a row.
    pub get: for<'e> fn(&'e Entry<'_>) -> Cell<'e>,
    /// Puts its value, which is not null, into a row.
    pub set: for<'e> fn(&mut Entry<'e>, Cell<'e>) -> Result<(), String>,
}

/// The column of the payloads' bytes, which is read when they are asked for.
pub const PAYLOAD: &str = "payload";

/// The column that tells events from other tables.
pub const EVENT: &str = "event";

fn text<'e>(cell: &Cell<'e>) -> Result<&'e str, String> {
    if let Cell::Text(text) = cell { Ok(text) } else { Err("not a text".to_owned()) }
}

fn int<T: TryFrom<i128>>(cell: &Cell<'_>) -> Result<T, String> {
    let Cell::Int(value) = cell else { return Err("not an integer".to_owned()) };
    T::try_from(*value).map_err(|_| format!("{value} is outside what the field can hold"))
}

fn float(cell: &Cell<'_>) -> Result<f64, String> {
    if let Cell::Float(value) = cell { Ok(*value) } else { Err("not a number".to_owned()) }
}

fn ints(cell: Cell<'_>) -> Result<Vec<u64>, String> {
    if let Cell::Ints(list) = cell { Ok(list) } else { Err("not a list of integers".to_owned()) }
}

fn floats(cell: Cell<'_>) -> Result<Vec<f64>, String> {
    if let Cell::Floats(list) = cell { Ok(list) } else { Err("not a list of numbers".to_owned()) }
}

fn texts(cell: Cell<'_>) -> Result<Vec<String>, String> {
    if let Cell::Texts(list) = cell { Ok(list) } else { Err("not a list of texts".to_owned()) }
}

fn of_text<'e>(text: Option<&'e str>) -> Cell<'e> {
    text.map_or(Cell::Null, Cell::Text)
}

fn of_int(value: Option<impl Into<i128>>) -> Cell<'static> {
    value.map_or(Cell::Null, |value| Cell::Int(value.into()))
}

/// A column of a field of the event, under the field's name.
macro_rules! field {
    (Text $name:ident) => {
        column(
            stringify!($name),
            Kind::Text,
            |e| of_text(e.raw.$name.as_ref().and_then(Option::as_ref).map(|Text(text)| text.as_ref())),
            |e, cell| {
                e.raw.$name = Some(Some(Text(Cow::Borrowed(text(&cell)?))));
                Ok(())
            },
        )
    };
    (F64 $name:ident) => {
        column(
            stringify!($name),
            Kind::F64,
            |e| e.raw.$name.map_or(Cell::Null, |Num(value)| Cell::Float(value)),
            |e, cell| {
                e.raw.$name = Some(Num(float(&cell)?));
                Ok(())
            },
        )
    };
    (U64s $name:ident) => {
        column(
            stringify!($name),
            Kind::U64s,
            |e| e.raw.$name.as_ref().and_then(Option::as_ref).map_or(Cell::Null, |list| Cell::Ints(list.clone())),
            |e, cell| {
                e.raw.$name = Some(Some(ints(cell)?));
                Ok(())
            },
        )
    };
    ($kind:ident $name:ident) => {
        column(
            stringify!($name),
            Kind::$kind,
            |e| of_int(e.raw.$name.flatten()),
            |e, cell| {
                e.raw.$name = Some(Some(int(&cell)?));
                Ok(())
            },
        )
    };
}

const fn column(
    name: &'static str,
    kind: Kind,
    get: for<'e> fn(&'e Entry<'_>) -> Cell<'e>,
    set: for<'e> fn(&mut Entry<'e>, Cell<'e>) -> Result<(), String>,
) -> Column {
    Column { name, kind, get, set }
}

/// A column of a text beside the event.
macro_rules! beside {
    ($name:ident) => {
        column(
            stringify!($name),
            Kind::Text,
            |e| of_text(e.$name),
            |e, cell| {
                e.$name = Some(text(&cell)?);
                Ok(())
            },
        )
    };
}

/// All columns, in the order in which they are written.
pub const COLUMNS: &[Column] = &[
    field!(Text event),
    field!(Text prompt_id),
    field!(Text phase),
    field!(Text point),
    field!(I32 layer),
    field!(U64 step),
    field!(U64 pos_id),
    field!(U64 logical_tok_idx),
    field!(U32 token_id),
    field!(U64 seq_len),
    field!(U64 kv_len),
    field!(Text dtype),
    field!(Text stored_dtype),
    field!(U64s shape),
    field!(Text hash_algo),
    column(
        "hash",
        Kind::U64,
        |e| of_int(e.raw.hash.flatten().map(|Hash64(value)| value)),
        |e, cell| {
            e.raw.hash = Some(Some(Hash64(int(&cell)?)));
            Ok(())
        },
    ),
    field!(F64 min),
    field!(F64 max),
    field!(F64 mean),
    field!(F64 abs_sum),
    field!(U64 nan),
    field!(U64 inf),
    field!(U64 nz_count),
    field!(U32 top1_id),
    field!(F64 top1_logit),
    field!(U32 top2_id),
    field!(F64 top2_logit),
    field!(F64 gap),
    field!(U64 vocab),
    column(
        "sample",
        Kind::F64s,
        |e| match &e.raw.sample {
            Some(Some(list)) => Cell::Floats(list.iter().map(|Num(value)| *value).collect()),
            _ => Cell::Null,
        },
        |e, cell| {
            e.raw.sample = Some(Some(floats(cell)?.into_iter().map(Num).collect()));
            Ok(())
        },
    ),
    field!(U64s sample_idx),
    column("unknown_fields", Kind::Texts, unknown_fields, |e, cell| {
        e.raw.unknown.extend(texts(cell)?);
        Ok(())
    }),
    beside!(source_file),
    column(
        "source_line",
        Kind::U64,
        |e| of_int(e.source_line),
        |e, cell| {
            e.source_line = Some(int(&cell)?);
            Ok(())
        },
    ),
    beside!(payload_file),
    beside!(payload_key),
    beside!(payload_dtype),
    column(
        "payload_shape",
        Kind::U64s,
        |e| e.payload_shape.as_ref().map_or(Cell::Null, |list| Cell::Ints(list.clone())),
        |e, cell| {
            e.payload_shape = Some(ints(cell)?);
            Ok(())
        },
    ),
    column(PAYLOAD, Kind::Bytes, |e| e.payload.map_or(Cell::Null, Cell::Bytes), |_, _| Ok(())),
];

fn unknown_fields<'e>(entry: &'e Entry<'_>) -> Cell<'e> {
    match entry.raw.unknown.is_empty() {
        true => Cell::Null,
        false => Cell::Texts(entry.raw.unknown.clone()),
    }
}

impl<'a> Entry<'a> {
    /// Puts the payload's file and name, which stand in columns of their own, into the event.
    ///
    /// # Errors
    /// If one of them is there without the other.
    pub fn join_payload(&mut self) -> Result<(), (String, String)> {
        let text = |text| Text(Cow::Borrowed(text));
        match (self.payload_file, self.payload_key) {
            (Some(file), Some(key)) => {
                self.raw.payload = Some(Some(RawPayload { file: text(file), key: text(key) }));
                Ok(())
            }
            (None, None) => Ok(()),
            (Some(_), None) => Err(("payload_key".to_owned(), "missing; `payload_file` is there".to_owned())),
            (None, Some(_)) => Err(("payload_file".to_owned(), "missing; `payload_key` is there".to_owned())),
        }
    }
}

/// The schema of a file.
///
/// # Errors
/// None: the text is one of this crate.
pub fn schema() -> Result<Type, ParquetError> {
    let list =
        |name: &str, of: &str| format!("optional group {name} (LIST) {{ repeated group list {{ required {of}; }} }}");
    let columns = COLUMNS.iter().map(|column| {
        let name = column.name;
        match column.kind {
            Kind::Text => format!("optional binary {name} (STRING);"),
            Kind::I32 => format!("optional int32 {name};"),
            Kind::U32 => format!("optional int32 {name} (INTEGER(32,false));"),
            Kind::U64 => format!("optional int64 {name} (INTEGER(64,false));"),
            Kind::F64 => format!("optional double {name};"),
            Kind::Bytes => format!("optional binary {name};"),
            Kind::U64s => list(name, "int64 element (INTEGER(64,false))"),
            Kind::F64s => list(name, "double element"),
            Kind::Texts => list(name, "binary element (STRING)"),
        }
    });
    parse_message_type(&format!("message driftprobe {{ {} }}", columns.collect::<Vec<_>>().join(" ")))
}

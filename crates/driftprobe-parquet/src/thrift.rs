//! Thrift's compact protocol, of which Parquet's headers and footers are: read to see what they claim, before the library
//! believes it.

/// Thrift's compact protocol, as far as it is read here.
pub struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

// Types of the compact protocol.
/// A flag, of either value.
pub const TRUE: u8 = 1;
const FALSE: u8 = 2;
/// A byte.
pub const I8: u8 = 3;
const I16: u8 = 4;
/// A number of 32 bits.
pub const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
/// A text or bytes.
pub const BINARY: u8 = 8;
/// A list, before it the type and number of its elements.
pub const LIST: u8 = 9;
/// Fields with their numbers.
pub const STRUCT: u8 = 12;

/// Structs within a value.
const DEPTH_MAX: usize = 4;

impl<'a> Compact<'a> {
    /// Reads `bytes` from `at` on.
    pub fn new(bytes: &'a [u8], at: usize) -> Compact<'a> {
        Compact { bytes, at }
    }

    /// Bytes that were read, those before the first one included.
    pub fn at(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    /// A number of seven bits a byte.
    pub fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// … of which the lowest bit is the sign.
    pub fn signed(&mut self) -> Option<i64> {
        let number = self.varint()?;
        i64::try_from(number >> 1).ok().map(|half| if number & 1 == 1 { -half - 1 } else { half })
    }

    /// The next field's number and type; no number: the struct ends.
    pub fn field(&mut self, last: i64) -> Option<(Option<i64>, u8)> {
        let byte = self.byte()?;
        let id = match (byte, byte >> 4) {
            (0, _) => return Some((None, 0)),
            (_, 0) => self.signed()?,
            (_, more) => last + i64::from(more),
        };
        (1..=i64::from(i16::MAX)).contains(&id).then_some((Some(id), byte & 0x0f))
    }

    /// A list's type of elements and their number.
    pub fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        Some((byte & 0x0f, count))
    }

    /// Passes over a value. `known` are the types of the fields that the library knows in this struct, which it takes to be of
    /// them: were they of others, it would go on elsewhere than here.
    pub fn skip(&mut self, kind: u8, known: &[u8]) -> Option<()> {
        self.skip_within(kind, known, DEPTH_MAX)
    }

    fn skip_within(&mut self, kind: u8, known: &[u8], depth: usize) -> Option<()> {
        match kind {
            TRUE | FALSE => {}
            I8 => drop(self.byte()?),
            I16 | I32 | I64 => drop(self.varint()?),
            DOUBLE => self.at = self.at.checked_add(8)?,
            BINARY => self.at = usize::try_from(self.varint()?).ok().and_then(|len| self.at.checked_add(len))?,
            STRUCT if depth > 0 => {
                let mut last = 0;
                while let (Some(id), kind) = self.field(last)? {
                    expect(known, id, kind)?;
                    self.skip_within(kind, &[], depth - 1)?;
                    last = id;
                }
            }
            _ => return None,
        }
        (self.at <= self.bytes.len()).then_some(())
    }
}

/// Whether the field `id` is of the type that is known of it, if one is.
pub fn expect(known: &[u8], id: i64, kind: u8) -> Option<()> {
    let of = usize::try_from(id).ok().and_then(|id| id.checked_sub(1)).and_then(|at| known.get(at).copied());
    let kind = if kind == FALSE { TRUE } else { kind };
    of.is_none_or(|of| of == kind).then_some(())
}

//! A line as engines mostly write it, read in one go: no escapes, no unknown or repeated keys, plain numbers.
//!
//! Whatever is not so is left to the strict reader, and so is every refusal: this one never says what is wrong, and what it
//! takes, it takes as the strict reader would ([`crate::raw::parse_line`]).

use crate::raw::{RawEvent, RawPayload};
use crate::scalar::{Hash64, Num, Text};
use crate::write::SAMPLE_VALUES;
use std::borrow::Cow;

/// The line's fields; `None`: ask the strict reader.
pub fn read(line: &str) -> Option<RawEvent<'_>> {
    let mut cursor = Cursor { text: line, at: 0 };
    let mut raw = RawEvent::default();
    cursor.eat(b'{')?;
    loop {
        let key = cursor.string()?;
        cursor.eat(b':')?;
        field(&mut raw, key, &mut cursor)?;
        match cursor.next()? {
            b',' => {}
            b'}' => return cursor.is_at_end().then_some(raw),
            _ => return None,
        }
    }
}

/// Puts a value where none was.
fn put<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    match slot.is_some() {
        true => None,
        false => {
            *slot = Some(value?);
            Some(())
        }
    }
}

fn field<'a>(raw: &mut RawEvent<'a>, key: &str, cursor: &mut Cursor<'a>) -> Option<()> {
    match key {
        "event" => put(&mut raw.event, cursor.text().map(Some)),
        "prompt_id" => put(&mut raw.prompt_id, cursor.text().map(Some)),
        "phase" => put(&mut raw.phase, cursor.text().map(Some)),
        "point" => put(&mut raw.point, cursor.text().map(Some)),
        "tensor" => put(&mut raw.tensor, cursor.text().map(Some)),
        "layer" => put(&mut raw.layer, cursor.layer().map(Some)),
        "step" => put(&mut raw.step, cursor.count().map(Some)),
        "pos_id" => put(&mut raw.pos_id, cursor.count().map(Some)),
        "logical_tok_idx" => put(&mut raw.logical_tok_idx, cursor.count().map(Some)),
        "token_id" => put(&mut raw.token_id, cursor.id().map(Some)),
        "seq_len" => put(&mut raw.seq_len, cursor.count().map(Some)),
        "kv_len" => put(&mut raw.kv_len, cursor.count().map(Some)),
        "dtype" => put(&mut raw.dtype, cursor.text().map(Some)),
        "stored_dtype" => put(&mut raw.stored_dtype, cursor.text().map(Some)),
        "shape" => put(&mut raw.shape, cursor.list(2, Cursor::count).map(Some)),
        "hash_algo" => put(&mut raw.hash_algo, cursor.text().map(Some)),
        "hash" => put(&mut raw.hash, cursor.count().map(Hash64).map(Some)),
        "min" => put(&mut raw.min, cursor.number()),
        "max" => put(&mut raw.max, cursor.number()),
        "mean" => put(&mut raw.mean, cursor.number()),
        "abs_sum" => put(&mut raw.abs_sum, cursor.number()),
        "nan" => put(&mut raw.nan, cursor.count().map(Some)),
        "inf" => put(&mut raw.inf, cursor.count().map(Some)),
        "nz_count" => put(&mut raw.nz_count, cursor.count().map(Some)),
        "sample" => put(&mut raw.sample, cursor.list(SAMPLE_VALUES, Cursor::number).map(Some)),
        "sample_idx" => put(&mut raw.sample_idx, cursor.list(SAMPLE_VALUES, Cursor::count).map(Some)),
        "payload" => put(&mut raw.payload, cursor.payload().map(Some)),
        "top1_id" => put(&mut raw.top1_id, cursor.id().map(Some)),
        "top1_logit" => put(&mut raw.top1_logit, cursor.number()),
        "top2_id" => put(&mut raw.top2_id, cursor.id().map(Some)),
        "top2_logit" => put(&mut raw.top2_logit, cursor.number()),
        "gap" => put(&mut raw.gap, cursor.number()),
        "vocab" => put(&mut raw.vocab, cursor.count().map(Some)),
        _ => None,
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no space, gone past.
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = self.peek()?;
            self.at += 1;
            if byte != b' ' {
                return Some(byte);
            }
        }
    }

    fn eat(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }

    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.eat(b'"')?;
        let rest = self.text.get(self.at..)?;
        let len = plain_len(rest.as_bytes())?;
        self.at += len + 1;
        (rest.as_bytes().get(len) == Some(&b'"')).then(|| rest.get(..len)).flatten()
    }

    fn text(&mut self) -> Option<Text<'a>> {
        self.string().map(|text| Text(Cow::Borrowed(text)))
    }

    /// Digits from here on.
    fn digits(&mut self) -> &'a [u8] {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += len;
        rest.get(..len).unwrap_or_default()
    }

    /// An integer's digits: at least one, and no zero before others.
    fn integer(&mut self) -> Option<&'a [u8]> {
        match self.digits() {
            [] | [b'0', _, ..] => None,
            digits => Some(digits),
        }
    }

    /// An unsigned integer, and nothing that would make it another number.
    fn count(&mut self) -> Option<u64> {
        self.skip_spaces();
        let mut digits = self.integer()?.iter();
        let value = digits
            .try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0'))))?;
        (!matches!(self.peek(), Some(b'.' | b'e' | b'E'))).then_some(value)
    }

    fn id(&mut self) -> Option<u32> {
        u32::try_from(self.count()?).ok()
    }

    fn layer(&mut self) -> Option<i32> {
        self.skip_spaces();
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let value = i32::try_from(self.count()?).ok()?;
        match negative {
            true if value == 0 => None,
            true => Some(-value),
            false => Some(value),
        }
    }

    /// A finite number.
    fn number(&mut self) -> Option<Num> {
        self.skip_spaces();
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        self.integer()?;
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits().is_empty() {
                return None;
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.digits().is_empty() {
                return None;
            }
        }
        // The nearest f64, as the strict reader has it; what is too large it refuses.
        let value: f64 = self.text.get(start..self.at)?.parse().ok()?;
        value.is_finite().then_some(Num(value))
    }

    /// A list that is not empty, of mostly so many values.
    fn list<T>(&mut self, expected: usize, one: fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.eat(b'[')?;
        let mut list = Vec::with_capacity(expected);
        loop {
            list.push(one(self)?);
            match self.next()? {
                b',' => {}
                b']' => return Some(list),
                _ => return None,
            }
        }
    }

    fn payload(&mut self) -> Option<RawPayload<'a>> {
        let mut of = |before: u8, name: &str| {
            self.eat(before)?;
            let found = self.string()? == name;
            self.eat(b':')?;
            if found { self.text() } else { None }
        };
        let (file, key) = (of(b'{', "file")?, of(b',', "key")?);
        self.eat(b'}')?;
        Some(RawPayload { file, key })
    }
}

/// Bytes before the first quote, backslash or control character. Eight at a time: `x − 0x01…01` borrows into the top bit
/// of the lowest byte that is zero (or into those above it, which come later), and of each one below 0x20 likewise.
fn plain_len(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let (quote, backslash) = (word ^ (ONES * u64::from(b'"')), word ^ (ONES * u64::from(b'\\')));
        let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word;
        let found = (below(quote, 1) | below(backslash, 1) | below(word, 0x20)) & TOPS;
        if found != 0 {
            return Some(number * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
    Some(words.len() * 8 + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strict(line: &str) -> Option<String> {
        serde_json::from_str::<RawEvent>(line).ok().map(|raw| format!("{raw:?}"))
    }

    /// What the quick reader takes is what the strict one takes, to the last bit of every number.
    fn agrees(line: &str) -> bool {
        match read(line) {
            Some(raw) => {
                assert_eq!(Some(format!("{raw:?}")), strict(line), "{line}");
                true
            }
            None => false,
        }
    }

    #[test]
    fn what_it_takes_and_what_it_leaves() {
        let taken = [
            r#"{"event":"stage_trace","layer":-1,"hash":18446744073709551615,"shape":[2,3],"min":-1.5e-3}"#,
            r#"{ "event" : "x" , "sample" : [ 1 , -0.0, 2.5e+30, 123456789012345678901234567890 ] , "sample_idx":[0,1,2,3] }"#,
            r#"{"payload":{"file":"tensors/a b.safetensors","key":"é"},"top1_id":4294967295,"gap":0.1,"vocab":0}"#,
            r#"{"mean":0.30000000000000004,"max":5e-324,"min":-0,"abs_sum":2.2250738585072011e-308,"layer":2147483647}"#,
        ];
        for line in taken {
            assert!(agrees(line), "{line}");
        }
        let left = [
            r#"{"event":"stage_trace","event":"stage_trace"}"#,
            r#"{"unknown":1}"#,
            r#"{"min":"NaN"}"#,
            r#"{"min":NaN}"#,
            r#"{"min":null}"#,
            r#"{"step":null}"#,
            r#"{"min":1e999}"#,
            r#"{"min":01}"#,
            r#"{"min":.5}"#,
            r#"{"min":5.}"#,
            r#"{"min":1e}"#,
            r#"{"min":+1}"#,
            r#"{"step":1.0}"#,
            r#"{"step":1e3}"#,
            r#"{"step":-1}"#,
            r#"{"step":18446744073709551616}"#,
            r#"{"token_id":4294967296}"#,
            r#"{"layer":-0}"#,
            r#"{"layer":-2147483649}"#,
            r#"{"event":"a\u0062"}"#,
            "{\"event\":\"a\tb\"}",
            r#"{"event":"a"}}"#,
            r#"{"event":"a",}"#,
            r#"{"event":"a""#,
            r#"{"shape":[1,]}"#,
            r#"{"shape":[]}"#,
            r#"{"payload":{"key":"a","file":"b"}}"#,
            r#"{"payload":{"file":"a","key":"b","file":"c"}}"#,
            "{}",
            "[]",
            "",
        ];
        for line in left {
            assert!(read(line).is_none(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn strings_end_where_they_end(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x1e..0x24u8, 0x5b..0x5eu8], 0..40)) {
            let expected = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            prop_assert_eq!(plain_len(&bytes), expected);
        }

        /// Numbers of any size and spelling, in every place where one may stand.
        #[test]
        fn numbers_are_read_alike(bits in any::<u64>(), int in any::<i64>(), key in 0..6usize, digits in 0..40usize) {
            let key = ["min", "step", "token_id", "layer", "hash", "shape"][key];
            let value = f64::from_bits(bits);
            for number in [value.to_string(), format!("{value:e}"), int.to_string(), format!("{value:.digits$}")] {
                agrees(&format!(r#"{{"{key}":{number}}}"#));
                agrees(&format!(r#"{{"{key}":[{number}]}}"#));
            }
            let line = format!(r#"{{"mean":{},"sample":[{value:e},{int}]}}"#, value.abs());
            prop_assert!(agrees(&line) || !value.is_finite());
        }

        /// Lines with something changed, cut off or put in.
        #[test]
        fn altered_lines_are_read_alike(at in 0..300usize, cut in 0..4usize, put in "[ -~]{0,3}") {
            let line = r#"{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"q_pre_rope","layer":3,"step":0,"pos_id":7,"token_id":11,"dtype":"f32","shape":[4,64],"hash_algo":"xxh3-64","hash":123,"min":-1.5,"nan":0,"sample":[0.1,-2e-5],"payload":{"file":"f","key":"k"}}"#;
            let (before, behind) = line.split_at(at.min(line.len()));
            agrees(&format!("{before}{put}{}", behind.get(cut..).unwrap_or_default()));
        }
    }
}

//! SentencePiece's character maps in `tokenizer.json`, looked at before the library makes room for what they claim.
//!
//! A map is base64 of a length in four bytes, a table of that many bytes, and texts. The library makes room for the table
//! before it looks whether it is there: four bytes ask for eight gigabytes.

use serde::Deserialize;
use serde_json::Value;

/// The part of a `tokenizer.json` that can hold such maps.
#[derive(Deserialize)]
struct Holder {
    #[serde(default)]
    normalizer: Value,
}

/// Whether every map holds the table that it claims.
///
/// # Errors
/// Says what a map claims, or why the file is no JSON of a tokenizer.
pub fn check(json: &[u8]) -> Result<(), String> {
    let holder: Holder = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    check_value(&holder.normalizer)
}

/// Looks through a value, whose depth the JSON reader has bounded.
fn check_value(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(all) => all.iter().try_for_each(check_value),
        Value::Object(all) => all.iter().try_for_each(|(key, value)| match (key.as_str(), value) {
            ("precompiled_charsmap", Value::String(map)) => check_map(map),
            _ => check_value(value),
        }),
        _ => Ok(()),
    }
}

fn check_map(map: &str) -> Result<(), String> {
    let held = map.len() as u64 * 3 / 4;
    match claimed(map).filter(|claimed| *claimed > held) {
        Some(claimed) => Err(format!("a character map of {held} bytes claims a table of {claimed}")),
        None => Ok(()),
    }
}

/// The length at the beginning of a map, in the first six characters; none if they are no base64, which the library refuses.
fn claimed(map: &str) -> Option<u64> {
    let mut bits = 0u64;
    for digit in map.as_bytes().get(..6)? {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => 0,
            _ => return None,
        };
        bits = bits << 6 | u64::from(value);
    }
    // 36 bits, of which the first 32 are the four bytes.
    Some(u64::from(((bits >> 4) as u32).swap_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_read_as_base64_has_it() {
        // Of `printf '\x10\x20\x30\x40' | base64`.
        assert_eq!(claimed("ECAwQA=="), Some(0x4030_2010));
        assert_eq!(claimed("/////w=="), Some(u64::from(u32::MAX)));
        assert_eq!((claimed("AAA"), claimed("AA A==")), (None, None));
    }

    #[test]
    fn a_map_is_found_wherever_it_stands_and_may_claim_what_it_has() {
        let file = |map: &str| format!(r#"{{"normalizer":{{"normalizers":[{{"precompiled_charsmap":"{map}"}}]}}}}"#);
        assert!(check(file("/////w==").as_bytes()).is_err_and(|told| told.contains("claims a table of 4294967295")));
        assert_eq!(check(file("BAAAAAAAAAA=").as_bytes()), Ok(()), "four bytes of eight");
        assert_eq!(check(b"{}"), Ok(()));
    }
}

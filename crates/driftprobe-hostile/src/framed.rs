//! Files whose end says where everything lies (Parquet, compressed payloads), with an end in order around what a fuzzer's bytes say.

use crate::built::Bytes;

/// A Parquet file: the input's first two bytes are the length of the footer, the rest is what lies between the magic numbers.
pub fn parquet(data: &[u8]) -> Vec<u8> {
    let mut from = Bytes(data);
    let len = u32::from(from.byte()) << 8 | u32::from(from.byte());
    [b"PAR1", from.0, &len.to_le_bytes(), b"PAR1"].concat()
}

/// Types of tensors and the bytes of a value; rows have no whole numbers.
const TYPES: [(&str, u64); 5] = [("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8), ("I64", 8)];

/// A compressed payload file: a header of some tensors, a frame for each or for several, and the table. A byte of 255 before
/// a part says that the part is not what it should be.
pub fn packed(data: &[u8]) -> Vec<u8> {
    let mut from = Bytes(data);
    let (mut entries, mut sizes, mut at) = (Vec::new(), Vec::new(), 0u64);
    for name in ["a", "b", "c", "d"].iter().take(usize::from(from.byte() % 5)) {
        let (dtype, width) = TYPES.get(usize::from(from.byte()) % TYPES.len()).copied().unwrap_or(("F32", 4));
        let count = from.number();
        let start = if from.byte() == 255 { from.number() } else { at };
        at = start.wrapping_add(count.wrapping_mul(width));
        entries
            .push(format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{count}],\"data_offsets\":[{start},{at}]}}"));
        sizes.push(count.wrapping_mul(width));
    }
    let json = match from.byte() {
        255 => from.some().to_vec(),
        _ => format!("{{{}}}", entries.join(",")).into_bytes(),
    };
    let len = if from.byte() == 255 { from.number() } else { json.len() as u64 };
    let mut frames = vec![frame(&mut from, &[&len.to_le_bytes()[..], &json].concat())];
    for size in sizes {
        let value = from.byte();
        let content = vec![value; usize::try_from(size).unwrap_or(usize::MAX).min(1 << 12)];
        frames.push(frame(&mut from, &content));
    }
    let (mut out, mut table) = (Vec::new(), Vec::new());
    for (bytes, plain) in &frames {
        let plain = if from.byte() == 255 { from.number() as u32 } else { *plain };
        table.extend((bytes.len() as u32).to_le_bytes());
        table.extend(plain.to_le_bytes());
        out.extend(bytes);
    }
    out.extend(0x184D_2A5Eu32.to_le_bytes());
    out.extend((table.len() as u32 + 9).to_le_bytes());
    out.extend(table);
    out.extend((frames.len() as u32).to_le_bytes());
    out.push(0);
    out.extend(0x8F92_EAB1u32.to_le_bytes());
    out
}

/// A Zstandard frame that holds these bytes, or the input's, and how many it holds.
fn frame(from: &mut Bytes<'_>, content: &[u8]) -> (Vec<u8>, u32) {
    let plain = content.len() as u32;
    let mut out = 0xFD2F_B528u32.to_le_bytes().to_vec();
    let block = |kind: u32, size: u32| (size << 3 | kind << 1 | 1).to_le_bytes().into_iter().take(3);
    match from.byte() {
        255 => out.extend(from.some()),
        // A window that the input names, before what is stored as it is.
        254 => {
            out.extend([0, from.byte()]);
            out.extend(block(0, plain));
            out.extend(content);
        }
        // One byte many times.
        253 => {
            out.extend([0xA0]);
            out.extend(plain.to_le_bytes());
            out.extend(block(1, plain));
            out.push(content.first().copied().unwrap_or_default());
        }
        _ => {
            out.extend([0xA0]);
            out.extend(plain.to_le_bytes());
            out.extend(block(0, plain));
            out.extend(content);
        }
    }
    (out, plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftprobe_trace::bytes::PayloadFile;

    /// The fuzzers start from such.
    #[test]
    fn what_is_built_of_a_good_recipe_is_read() {
        // Two tensors: 4 of F32, 2 of F16; each frame stored as it is but the last, which is one byte many times.
        let bytes = packed(&[2, 0, 4, 0, 1, 2, 0, 0, 0, 0, 7, 0, 9, 253]);
        let file = PayloadFile::new(bytes, true).map_err(|e| e.to_string()).expect("a payload file");
        assert_eq!(file.names(), ["a", "b"]);
    }
}

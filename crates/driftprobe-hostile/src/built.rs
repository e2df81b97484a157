//! Files whose outer form is in order, built of what a fuzzer's bytes say: what a header check would refuse at once never
//! reaches the readers behind it.

use flate2::Crc;

/// Takes bytes off the front, zeros past the end.
pub(crate) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Some bytes, their count before them.
    pub fn some(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte());
        self.take(count)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number: mostly small, now and then any.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => self.take(8).iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
            254 => 1 << (self.byte() % 64),
            small => u64::from(small),
        }
    }
}

const KEYS: &[&str] = &[
    "general.architecture",
    "general.alignment",
    "llama.embedding_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.vocab_size",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.attention.key_length",
    "llama.rope.dimension_count",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.context_length",
    "llama.rope.freq_base",
    "llama.attention.sliding_window",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.unknown_token_id",
    "llama.expert_count",
];
const TEXTS: &[&str] = &["llama", "gemma2", "gpt2", "gpt-2", "qwen2", "yarn", "linear", "llama-bpe", "none"];
const TENSORS: &[&str] = &[
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
    "rope_freqs.weight",
    "blk.0.attn_norm.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",
    "blk.0.attn_v.weight",
    "blk.0.attn_output.weight",
    "blk.0.ffn_norm.weight",
    "blk.0.ffn_gate.weight",
    "blk.0.ffn_up.weight",
    "blk.0.ffn_down.weight",
    "blk.0.attn_q.bias",
];
/// Types of tensors, of which one is none.
const TYPES: [u32; 14] = [0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 30, 99];

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn one<'a>(list: &[&'a str], at: u8) -> &'a str {
    list.get(usize::from(at) % list.len()).copied().unwrap_or_default()
}

/// A value's type and bytes.
fn value(from: &mut Bytes<'_>, out: &mut Vec<u8>) {
    match from.byte() % 8 {
        0 => {
            out.extend(10u32.to_le_bytes());
            out.extend(from.number().to_le_bytes());
        }
        1 => {
            out.extend(8u32.to_le_bytes());
            let known = from.byte();
            text(out, one(TEXTS, known).as_bytes());
        }
        2 => {
            out.extend(8u32.to_le_bytes());
            text(out, from.some());
        }
        3 => {
            out.extend(6u32.to_le_bytes());
            let bits = from.take(4).iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
            out.extend(bits.to_le_bytes());
        }
        4 => {
            out.extend(7u32.to_le_bytes());
            out.push(from.byte() & 1);
        }
        5 => list(from, out, 8, |from, out| text(out, from.some())),
        6 => list(from, out, 6, |from, out| out.extend(f32::from(from.byte()).to_le_bytes())),
        _ => list(from, out, 4, |from, out| out.extend(u32::from(from.byte()).to_le_bytes())),
    }
}

fn list(from: &mut Bytes<'_>, out: &mut Vec<u8>, kind: u32, one: impl Fn(&mut Bytes<'_>, &mut Vec<u8>)) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    let count = from.byte() % 32;
    out.extend(u64::from(count).to_le_bytes());
    (0..count).for_each(|_| one(from, out));
}

/// A GGUF file: pairs and tensors by known names with values, shapes, types and offsets of the input's.
pub fn gguf(data: &[u8]) -> Vec<u8> {
    let mut from = Bytes(data);
    let (tensors, pairs) = (from.byte() % 16, from.byte() % 32);
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(u64::from(tensors).to_le_bytes());
    out.extend(u64::from(pairs).to_le_bytes());
    for _ in 0..pairs {
        let key = from.byte();
        match key {
            255 => text(&mut out, from.some()),
            _ => text(&mut out, one(KEYS, key).as_bytes()),
        }
        value(&mut from, &mut out);
    }
    for _ in 0..tensors {
        let name = from.byte();
        text(&mut out, one(TENSORS, name).as_bytes());
        let axes = from.byte() % 6;
        out.extend(u32::from(axes).to_le_bytes());
        (0..axes).for_each(|_| out.extend(from.number().to_le_bytes()));
        let kind = TYPES.get(usize::from(from.byte()) % TYPES.len()).copied().unwrap_or_default();
        out.extend(kind.to_le_bytes());
        out.extend((from.number().wrapping_mul(32)).to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32) + 32 * usize::from(from.byte()), from.byte());
    out
}

/// A zip archive of uncompressed entries.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let mut crc = Crc::new();
        crc.update(bytes);
        let size = (bytes.len() as u32).to_le_bytes();
        // Version, flags, method (stored), time, date, CRC, sizes, lengths of name and extra field.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend([size, size].concat());
        common.extend((name.len() as u32).to_le_bytes());
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((out.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(*bytes);
    }
    let (at, count) = (out.len() as u32, (entries.len() as u16).to_le_bytes());
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count, count].concat());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// Ready parts of pickles, so that whole tensors come up.
const OPCODES: &[&[u8]] = &[
    b"(",
    b"t",
    b"R",
    b"Q",
    b".",
    b"}",
    b"]",
    b")",
    b"s",
    b"a",
    b"u",
    b"e",
    b"K\x00",
    b"K\x01",
    b"K\x02",
    b"N",
    b"q\x00",
    b"h\x00",
    b"\x88",
    b"\x89",
    b"0",
    b"2",
    b"\x85",
    b"\x86",
    b"\x87",
    b"X\x01\x00\x00\x000",
    b"X\x01\x00\x00\x00a",
    b"X\x07\x00\x00\x00storage",
    b"X\x03\x00\x00\x00cpu",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nLongStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nOrderedDict\n",
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQ",
    b"\x89ccollections\nOrderedDict\n)RtR",
    b"J\xff\xff\xff\x7f",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
];

/// A `.pt` file: a pickle of ready parts and of any bytes, and one storage.
pub fn torch(data: &[u8]) -> Vec<u8> {
    let mut from = Bytes(data);
    let values = [7u8; 64];
    let values = values.get(..usize::from(from.byte() % 65)).unwrap_or_default();
    let mut pickle = b"\x80\x02".to_vec();
    while !from.is_empty() {
        match from.byte() {
            255 => pickle.extend(from.some()),
            ready => pickle.extend(OPCODES.get(usize::from(ready) % OPCODES.len()).copied().unwrap_or_default()),
        }
    }
    pickle.push(b'.');
    zip(&[("a/data.pkl", &pickle), ("a/byteorder", b"little"), ("a/data/0", values)])
}

/// Names of an archive's entries, good and bad.
const PATHS: &[&str] = &[
    "run/a",
    "run/b",
    "run/",
    "run/d/a",
    "run/a/b",
    "../evil",
    "run/../../evil",
    "/evil",
    "evil",
    "run",
    "./run/a",
    "run//a",
    "",
    "run/.",
    "run/..",
];

/// SHA-256 of no byte, of `x`, and of nothing known.
const HASHES: [&str; 3] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    "0000000000000000000000000000000000000000000000000000000000000000",
];

/// The list of what is announced, and a gzipped tar: entries of known and any names, of any type, with sizes that may lie.
pub fn archive(data: &[u8]) -> (String, Vec<u8>) {
    let mut from = Bytes(data);
    let mut list = String::new();
    for _ in 0..from.byte() % 4 {
        let hash = HASHES.get(usize::from(from.byte()) % 3).copied().unwrap_or_default();
        let path = one(PATHS, from.byte());
        list += &format!("{hash}  {path}\n");
    }
    let mut tar = Vec::new();
    for _ in 0..from.byte() % 6 {
        let path = from.byte();
        let name = match path {
            255 => from.some(),
            _ => one(PATHS, path).as_bytes(),
        };
        let kind = *b"000505L12xgKS".get(usize::from(from.byte()) % 13).unwrap_or(&b'0');
        let (size, content) = (from.byte(), from.some());
        let claimed = if size == 255 { from.number() } else { content.len() as u64 };
        tar.extend(entry(name, kind, claimed));
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    if from.byte() & 1 == 0 {
        tar.extend([0; 1024]);
    }
    tar.extend(from.0);
    (list, stored(&tar))
}

/// Gzip (RFC 1952) of stored blocks (RFC 1951, 3.2.4): a library's encoder would be most of a fuzzer's time.
fn stored(content: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blocks = content.chunks(usize::from(u16::MAX)).map(|block| (0u8, block)).chain([(1, &[] as &[u8])]);
    for (last, block) in blocks {
        let len = u16::try_from(block.len()).unwrap_or(u16::MAX);
        packed.push(last);
        packed.extend(len.to_le_bytes());
        packed.extend((!len).to_le_bytes());
        packed.extend(block);
    }
    let mut sum = Crc::new();
    sum.update(content);
    packed.extend(sum.sum().to_le_bytes());
    packed.extend(sum.amount().to_le_bytes());
    packed
}

/// A header block of a tar.
fn entry(name: &[u8], kind: u8, size: u64) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        block.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0, name.get(..name.len().min(100)).unwrap_or_default());
    put(100, b"0000644\x000000000\x000000000\0");
    put(124, format!("{size:011o}\0").as_bytes().get(..12).unwrap_or_default());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    block.iter_mut().skip(148).zip(sum.as_bytes()).for_each(|(to, from)| *to = *from);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzzers start from these; were they refused at the first check, nothing behind it would be reached.
    #[cfg(feature = "models")]
    #[test]
    fn what_is_built_of_a_good_recipe_of_a_model_is_read() {
        let mut model = vec![11, 12, 0, 1, 0];
        for (key, value) in [(2, 4), (3, 2), (4, 1), (5, 1), (6, 4), (7, 2)] {
            model.extend([key, 0, value]);
        }
        model.extend([8, 3, 0x37, 0x27, 0xc5, 0xac, 16, 1, 0, 17, 5, 3, 1, b'a', 1, b'b', 2, b'a', b'b']);
        model.extend([18, 6, 3, 0, 0, 1, 19, 7, 3, 1, 1, 1]);
        let mut at = 0;
        for (name, rows) in [(0, 2), (1, 0), (4, 0), (5, 4), (6, 2), (7, 2), (8, 4), (9, 0), (10, 4), (11, 4), (12, 4)]
        {
            match rows {
                0 => model.extend([name, 1, 4, 0, at]),
                rows => model.extend([name, 2, 4, rows, 0, at]),
            }
            at += if rows == 4 { 2 } else { 1 };
        }
        model.extend([at, 0]);
        let read = driftprobe_model::bytes::gguf(gguf(&model)).map(|model| model.tokenizer.is_ok());
        assert!(matches!(read, Ok(true)), "{:?}", read.map_err(|e| e.to_string()));
    }

    #[test]
    fn what_is_built_of_a_good_recipe_of_an_archive_is_read() {
        let (list, packed) = archive(&[1, 1, 0, 1, 0, 0, 0, 1, b'x']);
        let folder = tempfile::tempdir().expect("a folder");
        let files = driftprobe_remote::parse_list(&list).expect("a list");
        assert_eq!(driftprobe_remote::unpack(packed.as_slice(), &files, &folder.path().join("run")), Ok(1));
    }
}

//! A small Llama in one of the block formats, whose rows are of several blocks each (the fixtures' are of one), written
//! as GGUF here.

use driftprobe_model::Model;
use driftprobe_testkit::Dice;
use half::f16;
use std::path::Path;

const HIDDEN: u64 = 128;
const INNER: u64 = 64;
const HEAD_DIM: u64 = 32;
/// Large enough that the output matrix is split over threads even for one token.
const VOCAB: u64 = 1200;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
}

impl Format {
    pub const ALL: [Format; 5] = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0];

    /// GGUF's number of it, the bytes of codes in a block of 32 values, and the mean of a code where blocks have a minimum.
    fn layout(self) -> (u32, usize, Option<f32>) {
        match self {
            Format::Q4_0 => (2, 16, None),
            Format::Q4_1 => (3, 16, Some(7.5)),
            Format::Q5_0 => (6, 20, None),
            Format::Q5_1 => (7, 20, Some(15.5)),
            Format::Q8_0 => (8, 32, None),
        }
    }

    /// The model, always with the same values.
    pub fn model(self) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write(&path, self);
        Model::open(&path).unwrap()
    }
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

/// Blocks of an f16 scale (and minimum) and random codes; the scales vary by more than a factor of two.
fn blocks(noise: &mut Dice, format: Format, values: u64) -> Vec<u8> {
    let (_, codes, mean) = format.layout();
    let largest = if codes == 32 {
        127.0
    } else if codes == 20 {
        16.0
    } else {
        8.0
    };
    let block = |noise: &mut Dice| {
        let scale = (0.5 + (noise.next() % 1000) as f32 / 800.0) / largest / 8.0;
        let minimum = mean.map(|mean| f16::from_f32(-scale * mean));
        let mut bytes = f16::from_f32(scale).to_le_bytes().to_vec();
        bytes.extend(minimum.into_iter().flat_map(f16::to_le_bytes));
        bytes.extend((0..codes).map(|_| noise.next() as u8));
        bytes
    };
    (0..values / 32).flat_map(|_| block(noise)).collect()
}

fn ones(noise: &mut Dice, values: u64) -> Vec<u8> {
    (0..values).flat_map(|_| (0.5 + (noise.next() % 1000) as f32 / 1000.0).to_le_bytes()).collect()
}

fn write(path: &Path, format: Format) {
    let numbers: [(&str, u64); 10] = [
        ("llama.block_count", 1),
        ("llama.context_length", 64),
        ("llama.embedding_length", HIDDEN),
        ("llama.feed_forward_length", INNER),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
        ("llama.attention.key_length", HEAD_DIM),
        ("llama.attention.value_length", HEAD_DIM),
        ("llama.rope.dimension_count", HEAD_DIM),
        ("llama.vocab_size", VOCAB),
    ];
    let matrices: [(&str, u64, u64); 9] = [
        ("token_embd.weight", VOCAB, HIDDEN),
        ("output.weight", VOCAB, HIDDEN),
        ("blk.0.attn_q.weight", 4 * HEAD_DIM, HIDDEN),
        ("blk.0.attn_k.weight", 2 * HEAD_DIM, HIDDEN),
        ("blk.0.attn_v.weight", 2 * HEAD_DIM, HIDDEN),
        ("blk.0.attn_output.weight", HIDDEN, 4 * HEAD_DIM),
        ("blk.0.ffn_gate.weight", INNER, HIDDEN),
        ("blk.0.ffn_up.weight", INNER, HIDDEN),
        ("blk.0.ffn_down.weight", HIDDEN, INNER),
    ];
    let norms = ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"];
    let mut out = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    out.extend(((matrices.len() + norms.len()) as u64).to_le_bytes());
    out.extend((numbers.len() as u64 + 2).to_le_bytes());
    out.extend([text("general.architecture"), 8u32.to_le_bytes().to_vec(), text("llama")].concat());
    let epsilon = [6u32.to_le_bytes(), 1e-5f32.to_le_bytes()].concat();
    out.extend([text("llama.attention.layer_norm_rms_epsilon"), epsilon].concat());
    for (key, value) in numbers {
        out.extend([text(key), 10u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat());
    }
    let (mut noise, mut data) = (Dice(7), Vec::new());
    let mut tensor = |name: &str, dims: &[u64], kind: u32, bytes: Vec<u8>| {
        out.extend([text(name), (dims.len() as u32).to_le_bytes().to_vec()].concat());
        dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend([&kind.to_le_bytes()[..], &(data.len() as u64).to_le_bytes()].concat());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    };
    for (name, rows, cols) in matrices {
        tensor(name, &[cols, rows], format.layout().0, blocks(&mut noise, format, rows * cols));
    }
    for name in norms {
        tensor(name, &[HIDDEN], 0, ones(&mut noise, HIDDEN));
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    std::fs::write(path, out).unwrap();
}

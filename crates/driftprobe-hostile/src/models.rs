//! Readers of models: configs, weights, GGUF files and tokenizers.

use crate::built;
use crate::memory::{allowance, bounded};
use crate::told;
use driftprobe_model::{Model, ModelError, Tokenizer, Weights, bytes, expected_weights};
use std::path::Path;

/// What a config may make the reader hold: at most 4096 layers of a dozen tensors.
const CONFIG_BYTES: usize = 32 << 20;
/// What a tokenizer sets up whatever its file holds: regular expressions, caches.
const TOKENIZER_BYTES: usize = 32 << 20;

fn told_by(error: &ModelError) {
    told(error, &error.hint().unwrap_or_default());
}

/// Every tensor dequantised: all values are there, whatever shape the file claims.
fn weights(weights: &Weights) {
    for name in weights.names() {
        let weight = weights.get(name).expect("a name of its own");
        assert_eq!(weight.to_f32().len(), weight.rows() * weight.cols());
        assert_eq!(weight.bytes().len(), weight.rows() * weight.row_size_bytes());
    }
}

/// `config.json`: what is accepted has sizes that can be counted with.
pub fn config(data: &[u8]) {
    match bounded(allowance(data.len()) + CONFIG_BYTES, || bytes::config(data)) {
        Err(e) => told_by(&e),
        Ok(config) => bounded(CONFIG_BYTES, || {
            assert!(config.group() > 0 && config.head_dim % 2 == 0);
            assert_eq!(config.sliding_windows.len(), config.num_hidden_layers);
            // A head may be as wide as its file says: up to 2^24.
            if config.head_dim <= 1 << 12 {
                let frequencies = config.rope.frequencies(config.head_dim);
                assert_eq!(frequencies.len(), config.head_dim / 2);
                assert!(frequencies.iter().all(|f| f.is_finite()), "{:?}: {frequencies:?}", config.rope);
            }
            if config.num_hidden_layers <= 64 {
                let elements = |shape: &[usize]| shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
                assert!(expected_weights(&config).iter().all(|(_, shape)| elements(shape).is_some()));
            }
            config.to_hugging_face();
        }),
    }
}

/// A model's safetensors file.
pub fn safetensors(data: &[u8]) {
    match bounded(allowance(data.len()), || bytes::safetensors(data.to_vec())) {
        Err(e) => told_by(&e),
        Ok(found) => weights(&found),
    }
}

/// A GGUF file as it lies there.
pub fn gguf(data: &[u8]) {
    let allowed = allowance(data.len()) + CONFIG_BYTES;
    match bounded(allowed, || bytes::gguf(data.to_vec())) {
        Err(e) => told_by(&e),
        Ok(Model { weights: found, tokenizer, .. }) => {
            weights(&found);
            // Tensors and tokenizer of a whole model are what they are alone.
            return encode(tokenizer);
        }
    }
    let parts = bounded(allowance(data.len()) + TOKENIZER_BYTES, || bytes::gguf_parts(data.to_vec()));
    if let Ok((found, tokenizer)) = parts {
        weights(&found);
        encode(tokenizer);
    }
}

/// A GGUF file whose header is in order, made of what the input says stands in it.
pub fn gguf_built(data: &[u8]) {
    gguf(&built::gguf(data));
}

/// On a thread of its own: the library keeps a table of every tokenizer that a thread has used, as long as the thread lives.
fn encode(tokenizer: Result<Tokenizer, ModelError>) {
    match tokenizer {
        Err(e) => told_by(&e),
        Ok(tokenizer) => std::thread::scope(|scope| {
            let texts = scope.spawn(|| bounded(TOKENIZER_BYTES, || encode_texts(&tokenizer)));
            texts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }),
    }
}

fn encode_texts(tokenizer: &Tokenizer) {
    for text in ["", "a", "Hello  world\n\t1234", "▁ \u{0}é🦀<s></s>"] {
        match tokenizer.encode(text) {
            Ok(ids) => drop(tokenizer.decode(&ids)),
            Err(e) => told(e, "give prompts as token ids"),
        }
    }
    let _ = tokenizer.decode(&[0, 1, u32::MAX]);
}

/// `tokenizer.json`.
pub fn tokenizer(data: &[u8]) {
    encode(bounded(allowance(data.len()) + TOKENIZER_BYTES, || bytes::tokenizer(data)));
}

/// `model.safetensors.index.json`: every file that it names lies in the model's own folder.
pub fn weight_files(data: &[u8]) {
    let folder = Path::new("model");
    match bounded(allowance(data.len()), || bytes::weight_files(folder, data)) {
        Err(e) => told_by(&e),
        Ok(files) => assert!(files.iter().all(|file| file.parent() == Some(folder)), "{files:?}"),
    }
}

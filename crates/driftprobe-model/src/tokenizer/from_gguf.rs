//! GGUF's two common tokenizers: `gpt2` (byte-level BPE with merges) and `llama` (SentencePiece BPE with scores).
//!
//! Both become a BPE of the `tokenizers` crate. A pre-tokenizer whose rule is not known is refused by name: a guess would
//! give other tokens than the engine's, and so another prompt.

use crate::ModelError;
use crate::gguf::{Gguf, Value};
use std::path::Path;
use tokenizers::decoders::{DecoderWrapper, strip::Strip};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence as Normalizers, unicode::NFC};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

// Kinds of tokens in `tokenizer.ggml.token_type`.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const BYTE: u64 = 6;

/// Most bytes of a SentencePiece tokenizer's merges. A token is merged of every two tokens that it splits into, so that
/// tokens which are each other's beginnings would have merges without end. Llama 2's 32 000 tokens have 0.6 MB of them.
const MERGES_BYTES_MAX: usize = 64 << 20;

struct Metadata<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
}

impl<'a> Metadata<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.gguf.metadata.get(&format!("tokenizer.ggml.{key}"))
    }
    fn bad(&self, key: &str, expected: &str) -> ModelError {
        ModelError::malformed(self.path, format!("key tokenizer.ggml.{key}: expected {expected}"))
    }
    fn refuse(&self, what: String) -> ModelError {
        let hint = "name a tokenizer.json with --tokenizer, or give prompts as token ids";
        ModelError::unsupported(self.path, what, hint)
    }
    fn list(&self, key: &str, expected: &str) -> Result<&'a [Value], ModelError> {
        self.get(key).and_then(Value::as_list).ok_or_else(|| self.bad(key, expected))
    }
    fn texts(&self, key: &str) -> Result<Vec<&'a str>, ModelError> {
        let list = self.list(key, "a list of texts")?;
        list.iter().map(|v| v.as_text().ok_or_else(|| self.bad(key, "a list of texts"))).collect()
    }
    fn token(&self, key: &str, tokens: &[&str]) -> Result<Option<(String, u32)>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let id = value.as_count().and_then(|n| u32::try_from(n).ok());
        let named = id.and_then(|id| tokens.get(id as usize).map(|t| ((*t).to_owned(), id)));
        named.map(Some).ok_or_else(|| self.bad(key, "the id of a token"))
    }
    fn flag(&self, key: &str) -> Option<bool> {
        if let Some(Value::Bool(flag)) = self.get(key) { Some(*flag) } else { None }
    }
    fn kinds(&self, tokens: usize) -> Result<Vec<u64>, ModelError> {
        let Some(value) = self.get("token_type") else { return Ok(vec![1; tokens]) };
        let kinds = value.as_list().filter(|l| l.len() == tokens);
        let kinds = kinds.and_then(|l| l.iter().map(Value::as_count).collect::<Option<Vec<u64>>>());
        kinds.ok_or_else(|| self.bad("token_type", "a number a token"))
    }
}

pub fn build(path: &Path, gguf: &Gguf) -> Result<Tokenizer, ModelError> {
    let metadata = Metadata { path, gguf };
    let model = metadata.get("model").and_then(Value::as_text);
    let tokens = metadata.texts("tokens")?;
    let kinds = metadata.kinds(tokens.len())?;
    let (mut tokenizer, bos_by_default) = match model {
        Some("gpt2") => byte_level(&metadata, &tokens)?,
        Some("llama") => sentence_piece(&metadata, &tokens, &kinds)?,
        Some(other) => return Err(metadata.refuse(format!("tokenizer {other} is not supported"))),
        None => return Err(metadata.refuse("holds no tokenizer (key tokenizer.ggml.model)".to_owned())),
    };
    let special = tokens.iter().zip(&kinds).filter_map(|(t, kind)| match *kind {
        CONTROL => Some(AddedToken::from(*t, true)),
        USER_DEFINED => Some(AddedToken::from(*t, false)),
        _ => None,
    });
    tokenizer.add_tokens(special).map_err(|e| metadata.refuse(format!("tokenizer: {e}")))?;
    let bos =
        metadata.token("bos_token_id", &tokens)?.filter(|_| metadata.flag("add_bos_token").unwrap_or(bos_by_default));
    let eos = metadata.token("eos_token_id", &tokens)?.filter(|_| metadata.flag("add_eos_token").unwrap_or(false));
    surround(&mut tokenizer, bos, eos).map_err(|e| metadata.refuse(format!("tokenizer: {e}")))?;
    Ok(tokenizer)
}

/// Puts the start and end tokens around every text.
fn surround(tokenizer: &mut Tokenizer, bos: Option<(String, u32)>, eos: Option<(String, u32)>) -> Result<(), String> {
    if bos.is_none() && eos.is_none() {
        return Ok(());
    }
    let (before, after) = (bos.iter().map(|b| b.0.clone()), eos.iter().map(|e| e.0.clone()));
    let pieces: Vec<String> = before.chain(["$A".to_owned()]).chain(after).collect();
    let mut template = TemplateProcessing::builder();
    template.try_single(pieces)?.special_tokens(bos.into_iter().chain(eos).collect::<Vec<_>>());
    tokenizer.with_post_processor(Some(template.build().map_err(|e| e.to_string())?));
    Ok(())
}

fn vocabulary(metadata: &Metadata, tokens: &[&str]) -> Result<Vocab, ModelError> {
    let mut vocab = Vocab::with_capacity(tokens.len());
    for (id, token) in (0u32..).zip(tokens) {
        if vocab.insert((*token).to_owned(), id).is_some() {
            return Err(metadata.bad("tokens", &format!("every token once, found {token:?} twice")));
        }
    }
    Ok(vocab)
}

fn bpe(metadata: &Metadata, vocab: Vocab, merges: Merges) -> Result<tokenizers::models::bpe::BpeBuilder, ModelError> {
    for (left, right) in &merges {
        if !(vocab.contains_key(left) && vocab.contains_key(right) && vocab.contains_key(&format!("{left}{right}"))) {
            return Err(metadata.bad("merges", &format!("merges of known tokens, found {left:?} {right:?}")));
        }
    }
    Ok(BPE::builder().vocab_and_merges(vocab, merges))
}

fn byte_level(metadata: &Metadata, tokens: &[&str]) -> Result<(Tokenizer, bool), ModelError> {
    let rule = metadata.get("pre").and_then(Value::as_text).unwrap_or("none");
    let (split, nfc, llama3) = match rule {
        "gpt-2" => (None, false, false),
        "llama-bpe" | "llama3" | "llama-v3" => (Some(LLAMA3_SPLIT), false, true),
        "qwen2" => (Some(QWEN2_SPLIT), true, false),
        other => return Err(metadata.refuse(format!("pre-tokenizer {other} is not supported"))),
    };
    let mut merges = Merges::new();
    for merge in metadata.texts("merges")? {
        let (left, right) = merge.split_once(' ').ok_or_else(|| metadata.bad("merges", "two tokens a merge"))?;
        merges.push((left.to_owned(), right.to_owned()));
    }
    let model = bpe(metadata, vocabulary(metadata, tokens)?, merges)?.ignore_merges(llama3).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|e| metadata.refuse(format!("tokenizer: {e}")))?);
    if nfc {
        let with = tokenizer.with_normalizer(Some(NormalizerWrapper::from(NFC)));
        with.map_err(|e| metadata.refuse(format!("tokenizer: {e}")))?;
    }
    match split {
        None => tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true))),
        Some(rule) => {
            let pattern = SplitPattern::Regex(rule.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
            let split = split.map_err(|e| metadata.refuse(format!("tokenizer: {e}")))?;
            let bytes = ByteLevel::new(false, true, false);
            tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![split.into(), bytes.into()])))
        }
    };
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::default())));
    Ok((tokenizer, llama3))
}

/// SentencePiece's BPE: of all adjacent pairs whose union is a token, the one with the highest score is merged first.
/// As a list of merges: every way to split a token into two tokens, by falling score of the token.
///
/// Text is not normalised beyond its spaces, as in Llama 2's model; a file that asks for more is refused.
fn sentence_piece(metadata: &Metadata, tokens: &[&str], kinds: &[u64]) -> Result<(Tokenizer, bool), ModelError> {
    let squeezes = metadata.flag("remove_extra_whitespaces") == Some(true);
    let charsmap = metadata.get("precompiled_charsmap");
    for (key, present) in [("remove_extra_whitespaces", squeezes), ("precompiled_charsmap", charsmap.is_some())] {
        if present {
            return Err(metadata.refuse(format!("normalisation by tokenizer.ggml.{key} is not supported")));
        }
    }
    let scores = metadata.list("scores", "a score a token")?;
    let scores: Option<Vec<f64>> = scores.iter().map(Value::as_number).collect();
    let scores = scores.filter(|s| s.len() == tokens.len()).ok_or_else(|| metadata.bad("scores", "a score a token"))?;
    let vocab = vocabulary(metadata, tokens)?;
    let plain = |id: u32| kinds.get(id as usize).is_some_and(|k| ![UNKNOWN, CONTROL, BYTE].contains(k));
    let mut merges: Vec<(f64, u32, u32, String, String)> = Vec::new();
    let mut held = 0usize;
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| plain(*id as u32)) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (vocab.get(left), vocab.get(right))
                && plain(l)
                && plain(r)
            {
                held += token.len();
                if held > MERGES_BYTES_MAX {
                    let what = format!("{MERGES_BYTES_MAX} bytes of merges are too few for its tokens");
                    return Err(metadata.refuse(what));
                }
                merges.push((scores[id], l, r, left.to_owned(), right.to_owned()));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let merges: Merges = merges.into_iter().map(|(_, _, _, left, right)| (left, right)).collect();
    let mut builder = bpe(metadata, vocab, merges)?.byte_fallback(kinds.contains(&BYTE)).fuse_unk(true);
    if let Some((unknown, _)) = metadata.token("unknown_token_id", tokens)? {
        builder = builder.unk_token(unknown);
    }
    let failed = |e: tokenizers::Error| metadata.refuse(format!("tokenizer: {e}"));
    let mut tokenizer = Tokenizer::new(builder.build().map_err(failed)?);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let prefixed = metadata.flag("add_space_prefix").unwrap_or(true);
    if prefixed {
        normalizers.push(Prepend::new("▁".to_owned()).into());
    }
    normalizers.push(Replace::new(" ", "▁").map_err(failed)?.into());
    tokenizer.with_normalizer(Some(NormalizerWrapper::Sequence(Normalizers::new(normalizers)))).map_err(failed)?;
    let space = tokenizers::normalizers::Replace::new("▁", " ").map_err(failed)?;
    let fallback = tokenizers::decoders::byte_fallback::ByteFallback::new();
    let fuse = tokenizers::decoders::fuse::Fuse::new();
    let mut decoders: Vec<DecoderWrapper> = vec![space.into(), fallback.into(), fuse.into()];
    if prefixed {
        // What was put before the text is taken away again.
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(tokenizers::decoders::sequence::Sequence::new(decoders)));
    Ok((tokenizer, true))
}

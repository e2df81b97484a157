//! A byte-level BPE tokenizer of 512 tokens, trained on the same text.

use anyhow::{Result, anyhow};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

/// Vocabulary size, the two special tokens included.
pub const VOCAB: usize = 512;
/// Start of text, `<s>`: every prompt begins with it.
pub const BOS: u32 = 0;
/// End of text, `</s>`.
pub const EOS: u32 = 1;

pub fn train(text: &str) -> Result<Tokenizer> {
    let byte_level = ByteLevel::new(false, true, true);
    let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(VOCAB)
        .special_tokens(vec![AddedToken::from("<s>", true), AddedToken::from("</s>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let mut template = TemplateProcessing::builder();
    template.try_single("<s> $A").map_err(|e| anyhow!("{e}"))?.special_tokens(vec![("<s>", BOS)]);
    let template = template.build()?;
    let mut tokenizer: Tokenizer = TokenizerBuilder::<
        tokenizers::ModelWrapper,
        tokenizers::NormalizerWrapper,
        tokenizers::PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    >::default()
    .with_model(BPE::default().into())
    .with_normalizer(None)
    .with_pre_tokenizer(Some(byte_level.into()))
    .with_decoder(Some(byte_level.into()))
    .with_post_processor(Some(template.into()))
    .build()
    .map_err(|e| anyhow!("{e}"))?
    .into();
    let lines = text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    tokenizer.train(&mut trainer, lines.into_iter()).map_err(|e| anyhow!("{e}"))?;
    Ok(tokenizer)
}

/// Token ids of a text, without the start token.
pub fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(text, false).map_err(|e| anyhow!("{e}"))?.get_ids().to_vec())
}

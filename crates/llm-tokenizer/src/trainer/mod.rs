//! Training a byte-level BPE vocabulary.
//!
//! Text is pre-tokenised and its words are counted on all threads ([`Trainer::feed`]), then pairs are merged
//! (`merge`). The result depends on the text alone: not on threads, nor on the order of the texts.
//!
//! Ids: 0..256 are the bytes, then the merges in the order they were made, then the special tokens.

mod count;
mod merge;

use crate::byte_level::to_alphabet;
use crate::chat::{ChatTemplate, DEFAULT_TEMPLATE};
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use crate::tokenizer::Tokenizer;
use count::WordCounts;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Text that begins a document.
pub const BEGIN_OF_TEXT: &str = "<|begin_of_text|>";
/// Text that ends a document.
pub const END_OF_TEXT: &str = "<|end_of_text|>";
/// Text that fills a batch.
pub const PAD: &str = "<|pad|>";
/// The special tokens of a tokenizer trained here, in id order.
pub const SPECIAL_TOKENS: [&str; 12] = [
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    PAD,
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<think>",
    "</think>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|image|>",
];

/// Bytes of text between two reports of progress and checks for Ctrl-C.
const BATCH_BYTES: usize = 8 << 20;

/// Settings of a training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainerConfig {
    /// Size of the vocabulary: 256 bytes, merges, special tokens. Little text may give less.
    pub vocab_size: usize,
    /// Most digits in one word: 1 (each digit a token, good for arithmetic) or 3 (shorter).
    pub digits: usize,
    /// A pair that occurs less often is not merged.
    pub min_frequency: u64,
    /// Longest token in bytes.
    pub max_token_bytes: usize,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self { vocab_size: 4096, digits: 1, min_frequency: 2, max_token_bytes: 64 }
    }
}

impl TrainerConfig {
    fn check(&self) -> Result<()> {
        let least = 256 + SPECIAL_TOKENS.len();
        if self.vocab_size < least {
            return Err(Error::Train(format!(
                "vocab_size = {} is too small: 256 bytes and {} special tokens need {least}",
                self.vocab_size,
                SPECIAL_TOKENS.len()
            )));
        }
        if self.vocab_size > 1 << 20 {
            return Err(Error::Train(format!("vocab_size = {}: at most {} is supported", self.vocab_size, 1 << 20)));
        }
        if ![1, 3].contains(&self.digits) {
            return Err(Error::Train(format!("digits = {}: expected 1 (digits one by one) or 3 (groups of up to three)", self.digits)));
        }
        Ok(())
    }
}

/// A training that is fed text bit by bit.
#[derive(Debug)]
pub struct Trainer {
    config: TrainerConfig,
    counts: WordCounts,
}

/// What a training saw and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Bytes of text.
    pub bytes: u64,
    /// Words, each occurrence.
    pub words: u64,
    /// Different words.
    pub unique_words: usize,
    /// Merges made.
    pub merges: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
}

impl Trainer {
    /// An error if the settings cannot work.
    pub fn new(config: TrainerConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { counts: WordCounts::new(Pattern::Llama3 { digits: config.digits }), config })
    }

    /// Count the words of some texts, on all threads.
    pub fn feed<T: AsRef<str> + Sync>(&mut self, texts: &[T]) {
        self.counts.add(texts);
    }

    /// Merge pairs and make the tokenizer.
    pub fn finish(self) -> Result<(Tokenizer, Summary)> {
        if self.counts.is_empty() {
            return Err(Error::Train("there is no text to learn from".to_string()));
        }
        let (bytes, words) = (self.counts.bytes(), self.counts.words());
        let wanted = self.config.vocab_size - 256 - SPECIAL_TOKENS.len();
        let counted = self.counts.into_sorted();
        let merges = merge::learn(&counted, wanted, self.config.min_frequency.max(1), self.config.max_token_bytes);
        let tokenizer = build(&merges, self.config.digits)?;
        let summary = Summary { bytes, words, unique_words: counted.len(), merges: merges.len(), vocab_size: tokenizer.vocab_size() };
        Ok((tokenizer, summary))
    }
}

/// Train on texts. For more text than fits memory feed a [`Trainer`].
pub fn train<T: AsRef<str> + Sync>(texts: impl IntoIterator<Item = T>, config: &TrainerConfig) -> Result<Tokenizer> {
    let mut trainer = Trainer::new(config.clone())?;
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for text in texts {
        bytes += text.as_ref().len();
        batch.push(text);
        if bytes >= BATCH_BYTES {
            trainer.feed(&batch);
            batch.clear();
            bytes = 0;
        }
    }
    trainer.feed(&batch);
    Ok(trainer.finish()?.0)
}

/// The tokenizer of a list of merges `(left id, right id)`.
fn build(merges: &[(u32, u32)], digits: usize) -> Result<Tokenizer> {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
    let mut rules = Vec::with_capacity(merges.len());
    for &(left, right) in merges {
        let (left, right) = (&tokens[left as usize], &tokens[right as usize]);
        rules.push(json!([to_alphabet(left), to_alphabet(right)]));
        let joined = [left.as_slice(), right].concat();
        tokens.push(joined);
    }
    let vocab: Map<String, Value> = tokens.iter().enumerate().map(|(id, bytes)| (to_alphabet(bytes), id.into())).collect();
    let added: Vec<Value> = SPECIAL_TOKENS
        .iter()
        .enumerate()
        .map(|(i, token)| json!({"id": tokens.len() + i, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
        .collect();
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = json!({"type": "Split", "pattern": {"Regex": Pattern::Llama3 { digits }.regex()}, "behavior": "Isolated", "invert": false});
    let sequence = |id: &str, type_id: u8| json!({"Sequence": {"id": id, "type_id": type_id}});
    let begin = |type_id: u8| json!({"SpecialToken": {"id": BEGIN_OF_TEXT, "type_id": type_id}});
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level(false)]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin(0), sequence("A", 0)],
            "pair": [begin(0), sequence("A", 0), begin(1), sequence("B", 1)],
            "special_tokens": {BEGIN_OF_TEXT: {"id": BEGIN_OF_TEXT, "ids": [tokens.len()], "tokens": [BEGIN_OF_TEXT]}},
        },
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": rules,
        },
    });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": false,
        "model_input_names": ["input_ids", "attention_mask"],
    });
    let Value::Object(config) = config else {
        return Err(Error::Train("internal: the configuration is not an object".to_string()));
    };
    Tokenizer::from_parts(format!("{json:#}\n"), config, Some(ChatTemplate::new(DEFAULT_TEMPLATE)?), Path::new("tokenizer.json"))
}

//! What a training can be told, and what is refused before any text is read.

use super::pieces::byte_token;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use serde::{Deserialize, Serialize};

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

/// Stands for what a SentencePiece-style vocabulary cannot spell; with byte tokens that is nothing.
pub const UNKNOWN: &str = "<unk>";
/// The special tokens of a SentencePiece-style tokenizer trained here, in id order: the first ids.
pub const PIECE_SPECIAL_TOKENS: [&str; 3] = [UNKNOWN, "<s>", "</s>"];

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// BPE over bytes, as GPT-2 and Llama 3 have it.
    #[default]
    ByteLevelBpe,
    /// BPE over characters with byte tokens for rare ones, as SentencePiece trains it and Llama 2 has it.
    SentencepieceBpe,
    /// Pieces with probabilities (Kudo 2018), as SentencePiece trains them, with byte tokens for rare characters.
    Unigram,
}

/// How byte-level BPE cuts text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pretokenizer {
    /// GPT-2's pattern: numbers of any length are one word.
    Gpt2,
    /// Llama 3's pattern: three digits at most are a word.
    Llama3,
    /// Qwen 2's pattern: Llama 3's with digits one by one.
    Qwen2,
    /// GPT-4's pattern: Llama 3's, but for blanks at the very end.
    Cl100k,
    /// GPT-4o's pattern: words are cut where capitals begin, combining marks are letters.
    O200k,
}

/// Order of the first 256 ids, which also decides ties between equally frequent pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByteOrder {
    /// Byte 0 is id 0.
    #[default]
    Byte,
    /// The order of the characters that stand for bytes, `!` first: GPT-2's, and that of Hugging Face's `BpeTrainer`.
    Gpt2,
}

/// Settings of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainerConfig {
    /// What is trained. [`TrainerConfig::of`] has the defaults of each.
    pub model: Model,
    /// Size of the vocabulary: 256 bytes, merges or pieces, special tokens. Little text may give less.
    pub vocab_size: usize,
    /// How text is cut; by default Llama 3's pattern with [`TrainerConfig::digits`].
    pub pretokenizer: Option<Pretokenizer>,
    /// Most digits in one word: 1 (each digit a token, good for arithmetic) or 3 (shorter).
    pub digits: usize,
    /// Order of the byte tokens.
    pub byte_order: ByteOrder,
    /// A pair that occurs less often is not merged; for Unigram, a string that occurs less often is no piece.
    pub min_frequency: u64,
    /// Longest token in bytes.
    pub max_token_bytes: usize,
    /// SentencePiece-style: characters that together are this share of the text are in the vocabulary, rarer ones are spelled in bytes.
    pub character_coverage: f64,
    /// SentencePiece-style: longest piece in characters.
    pub max_piece_chars: usize,
    /// SentencePiece-style: every digit is a piece of its own.
    pub split_digits: bool,
    /// Unigram: substrings that the training begins with.
    pub seed_sentencepiece_size: usize,
    /// In id order: after the merges in byte-level BPE, else before everything.
    pub special_tokens: Vec<String>,
    /// Put before every text by `encode` with special tokens; empty for none.
    pub bos_token: String,
    /// Ends a document; empty for none.
    pub eos_token: String,
    /// Fills a batch; empty for none.
    pub pad_token: String,
    /// How much each language or domain counts; empty takes the text as it is.
    pub weights: Weights,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            model: Model::ByteLevelBpe,
            vocab_size: 4096,
            pretokenizer: None,
            digits: 1,
            byte_order: ByteOrder::Byte,
            min_frequency: 2,
            max_token_bytes: 64,
            character_coverage: 0.9995,
            max_piece_chars: 16,
            split_digits: false,
            seed_sentencepiece_size: 1_000_000,
            special_tokens: SPECIAL_TOKENS.map(str::to_string).to_vec(),
            bos_token: BEGIN_OF_TEXT.to_string(),
            eos_token: END_OF_TEXT.to_string(),
            pad_token: PAD.to_string(),
            weights: Weights::default(),
        }
    }
}

impl TrainerConfig {
    /// The defaults of a model. SentencePiece-style ones have its special tokens and nothing to fill a batch with.
    pub fn of(model: Model) -> Self {
        let default = Self { model, ..Self::default() };
        if model == Model::ByteLevelBpe {
            return default;
        }
        let [_, bos, eos] = PIECE_SPECIAL_TOKENS.map(str::to_string);
        Self {
            special_tokens: PIECE_SPECIAL_TOKENS.map(str::to_string).to_vec(),
            bos_token: bos,
            eos_token: eos,
            pad_token: String::new(),
            ..default
        }
    }

    /// The pattern of byte-level BPE.
    pub fn pattern(&self) -> Pattern {
        match self.pretokenizer {
            None => Pattern::Llama3 { digits: self.digits },
            Some(Pretokenizer::Gpt2) => Pattern::Gpt2,
            Some(Pretokenizer::Llama3) => Pattern::Llama3 { digits: 3 },
            Some(Pretokenizer::Qwen2) => Pattern::Llama3 { digits: 1 },
            Some(Pretokenizer::Cl100k) => Pattern::Cl100k,
            Some(Pretokenizer::O200k) => Pattern::O200k,
        }
    }

    /// An error that says what cannot work and what would.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Train(message));
        let least = 256 + self.special_tokens.len();
        if self.vocab_size < least {
            return fail(format!(
                "vocab_size = {} is too small: 256 bytes and {} special tokens need {least}",
                self.vocab_size,
                self.special_tokens.len()
            ));
        }
        if self.vocab_size > 1 << 20 {
            return fail(format!("vocab_size = {}: at most {} is supported", self.vocab_size, 1 << 20));
        }
        if ![1, 3].contains(&self.digits) {
            return fail(format!("digits = {}: expected 1 (digits one by one) or 3 (groups of up to three)", self.digits));
        }
        for (i, token) in self.special_tokens.iter().enumerate() {
            if token.is_empty() {
                return fail(format!("special_tokens[{i}] is empty: every special token needs a text"));
            }
            if self.special_tokens[..i].contains(token) {
                return fail(format!("special_tokens has {token:?} twice: remove one"));
            }
        }
        for (name, token) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token), ("pad_token", &self.pad_token)] {
            if !token.is_empty() && !self.special_tokens.contains(token) {
                return fail(format!("{name} = {token:?} is not among special_tokens: add it there, or set {name} = \"\" for none"));
            }
        }
        match self.model {
            Model::ByteLevelBpe if self.split_digits => fail("split_digits is for sentencepiece_bpe and unigram: set digits = 1".to_string()),
            Model::ByteLevelBpe => self.weights.check(),
            Model::SentencepieceBpe | Model::Unigram => self.check_pieces().and_then(|()| self.weights.check()),
        }
    }

    fn check_pieces(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Train(message));
        if self.pretokenizer.is_some() || self.byte_order != ByteOrder::Byte {
            return fail("pretokenizer and byte_order are for byte_level_bpe: remove them, or set model = \"byte_level_bpe\"".to_string());
        }
        if !(0.98..=1.0).contains(&self.character_coverage) {
            return fail(format!("character_coverage = {}: expected 0.98 to 1 (1: every character is in the vocabulary)", self.character_coverage));
        }
        if !(2..=512).contains(&self.max_piece_chars) {
            return fail(format!("max_piece_chars = {}: expected 2 to 512", self.max_piece_chars));
        }
        if self.model == Model::Unigram && self.seed_sentencepiece_size < self.vocab_size {
            return fail(format!(
                "seed_sentencepiece_size = {} is less than vocab_size = {}: training only takes pieces away",
                self.seed_sentencepiece_size, self.vocab_size
            ));
        }
        if !self.special_tokens.iter().any(|token| token == UNKNOWN) {
            return fail(format!("special_tokens has no {UNKNOWN:?}: SentencePiece-style models need it, best as the first"));
        }
        for (i, token) in self.special_tokens.iter().enumerate() {
            if token.chars().nth(1).is_none() {
                return fail(format!("special_tokens[{i}] = {token:?} is one character, which text may have: give it a longer name"));
            }
            if (0..=255).any(|byte| *token == byte_token(byte)) {
                return fail(format!("special_tokens[{i}] = {token:?} is the token of a byte: give it another name"));
            }
        }
        Ok(())
    }
}

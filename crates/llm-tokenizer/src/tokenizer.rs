//! [`Tokenizer`]: the one type everybody else uses.

use crate::added::{AddedToken, AddedTokens, Piece, unchanged};
use crate::chat::ChatTemplate;
use crate::decode::DecodeStream;
use crate::fallback::Fallback;
use crate::formats::Source;
use crate::native::Native;
use crate::scratch::Pool;
use crate::spm::Spm;
use crate::spm::decode::{PieceDecoder, Token};
use crate::spm::model::PieceType;
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::Arc;

/// A loaded or trained tokenizer; cloning shares it.
///
/// ```
/// use llm_tokenizer::trainer::{TrainerConfig, train};
/// let config = TrainerConfig { vocab_size: 300, ..TrainerConfig::default() };
/// let tokenizer = train(["the cat sat on the mat, the dog sat on the log"], &config)?;
/// let ids = tokenizer.encode("the cat");
/// assert_eq!(tokenizer.decode(&ids, true), "the cat");
/// # Ok::<(), llm_tokenizer::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub engine: Engine,
    pub pool: Pool,
    pub added: AddedTokens,
    pub table: TokenTable,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub template: Option<ChatTemplate>,
    /// Where it came from, and what [`Tokenizer::save`] writes.
    pub source: Source,
    /// `tokenizer_config.json` without the chat template.
    pub config: Map<String, Value>,
}

#[derive(Debug)]
pub(crate) enum Engine {
    ByteLevel(Box<Native>),
    Pieces(Box<Spm>),
    Fallback(Box<Fallback>),
}

/// Bytes of every token in one allocation.
#[derive(Debug, Default)]
pub(crate) struct TokenTable {
    bytes: Vec<u8>,
    /// `(start, end)` in `bytes`; `start == u32::MAX` where the id has no token.
    spans: Vec<(u32, u32)>,
    special: Vec<bool>,
}

impl TokenTable {
    pub fn new(vocab: Vec<(Vec<u8>, u32)>, added: &[AddedToken]) -> Self {
        let last = vocab.iter().map(|&(_, id)| id).chain(added.iter().map(|t| t.id)).max();
        let size = last.map_or(0, |id| id as usize + 1);
        let mut table = Self { bytes: Vec::new(), spans: vec![(u32::MAX, 0); size], special: vec![false; size] };
        for (bytes, id) in vocab.iter().map(|(b, id)| (b.as_slice(), *id)).chain(added.iter().map(|t| (t.content.as_bytes(), t.id))) {
            let start = table.bytes.len();
            table.bytes.extend_from_slice(bytes);
            table.spans[id as usize] = (start as u32, table.bytes.len() as u32);
        }
        for token in added {
            table.special[token.id as usize] = token.special;
        }
        table
    }

    #[inline]
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let &(start, end) = self.spans.get(id as usize)?;
        self.bytes.get(start as usize..end as usize)
    }

    /// The id of a token by its bytes, the lowest of several.
    pub fn find(&self, bytes: &[u8]) -> Option<u32> {
        (0..self.spans.len() as u32).find(|&id| self.get(id) == Some(bytes))
    }

    #[inline]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

impl Tokenizer {
    /// Ids of untrusted text: the text of a special token is encoded as ordinary characters.
    ///
    /// No begin-of-text token is added. Added tokens that the tokenizer does not call special (runs of blanks in
    /// GPT-NeoX, `<tool_call>` in Qwen) are ordinary vocabulary and are used.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_pieces(text, false)
    }

    /// Ids of trusted text: `<|eot_id|>` in the text becomes the control token.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        self.encode_pieces(text, true)
    }

    /// [`Tokenizer::encode`] of many texts on all threads, results in order.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Vec<u32>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    fn encode_pieces(&self, text: &str, special: bool) -> Vec<u32> {
        match &self.0.engine {
            Engine::Fallback(fallback) => fallback.encode(text, special),
            Engine::ByteLevel(native) => self.0.pool.with(|scratch| {
                let mut ids = Vec::with_capacity(text.len() / 3);
                self.0.added.split(
                    text,
                    special,
                    |text| native.normalize(text),
                    |piece| match piece {
                        Piece::Text(text) => native.encode(text, scratch, &mut ids),
                        Piece::Token(id, _) => ids.push(id),
                    },
                );
                ids
            }),
            Engine::Pieces(spm) => self.0.pool.with(|scratch| {
                let mut ids = Vec::with_capacity(text.len() / 3);
                let mut first = true;
                self.0.added.split(text, special, unchanged, |piece| {
                    match piece {
                        Piece::Text(text) => spm.encode(text, first, scratch, &mut ids),
                        Piece::Token(id, _) => ids.push(id),
                    }
                    first = false;
                });
                ids
            }),
        }
    }

    /// Text of `ids`; bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        if let Engine::Fallback(fallback) = &self.0.engine {
            return fallback.decode(ids, skip_special);
        }
        let bytes = self.decode_bytes(ids, skip_special);
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    fn decode_bytes(&self, ids: &[u32], skip_special: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        if let Engine::Pieces(spm) = &self.0.engine {
            let mut decoder = PieceDecoder::new(spm.decoding);
            for &id in ids {
                if let Some(token) = self.piece(spm, id, skip_special) {
                    decoder.push(token, &mut bytes);
                }
            }
            decoder.finish(&mut bytes);
            return bytes;
        }
        for &id in ids {
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(self.0.table.get(id).unwrap_or_default());
            }
        }
        bytes
    }

    /// What a token of a model of pieces is to its decoder; `None` if nothing.
    pub(crate) fn piece(&self, spm: &Spm, id: u32, skip_special: bool) -> Option<Token<'_>> {
        if skip_special && self.is_special(id) {
            return None;
        }
        let bytes = self.0.table.get(id)?;
        Some(match (spm.kind(id), bytes) {
            (Some(PieceType::Byte), &[byte]) => Token::Byte(byte),
            (Some(PieceType::Normal | PieceType::UserDefined | PieceType::Unused), _) => Token::Text(bytes),
            _ => Token::Verbatim(bytes),
        })
    }

    /// The `tokenizer.json`.
    pub(crate) fn json(&self) -> Result<Cow<'_, str>, String> {
        match &self.0.source {
            Source::Json(text) => Ok(Cow::Borrowed(text)),
            Source::Pieces(_) | Source::Ranks(_) => Ok(Cow::Owned(format!("{:#}\n", self.json_value()?))),
        }
    }

    /// The `tokenizer.json`, parsed.
    pub(crate) fn json_value(&self) -> Result<Value, String> {
        match &self.0.source {
            Source::Json(text) => serde_json::from_str(text).map_err(|e| e.to_string()),
            Source::Pieces(model) => crate::spm::json::to_json(model),
            Source::Ranks(ranks) => Ok(ranks.to_json()),
        }
    }

    /// A decoder that is fed one id at a time and never gives half a character.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), skip_special)
    }

    /// The bytes a token stands for; `None` for an id without a token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.0.table.get(id)
    }

    /// Highest id plus one: the number of embedding rows a model needs.
    pub fn vocab_size(&self) -> usize {
        self.0.table.spans.len()
    }

    /// Id of an added token by its text, e.g. `"<think>"`.
    pub fn special_id(&self, token: &str) -> Option<u32> {
        self.0.added.id(token)
    }

    /// True for control tokens.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.table.is_special(id)
    }

    /// Every added token: control tokens, and what other tokenizers match before pre-tokenisation.
    pub fn added_tokens(&self) -> &[AddedToken] {
        self.0.added.tokens()
    }

    /// Begins a document.
    pub fn bos_id(&self) -> Option<u32> {
        self.0.bos
    }

    /// True if Hugging Face's `encode` with its defaults puts the begin-of-text token in front: the post-processor's template
    /// starts with it, or the configuration of an older tokenizer class says `add_bos_token`. Ours never adds one on its own.
    pub fn adds_bos(&self) -> bool {
        fn starts(processor: &Value, bos: &str) -> bool {
            let first = &processor["single"][0]["SpecialToken"]["id"];
            first == bos || processor["processors"].as_array().is_some_and(|list| list.iter().any(|p| starts(p, bos)))
        }
        let text = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_string);
        let Some(bos) = self.0.config.get("bos_token").and_then(text) else { return false };
        if let Some(said) = self.0.config.get("add_bos_token").and_then(Value::as_bool) {
            return said;
        }
        match &self.0.source {
            Source::Json(text) => serde_json::from_str::<Value>(text).is_ok_and(|json| starts(&json["post_processor"], &bos)),
            Source::Pieces(model) => model.kind == crate::spm::model::Kind::Bpe,
            Source::Ranks(_) => true,
        }
    }

    /// Ends a document.
    pub fn eos_id(&self) -> Option<u32> {
        self.0.eos
    }

    /// Fills a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.0.pad
    }

    /// Stands for what the vocabulary cannot spell (`[UNK]`, `<unk>`); a vocabulary with all bytes spells everything.
    pub fn unk_id(&self) -> Option<u32> {
        match &self.0.engine {
            Engine::ByteLevel(_) => None,
            Engine::Pieces(spm) => spm.unknown_id(),
            Engine::Fallback(fallback) => fallback.unk_id(),
        }
    }

    /// True for a token that stands for one byte of a character without a token of its own (`<0xE2>` of a SentencePiece model).
    pub fn is_byte_fallback(&self, id: u32) -> bool {
        match &self.0.engine {
            Engine::ByteLevel(_) => false,
            Engine::Pieces(spm) => spm.kind(id) == Some(PieceType::Byte),
            Engine::Fallback(fallback) => fallback.is_byte(id),
        }
    }

    /// The chat template, if the tokenizer has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.0.template.as_ref()
    }

    /// True if our own encoder runs, false if the `tokenizers` crate does.
    pub fn is_native(&self) -> bool {
        !matches!(self.0.engine, Engine::Fallback(_))
    }

    /// What encodes, in words.
    pub fn algorithm(&self) -> String {
        match &self.0.engine {
            Engine::ByteLevel(_) => "byte-level BPE, own encoder".into(),
            Engine::Pieces(spm) => format!("SentencePiece {}, own encoder", spm.name()),
            Engine::Fallback(_) => "`tokenizers` crate".into(),
        }
    }
}

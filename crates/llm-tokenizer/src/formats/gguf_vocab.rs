//! The tokenizer of a GGUF file, and a GGUF file of a tokenizer.
//!
//! `tokenizer.ggml.model` says what it is: `gpt2` byte-level BPE, whose pre-tokenisation `tokenizer.ggml.pre` names; `llama` BPE of
//! SentencePiece; `t5` Unigram; `bert` WordPiece.

use super::gguf::{Metadata, Value};
use crate::added::AddedToken;
use crate::error::{Result, format};
use crate::pretokenize::Pattern;
use crate::spm::charsmap::Charsmap;
use crate::spm::model::{Kind, Piece, PieceModel, PieceType};
use serde_json::{Map, Value as Json, json};
use std::path::Path;

/// What was read.
#[derive(Debug)]
pub enum Vocabulary {
    /// A `tokenizer.json`.
    Json(Json),
    /// A SentencePiece model.
    Pieces(PieceModel),
}

/// Tokens of a file and what its other keys say about them.
struct Entries<'a> {
    metadata: &'a Metadata,
    path: &'a Path,
    tokens: &'a [String],
    kinds: Vec<PieceType>,
}

/// The tokenizer, and its settings with the names of `tokenizer_config.json`.
pub fn read(metadata: &Metadata, path: &Path) -> Result<(Vocabulary, Map<String, Json>)> {
    let Some(Value::Text(model)) = metadata.tokenizer("model") else {
        return Err(format(path, "there is no text `tokenizer.ggml.model`: this GGUF file has no tokenizer"));
    };
    let Some(Value::Texts(tokens)) = metadata.tokenizer("tokens") else {
        return Err(format(path, "`tokenizer.ggml.tokens` has to be a list of texts"));
    };
    let kinds = match metadata.tokenizer("token_type") {
        Some(Value::I32s(numbers)) if numbers.len() == tokens.len() => {
            let kind = |(at, &number): (usize, &i32)| {
                PieceType::from_number(number).ok_or_else(|| format(path, format!("`tokenizer.ggml.token_type`[{at}]: {number} is not 1 to 6")))
            };
            numbers.iter().enumerate().map(kind).collect::<Result<_>>()?
        }
        None => vec![PieceType::Normal; tokens.len()],
        _ => return Err(format(path, format!("`tokenizer.ggml.token_type` has to be {} numbers, as many as tokens", tokens.len()))),
    };
    let entries = Entries { metadata, path, tokens, kinds };
    let vocabulary = match model.as_str() {
        "gpt2" => Vocabulary::Json(entries.byte_level()?),
        "llama" => Vocabulary::Pieces(entries.pieces(Kind::Bpe)?),
        "t5" => Vocabulary::Pieces(entries.pieces(Kind::Unigram)?),
        "bert" => Vocabulary::Json(entries.word_pieces()),
        other => {
            let message = format!("`tokenizer.ggml.model`: {other:?} is not supported; gpt2, llama, t5 and bert are");
            return Err(format(path, message));
        }
    };
    Ok((vocabulary, entries.config()))
}

impl Entries<'_> {
    fn special(&self, name: &str) -> Option<&str> {
        let id = self.metadata.tokenizer(&format!("{name}_token_id"))?.id()?;
        self.tokens.get(id as usize).map(String::as_str)
    }

    fn config(&self) -> Map<String, Json> {
        let names = [("bos", "bos"), ("eos", "eos"), ("padding", "pad"), ("unknown", "unk"), ("seperator", "sep"), ("cls", "cls"), ("mask", "mask")];
        let tokens = names.iter().filter_map(|(key, name)| Some((format!("{name}_token"), self.special(key)?.into())));
        let mut config: Map<String, Json> = tokens.collect();
        if let Some(&Value::Bool(adds)) = self.metadata.tokenizer("add_bos_token") {
            config.insert("add_bos_token".into(), adds.into());
        }
        if let Some(Value::Text(template)) = self.metadata.0.get("tokenizer.chat_template") {
            config.insert("chat_template".into(), template.as_str().into());
        }
        config
    }

    fn added(&self) -> Vec<AddedToken> {
        let added = |(id, (text, kind)): (usize, (&String, &PieceType))| match kind {
            PieceType::Control => Some(AddedToken::special(id as u32, text)),
            PieceType::UserDefined => Some(AddedToken { special: false, ..AddedToken::special(id as u32, text) }),
            _ => None,
        };
        self.tokens.iter().zip(&self.kinds).enumerate().filter_map(added).collect()
    }

    fn byte_level(&self) -> Result<Json> {
        let Some(Value::Texts(merges)) = self.metadata.tokenizer("merges") else {
            return Err(format(self.path, "`tokenizer.ggml.merges` has to be a list of texts"));
        };
        let pre = match self.metadata.tokenizer("pre") {
            Some(Value::Text(pre)) => pre.as_str(),
            _ => "default",
        };
        let (pattern, whole_words) = match pre {
            "gpt-2" | "gpt2" | "default" | "phi-2" | "roberta-bpe" | "jina-es" | "jina-de" => (Pattern::Gpt2, false),
            "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => (Pattern::Llama3 { digits: 3 }, true),
            "dbrx" => (Pattern::Llama3 { digits: 3 }, false),
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" => (Pattern::Llama3 { digits: 1 }, false),
            "gpt-4o" | "llama4" => (Pattern::O200k, false),
            other => {
                let message =
                    format!("`tokenizer.ggml.pre`: how {other:?} cuts text is not known here; gpt-2, llama-bpe, qwen2, dbrx and gpt-4o are");
                return Err(format(self.path, message));
            }
        };
        let added = self.added();
        let vocab: Map<String, Json> = self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        let rule = |(rank, merge): (usize, &String)| {
            // A blank within a token is spelled otherwise, so the blank between two is the only one.
            let pair = merge.split_once(' ').map(|(a, b)| json!([a, b]));
            pair.ok_or_else(|| format(self.path, format!("`tokenizer.ggml.merges`[{rank}]: expected two tokens with a blank between")))
        };
        let merges = merges.iter().enumerate().map(rule).collect::<Result<Vec<_>>>()?;
        // Llama 3's files may leave out what llama.cpp does with them anyway.
        let adds_bos = self.metadata.tokenizer("add_bos_token").map_or(pre.starts_with("llama"), |value| *value == Value::Bool(true));
        let bos = if adds_bos { self.special("bos") } else { None };
        Ok(super::byte_level_json(pattern, vocab, merges, &added, whole_words, bos))
    }

    fn pieces(&self, kind: Kind) -> Result<PieceModel> {
        let scores = match self.metadata.tokenizer("scores") {
            Some(Value::F32s(scores)) if scores.len() == self.tokens.len() => scores,
            _ => return Err(format(self.path, format!("`tokenizer.ggml.scores` has to be {} numbers, as many as tokens", self.tokens.len()))),
        };
        let parts = self.tokens.iter().zip(scores).zip(&self.kinds);
        let pieces: Vec<Piece> = parts.map(|((text, &score), &kind)| Piece { text: text.clone(), score, kind }).collect();
        let bytes = pieces.iter().filter(|p| p.kind == PieceType::Byte).count();
        let mut model = PieceModel::new(kind, pieces, bytes == 256);
        let flag = |name: &str, default: bool| match self.metadata.tokenizer(name) {
            Some(&Value::Bool(flag)) => flag,
            _ => default,
        };
        model.add_dummy_prefix = flag("add_space_prefix", true);
        model.remove_extra_whitespaces = flag("remove_extra_whitespaces", kind == Kind::Unigram);
        if self.metadata.tokenizer("precompiled_charsmap").is_some() {
            return Err(format(self.path, "`tokenizer.ggml.precompiled_charsmap` is not read: take the model's tokenizer.model or tokenizer.json"));
        }
        model.charsmap = Charsmap::default();
        for (field, name) in [(&mut model.bos_piece, "bos"), (&mut model.eos_piece, "eos"), (&mut model.pad_piece, "padding")] {
            if let Some(text) = self.special(name) {
                *field = text.to_string();
            }
        }
        model.check().map_err(|e| format(self.path, e))?;
        Ok(model)
    }

    /// llama.cpp writes a word's beginning as `▁word` and what continues it as `word`; BERT writes `word` and `##word`.
    fn word_pieces(&self) -> Json {
        let spelled = |(id, (text, kind)): (usize, (&String, &PieceType))| {
            let token = match (kind, text.strip_prefix('\u{2581}')) {
                (PieceType::Control | PieceType::Unknown, _) => text.clone(),
                (_, Some(word)) => word.to_string(),
                (_, None) if text.starts_with('[') && text.ends_with(']') => text.clone(),
                (_, None) => format!("##{text}"),
            };
            (token, Json::from(id))
        };
        let vocab: Map<String, Json> = self.tokens.iter().zip(&self.kinds).enumerate().map(spelled).collect();
        let named = ["unknown", "seperator", "padding", "cls", "mask"].into_iter().filter_map(|name| self.special(name));
        let added: Vec<AddedToken> =
            named.filter_map(|text| Some(AddedToken::special(self.tokens.iter().position(|t| t == text)? as u32, text))).collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": null,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {
                "type": "WordPiece",
                "unk_token": self.special("unknown").unwrap_or("[UNK]"),
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocab,
            },
        })
    }
}

/// What every GGUF vocabulary says.
fn base(architecture: &str, model: &str, tokens: Vec<String>, kinds: &[PieceType], config: &Map<String, Json>) -> Metadata {
    let id_of = |name: &str| {
        let text = config.get(name).and_then(|v| v.as_str().or_else(|| v["content"].as_str()))?;
        tokens.iter().position(|t| t == text).map(|id| Value::U32(id as u32))
    };
    let mut metadata = Metadata::default();
    let names = [("bos", "bos"), ("eos", "eos"), ("padding", "pad"), ("unknown", "unk")];
    for (key, id) in names.iter().filter_map(|(key, name)| Some((key, id_of(&format!("{name}_token"))?))) {
        metadata.0.insert(format!("tokenizer.ggml.{key}_token_id"), id);
    }
    if let Some(adds) = config.get("add_bos_token").and_then(Json::as_bool) {
        metadata.0.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(adds));
    }
    metadata.0.insert(super::gguf::ARCHITECTURE.into(), Value::Text(architecture.into()));
    metadata.0.insert("tokenizer.ggml.model".into(), Value::Text(model.into()));
    metadata.0.insert("tokenizer.ggml.token_type".into(), Value::I32s(kinds.iter().map(|&k| k as i32).collect()));
    metadata.0.insert("tokenizer.ggml.tokens".into(), Value::Texts(tokens));
    metadata
}

/// Metadata of a SentencePiece model. The error says what GGUF cannot express.
pub fn of_pieces(model: &PieceModel, config: &Map<String, Json>) -> Result<Metadata, String> {
    if !model.charsmap.is_identity() {
        return Err(format!("its normalisation ({}); GGUF vocabularies of this kind leave text as it is", model.rule));
    }
    let kinds: Vec<PieceType> = model.pieces.iter().map(|p| p.kind).collect();
    let name = if model.kind == Kind::Bpe { "llama" } else { "t5" };
    let mut metadata = base("llama", name, model.pieces.iter().map(|p| p.text.clone()).collect(), &kinds, config);
    metadata.0.insert("tokenizer.ggml.pre".into(), Value::Text("default".into()));
    metadata.0.insert("tokenizer.ggml.scores".into(), Value::F32s(model.pieces.iter().map(|p| p.score).collect()));
    metadata.0.insert("tokenizer.ggml.add_space_prefix".into(), Value::Bool(model.add_dummy_prefix));
    metadata.0.insert("tokenizer.ggml.remove_extra_whitespaces".into(), Value::Bool(model.remove_extra_whitespaces));
    Ok(metadata)
}

/// Metadata of a byte-level BPE; `tokens` by id.
pub fn of_byte_level(
    tokens: Vec<String>,
    kinds: &[PieceType],
    merges: Vec<String>,
    pattern: Pattern,
    whole_words: bool,
    config: &Map<String, Json>,
) -> Result<Metadata, String> {
    let pre = match (pattern, whole_words) {
        (Pattern::Gpt2, false) => "gpt-2",
        (Pattern::Llama3 { digits: 3 }, true) => "llama-bpe",
        (Pattern::Llama3 { digits: 3 }, false) => "dbrx",
        (Pattern::Llama3 { digits: 1 }, false) => "qwen2",
        (Pattern::O200k, false) => "gpt-4o",
        _ => return Err(format!("how it cuts text: llama.cpp has no name for {pattern:?} with ignore_merges = {whole_words}")),
    };
    let mut metadata = base(if pattern == Pattern::Gpt2 { "gpt2" } else { "llama" }, "gpt2", tokens, kinds, config);
    metadata.0.insert("tokenizer.ggml.pre".into(), Value::Text(pre.into()));
    metadata.0.insert("tokenizer.ggml.merges".into(), Value::Texts(merges));
    Ok(metadata)
}

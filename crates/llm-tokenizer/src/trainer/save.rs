//! From merges to the files Hugging Face's libraries open.

use super::config::{Model, TrainerConfig, UNKNOWN};
use crate::byte_level::to_alphabet;
use crate::chat::{ChatTemplate, DEFAULT_TEMPLATE};
use crate::error::{Error, Result};
use crate::formats;
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Special tokens of the default chat template.
const TEMPLATE_NEEDS: [&str; 4] = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];

/// Byte-level BPE from the texts of all tokens and the merges `(left id, right id)`.
pub fn byte_level_bpe(tokens: &[Box<[u8]>], merges: &[(u32, u32)], config: &TrainerConfig) -> Result<Tokenizer> {
    let text = |id: u32| to_alphabet(&tokens[id as usize]);
    let rules: Vec<Value> = merges.iter().map(|&(left, right)| json!([text(left), text(right)])).collect();
    let vocab: Map<String, Value> = tokens.iter().enumerate().map(|(id, bytes)| (to_alphabet(bytes), id.into())).collect();
    let mut json = formats::byte_level_json(config.pattern(), vocab, rules, &[], false, None);
    let mut part = |name: &str| json[name].take();
    let pipeline = Pipeline { normalizer: part("normalizer"), pre_tokenizer: part("pre_tokenizer"), decoder: part("decoder"), model: part("model") };
    pipeline.finish(tokens.len(), config)
}

/// The parts that differ between models.
pub struct Pipeline {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
    pub model: Value,
}

impl Pipeline {
    /// Special tokens get the ids from `first_special` on.
    pub fn finish(self, first_special: usize, config: &TrainerConfig) -> Result<Tokenizer> {
        let specials = &config.special_tokens;
        let added: Vec<Value> = specials
            .iter()
            .enumerate()
            .map(|(i, token)| json!({"id": first_special + i, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
            .collect();
        let bos = specials.iter().position(|t| *t == config.bos_token && !t.is_empty());
        let template = bos.map_or(Value::Null, |place| formats::begins_with(&config.bos_token, first_special + place));
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": template,
            "decoder": self.decoder,
            "model": self.model,
        });
        let mut names = Map::new();
        names.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        for (name, token) in [("bos_token", &config.bos_token), ("eos_token", &config.eos_token), ("pad_token", &config.pad_token)] {
            if !token.is_empty() {
                names.insert(name.into(), token.as_str().into());
            }
        }
        if config.model != Model::ByteLevelBpe {
            names.insert("unk_token".into(), UNKNOWN.into());
        }
        names.insert("clean_up_tokenization_spaces".into(), false.into());
        names.insert("model_input_names".into(), json!(["input_ids", "attention_mask"]));
        let talks = TEMPLATE_NEEDS.iter().all(|need| specials.iter().any(|t| t == need));
        let chat = if talks { Some(ChatTemplate::new(DEFAULT_TEMPLATE)?) } else { None };
        Tokenizer::from_parts(format!("{json:#}\n"), names, chat, Path::new("tokenizer.json")).map_err(|e| Error::Train(format!("internal: {e}")))
    }
}

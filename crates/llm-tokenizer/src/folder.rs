//! Reading and writing a tokenizer folder in the form Hugging Face's libraries use: `tokenizer.json`,
//! `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`. Older folders of models that see have the template in
//! `chat_template.json`, which is read and not written.

use crate::added::{AddedToken, AddedTokens};
use crate::chat::ChatTemplate;
use crate::error::{Result, format, io};
use crate::fallback::Fallback;
use crate::formats::{self, Source};
use crate::native::{Native, VocabEntry};
use crate::scratch::Pool;
use crate::spm::json::added_tokens;
use crate::spm::model::PieceType;
use crate::spm::{Spm, piece_bytes};
use crate::tokenizer::{Engine, Inner, TokenTable, Tokenizer};
use llm_run::atomic;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;
use std::sync::Arc;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_MAP: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const PROCESSOR_TEMPLATE: &str = "chat_template.json";

/// No model has more embedding rows; a larger id is a damaged file.
const MAX_ID: u64 = 1 << 24;

impl Tokenizer {
    /// Load a folder, or a tokenizer's file together with what lies beside it: a `tokenizer.json`, a SentencePiece `.model`, tiktoken's
    /// ranks, a GGUF file, GPT-2's or CLIP's merges.
    ///
    /// Byte-level BPE and SentencePiece's models run in our encoders, every other pipeline in the `tokenizers` crate. A chat
    /// template that does not parse is an error; a missing one is not.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let file = formats::find(path.as_ref())?;
        let (source, mut config) = formats::read(&file)?;
        let dir = file.parent().unwrap_or(Path::new("."));
        config.extend(read_object(&dir.join(SPECIAL_MAP))?);
        config.extend(read_object(&dir.join(CONFIG))?);
        let template_file = dir.join(TEMPLATE);
        let mut inline = config.remove("chat_template");
        if let Some(template) = read_object(&dir.join(PROCESSOR_TEMPLATE))?.remove("chat_template") {
            // The processor's own: that of the tokenizer may know text only.
            inline = Some(template);
        }
        let template = match template_file.exists() {
            true => Some(fs::read_to_string(&template_file).map_err(io(&template_file, "cannot read the chat template"))?),
            false => inline.as_ref().and_then(default_template).map(str::to_string),
        };
        let template = template.map(ChatTemplate::new).transpose()?;
        Self::from_source(source, config, template, &file)
    }

    /// From a `tokenizer.json` and what goes with it; `path` is named in errors.
    pub(crate) fn from_parts(json: String, config: Map<String, Value>, template: Option<ChatTemplate>, path: &Path) -> Result<Self> {
        Self::from_source(Source::Json(json), config, template, path)
    }

    fn from_source(source: Source, config: Map<String, Value>, template: Option<ChatTemplate>, path: &Path) -> Result<Self> {
        let (engine, vocab, added) = match &source {
            Source::Json(json) => read_json(json, path)?,
            Source::Pieces(model) => {
                let table = |(id, piece)| (piece_bytes(piece, &model.unk_surface), id);
                let vocab = (0..).zip(&model.pieces).map(table).collect();
                let added = added_tokens(model).into_iter().filter(|t| t.special && model.pieces[t.id as usize].kind == PieceType::Control);
                let added = added.collect();
                (Engine::Pieces(Box::new(Spm::new((**model).clone(), path)?)), vocab, added)
            }
            Source::Ranks(ranks) => (Engine::ByteLevel(Box::new(ranks.encoder(path)?)), ranks.tokens.clone(), ranks.special.clone()),
        };
        if let Some(id) = vocab.iter().map(|&(_, id)| id).chain(added.iter().map(|t: &AddedToken| t.id)).max().filter(|&id| u64::from(id) >= MAX_ID) {
            return Err(format(path, format!("a token has id {id}; at most {MAX_ID} ids are supported")));
        }
        let table = TokenTable::new(vocab, &added);
        let added = AddedTokens::new(added, path)?;
        let id = |name: &str| {
            let text = config.get(name).and_then(token_text)?;
            added.id(text).or_else(|| table.find(text.as_bytes()))
        };
        let (bos, eos, pad) = (id("bos_token"), id("eos_token"), id("pad_token"));
        Ok(Self(Arc::new(Inner { engine, pool: Pool::default(), added, table, bos, eos, pad, template, source, config })))
    }

    /// Write the folder. Python's `AutoTokenizer.from_pretrained` and `tokenizers.Tokenizer.from_file` open it.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        let Inner { config, template, .. } = &*self.0;
        let json =
            self.json().map_err(|what| format(dir, format!("this tokenizer cannot be written as a tokenizer.json, which cannot express {what}")))?;
        atomic::write(dir.join(TOKENIZER), &*json)?;
        atomic::write(dir.join(CONFIG), pretty(config))?;
        let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let map: Map<String, Value> = config.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect();
        atomic::write(dir.join(SPECIAL_MAP), pretty(&map))?;
        if let Some(template) = template {
            atomic::write(dir.join(TEMPLATE), template.source())?;
        }
        Ok(())
    }
}

/// The encoder, vocabulary and added tokens of a `tokenizer.json`.
fn read_json(json: &str, path: &Path) -> Result<(Engine, Vec<VocabEntry>, Vec<AddedToken>)> {
    let value: Value = serde_json::from_str(json).map_err(|e| format(path, format!("line {}: {e}", e.line())))?;
    if !value["model"].is_object() {
        return Err(format(path, "not a tokenizer.json: it has no `model` object"));
    }
    let added: Vec<AddedToken> = match &value["added_tokens"] {
        Value::Null => Vec::new(),
        list => Vec::deserialize(list).map_err(|e| format(path, format!("added_tokens: {e}")))?,
    };
    check_ids(&value, &added, path)?;
    if let Some((native, vocab)) = Native::from_json(&value, &added, path)? {
        return Ok((Engine::ByteLevel(Box::new(native)), vocab, added));
    }
    if let Some((spm, vocab)) = Spm::from_json(&value, &added, path)? {
        return Ok((Engine::Pieces(Box::new(spm)), vocab, added));
    }
    let fallback = Box::new(Fallback::from_json(json, path)?);
    let vocab = fallback.vocab();
    Ok((Engine::Fallback(fallback), vocab, added))
}

fn pretty(object: &Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(object.clone()))
}

/// A string, or an object with a `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A string, or a list of named templates of which `default` is taken.
fn default_template(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str())
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    let text = fs::read_to_string(path).map_err(io(path, "cannot read"))?;
    serde_json::from_str(&text).map_err(|e| format(path, format!("line {}: {e}", e.line())))
}

fn check_ids(value: &Value, added: &[AddedToken], path: &Path) -> Result<()> {
    let vocab = value["model"]["vocab"].as_object().into_iter().flatten();
    let ids = vocab.filter_map(|(token, id)| Some((token.as_str(), id.as_u64()?))).chain(added.iter().map(|t| (t.content.as_str(), u64::from(t.id))));
    match ids.max_by_key(|&(_, id)| id) {
        Some((token, id)) if id >= MAX_ID => Err(format(path, format!("token {token:?} has id {id}; at most {MAX_ID} ids are supported"))),
        _ => Ok(()),
    }
}

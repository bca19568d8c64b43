//! Reading and writing a tokenizer folder in the form Hugging Face's libraries use: `tokenizer.json`,
//! `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`. Older folders of models that see have the template in
//! `chat_template.json`, which is read and not written.

use crate::added::{AddedToken, AddedTokens};
use crate::chat::ChatTemplate;
use crate::error::{Result, format, io};
use crate::fallback::Fallback;
use crate::native::Native;
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
    /// Load a folder, or a `tokenizer.json` together with what lies beside it.
    ///
    /// Byte-level BPE runs in our encoder, every other pipeline in the `tokenizers` crate. A chat template that does not
    /// parse is an error; a missing one is not.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join(TOKENIZER) } else { path.to_path_buf() };
        let json = fs::read_to_string(&file).map_err(io(&file, "cannot read the tokenizer"))?;
        let dir = file.parent().unwrap_or(Path::new("."));
        let mut config = read_object(&dir.join(SPECIAL_MAP))?;
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
        Self::from_parts(json, config, template, &file)
    }

    /// From the texts of the files; `path` is named in errors.
    pub(crate) fn from_parts(json: String, config: Map<String, Value>, template: Option<ChatTemplate>, path: &Path) -> Result<Self> {
        let value: Value = serde_json::from_str(&json).map_err(|e| format(path, format!("line {}: {e}", e.line())))?;
        if !value["model"].is_object() {
            return Err(format(path, "not a tokenizer.json: it has no `model` object"));
        }
        let added: Vec<AddedToken> = match &value["added_tokens"] {
            Value::Null => Vec::new(),
            list => Vec::deserialize(list).map_err(|e| format(path, format!("added_tokens: {e}")))?,
        };
        check_ids(&value, &added, path)?;
        let (engine, vocab) = match Native::from_json(&value, &added, path)? {
            Some((native, vocab)) => (Engine::Native(Box::new(native)), vocab),
            None => {
                let fallback = Box::new(Fallback::from_json(&json, path)?);
                let vocab = fallback.vocab();
                (Engine::Fallback(fallback), vocab)
            }
        };
        let table = TokenTable::new(vocab, &added);
        let added = AddedTokens::new(added, path)?;
        let id = |name: &str| {
            let text = config.get(name).and_then(token_text)?;
            added.id(text).or_else(|| value["model"]["vocab"][text].as_u64().map(|id| id as u32))
        };
        let (bos, eos, pad) = (id("bos_token"), id("eos_token"), id("pad_token"));
        Ok(Self(Arc::new(Inner { engine, added, table, bos, eos, pad, template, json, config })))
    }

    /// Write the folder. Python's `AutoTokenizer.from_pretrained` and `tokenizers.Tokenizer.from_file` open it.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        let Inner { json, config, template, .. } = &*self.0;
        atomic::write(dir.join(TOKENIZER), json)?;
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

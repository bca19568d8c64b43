//! A model folder in memory.

use crate::{Error, Result};
use llm_arch::{Decoder, hf};
use llm_tensor::DeviceSpec;
use llm_tokenizer::Tokenizer;
use std::path::Path;

/// Weights and words of one model.
#[derive(Debug, Clone)]
pub struct Model {
    /// The network, without gradient tracking.
    pub decoder: Decoder,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Folder name.
    pub id: String,
    /// BLAKE3 of the weights.
    pub hash: String,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
}

impl Model {
    /// Load `config.json`, `model.safetensors`, the tokenizer and, if present, `generation_config.json`.
    pub fn load(dir: impl AsRef<Path>, device: &DeviceSpec) -> Result<Self> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(Error::File {
                path: dir.to_path_buf(),
                message: "no such model folder; expected one with config.json, model.safetensors and tokenizer.json".into(),
            });
        }
        let decoder = hf::load(dir, &device.open()?)?;
        let tokenizer = Tokenizer::load(dir)?;
        let (vocab, table) = (tokenizer.vocab_size(), decoder.config().vocab_size);
        if vocab > table {
            return Err(Error::File {
                path: dir.join("tokenizer.json"),
                message: format!("the tokenizer has {vocab} tokens but the model only {table} rows; they do not belong together"),
            });
        }
        let single = dir.join("model.safetensors");
        let hash = llm_run::hash::path(if single.exists() { &single } else { dir })?;
        let id = dir.canonicalize().ok().and_then(|d| d.file_name().map(|n| n.to_string_lossy().into_owned())).unwrap_or_else(|| "model".into());
        let eos_token_ids = generation_ends(dir)?.unwrap_or_else(|| decoder.config().eos_token_id.clone());
        Ok(Self { decoder, tokenizer, id, hash, eos_token_ids })
    }

    /// A model from parts that are already in memory, e.g. the policy of a running trainer.
    pub fn from_parts(decoder: Decoder, tokenizer: Tokenizer, id: impl Into<String>) -> Self {
        let eos_token_ids = decoder.config().eos_token_id.clone();
        Self { decoder: decoder.untracked(), tokenizer, id: id.into(), hash: String::new(), eos_token_ids }
    }
}

fn generation_ends(dir: &Path) -> Result<Option<Vec<u32>>> {
    let path = dir.join("generation_config.json");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let bad = |message: String| Error::File { path: path.clone(), message };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    let id = |v: &serde_json::Value| {
        v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad("`eos_token_id`: expected a token id or a list of them".into()))
    };
    match value.get("eos_token_id") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::Array(list)) => list.iter().map(id).collect::<Result<_>>().map(Some),
        Some(one) => Ok(Some(vec![id(one)?])),
    }
}

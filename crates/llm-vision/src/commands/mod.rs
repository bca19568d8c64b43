//! The commands of the program, one file each.

mod assemble;
mod convert;
mod describe;
mod inspect;
mod parity;

pub use assemble::Assemble;
pub use convert::Convert;
pub use describe::Describe;
pub use inspect::Inspect;
pub use parity::Parity;

use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;

/// Files that belong to a model folder and are copied as they are.
const COMPANIONS: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "processor_config.json",
    "preprocessor_config.json",
    "LICENSE",
];

/// Copy what of `names` is in one folder and not yet in the other.
fn copy(names: &[&str], from: &Path, to: &Path) -> Result<()> {
    for name in names {
        let (source, target) = (from.join(name), to.join(name));
        if source.exists() && !target.exists() {
            std::fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    Ok(())
}

/// `config.json` and the `model_type` in it.
fn config(dir: &Path) -> Result<(Value, String)> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}: not a model folder", dir.display()))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{}: not valid JSON", path.display()))?;
    let kind = value.get("model_type").and_then(Value::as_str).unwrap_or_default().to_string();
    Ok((value, kind))
}

/// What `model_type` may be.
const KINDS: &str = "clip, siglip, clip_vision_model, siglip_vision_model or llava";

//! `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, with vLLM's field names.

use super::describe::wire;
use super::fields::Fields;
use crate::error::ApiError;
use serde::Serialize;
use serde_json::{Value, json};

/// Longest name.
const MAX_NAME: usize = 64;

/// Load an adapter under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadRequest {
    /// The name that requests will use as `model`.
    pub name: String,
    /// Its PEFT folder within the server's folder of adapters.
    pub path: String,
}

/// Forget an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnloadRequest {
    /// As given on loading.
    pub name: String,
}

impl LoadRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::take(Fields::parse(body)?)
    }

    /// JSON schema of the body.
    pub fn schema() -> Value {
        Fields::describe(json!({"lora_name": "x", "lora_path": "x"}), Self::take)
    }

    fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let name = take_name(&mut fields)?;
        let path = fields.required_string("lora_path")?;
        fields.finish()?;
        Ok(Self { name, path })
    }
}

impl UnloadRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::take(Fields::parse(body)?)
    }

    /// JSON schema of the body.
    pub fn schema() -> Value {
        Fields::describe(json!({"lora_name": "x"}), Self::take)
    }

    fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let name = take_name(&mut fields)?;
        fields.finish()?;
        Ok(Self { name })
    }
}

/// A plain word: it appears in logs, metrics and URLs.
fn take_name(fields: &mut Fields) -> Result<String, ApiError> {
    let name = fields.required_string("lora_name")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.chars().all(plain) {
        let message = format!("'lora_name' has 1 to {MAX_NAME} letters, digits, '_', '-' or '.', and no '.' in front");
        return Err(ApiError::invalid("lora_name", message));
    }
    Ok(name)
}

wire! {
    /// What was done.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct AdapterReply {
        /// `loaded` or `unloaded`.
        pub status: &'static str,
        /// The adapter.
        pub lora_name: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        let parse = |name: &str| LoadRequest::parse(json!({"lora_name": name, "lora_path": "a"}).to_string().as_bytes());
        assert_eq!(parse("sql-v1.2").unwrap().name, "sql-v1.2");
        for name in ["", "..", ".hidden", "a/b", "a\\b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(parse(name).unwrap_err().param.as_deref(), Some("lora_name"), "{name}");
        }
    }
}

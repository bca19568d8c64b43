//! `POST /v1/embeddings`.

use super::completion::{Prompt, parse_prompts, prompts_schema};
use super::describe::{lists, wire};
use super::fields::Fields;
use crate::error::ApiError;
use serde::Serialize;
use serde_json::{Value, json};

/// OpenAI's limit.
const MAX_INPUTS: usize = 2048;

/// How numbers travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian f32 in base64; what OpenAI's Python client asks for on its own.
    Base64,
}

/// A valid request.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingRequest {
    /// `None`: whatever is served.
    pub model: Option<String>,
    /// At least one.
    pub inputs: Vec<Prompt>,
    /// How numbers travel.
    pub encoding: Encoding,
    /// Only the first so many, made a unit vector again.
    pub dimensions: Option<usize>,
}

impl EmbeddingRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::take(Fields::parse(body)?)
    }

    /// JSON schema of the body.
    pub fn schema() -> Value {
        Fields::describe(json!({"input": "x"}), Self::take)
    }

    fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let inputs = parse_prompts("input", fields.required("input", prompts_schema)?)?;
        if inputs.len() > MAX_INPUTS {
            return Err(ApiError::invalid("input", format!("'input' takes at most {MAX_INPUTS} texts, not {}", inputs.len())));
        }
        let model = fields.string("model")?;
        let encoding = match fields.word("encoding_format", &["float", "base64"])? {
            Some("base64") => Encoding::Base64,
            _ => Encoding::Float,
        };
        let dimensions = fields.integer("dimensions", 1..=i64::from(u32::MAX))?.map(|n| n as usize);
        fields.finish()?;
        Ok(Self { model, inputs, encoding, dimensions })
    }
}

lists![Embedding];

wire! {
    /// All vectors of a request.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct EmbeddingReply {
        /// Always `list`.
        pub object: &'static str,
        /// In the order of the inputs.
        pub data: Vec<Embedding>,
        /// The served name.
        pub model: String,
        /// Token counts.
        pub usage: EmbeddingUsage,
    }

    /// One vector.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct Embedding {
        /// Always `embedding`.
        pub object: &'static str,
        /// Which input it belongs to.
        pub index: usize,
        /// A list of numbers, or base64 of little-endian f32.
        pub embedding: Value,
    }

    /// Part of [`EmbeddingReply`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
    pub struct EmbeddingUsage {
        /// Tokens of all inputs.
        pub prompt_tokens: usize,
        /// The same.
        pub total_tokens: usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_their_limits() {
        let parse = |body: Value| EmbeddingRequest::parse(body.to_string().as_bytes());
        let r = parse(json!({"input": ["a", "b"], "model": "m", "encoding_format": "base64", "dimensions": 4, "user": "u"})).unwrap();
        assert_eq!((r.inputs.len(), r.encoding, r.dimensions), (2, Encoding::Base64, Some(4)));
        for (body, param) in [
            (json!({}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": vec!["a"; 2049]}), "input"),
            (json!({"input": "a", "dimensions": 0}), "dimensions"),
            (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
            (json!({"input": "a", "stream": true}), "stream"),
        ] {
            assert_eq!(parse(body).unwrap_err().param.as_deref(), Some(param));
        }
        assert_eq!(EmbeddingRequest::schema().get("$comment"), None);
    }
}

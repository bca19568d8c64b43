//! `POST /tokenize`, `/detokenize` and `/apply-template`: what the model sees, without asking it anything.
//!
//! Names of fields are vLLM's; llama.cpp's (`content`, `add_special`, `parse_special`, `with_pieces`) are understood as well.

use super::chat::Conversation;
use super::completion::parse_ids;
use super::describe::wire;
use super::fields::{Fields, wrong_type};
use crate::error::ApiError;
use serde::Serialize;
use serde_json::{Value, json};

/// What to tokenise.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Text.
    Text {
        /// As given.
        text: String,
        /// With the begin-of-text token in front, if there is one.
        bos: bool,
        /// Names of control tokens in the text are control tokens.
        special: bool,
    },
    /// Messages, through the chat template.
    Chat(Box<Conversation>),
}

/// `POST /tokenize`.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    /// `None`: whatever is served.
    pub model: Option<String>,
    /// What.
    pub source: Source,
    /// The text of each token, too.
    pub pieces: bool,
}

impl TokenizeRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::take(Fields::parse(body)?)
    }

    /// JSON schema of the body.
    pub fn schema() -> Value {
        let text = Fields::describe(json!({"prompt": "x"}), Self::take);
        let chat = Fields::describe(json!({"messages": [{"role": "user", "content": "x"}]}), Self::take);
        json!({"anyOf": [text, chat]})
    }

    fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let model = fields.string("model")?;
        let pieces = either(fields.boolean("return_token_strs")?, fields.boolean("with_pieces")?).unwrap_or(false);
        let text = either(fields.string("prompt")?, fields.string("content")?);
        let source = match text {
            Some(text) => {
                let bos = either(fields.boolean("add_special_tokens")?, fields.boolean("add_special")?).unwrap_or(true);
                let special = fields.boolean("parse_special")?.unwrap_or(false);
                Source::Text { text, bos, special }
            }
            None if fields.holds("messages") => Source::Chat(Box::new(Conversation::take(&mut fields)?)),
            None => return Err(fields.missing("prompt")),
        };
        fields.finish()?;
        Ok(Self { model, source, pieces })
    }
}

fn either<T>(first: Option<T>, second: Option<T>) -> Option<T> {
    first.or(second)
}

/// `POST /detokenize`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// `None`: whatever is served.
    pub model: Option<String>,
    /// Ids.
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::take(Fields::parse(body)?)
    }

    /// JSON schema of the body.
    pub fn schema() -> Value {
        Fields::describe(json!({"tokens": [1]}), Self::take)
    }

    fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let model = fields.string("model")?;
        let tokens = match fields.required("tokens", || json!({"type": "array", "items": {"type": "integer", "minimum": 0}}))? {
            Value::Array(items) => parse_ids("tokens", &items)?,
            other => return Err(wrong_type("tokens", "a list of token ids", &other)),
        };
        fields.finish()?;
        Ok(Self { model, tokens })
    }
}

/// `POST /apply-template`.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateRequest {
    /// `None`: whatever is served.
    pub model: Option<String>,
    /// What is said.
    pub conversation: Conversation,
}

impl TemplateRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::take(Fields::parse(body)?)
    }

    /// JSON schema of the body.
    pub fn schema() -> Value {
        Fields::describe(json!({"messages": [{"role": "user", "content": "x"}]}), Self::take)
    }

    fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let model = fields.string("model")?;
        let conversation = Conversation::take(&mut fields)?;
        fields.finish()?;
        Ok(Self { model, conversation })
    }
}

wire! {
    /// Ids of a text.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct TokenizeReply {
        /// How many.
        pub count: usize,
        /// Prompt and reply together, in tokens.
        pub max_model_len: usize,
        /// The ids.
        pub tokens: Vec<u32>,
        /// The text of each, when asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub token_strs: Option<Vec<String>>,
    }

    /// Text of ids.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct DetokenizeReply {
        /// The text, control tokens included.
        pub prompt: String,
        /// The same under llama.cpp's name.
        pub content: String,
    }

    /// Messages as the model sees them.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct TemplateReply {
        /// The text.
        pub prompt: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_wordings_of_tokenize() {
        let parse = |body: Value| TokenizeRequest::parse(body.to_string().as_bytes());
        let vllm = parse(json!({"prompt": "a", "add_special_tokens": false, "return_token_strs": true})).unwrap();
        let llama = parse(json!({"content": "a", "add_special": false, "with_pieces": true})).unwrap();
        assert_eq!(vllm, llama);
        assert_eq!(vllm.source, Source::Text { text: "a".into(), bos: false, special: false });
        assert!(matches!(parse(json!({"messages": [{"role": "user", "content": "x"}]})).unwrap().source, Source::Chat(_)));
        assert_eq!(parse(json!({})).unwrap_err().param.as_deref(), Some("prompt"));
        assert_eq!(parse(json!({"prompt": "a", "messages": []})).unwrap_err().param.as_deref(), Some("messages"));
        for schema in [DetokenizeRequest::schema(), TemplateRequest::schema(), TokenizeRequest::schema()["anyOf"][1].clone()] {
            assert_eq!(schema.get("$comment"), None);
        }
    }
}

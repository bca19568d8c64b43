//! `POST /v1/completions`: the request.

use super::fields::{Fields, wrong_type};
use super::sampling::{Delivery, SamplingParams};
use crate::error::ApiError;
use serde_json::Value;

/// OpenAI allows 5; more is harmless, and 20 is the bound of the chat API.
const MAX_LOGPROBS: i64 = 20;
/// OpenAI's default for this endpoint.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Prompts times `n`: a small body must not become millions of requests.
const MAX_CHOICES: usize = 2048;

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text; control tokens in it are not recognised.
    Text(String),
    /// Token ids as they are.
    Ids(Vec<u32>),
}

/// A valid request.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// `None`: whatever is served.
    pub model: Option<String>,
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// Sampling.
    pub sampling: SamplingParams,
    /// Streamed or not.
    pub delivery: Delivery,
    /// The prompt stands in front of its continuation, with its log-probabilities if those were asked for.
    pub echo: bool,
}

impl CompletionRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let prompts = parse_prompts(fields.required("prompt")?)?;
        let model = fields.string("model")?;
        let mut sampling = SamplingParams::take(&mut fields)?;
        if prompts.len().saturating_mul(sampling.n) > MAX_CHOICES {
            let message = format!("{} prompts with 'n' = {} make more than {MAX_CHOICES} choices; send several requests", prompts.len(), sampling.n);
            return Err(ApiError::invalid("prompt", message));
        }
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let max_tokens = fields.integer("max_tokens", if echo { 0 } else { 1 }..=i64::MAX)?;
        sampling.max_tokens = Some(max_tokens.map_or(DEFAULT_MAX_TOKENS, |n| usize::try_from(n).unwrap_or(usize::MAX)));
        sampling.logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|k| k as usize);
        let delivery = Delivery::take(&mut fields)?;
        if echo && delivery.stream {
            return Err(ApiError::unsupported("echo", "'echo' is not supported together with 'stream': leave one of them out"));
        }
        fields.only_neutral("best_of", |v| v.as_u64() == Some(sampling.n as u64), "it must equal 'n'")?;
        fields.only_neutral("suffix", |v| v == "", "leave it out")?;
        fields.only_neutral("response_format", |v| v.get("type").is_some_and(|t| t == "text"), "only {\"type\":\"text\"} is available")?;
        fields.finish()?;
        Ok(Self { model, prompts, sampling, delivery, echo })
    }
}

const EXPECTED: &str = "a string, a list of strings, a list of token ids, or a list of such lists";

fn parse_prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) => items,
        other => return Err(wrong_type("prompt", EXPECTED, &other)),
    };
    if items.is_empty() {
        return Err(ApiError::invalid("prompt", "'prompt' must not be an empty list"));
    }
    if items.iter().all(Value::is_number) {
        return Ok(vec![Prompt::Ids(parse_ids(&items)?)]);
    }
    items
        .into_iter()
        .map(|item| match item {
            Value::String(text) => Ok(Prompt::Text(text)),
            Value::Array(ids) => Ok(Prompt::Ids(parse_ids(&ids)?)),
            other => Err(wrong_type("prompt", EXPECTED, &other)),
        })
        .collect()
}

fn parse_ids(items: &[Value]) -> Result<Vec<u32>, ApiError> {
    items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong_type("prompt", EXPECTED, item))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: Value) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn every_form_of_prompt() {
        for (prompt, expected) in [
            (json!("a"), vec![Prompt::Text("a".into())]),
            (json!(["a", "b"]), vec![Prompt::Text("a".into()), Prompt::Text("b".into())]),
            (json!([1, 2]), vec![Prompt::Ids(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]),
        ] {
            assert_eq!(parse(json!({"prompt": prompt})).unwrap().prompts, expected);
        }
        for bad in [json!(3), json!([]), json!([1, "a"]), json!([-1]), json!([{"a": 1}]), json!([4294967296u64])] {
            assert_eq!(parse(json!({"prompt": bad})).unwrap_err().param.as_deref(), Some("prompt"));
        }
    }

    #[test]
    fn defaults_and_neutral_values() {
        let r = parse(json!({"prompt": "a", "echo": false, "n": 2, "best_of": 2, "suffix": null, "logprobs": 0})).unwrap();
        assert_eq!((r.sampling.max_tokens, r.sampling.logprobs, r.sampling.n, r.echo), (Some(16), Some(0), 2, false));
        let r = parse(json!({"prompt": "a", "echo": true, "max_tokens": 0})).unwrap();
        assert_eq!((r.sampling.max_tokens, r.echo), (Some(0), true));
    }

    #[test]
    fn what_would_change_the_meaning_is_refused() {
        for (extra, param) in [
            (json!({"echo": true, "stream": true}), "echo"),
            (json!({"echo": "yes"}), "echo"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"best_of": 3}), "best_of"),
            (json!({"suffix": "x"}), "suffix"),
            (json!({"prompt": vec!["a"; 20], "n": 128}), "prompt"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"messages": []}), "messages"),
        ] {
            let mut body = json!({"prompt": "a"});
            for (key, value) in extra.as_object().unwrap() {
                body[key] = value.clone();
            }
            assert_eq!(parse(body).unwrap_err().param.as_deref(), Some(param));
        }
    }
}

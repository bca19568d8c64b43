//! `POST /v1/completions`: the request.

use super::fields::{Fields, wrong_type};
use super::sampling::{Delivery, SamplingParams};
use super::structured::{self, Shape};
use crate::error::ApiError;
use serde_json::{Value, json};

/// OpenAI allows 5; more is harmless, and 20 is the bound of the chat API.
const MAX_LOGPROBS: i64 = 20;
/// OpenAI's default for this endpoint.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Prompts times `n`: a small body must not become millions of requests.
const MAX_CHOICES: usize = 2048;
/// OpenAI's limit.
const MAX_BEST_OF: i64 = 20;

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
    /// Continuations that are generated for each prompt; the `n` likeliest per token are given.
    pub best_of: usize,
    /// What comes behind the gap that the reply fills.
    pub suffix: Option<String>,
    /// What the reply has to look like.
    pub shape: Option<Shape>,
}

impl CompletionRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::take(Fields::parse(body)?)
    }

    /// JSON schema of the body.
    pub fn schema() -> Value {
        Fields::describe(json!({"prompt": "x"}), Self::take)
    }

    fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let prompts = parse_prompts("prompt", fields.required("prompt", prompts_schema)?)?;
        let model = fields.string("model")?;
        let mut sampling = SamplingParams::take(&mut fields)?;
        let best_of = fields.integer("best_of", 1..=MAX_BEST_OF)?.map_or(sampling.n, |k| k as usize);
        if best_of < sampling.n {
            return Err(ApiError::invalid("best_of", format!("'best_of' is {best_of}, but 'n' asks for {} of them", sampling.n)));
        }
        if prompts.len().saturating_mul(best_of) > MAX_CHOICES {
            let message = format!("{} prompts with {best_of} choices each are more than {MAX_CHOICES}; send several requests", prompts.len());
            return Err(ApiError::invalid("prompt", message));
        }
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let max_tokens = fields.integer("max_tokens", if echo { 0 } else { 1 }..=i64::MAX)?;
        sampling.max_tokens = Some(max_tokens.map_or(DEFAULT_MAX_TOKENS, |n| usize::try_from(n).unwrap_or(usize::MAX)));
        sampling.logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|k| k as usize);
        let delivery = Delivery::take(&mut fields)?;
        if best_of > sampling.n && delivery.stream {
            return Err(ApiError::unsupported("best_of", "the best of several cannot be streamed: leave 'stream' or 'best_of' out"));
        }
        let suffix = fields.string("suffix")?.filter(|text| !text.is_empty());
        if suffix.is_some() && echo {
            return Err(ApiError::unsupported("echo", "'echo' is not supported together with 'suffix': leave one of them out"));
        }
        if suffix.is_some() && prompts.iter().any(|p| matches!(p, Prompt::Ids(_))) {
            return Err(ApiError::invalid("suffix", "'suffix' needs a 'prompt' of text: token ids say themselves where the gap is"));
        }
        let shape = structured::take(&mut fields)?;
        fields.finish()?;
        Ok(Self { model, prompts, sampling, delivery, echo, best_of, suffix, shape })
    }
}

const EXPECTED: &str = "a string, a list of strings, a list of token ids, or a list of such lists";

/// The JSON schema of what [`parse_prompts`] reads.
pub(super) fn prompts_schema() -> Value {
    let ids = json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, ids, {"type": "array", "items": ids}]})
}

/// Text, ids, or a list of either.
pub(super) fn parse_prompts(param: &str, value: Value) -> Result<Vec<Prompt>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) => items,
        other => return Err(wrong_type(param, EXPECTED, &other)),
    };
    if items.is_empty() {
        return Err(ApiError::invalid(param, format!("'{param}' must not be an empty list")));
    }
    if items.iter().all(Value::is_number) {
        return Ok(vec![Prompt::Ids(parse_ids(param, &items)?)]);
    }
    items
        .into_iter()
        .map(|item| match item {
            Value::String(text) => Ok(Prompt::Text(text)),
            Value::Array(ids) => Ok(Prompt::Ids(parse_ids(param, &ids)?)),
            other => Err(wrong_type(param, EXPECTED, &other)),
        })
        .collect()
}

/// Token ids as they are.
pub(super) fn parse_ids(param: &str, items: &[Value]) -> Result<Vec<u32>, ApiError> {
    items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong_type(param, EXPECTED, item))).collect()
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
        let r = parse(json!({"prompt": "a", "best_of": 3, "suffix": "b", "guided_regex": "[0-9]"})).unwrap();
        assert_eq!((r.best_of, r.suffix.as_deref(), r.shape.map(|s| s.param)), (3, Some("b"), Some("guided_regex".into())));
        assert_eq!(CompletionRequest::schema().get("$comment"), None);
    }

    #[test]
    fn what_would_change_the_meaning_is_refused() {
        for (extra, param) in [
            (json!({"echo": true, "suffix": "x"}), "echo"),
            (json!({"echo": "yes"}), "echo"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"best_of": 3, "stream": true}), "best_of"),
            (json!({"best_of": 1, "n": 2}), "best_of"),
            (json!({"suffix": "x", "prompt": [1]}), "suffix"),
            (json!({"response_format": {"type": "xml"}}), "response_format"),
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

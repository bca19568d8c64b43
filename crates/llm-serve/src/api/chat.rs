//! `POST /v1/chat/completions`: the request.

use super::fields::{Fields, kind, wrong_type};
use super::sampling::{Delivery, SamplingParams};
use crate::error::ApiError;
use serde_json::{Map, Value};

/// OpenAI's bound for `top_logprobs`.
const MAX_TOP_LOGPROBS: i64 = 20;

/// One turn of the conversation, content already flattened to text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text parts joined in order.
    pub content: String,
    /// Images, in order.
    pub images: Vec<ImageSource>,
    /// Thinking of an earlier assistant turn, given back by the client.
    pub reasoning_content: Option<String>,
}

/// An `image_url` part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// `data:` or `http:`.
    pub url: String,
    /// The byte of the message's text before which it stands.
    pub at: usize,
    /// Its place in the request, for errors: `messages[0].content[1]`.
    pub param: String,
}

/// A valid request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// `None`: whatever is served.
    pub model: Option<String>,
    /// At least one.
    pub messages: Vec<ChatMessage>,
    /// Sampling.
    pub sampling: SamplingParams,
    /// Streamed or not.
    pub delivery: Delivery,
    /// Variables for the chat template.
    pub template_kwargs: Map<String, Value>,
}

impl ChatRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let messages = parse_messages(fields.required("messages")?)?;
        let model = fields.string("model")?;
        let mut sampling = SamplingParams::take(&mut fields)?;
        let old_name = fields.integer("max_tokens", 1..=i64::MAX)?;
        let max_tokens = fields.integer("max_completion_tokens", 1..=i64::MAX)?.or(old_name);
        sampling.max_tokens = max_tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let logprobs = fields.boolean("logprobs")?.unwrap_or(false);
        let top = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
        if top.is_some_and(|k| k > 0) && !logprobs {
            return Err(ApiError::invalid("top_logprobs", "'top_logprobs' needs 'logprobs': true"));
        }
        sampling.logprobs = logprobs.then(|| top.unwrap_or(0) as usize);
        let delivery = Delivery::take(&mut fields)?;
        let template_kwargs = fields.object("chat_template_kwargs")?.unwrap_or_default();

        let empty_list = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
        fields.only_neutral("tools", empty_list, "it generates text only")?;
        fields.only_neutral("tool_choice", |v| v == "none" || v == "auto", "it generates text only")?;
        fields.only_neutral("functions", empty_list, "it generates text only")?;
        fields.only_neutral("function_call", |v| v == "none" || v == "auto", "it generates text only")?;
        fields.only_neutral("response_format", |v| v.get("type").is_some_and(|t| t == "text"), "only {\"type\":\"text\"} is available")?;
        fields.only_neutral("modalities", |v| *v == serde_json::json!(["text"]), "only [\"text\"] is available")?;
        fields.finish()?;
        Ok(Self { model, messages, sampling, delivery, template_kwargs })
    }
}

fn parse_messages(value: Value) -> Result<Vec<ChatMessage>, ApiError> {
    let Value::Array(items) = value else { return Err(wrong_type("messages", "a list of messages", &value)) };
    if items.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' must hold at least one message"));
    }
    items.into_iter().enumerate().map(|(i, item)| parse_message(i, item)).collect()
}

fn parse_message(index: usize, value: Value) -> Result<ChatMessage, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let Value::Object(mut message) = value else { return Err(wrong_type(&format!("messages[{index}]"), "an object", &value)) };
    let role = match message.shift_remove("role") {
        Some(Value::String(role)) => role,
        Some(other) => return Err(wrong_type(&at("role"), "a string", &other)),
        None => return Err(ApiError::invalid(at("role"), format!("message {index} has no 'role'")).with_code("missing_required_parameter")),
    };
    let role = match role.as_str() {
        // OpenAI's newer name for the same thing; chat templates only know the older one.
        "developer" => "system".to_string(),
        "system" | "user" | "assistant" => role,
        "tool" | "function" => {
            return Err(ApiError::unsupported(at("role"), format!("role '{role}' is not supported by this server: it generates text only")));
        }
        _ => return Err(ApiError::invalid(at("role"), format!("'{role}' is not a role; expected system, developer, user or assistant"))),
    };
    let content = parse_content(&at("content"), message.shift_remove("content"))?;
    if let Some(image) = content.iter().flat_map(|c| &c.images).next().filter(|_| role != "user") {
        return Err(ApiError::invalid(&image.param, format!("only user messages may hold images, not {role} messages")));
    }
    let reasoning_content = match message.shift_remove("reasoning_content") {
        None | Some(Value::Null) => None,
        Some(Value::String(s)) if role == "assistant" => Some(s),
        Some(Value::String(_)) => return Err(ApiError::invalid(at("reasoning_content"), "only assistant messages have 'reasoning_content'")),
        Some(other) => return Err(wrong_type(&at("reasoning_content"), "a string", &other)),
    };
    if content.is_none() && reasoning_content.is_none() {
        return Err(ApiError::invalid(at("content"), format!("message {index} has no 'content'")).with_code("missing_required_parameter"));
    }
    for (field, value) in &message {
        // `name` and `refusal` come back from clients that echo our own replies; templates here do not show them.
        let harmless = value.is_null() || ["name", "refusal", "annotations"].contains(&field.as_str()) || value.as_array().is_some_and(Vec::is_empty);
        if !harmless {
            return Err(ApiError::unsupported(at(field), format!("'{field}' in a message is not supported by this server")));
        }
    }
    let Content { text, images } = content.unwrap_or_default();
    Ok(ChatMessage { role, content: text, images, reasoning_content })
}

#[derive(Default)]
struct Content {
    text: String,
    images: Vec<ImageSource>,
}

/// A string, or a list of `{"type":"text","text":...}` and `{"type":"image_url","image_url":{"url":...}}` parts.
fn parse_content(param: &str, value: Option<Value>) -> Result<Option<Content>, ApiError> {
    let mut content = Content::default();
    let parts = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(Content { text, ..content })),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong_type(param, "a string or a list of text and image_url parts", &other)),
    };
    for (i, mut part) in parts.into_iter().enumerate() {
        let at = format!("{param}[{i}]");
        match part.get("type").and_then(Value::as_str) {
            Some("text") => match part.get("text") {
                Some(Value::String(s)) => content.text.push_str(s),
                other => {
                    return Err(ApiError::invalid(
                        format!("{at}.text"),
                        format!("a text part needs a string 'text', not {}", other.map_or("nothing", kind)),
                    ));
                }
            },
            Some("image_url") => {
                let url = parse_image_url(&at, part["image_url"].take())?;
                content.images.push(ImageSource { url, at: content.text.len(), param: at });
            }
            Some(other) => {
                return Err(ApiError::unsupported(
                    at,
                    format!("content parts of type '{other}' are not supported by this server: it reads text and image_url parts"),
                ));
            }
            None => {
                return Err(ApiError::invalid(
                    at,
                    "a content part is an object with 'type': 'text' and 'text', or 'type': 'image_url' and 'image_url'",
                ));
            }
        }
    }
    Ok(Some(content))
}

/// `{"url": ..., "detail": ...}`. The detail changes nothing here: models have one resolution.
fn parse_image_url(at: &str, value: Value) -> Result<String, ApiError> {
    let Value::Object(mut image) = value else {
        return Err(wrong_type(at, "an image_url part with 'image_url': {'url': ...}", &value));
    };
    match image.shift_remove("detail") {
        None | Some(Value::Null) => {}
        Some(Value::String(detail)) if ["auto", "low", "high"].contains(&detail.as_str()) => {}
        Some(_) => return Err(ApiError::invalid(at, "'detail' of an image_url must be 'auto', 'low' or 'high'")),
    }
    let url = image.shift_remove("url");
    if let Some(field) = image.keys().next() {
        return Err(ApiError::unsupported(at, format!("'{field}' in an image_url is not supported by this server")));
    }
    match url {
        Some(Value::String(url)) => Ok(url),
        other => Err(ApiError::invalid(at, format!("an image_url needs a string 'url', not {}", other.as_ref().map_or("nothing", kind)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use serde_json::json;

    fn parse(extra: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        ChatRequest::parse(body.to_string().as_bytes())
    }

    fn rejected(extra: Value) -> ApiError {
        let error = parse(extra.clone()).expect_err(&format!("{extra} was accepted"));
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert_eq!(error.kind, "invalid_request_error");
        error
    }

    #[test]
    fn everything_supported_arrives() {
        let r = parse(json!({
            "model": "m", "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "max_tokens": 7,
            "typical_p": 0.8, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02, "frequency_penalty": -2, "presence_penalty": 2.0,
            "no_repeat_ngram_size": 3, "logit_bias": {"17": -100, "5": 1.5}, "min_tokens": 4,
            "max_completion_tokens": 9, "stop": ["a", "b"], "seed": -1, "n": 2, "stream": true, "stream_options": {"include_usage": true},
            "logprobs": true, "top_logprobs": 3, "chat_template_kwargs": {"enable_thinking": false},
        }))
        .unwrap();
        let sampling = SamplingParams {
            temperature: Some(0.5),
            top_p: Some(0.9),
            top_k: Some(0),
            min_p: Some(0.1),
            typical_p: Some(0.8),
            epsilon_cutoff: Some(0.01),
            eta_cutoff: Some(0.02),
            repetition_penalty: Some(1.1),
            frequency_penalty: Some(-2.0),
            presence_penalty: Some(2.0),
            no_repeat_ngram_size: Some(3),
            logit_bias: vec![(5, 1.5), (17, -100.0)],
            min_tokens: Some(4),
            max_tokens: Some(9),
            stop: vec!["a".into(), "b".into()],
            seed: Some(u64::MAX),
            n: 2,
            logprobs: Some(3),
        };
        assert_eq!(r.sampling, sampling);
        assert_eq!(r.delivery, Delivery { stream: true, include_usage: true });
        assert_eq!(r.model.as_deref(), Some("m"));
        assert_eq!(r.template_kwargs["enable_thinking"], json!(false));
    }

    #[test]
    fn messages_are_flattened() {
        let body = json!({"messages": [
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ada"},
            {"role": "assistant", "content": "c", "reasoning_content": "r", "refusal": null, "tool_calls": []},
        ]});
        let r = ChatRequest::parse(body.to_string().as_bytes()).unwrap();
        let got: Vec<_> = r.messages.iter().map(|m| (m.role.as_str(), m.content.as_str(), m.reasoning_content.as_deref())).collect();
        assert_eq!(got, [("system", "be short", None), ("user", "ab", None), ("assistant", "c", Some("r"))]);
    }

    #[test]
    fn images_keep_their_places() {
        let image = |url: &str, detail: &str| json!({"type": "image_url", "image_url": {"url": url, "detail": detail}});
        let text = |text: &str| json!({"type": "text", "text": text});
        let r = parse(json!({"messages": [{"role": "user", "content": [text("ab"), image("data:1", "low"), text("c"), image("data:2", "high")]}]}))
            .unwrap();
        assert_eq!(r.messages[0].content, "abc");
        let found: Vec<_> = r.messages[0].images.iter().map(|i| (i.url.as_str(), i.at, i.param.as_str())).collect();
        assert_eq!(found, [("data:1", 2, "messages[0].content[1]"), ("data:2", 3, "messages[0].content[3]")]);
        for content in [
            json!([image("data:1", "huge")]),
            json!([{"type": "image_url"}]),
            json!([{"type": "image_url", "image_url": "data:1"}]),
            json!([{"type": "image_url", "image_url": {}}]),
            json!([{"type": "image_url", "image_url": {"url": 1}}]),
            json!([{"type": "image_url", "image_url": {"url": "x", "crop": 1}}]),
        ] {
            let error = rejected(json!({"messages": [{"role": "user", "content": content}]}));
            assert_eq!(error.param.as_deref(), Some("messages[0].content[0]"), "{}", error.message);
        }
        let error = rejected(json!({"messages": [{"role": "system", "content": [text("a"), image("data:1", "low")]}]}));
        assert_eq!(error.param.as_deref(), Some("messages[0].content[1]"), "{}", error.message);
    }

    #[test]
    fn harmless_and_neutral_fields_are_ignored() {
        parse(json!({"user": "u", "metadata": {"a": "b"}, "store": false, "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
            "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "stop": null, "functions": null, "never_heard_of": null}))
        .unwrap();
    }

    #[test]
    fn what_would_change_the_meaning_is_refused_by_name() {
        for (extra, param) in [
            (json!({"tools": [{"type": "function"}]}), "tools"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"modalities": ["audio"]}), "modalities"),
            (json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}), "messages[0].content[0]"),
            (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}), "messages[0].tool_calls"),
        ] {
            let error = rejected(extra);
            assert_eq!((error.param.as_deref(), error.code), (Some(param), Some("unsupported_parameter")), "{}", error.message);
        }
        let unknown = rejected(json!({"temprature": 1}));
        assert_eq!((unknown.param.as_deref(), unknown.code), (Some("temprature"), Some("unknown_parameter")));
    }

    #[test]
    fn values_out_of_range_or_of_the_wrong_type() {
        for (extra, param) in [
            (json!({"temperature": 2.1}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_p": 0}), "top_p"),
            (json!({"top_k": 1.5}), "top_k"),
            (json!({"min_p": -0.1}), "min_p"),
            (json!({"typical_p": 0}), "typical_p"),
            (json!({"epsilon_cutoff": 1}), "epsilon_cutoff"),
            (json!({"eta_cutoff": -0.1}), "eta_cutoff"),
            (json!({"frequency_penalty": 2.1}), "frequency_penalty"),
            (json!({"presence_penalty": "much"}), "presence_penalty"),
            (json!({"no_repeat_ngram_size": -1}), "no_repeat_ngram_size"),
            (json!({"min_tokens": 1.5}), "min_tokens"),
            (json!({"logit_bias": [[5, 1]]}), "logit_bias"),
            (json!({"logit_bias": {"five": 1}}), "logit_bias"),
            (json!({"logit_bias": {"05": 1}}), "logit_bias"),
            (json!({"logit_bias": {"5": 100.5}}), "logit_bias"),
            (json!({"logit_bias": {"5": "1"}}), "logit_bias.5"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"n": 0}), "n"),
            (json!({"n": 129}), "n"),
            (json!({"seed": 1.5}), "seed"),
            (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
            (json!({"stop": [""]}), "stop"),
            (json!({"stop": 3}), "stop"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": {"include_usage": true}}), "stream_options"),
            (json!({"stream": true, "stream_options": {"usage": true}}), "stream_options.usage"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"messages": null}), "messages"),
            (json!({"messages": [{"content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": "x", "reasoning_content": "r"}]}), "messages[0].reasoning_content"),
        ] {
            let error = rejected(extra.clone());
            assert_eq!(error.param.as_deref(), Some(param), "{extra}: {}", error.message);
        }
    }

    #[test]
    fn broken_json_is_located() {
        let error = ChatRequest::parse(b"{\n  \"messages\": [,]\n}").unwrap_err();
        assert_eq!(error.code, Some("invalid_json"));
        assert!(error.message.contains("line 2 column 16"), "{}", error.message);
        for body in [&b""[..], b"[]", b"\xff\xfe"] {
            assert_eq!(ChatRequest::parse(body).unwrap_err().code, Some("invalid_json"));
        }
        let deep = "[".repeat(100_000);
        assert_eq!(ChatRequest::parse(deep.as_bytes()).unwrap_err().code, Some("invalid_json"));
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = ChatRequest::parse(&body);
        }
    }
}

//! `POST /v1/chat/completions`: the request.

use super::fields::Fields;
use super::messages::{self, ChatMessage};
use super::sampling::{Delivery, SamplingParams};
use super::structured::{self, Shape};
use super::tools::{self, Tool, ToolChoice};
use crate::error::ApiError;
use serde_json::{Map, Value, json};

/// OpenAI's bound for `top_logprobs`.
const MAX_TOP_LOGPROBS: i64 = 20;
/// OpenAI's words.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh"];

/// A valid request; Anthropic's wording becomes the same.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// `None`: whatever is served.
    pub model: Option<String>,
    /// Sampling.
    pub sampling: SamplingParams,
    /// Streamed or not.
    pub delivery: Delivery,
    /// What is said.
    pub conversation: Conversation,
    /// What the reply has to look like.
    pub shape: Option<Shape>,
}

/// What goes into the prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// At least one.
    pub messages: Vec<ChatMessage>,
    /// Functions that may be called.
    pub tools: Vec<Tool>,
    /// Whether they are.
    pub tool_choice: ToolChoice,
    /// Only the first call counts.
    pub single_call: bool,
    /// Variables for the chat template.
    pub template_kwargs: Map<String, Value>,
    /// How much thought; templates that do not read it think as they do.
    pub reasoning_effort: Option<&'static str>,
}

impl Conversation {
    /// Take `messages`, tools and variables.
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let messages = messages::parse(fields.required("messages", messages::schema)?)?;
        let (tools, tool_choice) = tools::take(fields)?;
        Ok(Self {
            messages,
            tools,
            tool_choice,
            single_call: fields.boolean("parallel_tool_calls")? == Some(false),
            template_kwargs: fields.object("chat_template_kwargs")?.unwrap_or_default(),
            reasoning_effort: fields.word("reasoning_effort", EFFORTS)?,
        })
    }

    /// The model is shown its tools.
    pub fn shows_tools(&self) -> bool {
        !self.tools.is_empty() && self.tool_choice != ToolChoice::None
    }
}

impl ChatRequest {
    /// Parse and validate a request body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        Self::take(Fields::parse(body)?)
    }

    /// JSON schema of the body.
    pub fn schema() -> Value {
        Fields::describe(json!({"messages": [{"role": "user", "content": "x"}]}), Self::take)
    }

    fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let conversation = Conversation::take(&mut fields)?;
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
        let shape = structured::take(&mut fields)?;
        if let Some(shape) = shape.as_ref().filter(|_| conversation.shows_tools()) {
            let message = format!("'{}' leaves no room for calls: leave 'tools' out, or set 'tool_choice' to 'none'", shape.param);
            return Err(ApiError::unsupported(&shape.param, message));
        }
        fields.only_neutral("modalities", |v| *v == json!(["text"]), "only [\"text\"] is available")?;
        fields.finish()?;
        Ok(Self { model, sampling, delivery, conversation, shape })
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
            "logprobs": true, "top_logprobs": 3, "chat_template_kwargs": {"enable_thinking": false}, "ignore_eos": true, "priority": -3,
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
            ignore_eos: true,
            priority: -3,
            n: 2,
            logprobs: Some(3),
        };
        assert_eq!(r.sampling, sampling);
        assert_eq!(r.delivery, Delivery { stream: true, include_usage: true });
        assert_eq!(r.model.as_deref(), Some("m"));
        assert_eq!(r.conversation.template_kwargs["enable_thinking"], json!(false));
    }

    #[test]
    fn messages_are_flattened() {
        let body = json!({"messages": [
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ada"},
            {"role": "assistant", "content": "c", "reasoning_content": "r", "refusal": null, "tool_calls": []},
        ]});
        let r = ChatRequest::parse(body.to_string().as_bytes()).unwrap();
        let got: Vec<_> = r.conversation.messages.iter().map(|m| (m.role.as_str(), m.content.as_str(), m.reasoning_content.as_deref())).collect();
        assert_eq!(got, [("system", "be short", None), ("user", "ab", None), ("assistant", "c", Some("r"))]);
    }

    #[test]
    fn images_keep_their_places() {
        let image = |url: &str, detail: &str| json!({"type": "image_url", "image_url": {"url": url, "detail": detail}});
        let text = |text: &str| json!({"type": "text", "text": text});
        let r = parse(json!({"messages": [{"role": "user", "content": [text("ab"), image("data:1", "low"), text("c"), image("data:2", "high")]}]}))
            .unwrap();
        assert_eq!(r.conversation.messages[0].content, "abc");
        let found: Vec<_> = r.conversation.messages[0].images.iter().map(|i| (i.url.as_str(), i.at, i.param.as_str())).collect();
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
            "parallel_tool_calls": true, "service_tier": "auto",
            "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "stop": null, "functions": null, "never_heard_of": null}))
        .unwrap();
    }

    #[test]
    fn what_would_change_the_meaning_is_refused_by_name() {
        for (extra, param) in [
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"functions": [{"name": "f"}]}), "functions"),
            (json!({"tools": [tool("f")], "response_format": {"type": "json_object"}}), "response_format"),
            (json!({"response_format": {"type": "xml"}}), "response_format"),
            (json!({"modalities": ["audio"]}), "modalities"),
            (json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}), "messages[0].content[0]"),
            (json!({"messages": [{"role": "function", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "1"}}]}), "messages[0].audio"),
        ] {
            let error = rejected(extra);
            assert_eq!((error.param.as_deref(), error.code), (Some(param), Some("unsupported_parameter")), "{}", error.message);
        }
        let unknown = rejected(json!({"temprature": 1}));
        assert_eq!((unknown.param.as_deref(), unknown.code), (Some("temprature"), Some("unknown_parameter")));
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}, "strict": true}})
    }

    #[test]
    fn tools_calls_and_results_arrive() {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
        let r = parse(json!({"tools": [tool("f"), tool("g")], "tool_choice": {"type": "function", "function": {"name": "g"}},
            "parallel_tool_calls": false, "reasoning_effort": "low",
            "messages": [{"role": "assistant", "content": null, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "3"}]}))
        .unwrap();
        let Conversation { messages, tools, tool_choice, single_call, reasoning_effort, .. } = r.conversation;
        assert_eq!((tools[1].name.as_str(), tool_choice, single_call, reasoning_effort), ("g", ToolChoice::Named("g".into()), true, Some("low")));
        assert_eq!(tools[0].value()["function"]["parameters"], json!({"type": "object"}));
        assert_eq!((messages[0].tool_calls[0].id.as_str(), &messages[0].tool_calls[0].arguments["a"]), ("c1", &json!(1)));
        assert_eq!(messages[1].tool_call_id.as_deref(), Some("c1"));
    }

    #[test]
    fn a_description_may_be_long() {
        let text = "x".repeat(200_000);
        let tool = json!({"type": "function", "function": {"name": "f", "description": text}});
        assert_eq!(parse(json!({"tools": [tool]})).unwrap().conversation.tools[0].description.as_ref().map(String::len), Some(200_000));
    }

    #[test]
    fn calls_and_tools_that_make_no_sense() {
        let call = |call: Value| json!({"messages": [{"role": "assistant", "tool_calls": [call]}]});
        let function = |name: &str, arguments: Value| call(json!({"id": "1", "function": {"name": name, "arguments": arguments}}));
        for (extra, param) in [
            (call(json!({"id": "1"})), "messages[0].tool_calls[0].function"),
            (call(json!({"function": {"name": "f"}})), "messages[0].tool_calls[0].id"),
            (function("f", json!("{a")), "messages[0].tool_calls[0].function.arguments"),
            (function("f", json!("[1]")), "messages[0].tool_calls[0].function.arguments"),
            (function("f", json!(3)), "messages[0].tool_calls[0].function.arguments"),
            (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id"),
            (json!({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}), "messages[0].tool_call_id"),
            (json!({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}), "messages[0].tool_calls"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"tool_choice": "sometimes"}), "tool_choice"),
            (json!({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}), "tool_choice"),
            (json!({"tools": [tool("f"), tool("f")]}), "tools[1]"),
            (json!({"tools": [tool("a b")]}), "tools[0].function.name"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
            (json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]}), "tools[0].function.parameters"),
            (json!({"tools": [{"type": "function", "function": {"name": "f", "code": 1}}]}), "tools[0].function.code"),
            (json!({"tools": vec![tool("f"); 129]}), "tools"),
            (
                json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"description": "x".repeat(70_000)}}}]}),
                "tools[0].function.parameters",
            ),
            (json!({"messages": vec![json!({"role": "user", "content": ""}); 4097]}), "messages"),
            (json!({"reasoning_effort": "much"}), "reasoning_effort"),
            (json!({"stop": "x".repeat(2000)}), "stop"),
        ] {
            let error = rejected(extra);
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
    }

    /// If this fails, the OpenAPI document leaves fields out: the parser gave up on its own sample.
    #[test]
    fn the_schema_names_every_field() {
        let schema = ChatRequest::schema();
        assert_eq!(schema.get("$comment"), None);
        assert_eq!(schema["required"], json!(["messages"]));
        for name in ["tools", "top_logprobs", "response_format", "stream_options", "guided_json", "user", "modalities", "seed"] {
            assert!(schema["properties"].get(name).is_some(), "{name}");
        }
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

//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's wording of a chat request.
//!
//! It becomes a [`ChatRequest`]: `system` is the first message, a `tool_result` block is a message of role `tool`, `thinking` turns the
//! template's `enable_thinking` on or off. Off is what leaving it out means, as Anthropic has it. `budget_tokens` is checked and not
//! enforced: a template cannot.

use super::chat::{ChatRequest, Conversation};
use super::fields::{Fields, kind, wrong_type};
use super::messages::{ChatMessage, ImageSource, MAX_MESSAGES, PastCall};
use super::sampling::{Delivery, SamplingParams, take_stop};
use super::tools::{self, MAX_TOOLS, Tool, ToolChoice};
use crate::error::ApiError;
use serde_json::{Map, Value, json};

/// More than OpenAI's four; Anthropic names no number.
const MAX_STOPS: usize = 16;
/// Anthropic's minimum.
const MIN_BUDGET: i64 = 1024;

/// Parse and validate the body of `/v1/messages`.
pub fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
    take(Fields::parse(body)?)
}

/// Parse and validate the body of `/v1/messages/count_tokens`.
pub fn parse_count(body: &[u8]) -> Result<(Option<String>, Conversation), ApiError> {
    take_count(Fields::parse(body)?)
}

/// JSON schema of the body of `/v1/messages`.
pub fn schema() -> Value {
    Fields::describe(json!({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}), take)
}

/// JSON schema of the body of `/v1/messages/count_tokens`.
pub fn count_schema() -> Value {
    Fields::describe(json!({"messages": [{"role": "user", "content": "x"}]}), take_count)
}

fn take(mut fields: Fields) -> Result<ChatRequest, ApiError> {
    let max_tokens = fields.integer("max_tokens", 1..=i64::MAX)?;
    let max_tokens = max_tokens.ok_or_else(|| fields.missing("max_tokens"))?;
    let model = fields.string("model")?;
    let conversation = take_conversation(&mut fields, Some(max_tokens))?;
    let mut sampling = SamplingParams { n: 1, max_tokens: Some(usize::try_from(max_tokens).unwrap_or(usize::MAX)), ..SamplingParams::default() };
    sampling.temperature = fields.number("temperature", 0.0..=1.0)?;
    sampling.top_p = fields.number("top_p", 0.0..=1.0)?;
    if sampling.top_p == Some(0.0) {
        return Err(ApiError::invalid("top_p", "'top_p' must be above 0 and at most 1; for greedy decoding use 'temperature': 0"));
    }
    sampling.top_k = fields.integer("top_k", 0..=i64::from(u32::MAX))?.map(|k| k as usize);
    sampling.stop = take_stop(&mut fields, "stop_sequences", MAX_STOPS)?;
    let delivery = Delivery { stream: fields.boolean("stream")?.unwrap_or(false), include_usage: true };
    fields.finish()?;
    Ok(ChatRequest { model, sampling, delivery, conversation, shape: None })
}

fn take_count(mut fields: Fields) -> Result<(Option<String>, Conversation), ApiError> {
    let model = fields.string("model")?;
    let conversation = take_conversation(&mut fields, None)?;
    fields.finish()?;
    Ok((model, conversation))
}

fn take_conversation(fields: &mut Fields, max_tokens: Option<i64>) -> Result<Conversation, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system", text_or_blocks) {
        messages.push(ChatMessage { role: "system".into(), content: text_of("system", system)?, ..ChatMessage::default() });
    }
    let items = match fields.required("messages", messages_schema)? {
        Value::Array(items) => items,
        other => return Err(wrong_type("messages", "a list of messages", &other)),
    };
    if items.is_empty() || items.len() > MAX_MESSAGES {
        return Err(ApiError::invalid("messages", format!("'messages' must hold 1 to {MAX_MESSAGES} messages, not {}", items.len())));
    }
    for (i, item) in items.into_iter().enumerate() {
        parse_message(&format!("messages[{i}]"), item, &mut messages)?;
    }
    let tools = fields.list("tools", MAX_TOOLS, || json!({"type": "object"}))?.unwrap_or_default();
    let tools = tools.into_iter().enumerate().map(|(i, item)| parse_tool(&format!("tools[{i}]"), item)).collect::<Result<Vec<_>, _>>()?;
    tools::distinct(&tools)?;
    fields.ignore("cache_control");
    let (tool_choice, single_call) = take_choice(fields)?;
    tools::check_choice(&tools, &tool_choice, "tool_choice")?;
    let thinking = take_thinking(fields, max_tokens)?;
    let template_kwargs = Map::from_iter([("enable_thinking".to_string(), Value::Bool(thinking))]);
    Ok(Conversation { messages, tools, tool_choice, single_call, template_kwargs, reasoning_effort: None })
}

fn take_thinking(fields: &mut Fields, max_tokens: Option<i64>) -> Result<bool, ApiError> {
    let schema = || {
        json!({"type": "object", "required": ["type"], "properties": {"type": {"enum": ["enabled", "disabled", "adaptive"]},
        "budget_tokens": {"type": "integer", "minimum": MIN_BUDGET}}})
    };
    let Some(value) = fields.take("thinking", schema) else { return Ok(false) };
    let mut thinking = Fields::nested("thinking", value)?;
    let kind = thinking.word("type", &["enabled", "disabled", "adaptive"])?.ok_or_else(|| thinking.missing("type"))?;
    let budget = thinking.integer("budget_tokens", MIN_BUDGET..=i64::MAX)?;
    thinking.ignore("display");
    thinking.finish()?;
    if let (Some(budget), Some(most)) = (budget, max_tokens)
        && budget >= most
    {
        let message = format!("'thinking.budget_tokens' is {budget}; it must be below 'max_tokens', which is {most}");
        return Err(ApiError::invalid("thinking.budget_tokens", message));
    }
    Ok(kind != "disabled")
}

fn take_choice(fields: &mut Fields) -> Result<(ToolChoice, bool), ApiError> {
    let schema = || {
        json!({"type": "object", "required": ["type"], "properties": {"type": {"enum": ["auto", "any", "tool", "none"]},
        "name": {"type": "string"}, "disable_parallel_tool_use": {"type": "boolean"}}})
    };
    let Some(value) = fields.take("tool_choice", schema) else { return Ok((ToolChoice::Auto, false)) };
    let mut choice = Fields::nested("tool_choice", value)?;
    let single = choice.boolean("disable_parallel_tool_use")?.unwrap_or(false);
    let name = choice.string("name")?;
    let kind = choice.word("type", &["auto", "any", "tool", "none"])?.ok_or_else(|| choice.missing("type"))?;
    choice.finish()?;
    let choice = match (kind, name) {
        ("tool", Some(name)) => ToolChoice::Named(name),
        ("tool", None) => return Err(ApiError::invalid("tool_choice.name", "'tool_choice' of type 'tool' needs a 'name'")),
        (_, Some(_)) => return Err(ApiError::invalid("tool_choice.name", "only 'tool_choice' of type 'tool' has a 'name'")),
        ("any", None) => ToolChoice::Required,
        ("none", None) => ToolChoice::None,
        _ => ToolChoice::Auto,
    };
    Ok((choice, single))
}

fn parse_tool(param: &str, value: Value) -> Result<Tool, ApiError> {
    let mut tool = Fields::nested(param, value)?;
    if let Some(kind) = tool.string("type")?.filter(|kind| kind != "custom") {
        let message = format!("tools of type '{kind}' run on Anthropic's servers; this server has only tools with an 'input_schema'");
        return Err(ApiError::unsupported(tool.at("type"), message));
    }
    let name = tool.required_string("name")?;
    let description = tool.string("description")?;
    let schema = tool.object("input_schema")?.ok_or_else(|| tool.missing("input_schema"))?;
    tool.boolean("strict")?;
    tool.ignore("cache_control");
    let built = tools::build(&tool, name, description, Some(schema), "input_schema");
    tool.finish()?;
    built
}

/// Results of tools become messages of their own, in front of what the user says besides.
fn parse_message(param: &str, value: Value, out: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    let mut fields = Fields::nested(param, value)?;
    let role = fields.word("role", &["user", "assistant"])?.ok_or_else(|| fields.missing("role"))?;
    let at = fields.at("content");
    let content = fields.required("content", || json!({}))?;
    fields.finish()?;
    let mut message = ChatMessage { role: role.to_string(), ..ChatMessage::default() };
    let blocks = match content {
        Value::String(text) => {
            message.content = text;
            out.push(message);
            return Ok(());
        }
        Value::Array(blocks) => blocks,
        other => return Err(wrong_type(&at, "a string or a list of content blocks", &other)),
    };
    let mut answered = false;
    for (i, block) in blocks.into_iter().enumerate() {
        let at = format!("{at}[{i}]");
        let mut block = Fields::nested(&at, block)?;
        block.ignore("cache_control");
        block.ignore("citations");
        let kind = block.required_string("type")?;
        match (kind.as_str(), role) {
            ("text", _) => message.content.push_str(&block.required_string("text")?),
            ("image", "user") => {
                let url = parse_source(block.at("source"), block.required("source", || json!({}))?)?;
                message.images.push(ImageSource { url, at: message.content.len(), param: at });
            }
            ("tool_result", "user") => {
                let id = block.required_string("tool_use_id")?;
                let failed = block.boolean("is_error")?.unwrap_or(false);
                let text = block.take("content", || json!({})).map_or(Ok(String::new()), |content| text_of(&block.at("content"), content))?;
                let content = if failed { format!("Error: {text}") } else { text };
                out.push(ChatMessage { role: "tool".into(), content, tool_call_id: Some(id), ..ChatMessage::default() });
                answered = true;
            }
            ("thinking", "assistant") => {
                block.ignore("signature");
                message.reasoning_content.get_or_insert_default().push_str(&block.required_string("thinking")?);
            }
            // Nobody but its author can read it.
            ("redacted_thinking", "assistant") => block.ignore("data"),
            ("tool_use", "assistant") => {
                let (id, name) = (block.required_string("id")?, block.required_string("name")?);
                let arguments = block.object("input")?.unwrap_or_default();
                block.ignore("caller");
                message.tool_calls.push(PastCall { id, name, arguments });
            }
            _ => {
                let message = format!("content blocks of type '{kind}' are not supported by this server in messages of the {role}");
                return Err(ApiError::unsupported(at, message));
            }
        }
        block.finish()?;
    }
    let silent = message.content.is_empty() && message.images.is_empty() && message.tool_calls.is_empty() && message.reasoning_content.is_none();
    if !(silent && answered) {
        out.push(message);
    }
    Ok(())
}

/// `{"type": "base64", "media_type", "data"}` or `{"type": "url", "url"}`, as the URL that the loader of images takes.
fn parse_source(param: String, value: Value) -> Result<String, ApiError> {
    let mut source = Fields::nested(&param, value)?;
    let url = match source.word("type", &["base64", "url"])? {
        Some("url") => source.required_string("url")?,
        Some(_) => {
            let (kind, data) = (source.required_string("media_type")?, source.required_string("data")?);
            format!("data:{kind};base64,{data}")
        }
        None => return Err(source.missing("type")),
    };
    source.finish()?;
    Ok(url)
}

/// A string, or blocks of text.
fn text_of(param: &str, value: Value) -> Result<String, ApiError> {
    let blocks = match value {
        Value::String(text) => return Ok(text),
        Value::Array(blocks) => blocks,
        other => return Err(wrong_type(param, "a string or a list of text blocks", &other)),
    };
    let mut text = String::new();
    for (i, block) in blocks.iter().enumerate() {
        match (block["type"].as_str(), &block["text"]) {
            (Some("text"), Value::String(part)) => text.push_str(part),
            (Some("text"), other) => return Err(wrong_type(&format!("{param}[{i}].text"), "a string", other)),
            (Some(other), _) => {
                let message = format!("'{param}' takes text blocks, not blocks of type '{other}'");
                return Err(ApiError::unsupported(format!("{param}[{i}]"), message));
            }
            (None, _) => {
                let message = format!("a content block is an object with a 'type', not {}", kind(block));
                return Err(ApiError::invalid(format!("{param}[{i}]"), message));
            }
        }
    }
    Ok(text)
}

fn text_or_blocks() -> Value {
    let block = json!({"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": {"type": "string"}}});
    json!({"anyOf": [{"type": "string"}, {"type": "array", "items": block}]})
}

fn messages_schema() -> Value {
    let block = json!({"type": "object", "required": ["type"], "properties": {
        "type": {"enum": ["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"]},
        "text": {"type": "string"}, "source": {"type": "object"}, "id": {"type": "string"}, "name": {"type": "string"}, "input": {"type": "object"},
        "tool_use_id": {"type": "string"}, "content": text_or_blocks(), "is_error": {"type": "boolean"},
        "thinking": {"type": "string"}, "signature": {"type": "string"}, "data": {"type": "string"}}});
    json!({"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": {"type": "object", "required": ["role", "content"], "properties": {
        "role": {"enum": ["user", "assistant"]}, "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": block}]}}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(extra: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"model": "m", "max_tokens": 2000, "messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_conversation_becomes_messages() {
        let r = parse_with(json!({
            "system": [{"type": "text", "text": "be ", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "short"}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}]},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "b"},
                    {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "3"}]}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c2", "content": "no", "is_error": true}, {"type": "text", "text": "go on"}]},
            ],
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "stop_sequences": ["END"], "temperature": 0.5, "top_k": 5, "stream": true, "metadata": {"user_id": "u"}, "cache_control": {"type": "ephemeral"},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        }))
        .unwrap();
        let c = &r.conversation;
        let roles: Vec<_> = c.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(roles, [("system", "be short"), ("user", "a"), ("assistant", "b"), ("tool", "3"), ("tool", "Error: no"), ("user", "go on")]);
        assert_eq!((c.messages[1].images[0].url.as_str(), c.messages[1].images[0].at), ("data:image/png;base64,AA==", 1));
        assert_eq!(c.messages[2].reasoning_content.as_deref(), Some("t"));
        assert_eq!((c.messages[2].tool_calls[0].name.as_str(), c.messages[3].tool_call_id.as_deref()), ("f", Some("c1")));
        assert_eq!((&c.tool_choice, c.single_call, &c.template_kwargs["enable_thinking"]), (&ToolChoice::Required, true, &json!(true)));
        assert_eq!((r.sampling.max_tokens, r.sampling.stop, r.sampling.n, r.delivery.stream), (Some(2000), vec!["END".to_string()], 1, true));
        assert_eq!(parse_with(json!({})).unwrap().conversation.template_kwargs["enable_thinking"], json!(false));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let block = |role: &str, block: Value| json!({"messages": [{"role": role, "content": [block]}]});
        for (extra, param) in [
            (json!({"max_tokens": null}), "max_tokens"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": [{"role": "system", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (block("user", json!({"type": "document"})), "messages[0].content[0]"),
            (block("assistant", json!({"type": "image", "source": {}})), "messages[0].content[0]"),
            (block("user", json!({"type": "text"})), "messages[0].content[0].text"),
            (block("user", json!({"type": "image", "source": {"type": "file"}})), "messages[0].content[0].source.type"),
            (block("user", json!({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image"}]})), "messages[0].content[0].content[0]"),
            (json!({"temperature": 1.5}), "temperature"),
            (json!({"stop_sequences": vec!["x"; 17]}), "stop_sequences"),
            (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [{"name": "f"}]}), "tools[0].input_schema"),
            (json!({"tool_choice": {"type": "tool", "name": "g"}}), "tool_choice"),
            (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name"),
            (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
            (json!({"thinking": {"type": "enabled", "budget_tokens": 5}}), "thinking.budget_tokens"),
            (json!({"thinking": {"type": "enabled", "budget_tokens": 3000}}), "thinking.budget_tokens"),
            (json!({"n": 2}), "n"),
        ] {
            let error = parse_with(extra.clone()).expect_err(&extra.to_string());
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
        assert_eq!((schema().get("$comment"), count_schema().get("$comment")), (None, None));
    }
}

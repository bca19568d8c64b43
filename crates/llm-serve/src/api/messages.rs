//! `messages` of a chat request: roles, content parts, calls and their results.

use super::fields::{Fields, kind, wrong_type};
use crate::error::ApiError;
use serde_json::{Map, Value, json};

/// Turns of one conversation; agents get far, and a million empty ones are still refused before they cost anything.
pub const MAX_MESSAGES: usize = 4096;
/// Calls in one turn.
const MAX_CALLS: usize = 128;
/// Longest id of a call.
const MAX_ID: usize = 256;

/// One turn of the conversation, content already flattened to text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text parts joined in order.
    pub content: String,
    /// Images, in order.
    pub images: Vec<ImageSource>,
    /// Thinking of an earlier assistant turn, given back by the client.
    pub reasoning_content: Option<String>,
    /// Calls of an earlier assistant turn.
    pub tool_calls: Vec<PastCall>,
    /// Which call a `tool` message answers.
    pub tool_call_id: Option<String>,
}

/// A call that the assistant made earlier.
#[derive(Debug, Clone, PartialEq)]
pub struct PastCall {
    /// Given by whoever served it.
    pub id: String,
    /// Of the function.
    pub name: String,
    /// Parsed, as chat templates want them.
    pub arguments: Map<String, Value>,
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

/// The JSON schema of the list.
pub(super) fn schema() -> Value {
    let text = json!({"type": "object", "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}}});
    let image = json!({"type": "object", "required": ["type", "image_url"], "properties": {"type": {"const": "image_url"},
        "image_url": {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}, "detail": {"enum": ["auto", "low", "high"]}}}}});
    let call = json!({"type": "object", "required": ["id", "function"], "properties": {"id": {"type": "string"}, "type": {"const": "function"},
        "function": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}}}}});
    json!({"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": {"type": "object", "required": ["role"], "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"anyOf": [text, image]}}]},
        "reasoning_content": {"type": "string", "description": "Thinking of an earlier turn of the assistant."},
        "tool_calls": {"type": "array", "items": call, "maxItems": MAX_CALLS},
        "tool_call_id": {"type": "string", "description": "Of a tool message: the call it answers."},
        "name": {"type": "string", "description": "Accepted; changes nothing here."},
    }}})
}

/// Parse and validate the list.
pub(super) fn parse(value: Value) -> Result<Vec<ChatMessage>, ApiError> {
    let Value::Array(items) = value else { return Err(wrong_type("messages", "a list of messages", &value)) };
    if items.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' must hold at least one message"));
    }
    if items.len() > MAX_MESSAGES {
        return Err(ApiError::invalid("messages", format!("'messages' takes at most {MAX_MESSAGES} messages, not {}", items.len())));
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
        "system" | "user" | "assistant" | "tool" => role,
        "function" => {
            let message = "role 'function' is not supported by this server: its successor is role 'tool' with 'tool_call_id'";
            return Err(ApiError::unsupported(at("role"), message));
        }
        _ => return Err(ApiError::invalid(at("role"), format!("'{role}' is not a role; expected system, developer, user, assistant or tool"))),
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
    let tool_calls = match message.shift_remove("tool_calls") {
        Some(calls) if role == "assistant" => parse_calls(&at("tool_calls"), calls)?,
        Some(calls) if !is_nothing(&calls) => return Err(ApiError::invalid(at("tool_calls"), "only assistant messages have 'tool_calls'")),
        _ => Vec::new(),
    };
    let tool_call_id = match message.shift_remove("tool_call_id") {
        Some(Value::String(id)) if role == "tool" => Some(id),
        None | Some(Value::Null) if role == "tool" => {
            let text = format!("message {index} has no 'tool_call_id': a tool message says which call it answers");
            return Err(ApiError::invalid(at("tool_call_id"), text).with_code("missing_required_parameter"));
        }
        None | Some(Value::Null) => None,
        Some(Value::String(_)) => return Err(ApiError::invalid(at("tool_call_id"), "only tool messages have 'tool_call_id'")),
        Some(other) => return Err(wrong_type(&at("tool_call_id"), "a string", &other)),
    };
    if content.is_none() && reasoning_content.is_none() && tool_calls.is_empty() {
        return Err(ApiError::invalid(at("content"), format!("message {index} has no 'content'")).with_code("missing_required_parameter"));
    }
    for (field, value) in &message {
        // `name` and `refusal` come back from clients that echo our own replies; templates here do not show them.
        let harmless = is_nothing(value) || ["name", "refusal", "annotations"].contains(&field.as_str());
        if !harmless {
            return Err(ApiError::unsupported(at(field), format!("'{field}' in a message is not supported by this server")));
        }
    }
    let Content { text, images } = content.unwrap_or_default();
    Ok(ChatMessage { role, content: text, images, reasoning_content, tool_calls, tool_call_id })
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn parse_calls(param: &str, value: Value) -> Result<Vec<PastCall>, ApiError> {
    let items = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items,
        other => return Err(wrong_type(param, "a list of calls", &other)),
    };
    if items.len() > MAX_CALLS {
        return Err(ApiError::invalid(param, format!("'{param}' takes at most {MAX_CALLS} calls, not {}", items.len())));
    }
    let call = |(i, item): (usize, Value)| {
        let mut call = Fields::nested(&format!("{param}[{i}]"), item)?;
        // Some clients stream calls together and leave the position in.
        call.ignore("index");
        call.word("type", &["function"])?;
        let id = call.required_string("id")?;
        if id.len() > MAX_ID {
            return Err(ApiError::invalid(call.at("id"), format!("the id of a call has at most {MAX_ID} bytes")));
        }
        let mut function = Fields::nested(&call.at("function"), call.required("function", || json!({}))?)?;
        let name = function.required_string("name")?;
        let arguments = parse_arguments(&function.at("arguments"), function.take("arguments", || json!({})))?;
        function.finish()?;
        call.finish()?;
        Ok(PastCall { id, name, arguments })
    };
    items.into_iter().enumerate().map(call).collect()
}

/// JSON text of an object, as OpenAI has it; the object itself is understood as well.
fn parse_arguments(param: &str, value: Option<Value>) -> Result<Map<String, Value>, ApiError> {
    match value {
        None => Ok(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Map::new()),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|e| ApiError::invalid(param, format!("'{param}' must be the JSON text of an object: {e}")).with_code("invalid_json")),
        Some(Value::Object(map)) => Ok(map),
        Some(other) => Err(wrong_type(param, "the JSON text of an object", &other)),
    }
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

//! What `/v1/messages` answers: whole messages, stream events, errors. Source: Anthropic API reference, "Messages" and "Streaming".

use super::describe::{lists, wire};
use crate::error::ApiError;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

lists![Block];

wire! {
    /// The assistant's turn.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct MessageReply {
        /// Of the reply.
        pub id: String,
        /// Always `message`.
        #[serde(rename = "type")]
        pub kind: &'static str,
        /// Always `assistant`.
        pub role: &'static str,
        /// The served name.
        pub model: String,
        /// Thinking, text and calls, in order.
        pub content: Vec<Block>,
        /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; null at the start of a stream.
        pub stop_reason: Option<&'static str>,
        /// Which of `stop_sequences` ended it.
        pub stop_sequence: Option<String>,
        /// Token counts.
        pub usage: MessageUsage,
    }

    /// A part of the turn; which fields there are depends on `type`.
    #[derive(Debug, Clone, Default, PartialEq, Serialize)]
    pub struct Block {
        /// `text`, `thinking` or `tool_use`.
        #[serde(rename = "type")]
        pub kind: &'static str,
        /// Of a text block.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub text: Option<String>,
        /// Of a thinking block.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub thinking: Option<String>,
        /// Of a thinking block: always empty, as nothing here checks it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub signature: Option<String>,
        /// Of a call: for the block that answers it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub id: Option<String>,
        /// Of a call: the tool.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// Of a call: the arguments.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub input: Option<Value>,
    }

    /// Token counts.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
    pub struct MessageUsage {
        /// Tokens of the prompt that were computed for it.
        pub input_tokens: usize,
        /// Always 0: nothing is written to a cache on request.
        pub cache_creation_input_tokens: usize,
        /// Tokens of the prompt whose keys were in the cache already.
        pub cache_read_input_tokens: usize,
        /// Tokens generated, thinking included.
        pub output_tokens: usize,
    }

    /// How long a prompt is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
    pub struct CountReply {
        /// Tokens, template included.
        pub input_tokens: usize,
    }
}

impl Block {
    /// Part of the answer.
    pub fn text(text: String) -> Self {
        Self { kind: "text", text: Some(text), ..Self::default() }
    }

    /// Part of the thinking.
    pub fn thinking(text: String) -> Self {
        Self { kind: "thinking", thinking: Some(text), signature: Some(String::new()), ..Self::default() }
    }

    /// A call.
    pub fn call(id: String, name: String, input: Value) -> Self {
        Self { kind: "tool_use", id: Some(id), name: Some(name), input: Some(input), ..Self::default() }
    }
}

/// Anthropic's error object.
pub fn error_body(error: &ApiError) -> Value {
    let kind = match error.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::PAYMENT_REQUIRED => "billing_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    };
    // There is no field for the parameter at fault: it leads the message, as Anthropic writes it.
    let message = match &error.param {
        Some(param) if !error.message.contains(param.as_str()) => format!("{param}: {}", error.message),
        _ => error.message.clone(),
    };
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

/// JSON schema of [`error_body`].
pub fn error_schema() -> Value {
    json!({"type": "object", "required": ["type", "error"], "properties": {"type": {"const": "error"}, "error": {
        "type": "object", "required": ["type", "message"], "properties": {"type": {"type": "string"}, "message": {"type": "string"}}}}})
}

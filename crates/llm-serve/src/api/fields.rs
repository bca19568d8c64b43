//! A JSON object whose fields are taken one by one; what nobody takes is an error.
//!
//! Typed deserialisation alone would either swallow unknown fields or report the first problem without its name. Here each
//! error carries OpenAI's `param`, and "unknown" is told apart from "known and harmless".

use crate::error::ApiError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Fields of requests that change nothing about the reply: bookkeeping on the hosted service.
const HARMLESS: &[&str] =
    &["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls"];

/// The fields of one request that have not been taken yet.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Parse a request body. A syntax error names line and column.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let invalid = |message: String| ApiError::bad_request(message).with_code("invalid_json");
        if body.is_empty() {
            return Err(invalid("the request body is empty; a JSON object was expected".into()));
        }
        match serde_json::from_slice(body).map_err(|e| invalid(format!("the request body is not valid JSON: {e}")))? {
            Value::Object(map) => Ok(Self(map)),
            other => Err(invalid(format!("the request body must be a JSON object, not {}", kind(&other)))),
        }
    }

    /// The raw value; `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        // shift_remove keeps the order of the rest, so the first unknown field of the request is the one reported.
        self.0.shift_remove(name).filter(|v| !v.is_null())
    }

    /// A value that must be there.
    pub fn required(&mut self, name: &str) -> Result<Value, ApiError> {
        self.take(name)
            .ok_or_else(|| ApiError::invalid(name, format!("you must provide a '{name}' parameter")).with_code("missing_required_parameter"))
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong_type(name, "a number", &value))?;
        if !range.contains(&number) {
            return Err(ApiError::invalid(name, format!("'{name}' must be between {} and {}, not {number}", range.start(), range.end())));
        }
        Ok(Some(number as f32))
    }

    /// An integer within bounds.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_i64().ok_or_else(|| wrong_type(name, "an integer", &value))?;
        if !range.contains(&number) {
            let bounds = if *range.end() == i64::MAX {
                format!("at least {}", range.start())
            } else {
                format!("between {} and {}", range.start(), range.end())
            };
            return Err(ApiError::invalid(name, format!("'{name}' must be {bounds}, not {number}")));
        }
        Ok(Some(number))
    }

    /// true or false.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| wrong_type(name, "true or false", &value))
    }

    /// A string.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(value) => Err(wrong_type(name, "a string", &value)),
        }
    }

    /// A nested object.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(value) => Err(wrong_type(name, "an object", &value)),
        }
    }

    /// A field that this server can only honour at its neutral value.
    pub fn only_neutral(&mut self, name: &str, neutral: impl Fn(&Value) -> bool, instead: &str) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !neutral(&value) => Err(ApiError::unsupported(name, format!("'{name}' is not supported by this server: {instead}"))),
            _ => Ok(()),
        }
    }

    /// Everything must have been taken by now, or be harmless.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.0.iter().find(|(name, value)| !value.is_null() && !HARMLESS.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                Err(ApiError::invalid(name, format!("unrecognized request argument supplied: '{name}'")).with_code("unknown_parameter"))
            }
        }
    }
}

/// "'temperature' must be a number, not a string".
pub(super) fn wrong_type(name: &str, expected: &str, value: &Value) -> ApiError {
    ApiError::invalid(name, format!("'{name}' must be {expected}, not {}", kind(value))).with_code("invalid_type")
}

/// What a JSON value is, with its article.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a fractional number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

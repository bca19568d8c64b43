//! A JSON object whose fields are taken one by one; what nobody takes is an error.
//!
//! Typed deserialisation alone would either swallow unknown fields or report the first problem without its name. Here each
//! error carries OpenAI's `param`, and "unknown" is told apart from "known and harmless".
//!
//! The parser is also the schema: [`Fields::describe`] runs it once over a sample and writes down what it asks for, so the
//! OpenAPI document cannot say anything else than the code does.

use crate::error::ApiError;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;

/// Fields of requests that change nothing about the reply: bookkeeping on the hosted service.
const HARMLESS: &[&str] = &["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// What a parser asked for.
#[derive(Debug, Default)]
struct Asked {
    properties: Map<String, Value>,
    required: Vec<String>,
}

/// The fields of one object that have not been taken yet.
#[derive(Debug, Default)]
pub(super) struct Fields {
    map: Map<String, Value>,
    /// Stands before the names in errors: `tools[0].function.`, or nothing for the request itself.
    path: String,
    asked: Option<Rc<RefCell<Asked>>>,
}

impl Fields {
    /// Parse a request body. A syntax error names line and column.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let invalid = |message: String| ApiError::bad_request(message).with_code("invalid_json");
        if body.is_empty() {
            return Err(invalid("the request body is empty; a JSON object was expected".into()));
        }
        match serde_json::from_slice(body).map_err(|e| invalid(format!("the request body is not valid JSON: {e}")))? {
            Value::Object(map) => Ok(Self { map, ..Self::default() }),
            other => Err(invalid(format!("the request body must be a JSON object, not {}", kind(&other)))),
        }
    }

    /// An object within the request; `param` is its place.
    pub fn nested(param: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, path: format!("{param}."), asked: None }),
            other => Err(wrong_type(param, "an object", &other)),
        }
    }

    /// The JSON schema of what `parse` reads; `sample` is an object that it accepts.
    pub fn describe<T>(sample: Value, parse: impl FnOnce(Self) -> Result<T, ApiError>) -> Value {
        let asked = Rc::new(RefCell::new(Asked::default()));
        let map = sample.as_object().cloned().unwrap_or_default();
        let accepted = parse(Self { map, path: String::new(), asked: Some(Rc::clone(&asked)) }).is_ok();
        let Asked { mut properties, required } = asked.take();
        for name in HARMLESS {
            properties.entry(*name).or_insert_with(|| json!({"description": "Accepted; changes nothing here."}));
        }
        // A sample that its own parser refuses would give half a schema; say so where a test sees it.
        let note = if accepted { Value::Null } else { json!("incomplete") };
        let mut schema = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        if !note.is_null() {
            schema["$comment"] = note;
        }
        schema
    }

    /// The place of a field in the request.
    pub fn at(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The request has this field.
    pub fn holds(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|v| !v.is_null())
    }

    fn note(&self, name: &str, schema: impl FnOnce() -> Value) {
        if let Some(asked) = &self.asked {
            asked.borrow_mut().properties.insert(name.to_string(), schema());
        }
    }

    /// The raw value; `null` counts as absent. `schema` says what it may be.
    pub fn take(&mut self, name: &str, schema: impl FnOnce() -> Value) -> Option<Value> {
        self.note(name, schema);
        // shift_remove keeps the order of the rest, so the first unknown field of the request is the one reported.
        self.map.shift_remove(name).filter(|v| !v.is_null())
    }

    /// A value that must be there.
    pub fn required(&mut self, name: &str, schema: impl FnOnce() -> Value) -> Result<Value, ApiError> {
        if let Some(asked) = &self.asked {
            asked.borrow_mut().required.push(name.to_string());
        }
        let value = self.take(name, schema);
        value.ok_or_else(|| self.missing(name))
    }

    /// The error for a field that must be there.
    pub fn missing(&self, name: &str) -> ApiError {
        let at = self.at(name);
        let message = format!("you must provide a '{at}' parameter");
        ApiError::invalid(at, message).with_code("missing_required_parameter")
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let schema = || json!({"type": "number", "minimum": range.start(), "maximum": range.end()});
        let Some(value) = self.take(name, schema) else { return Ok(None) };
        let at = self.at(name);
        let number = value.as_f64().ok_or_else(|| wrong_type(&at, "a number", &value))?;
        if !range.contains(&number) {
            let message = format!("'{at}' must be between {} and {}, not {number}", range.start(), range.end());
            return Err(ApiError::invalid(at, message));
        }
        Ok(Some(number as f32))
    }

    /// An integer within bounds.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let unbounded = *range.end() == i64::MAX;
        let schema = || match unbounded {
            true => json!({"type": "integer", "minimum": range.start()}),
            false => json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}),
        };
        let Some(value) = self.take(name, schema) else { return Ok(None) };
        let at = self.at(name);
        let number = value.as_i64().ok_or_else(|| wrong_type(&at, "an integer", &value))?;
        if !range.contains(&number) {
            let bounds = if unbounded { format!("at least {}", range.start()) } else { format!("between {} and {}", range.start(), range.end()) };
            let message = format!("'{at}' must be {bounds}, not {number}");
            return Err(ApiError::invalid(at, message));
        }
        Ok(Some(number))
    }

    /// true or false.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name, || json!({"type": "boolean"})) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| wrong_type(&self.at(name), "true or false", &value))
    }

    /// A string.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name, || json!({"type": "string"})) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(value) => Err(wrong_type(&self.at(name), "a string", &value)),
        }
    }

    /// A string that must be there.
    pub fn required_string(&mut self, name: &str) -> Result<String, ApiError> {
        match self.required(name, || json!({"type": "string"}))? {
            Value::String(s) => Ok(s),
            value => Err(wrong_type(&self.at(name), "a string", &value)),
        }
    }

    /// One of several words.
    pub fn word(&mut self, name: &str, words: &[&'static str]) -> Result<Option<&'static str>, ApiError> {
        let Some(value) = self.take(name, || json!({"type": "string", "enum": words})) else { return Ok(None) };
        let at = self.at(name);
        let text = value.as_str().ok_or_else(|| wrong_type(&at, "a string", &value))?;
        let found = words.iter().find(|w| **w == text);
        found.map(|w| Some(*w)).ok_or_else(|| {
            let message = format!("'{at}' must be one of {}, not '{text}'", words.join(", "));
            ApiError::invalid(at, message)
        })
    }

    /// A nested object.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(name, || json!({"type": "object"})) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(value) => Err(wrong_type(&self.at(name), "an object", &value)),
        }
    }

    /// A list of at most `most` items.
    pub fn list(&mut self, name: &str, most: usize, items: impl FnOnce() -> Value) -> Result<Option<Vec<Value>>, ApiError> {
        let schema = || json!({"type": "array", "items": items(), "maxItems": most});
        let at = self.at(name);
        match self.take(name, schema) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() > most => {
                let message = format!("'{at}' takes at most {most} items, not {}", list.len());
                Err(ApiError::invalid(at, message))
            }
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(value) => Err(wrong_type(&at, "a list", &value)),
        }
    }

    /// A field that this server can only honour at its neutral value.
    pub fn only_neutral(&mut self, name: &str, neutral: impl Fn(&Value) -> bool, instead: &str) -> Result<(), ApiError> {
        match self.take(name, || json!({"description": format!("Not supported: {instead}.")})) {
            Some(value) if !neutral(&value) => {
                let at = self.at(name);
                let message = format!("'{at}' is not supported by this server: {instead}");
                Err(ApiError::unsupported(at, message))
            }
            _ => Ok(()),
        }
    }

    /// Drop a field that means nothing here.
    pub fn ignore(&mut self, name: &str) {
        self.take(name, || json!({"description": "Accepted; changes nothing here."}));
    }

    /// Everything must have been taken by now, or be harmless.
    pub fn finish(self) -> Result<(), ApiError> {
        let harmless = |name: &str| self.path.is_empty() && HARMLESS.contains(&name);
        match self.map.iter().find(|(name, value)| !value.is_null() && !harmless(name)) {
            None => Ok(()),
            Some((name, _)) => {
                let at = self.at(name);
                let message = format!("unrecognized request argument supplied: '{at}'");
                Err(ApiError::invalid(at, message).with_code("unknown_parameter"))
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

//! What stands behind a marker, or in its place: pure functions of the text so far.
//!
//! Each looks at the whole text again when more has come. That is a scan for brackets, and parsing happens once, at the end.

use super::Call;
use serde_json::{Map, Value};

/// Hermes' tags.
pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";
/// Between name and arguments in Mistral's newer form.
pub(super) const ARGS: &str = "[ARGS]";
/// Longest name of a function.
const MAX_NAME: usize = 256;

/// What the text is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Not clear yet.
    More,
    /// No call.
    Not,
    /// Calls, and how many bytes they take.
    Calls(Vec<Call>, usize),
}

/// JSON, then `</tool_call>`; a missing tag is forgiven.
pub(super) fn hermes(text: &str, end: bool) -> Body {
    let (calls, length) = match json(text, end) {
        Body::Calls(calls, length) => (calls, length),
        other => return other,
    };
    let rest = text[length..].trim_start();
    if rest.starts_with(CLOSE) {
        Body::Calls(calls, text.len() - rest.len() + CLOSE.len())
    } else if CLOSE.starts_with(rest) && !end {
        Body::More
    } else {
        Body::Calls(calls, length)
    }
}

/// A list of calls, one call, or a name with arguments.
pub(super) fn mistral(text: &str, end: bool) -> Body {
    let inner = text.trim_start();
    let Some(first) = inner.chars().next() else { return if end { Body::Not } else { Body::More } };
    if first == '[' || first == '{' {
        return json(text, end);
    }
    let length = inner.find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c))).unwrap_or(inner.len());
    let (name, rest) = inner.split_at(length);
    if name.is_empty() || name.len() > MAX_NAME {
        return Body::Not;
    }
    let arguments = match rest.strip_prefix(ARGS) {
        Some(behind) => behind,
        None if rest.starts_with('{') => rest,
        None if ARGS.starts_with(rest) && !end => return Body::More,
        None => return Body::Not,
    };
    let blanks = arguments.len() - arguments.trim_start().len();
    let Some(length) = value_end(&arguments[blanks..], "{") else { return Body::Not };
    let Some(length) = length else { return if end { Body::Not } else { Body::More } };
    let json = &arguments[blanks..blanks + length];
    match serde_json::from_str::<Map<String, Value>>(json) {
        Ok(map) => {
            let call = Call { name: name.to_string(), arguments: Value::Object(map).to_string() };
            Body::Calls(vec![call], text.len() - arguments.len() + blanks + length)
        }
        Err(_) => Body::Not,
    }
}

/// A call or a list of calls.
pub(super) fn json(text: &str, end: bool) -> Body {
    let blanks = text.len() - text.trim_start().len();
    let Some(found) = value_end(&text[blanks..], "[{") else { return Body::Not };
    let Some(length) = found else { return if end { Body::Not } else { Body::More } };
    let value = serde_json::from_str(&text[blanks..blanks + length]).ok();
    value.and_then(calls_of).map_or(Body::Not, |calls| Body::Calls(calls, blanks + length))
}

/// Calls without a marker: all of them must name a tool of the request, or an answer in JSON would be taken for a call.
pub(super) fn bare(text: &str, marker: Option<&str>, names: &[String], end: bool) -> Body {
    let inner = text.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
    if inner.is_empty() {
        return if end { Body::Not } else { Body::More };
    }
    // The marker is looked for elsewhere.
    if marker.is_some_and(|m| inner.starts_with(m) || (m.starts_with(inner) && !inner.starts_with('['))) || !may_be_call(inner) {
        return Body::Not;
    }
    match json(inner, end) {
        Body::Calls(calls, length) if calls.iter().all(|call| names.contains(&call.name)) => Body::Calls(calls, text.len() - inner.len() + length),
        Body::More => Body::More,
        _ => Body::Not,
    }
}

/// False as soon as the first key says that this is some other object, so that it need not be held back.
fn may_be_call(text: &str) -> bool {
    const KEYS: [&str; 5] = ["\"name\"", "\"arguments\"", "\"parameters\"", "\"type\"", "\"function\""];
    let text = text.strip_prefix('[').map_or(text, str::trim_start);
    let Some(first) = text.strip_prefix('{') else { return text.is_empty() };
    let key = first.trim_start();
    KEYS.iter().any(|k| key.starts_with(k) || k.starts_with(key))
}

/// Where the JSON value ends that `text` begins with: `None` if it begins with none of `openers`, `Some(None)` if it goes on.
/// Brackets are counted, whichever they are; the parser judges the rest.
fn value_end(text: &str, openers: &str) -> Option<Option<usize>> {
    match text.chars().next() {
        None => return Some(None),
        Some(first) if openers.contains(first) => {}
        Some(_) => return None,
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(Some(at + 1));
                }
            }
            _ => {}
        }
    }
    Some(None)
}

fn calls_of(value: Value) -> Option<Vec<Call>> {
    match value {
        Value::Array(items) if !items.is_empty() => items.into_iter().map(call_of).collect(),
        object @ Value::Object(_) => Some(vec![call_of(object)?]),
        _ => None,
    }
}

fn call_of(value: Value) -> Option<Call> {
    let Value::Object(mut map) = value else { return None };
    // OpenAI's own shape, which some models repeat.
    if let Some(Value::Object(inner)) = map.get_mut("function") {
        map = std::mem::take(inner);
    }
    let Some(Value::String(name)) = map.shift_remove("name") else { return None };
    let arguments = match map.shift_remove("arguments").or_else(|| map.shift_remove("parameters")) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(Value::String(text)) => serde_json::from_str(&text).ok()?,
        Some(_) => return None,
    };
    Some(Call { name, arguments: Value::Object(arguments).to_string() })
}

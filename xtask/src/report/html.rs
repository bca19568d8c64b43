//! What the report uses of `llm_run::html`, and JSON as short text.

use serde_json::Value;

pub use llm_run::html::{Cell, Html, bar, details, escape, join, left, number, page, right, table, tag, text, tile};

/// A number with as many digits as its size deserves; other JSON as short text.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => "-".to_string(),
        Value::Number(n) if n.is_u64() || n.is_i64() => n.to_string(),
        Value::Number(n) => number(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => crate::term::clip(text, 80),
        other => crate::term::clip(&other.to_string(), 80),
    }
}

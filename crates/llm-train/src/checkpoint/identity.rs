//! What makes two runs the same run: the configuration without what only says how it is carried out, and hashes of its inputs.
//!
//! Kept whole rather than as a hash, so that a refusal can say what differs. Micro-batch sizes, devices, how often to save, validate and
//! draw, and what halts a run are no part of it: a run may go on with others.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Keys, at any depth, that a run may be continued with other values of.
const FREE: [&str; 18] = [
    "checkpoint_every",
    "async_checkpoints",
    "device",
    "replicas",
    "eval_every",
    "eval_rows",
    "evaluation",
    "keep_best_checkpoints",
    "keep_checkpoint_every",
    "keep_checkpoints",
    "memory_budget",
    "micro_batch_size",
    "micro_batch_tokens",
    "recompute",
    "samples",
    "watch",
    "watchdog",
    "workers",
];

/// What a run is, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(Value);

impl Identity {
    /// Of a configuration and hashes of inputs, as one value.
    pub fn new(value: Value) -> Self {
        Self(fixed(value))
    }

    /// What differs from `wanted`, in words; None when it is the same run.
    pub fn differences(&self, wanted: &Self) -> Option<String> {
        if self == wanted {
            return None;
        }
        let mut found = Vec::new();
        compare("", &self.0, &wanted.0, &mut found);
        let more = found.len().saturating_sub(4);
        found.truncate(4);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(format!("{}{rest}", found.join(", ")))
    }
}

fn fixed(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().filter(|(key, _)| !FREE.contains(&key.as_str())).map(|(k, v)| (k, fixed(v))).collect()),
        other => other,
    }
}

fn compare(path: &str, was: &Value, is: &Value, found: &mut Vec<String>) {
    if was == is {
        return;
    }
    if let (Value::Object(a), Value::Object(b)) = (was, is) {
        let none = Value::Null;
        let get = |map: &Map<String, Value>, key: &str| map.get(key).unwrap_or(&none).clone();
        let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(&path, &get(a, key), &get(b, key), found);
        }
        return;
    }
    let short = |value: &Value| {
        let text = value.to_string();
        if text.chars().count() > 24 { format!("{}...", text.chars().take(20).collect::<String>()) } else { text }
    };
    found.push(format!("{} was {}, is {}", path.strip_prefix("config.").unwrap_or(path), short(was), short(is)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// If this fails, a run goes on with other data or settings, or is refused for a setting that changes nothing.
    #[test]
    fn what_differs_is_named_and_what_is_free_is_not() {
        let of = |lr: f64, micro: u32, data: &str| {
            Identity::new(json!({"config": {"trainer": {"optimizer": {"lr": lr}, "eval_every": micro}, "micro_batch_size": micro}, "train": data}))
        };
        assert_eq!(of(1e-3, 8, "a").differences(&of(1e-3, 2, "a")), None);
        let text = of(1e-3, 8, "a").differences(&of(2e-3, 8, "b")).unwrap();
        assert_eq!(text, "trainer.optimizer.lr was 0.001, is 0.002, train was \"a\", is \"b\"");
        let back: Identity = serde_json::from_str(&serde_json::to_string(&of(1e-3, 8, "a")).unwrap()).unwrap();
        assert_eq!(back, of(1e-3, 4, "a"));
    }
}

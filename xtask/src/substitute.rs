//! `{name}` in the strings of a recipe: `{run}`, `{root}`, `{seed}`, `{device}` and the folder of any earlier stage.
//!
//! Only `{` small letters, digits and dashes `}` is a reference, so a regular expression such as `\d{2,3}` stays as it is.
//! A string that is nothing but `{seed}` becomes a number.

use std::collections::BTreeMap;
use toml::Value;

/// Names that no stage may have.
pub const RESERVED: [&str; 4] = ["run", "root", "seed", "device"];

/// What the names stand for.
#[derive(Debug, Clone)]
pub struct Values {
    /// The run folder.
    pub run: String,
    /// The workspace.
    pub root: String,
    /// The seed.
    pub seed: u64,
    /// The device.
    pub device: String,
    /// Stage id -> its folder.
    pub stages: BTreeMap<String, String>,
}

/// Pieces of a string: literal text and references.
fn pieces(text: &str) -> Vec<(bool, &str)> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let inner = &rest[open + 1..];
        let end = inner.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        match end {
            Some(end) if end > 0 && inner[end..].starts_with('}') && inner.starts_with(|c: char| c.is_ascii_lowercase()) => {
                out.push((false, &rest[..open]));
                out.push((true, &inner[..end]));
                rest = &inner[end + 1..];
            }
            _ => {
                out.push((false, &rest[..=open]));
                rest = inner;
            }
        }
    }
    out.push((false, rest));
    out
}

/// The references in a string.
pub fn names_in(text: &str) -> Vec<String> {
    pieces(text).into_iter().filter(|p| p.0).map(|p| p.1.to_string()).collect()
}

/// The references anywhere in a value.
pub fn names(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    strings(value, &mut |text| found.extend(names_in(text)));
    found
}

/// Visit every string.
pub fn strings(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|v| strings(v, visit)),
        Value::Table(table) => table.iter().for_each(|(_, v)| strings(v, visit)),
        _ => {}
    }
}

impl Values {
    fn get(&self, name: &str) -> Option<String> {
        match name {
            "run" => Some(self.run.clone()),
            "root" => Some(self.root.clone()),
            "seed" => Some(self.seed.to_string()),
            "device" => Some(self.device.clone()),
            stage => self.stages.get(stage).cloned(),
        }
    }

    /// A string with its references replaced.
    pub fn text(&self, text: &str) -> String {
        pieces(text)
            .into_iter()
            .map(|(reference, part)| if reference { self.get(part).unwrap_or_else(|| format!("{{{part}}}")) } else { part.to_string() })
            .collect()
    }

    /// A value with the references in all its strings replaced.
    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text == "{seed}" => i64::try_from(self.seed).map_or_else(|_| Value::String(self.seed.to_string()), Value::Integer),
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => Value::Array(items.iter().map(|v| self.value(v)).collect()),
            Value::Table(table) => Value::Table(table.iter().map(|(k, v)| (k.clone(), self.value(v))).collect()),
            other => other.clone(),
        }
    }

    /// The same with folders left as names: what a stage's key is made of, so that a moved run folder stays valid.
    pub fn portable(&self) -> Values {
        let keep = |name: &str| format!("{{{name}}}");
        let stages = self.stages.keys().map(|id| (id.clone(), keep(id))).collect();
        Values { run: keep("run"), root: keep("root"), stages, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let stages = [("read".to_string(), "runs/x/read".to_string())].into();
        Values { run: "runs/x".into(), root: "/w".into(), seed: 7, device: "cpu".into(), stages }
    }

    #[test]
    fn references_are_replaced_and_other_braces_stay() {
        let v = values();
        assert_eq!(v.text("{read}/documents and {run}"), "runs/x/read/documents and runs/x");
        assert_eq!(v.text(r"\d{2,3} {} {A} { read } {{read}"), r"\d{2,3} {} {A} { read } {runs/x/read");
        assert_eq!(v.value(&Value::String("{seed}".into())), Value::Integer(7));
        assert_eq!(v.value(&Value::String("s{seed}".into())), Value::String("s7".into()));
    }

    #[test]
    fn nested_values_are_reached() {
        let value: Value = toml::from_str("a = [\"{read}\", { b = \"{seed}\" }]").unwrap();
        assert_eq!(names(&value), ["read", "seed"]);
        let got = values().value(&value);
        assert_eq!(got["a"][1]["b"].as_integer(), Some(7));
        assert_eq!(values().portable().value(&value)["a"][0].as_str(), Some("{read}"));
    }
}

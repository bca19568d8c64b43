//! Configuration: one TOML file plus `--set key.sub=value`, into a serde struct that denies unknown fields.
//!
//! Values of `--set` are TOML; what does not parse as TOML is taken as a string, so `--set name=quick` needs no quotes.

use crate::error::{Error, Result, io};
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::{Table, Value};

/// Read `file` (an empty table when `None`), apply the `--set` overrides in order, and deserialise.
///
/// A key that the target does not know is an error that names the closest known key.
pub fn load<T: DeserializeOwned>(file: Option<&Path>, sets: &[String]) -> Result<T> {
    let origin = file.map_or_else(|| "--set".to_string(), |f| f.display().to_string());
    let table = table(file, sets)?;
    T::deserialize(Value::Table(table)).map_err(|e| Error::Config { origin, message: suggest(e.to_string().trim()) })
}

/// The merged table without giving it a type.
pub fn table(file: Option<&Path>, sets: &[String]) -> Result<Table> {
    let mut table = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(io(path, "cannot read configuration"))?;
            parse(&text, &path.display().to_string())?
        }
        None => Table::new(),
    };
    for set in sets {
        override_with(&mut table, set)?;
    }
    Ok(table)
}

/// Parse TOML text; `origin` is named in errors.
pub fn parse(text: &str, origin: &str) -> Result<Table> {
    text.parse::<Table>().map_err(|e| Error::Config { origin: origin.to_string(), message: e.to_string().trim_end().to_string() })
}

/// Apply one `key.sub=value` to a table. A segment that is a number indexes into an array.
pub fn override_with(table: &mut Table, set: &str) -> Result<()> {
    let bad = |message: String| Error::Config { origin: format!("--set {set}"), message };
    let Some((path, text)) = set.split_once('=') else {
        return Err(bad("expected key=value, for example --set max_steps=100".to_string()));
    };
    let text = text.trim();
    let value = format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(text.to_string()));
    let segments: Vec<&str> = path.trim().split('.').collect();
    if segments.iter().any(|s| s.is_empty()) {
        return Err(bad("empty key".to_string()));
    }
    let (last, parents) = segments.split_last().ok_or_else(|| bad("empty key".to_string()))?;
    let mut here = table;
    for segment in parents {
        let next = here.entry((*segment).to_string()).or_insert_with(|| Value::Table(Table::new()));
        here = next.as_table_mut().ok_or_else(|| bad(format!("`{segment}` is a value, not a table")))?;
    }
    here.insert((*last).to_string(), value);
    Ok(())
}

/// Add "did you mean" to serde's unknown-field and unknown-variant messages.
pub fn suggest(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !(message.contains("unknown field") || message.contains("unknown variant")) {
        return message.to_string();
    }
    let Some(wrong) = quoted.next() else { return message.to_string() };
    let best = quoted.map(|known| (strsim::damerau_levenshtein(wrong, known), known)).min();
    match best {
        Some((distance, known)) if distance <= 1 + wrong.len() / 3 => format!("{message}; did you mean `{known}`?"),
        _ => message.to_string(),
    }
}

/// Bytes of `512MiB`, `8GiB`, `2GB`, `1000000`.
pub fn parse_bytes(text: &str) -> Result<usize> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1.0),
        "k" | "kib" => Some(1024.0),
        "m" | "mib" => Some(1024.0 * 1024.0),
        "g" | "gib" => Some(1024.0 * 1024.0 * 1024.0),
        "t" | "tib" => Some(1024.0 * 1024.0 * 1024.0 * 1024.0),
        "kb" => Some(1e3),
        "mb" => Some(1e6),
        "gb" => Some(1e9),
        "tb" => Some(1e12),
        _ => None,
    };
    match (number.parse::<f64>(), factor) {
        (Ok(number), Some(factor)) => Ok((number * factor) as usize),
        _ => Err(Error::Config {
            origin: "configuration".into(),
            message: format!("`{text}` is no amount of memory; write it like 512MiB, 8GiB or 2GB"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        learning_rate: f64,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        name: String,
        optimizer: Inner,
    }

    #[test]
    fn sets_override_and_create() {
        let got: Outer = load(None, &["name=quick".into(), "optimizer.learning_rate=1e-3".into()]).unwrap();
        assert_eq!(got, Outer { name: "quick".into(), optimizer: Inner { learning_rate: 1e-3 } });
    }

    #[test]
    fn a_typo_gets_a_suggestion() {
        let message = load::<Outer>(None, &["name=x".into(), "optimizer.lerning_rate=1".into()]).unwrap_err().to_string();
        assert!(message.contains("did you mean `learning_rate`"), "{message}");
    }

    #[test]
    fn a_value_used_as_table_is_refused() {
        let mut table = Table::new();
        override_with(&mut table, "a=1").unwrap();
        assert!(override_with(&mut table, "a.b=2").unwrap_err().to_string().contains("`a`"));
        assert!(override_with(&mut table, "novalue").unwrap_err().to_string().contains("key=value"));
    }

    #[test]
    fn amounts_of_memory() {
        assert_eq!(parse_bytes("1GiB").unwrap(), 1 << 30);
        assert_eq!(parse_bytes("1.5 MiB").unwrap(), 3 << 19);
        assert_eq!(parse_bytes("2GB").unwrap(), 2_000_000_000);
        assert_eq!(parse_bytes("4096").unwrap(), 4096);
        for wrong in ["", "GiB", "1 parsec", "1..2G", "-1G"] {
            assert!(parse_bytes(wrong).unwrap_err().to_string().contains("8GiB"), "{wrong}");
        }
    }
}

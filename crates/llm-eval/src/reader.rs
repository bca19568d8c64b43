//! Reading benchmark files: JSON lines, CSV, TSV and JSON documents whose errors name file, line and field.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A record of a file, with its place for errors.
#[derive(Debug, Clone)]
pub struct Record {
    /// The file.
    pub path: PathBuf,
    /// 1-based line, or place in the list of a JSON file.
    pub line: usize,
    /// Field -> value.
    pub fields: Map<String, Value>,
}

impl Record {
    /// An error about this record.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Exercise { path: self.path.clone(), line: self.line, message: message.into() }
    }

    /// A field of any type.
    pub fn field(&self, name: &str) -> Result<&Value> {
        let there = || self.fields.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        self.fields.get(name).ok_or_else(|| self.error(format!("field `{name}` is missing; the record has {}", there())))
    }

    fn typed<'a, T>(&'a self, name: &str, what: &str, get: impl FnOnce(&'a Value) -> Option<T>) -> Result<T> {
        let value = self.field(name)?;
        get(value).ok_or_else(|| {
            let mut shown = value.to_string();
            shown.truncate(shown.floor_char_boundary(60));
            self.error(format!("field `{name}`: expected {what}, found {shown}"))
        })
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<&str> {
        self.typed(name, "a text", Value::as_str)
    }

    /// A text, or a number written as its digits.
    pub fn text_or_number(&self, name: &str) -> Result<String> {
        self.typed(name, "a text or a number", |v| match v {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.typed(name, "a list of texts", |v| v.as_array()?.iter().map(|t| Some(t.as_str()?.to_string())).collect())
    }

    /// A place in a list of `n`, as a number or its digits.
    pub fn place(&self, name: &str, n: usize) -> Result<usize> {
        self.typed(name, &format!("a whole number below {n}"), |v| {
            let number = v.as_u64().or_else(|| v.as_str()?.trim().parse().ok())?;
            usize::try_from(number).ok().filter(|&i| i < n)
        })
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Record> {
        let fields = self.typed(name, "an object", Value::as_object)?.clone();
        Ok(Record { path: self.path.clone(), line: self.line, fields })
    }

    /// The record as one value.
    pub fn value(&self) -> Value {
        Value::Object(self.fields.clone())
    }
}

/// The text of a file.
pub fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })
}

fn filled(path: &Path, records: Vec<Record>) -> Result<Vec<Record>> {
    match records.is_empty() {
        true => Err(Error::Empty { path: path.to_path_buf(), what: "the file holds no records" }),
        false => Ok(records),
    }
}

/// One JSON object per line; empty lines are skipped.
pub fn jsonl(path: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (i, line) in text(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let damaged = |message: String| Error::Exercise { path: path.to_path_buf(), line: i + 1, message };
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => records.push(Record { path: path.to_path_buf(), line: i + 1, fields }),
            Ok(_) => return Err(damaged("expected a JSON object".to_string())),
            Err(e) => return Err(damaged(format!("not JSON: {e}"))),
        }
    }
    filled(path, records)
}

/// A JSON list of objects, or an object with such a list under `key`.
pub fn json(path: &Path, key: Option<&str>) -> Result<Vec<Record>> {
    let value: Value = serde_json::from_str(&text(path)?).map_err(|e| Error::Exercise {
        path: path.to_path_buf(),
        line: e.line(),
        message: format!("not JSON: {e}"),
    })?;
    let list = key.map_or(Some(&value), |key| value.get(key)).and_then(Value::as_array);
    let wanted = || format!("expected a list of objects{}", key.map(|k| format!(" under `{k}`")).unwrap_or_default());
    let list = list.ok_or_else(|| Error::Exercise { path: path.to_path_buf(), line: 1, message: wanted() })?;
    let record = |(i, value): (usize, &Value)| match value {
        Value::Object(fields) => Ok(Record { path: path.to_path_buf(), line: i + 1, fields: fields.clone() }),
        _ => Err(Error::Exercise { path: path.to_path_buf(), line: i + 1, message: "expected an object".to_string() }),
    };
    filled(path, list.iter().enumerate().map(record).collect::<Result<_>>()?)
}

/// Comma-separated values after RFC 4180 (quotes, doubled quotes, line breaks in quotes). The columns are `names`; without
/// names they are in the first row.
pub fn csv(path: &Path, names: Option<&[&str]>) -> Result<Vec<Record>> {
    separated(path, ',', names)
}

/// Values separated by tabs, never quoted. The columns are `names`.
pub fn tsv(path: &Path, names: &[&str]) -> Result<Vec<Record>> {
    let content = text(path)?;
    let rows = content.lines().enumerate().filter(|(_, l)| !l.is_empty()).map(|(i, l)| (i + 1, l.split('\t').map(str::to_string).collect()));
    named(path, names.iter().map(ToString::to_string).collect(), rows.collect())
}

fn separated(path: &Path, separator: char, names: Option<&[&str]>) -> Result<Vec<Record>> {
    let content = text(path)?;
    let mut rows: Vec<(usize, Vec<String>)> = Vec::new();
    let (mut row, mut field, mut quoted, mut line, mut first) = (Vec::new(), String::new(), false, 1, 1);
    let mut chars = content.strip_prefix('\u{feff}').unwrap_or(&content).chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                line += 1;
                if row.len() > 1 || !row[0].is_empty() {
                    rows.push((first, std::mem::take(&mut row)));
                }
                row.clear();
                first = line;
            }
            '\r' if !quoted && chars.peek() == Some(&'\n') => {}
            c if c == separator && !quoted => row.push(std::mem::take(&mut field)),
            c => {
                line += usize::from(c == '\n');
                field.push(c);
            }
        }
    }
    if quoted {
        return Err(Error::Exercise { path: path.to_path_buf(), line: first, message: "a quote is never closed".to_string() });
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push((first, row));
    }
    let names = match names {
        Some(names) => names.iter().map(ToString::to_string).collect(),
        None if rows.is_empty() => Vec::new(),
        None => rows.remove(0).1,
    };
    named(path, names, rows)
}

fn named(path: &Path, names: Vec<String>, rows: Vec<(usize, Vec<String>)>) -> Result<Vec<Record>> {
    let record = |(line, row): (usize, Vec<String>)| {
        if row.len() != names.len() {
            let message = format!("{} fields where {} are expected ({})", row.len(), names.len(), names.join(", "));
            return Err(Error::Exercise { path: path.to_path_buf(), line, message });
        }
        Ok(Record { path: path.to_path_buf(), line, fields: names.iter().cloned().zip(row.into_iter().map(Value::String)).collect() })
    };
    filled(path, rows.into_iter().map(record).collect::<Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[test]
    fn csv_with_quotes_and_line_breaks() {
        let (_dir, path) = file("q,a\n\"two\nlines, \"\"quoted\"\"\",1\r\n\nplain \"x\",2");
        let records = csv(&path, None).unwrap();
        assert_eq!((records[0].text("q").unwrap(), records[0].place("a", 2).unwrap(), records[0].line), ("two\nlines, \"quoted\"", 1, 2));
        assert_eq!((records[1].text("q").unwrap(), records[1].line), ("plain \"x\"", 5));
        let (_dir, path) = file("a,b\n1,\"never");
        assert!(csv(&path, None).unwrap_err().to_string().contains("line 2: a quote is never closed"));
        let (_dir, path) = file("a\tb\n1\t2\t3\n");
        assert!(tsv(&path, &["x", "y"]).unwrap_err().to_string().contains("line 2: 3 fields where 2 are expected (x, y)"));
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let (_dir, path) = file("{\"query\": \"a\", \"gold\": 7}\n\n{\"query\": 3}\n[1]\n");
        let message = jsonl(&path).unwrap_err().to_string();
        assert!(message.contains("line 4") && message.contains("JSON object") && message.contains("file"), "{message}");
        let (_dir, path) = file("{\"query\": \"a\", \"gold\": 7}\n\n{\"query\": 3}\n");
        let records = jsonl(&path).unwrap();
        let message = records[0].place("gold", 4).unwrap_err().to_string();
        assert!(message.contains("line 1: field `gold`: expected a whole number below 4, found 7"), "{message}");
        let message = records[1].text("query").unwrap_err().to_string();
        assert!(message.contains("line 3: field `query`: expected a text, found 3"), "{message}");
        assert!(records[1].text("gold").unwrap_err().to_string().contains("field `gold` is missing; the record has `query`"));
        let (_dir, path) = file("\n");
        assert!(jsonl(&path).unwrap_err().to_string().contains("no records"));
    }
}

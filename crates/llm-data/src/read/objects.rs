//! Rows of a data set file with all their columns: for readers that know more of a row than its text, such as those of conversations.
//!
//! JSON lines, a JSON array or Parquet, behind any compression of [`super::codec`]. The name says which; a `.json` file that holds one
//! object a line, as many do, is read as that, and a name that says nothing is looked into.

use super::codec;
use super::columnar;
use super::format::{Body, Format, Input};
use super::jsonl::Lines;
use super::rows::{json_text, values};
use crate::error::{Error, Result, check_interrupt};
use serde_json::{Map, Value};
use std::io::BufReader;
use std::path::Path;

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// 1-based: the line of a JSON lines file, the element of an array, the row of a Parquet file.
    pub number: u64,
    /// Its columns, or why it has none.
    pub columns: std::result::Result<Map<String, Value>, String>,
}

fn of_value(number: u64, value: Value) -> Object {
    let columns = match value {
        Value::Object(columns) => Ok(columns),
        other => Err(format!("expected a JSON object, found {}", kind(&other))),
    };
    Object { number, columns }
}

fn of_text(number: u64, text: &[u8]) -> Object {
    match serde_json::from_slice(text) {
        Ok(value) => of_value(number, value),
        Err(e) => Object { number, columns: Err(format!("not valid JSON ({e})")) },
    }
}

/// What a JSON value is, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// All rows of a file. A row that is no object is told in its place; a file that is damaged as a whole is an error.
pub fn objects(path: &Path) -> Result<Vec<Object>> {
    let name = path.to_string_lossy();
    let wrong = |message: String| Error::Format { path: path.to_path_buf(), message };
    if path.is_dir() {
        return Err(wrong("a folder; expected a file: .jsonl, .json or .parquet".into()));
    }
    let mut input = Input::file(path, &name, &name)?;
    let mut rows = Vec::new();
    let format = match Format::of(&name) {
        format @ (Format::JsonLines | Format::Json) => format,
        // Parquet wants random access.
        Format::Parquet => {
            columnar::parquet_objects(input, &mut |number, columns| {
                rows.push(Object { number, columns });
                Ok(())
            })?;
            return Ok(rows);
        }
        _ => {
            let (head, reader) = codec::peek(input.decoded()?, 4096);
            input.body = Body::Stream(reader);
            match head.trim_ascii_start().first() {
                Some(b'[') => Format::Json,
                Some(b'{') | None => Format::JsonLines,
                _ => return Err(wrong("neither JSON nor Parquet; expected a file .jsonl, .json or .parquet, or one of them as .gz or .zst".into())),
            }
        }
    };
    let reader = input.decoded()?;
    if format == Format::JsonLines {
        for line in Lines::new(path, BufReader::with_capacity(1 << 18, reader)) {
            let (number, text) = line?;
            if number.is_multiple_of(4096) {
                check_interrupt()?;
            }
            rows.push(of_text(number, &text));
        }
        return Ok(rows);
    }
    let text = json_text(reader).map_err(|e| wrong(format!("cannot be read ({e})")))?;
    match values(&text) {
        Ok(values) => Ok((1..).zip(values).map(|(number, value)| of_value(number, value)).collect()),
        Err(_) if text.trim_ascii_start().starts_with(b"{") && text.trim_ascii().contains(&b'\n') => {
            let lines = (1..).zip(text.split(|b| *b == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
            Ok(lines.map(|(number, line)| of_text(number, line)).collect())
        }
        Err(e) => Err(wrong(format!("not valid JSON ({e}); expected an array of objects, or one object a line"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StructArray};
    use arrow_schema::{DataType, Field};
    use parquet::arrow::ArrowWriter;
    use serde_json::json;
    use std::fs::File;
    use std::sync::Arc;

    fn numbers(path: &Path) -> Vec<(u64, bool)> {
        objects(path).unwrap().iter().map(|o| (o.number, o.columns.is_ok())).collect()
    }

    #[test]
    fn json_comes_in_lines_arrays_and_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let lines = "{\"a\": 1}\n\n[2]\n{\"a\": 3\n{\"a\": 4}\n";
        for (name, text) in [("a.jsonl", lines), ("lines.json", lines), ("rows", lines)] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            assert_eq!(numbers(&path), [(1, true), (3, false), (4, false), (5, true)], "{name}");
        }
        for name in ["a.json", "array"] {
            let path = dir.path().join(name);
            std::fs::write(&path, "[{\"a\": 1}, 2, {\"a\": 3}]").unwrap();
            assert_eq!(numbers(&path), [(1, true), (2, false), (3, true)], "{name}");
        }
        let path = dir.path().join("a.jsonl.zst");
        std::fs::write(&path, zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
        assert_eq!(numbers(&path).len(), 4);
    }

    #[test]
    fn a_file_that_is_no_table_is_an_error_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        assert!(objects(dir.path()).unwrap_err().to_string().contains("a folder"));
        for (name, text) in [("a.txt", "words"), ("a.json", "[1, 2"), ("a.parquet", "PAR1 and no more")] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let message = objects(&path).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
        assert!(objects(&dir.path().join("nowhere.jsonl")).unwrap_err().to_string().contains("nowhere.jsonl"));
    }

    #[test]
    fn nested_columns_of_parquet_are_nested_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let mut list = ListBuilder::new(StringBuilder::new());
        list.append_value([Some("x"), None]);
        list.append_null();
        let labels: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
        let inner = Arc::new(Field::new("label", DataType::Boolean, true));
        let nested: ArrayRef = Arc::new(StructArray::from(vec![(inner, labels)]));
        let batch = RecordBatch::try_from_iter([("words", Arc::new(list.finish()) as ArrayRef), ("nested", nested)]).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let rows: Vec<Value> = objects(&path).unwrap().into_iter().map(|o| Value::Object(o.columns.unwrap())).collect();
        let expected = [json!({"words": ["x", null], "nested": {"label": true}}), json!({"words": null, "nested": {"label": false}})];
        assert_eq!(rows, expected);
    }
}

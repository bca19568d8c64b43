//! Lines of a JSON lines file, and what one of them holds.

use super::codec;
use crate::document::Document;
use crate::error::{Error, Result, io, record};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// A longer line is not a document but a broken file.
pub const MAX_LINE: u64 = 64 << 20;

/// What to do with a line or row that is not what it should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// End with an error that names file and line.
    #[default]
    Fail,
    /// Leave it out and count it.
    Skip,
}

/// A buffered reader that decompresses what [`codec`] knows.
pub fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path).map_err(io(path, "cannot open"))?;
    let reader = codec::decoded(Box::new(file), &path.to_string_lossy()).map_err(io(path, "cannot decompress"))?;
    Ok(Box::new(BufReader::with_capacity(1 << 18, reader)))
}

/// Streams the lines of a file with their 1-based numbers; lines of white space are passed over. A line beyond [`MAX_LINE`] is
/// an error, and the lines after it follow; an error of the source is the last item.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    number: u64,
    failed: bool,
}

impl Lines {
    /// Open a file.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::new(path, open(path)?))
    }

    /// Any source; `path` is for messages.
    pub fn new(path: &Path, reader: impl BufRead + Send + 'static) -> Self {
        Self { path: path.to_path_buf(), reader: Box::new(reader), number: 0, failed: false }
    }

    fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = memchr::memchr(b'\n', buffer);
            let n = end.map_or(buffer.len(), |at| at + 1);
            self.reader.consume(n);
            if end.is_some() || n == 0 {
                return Ok(());
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<(u64, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let mut line = Vec::new();
            self.number += 1;
            let read = self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            let too_long = line.len() as u64 == MAX_LINE && !line.ends_with(b"\n");
            match if too_long { self.skip_line().map(|()| 0) } else { read } {
                Ok(_) if too_long => {
                    let message = format!("longer than {} MiB; is this JSON lines?", MAX_LINE >> 20);
                    return Some(Err(record(&self.path, format!("line {}", self.number), message)));
                }
                Ok(0) => return None,
                Ok(_) if line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(_) => return Some(Ok((self.number, line))),
                Err(e) => {
                    self.failed = true;
                    let message = format!("cannot read on ({e}); the file is damaged or truncated: copy it again or leave it out");
                    return Some(Err(record(&self.path, format!("line {}", self.number), message)));
                }
            }
        }
        None
    }
}

/// One line as a JSON object.
pub fn object(path: &Path, number: u64, line: &[u8]) -> Result<Map<String, Value>> {
    let place = || format!("line {number}");
    match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(record(path, place(), "expected a JSON object such as {\"text\": \"...\"}; fix the line or set on_error = \"skip\"")),
        Err(e) => Err(record(path, place(), format!("not valid JSON ({e}); fix the line or set on_error = \"skip\""))),
    }
}

/// The text of a row: the text field, or `messages` flattened to `role: content` paragraphs.
pub fn text_of(row: &Map<String, Value>, text_field: &str) -> Option<String> {
    if let Some(Value::String(text)) = row.get(text_field) {
        return Some(text.clone());
    }
    let messages = row.get("messages")?.as_array()?;
    let mut text = String::new();
    for message in messages {
        for field in ["reasoning_content", "content"] {
            if let Some(part) = message.get(field).and_then(Value::as_str).filter(|p| !p.is_empty()) {
                text.push_str(part);
                text.push('\n');
            }
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Programming languages that make a row code.
pub const CODE_LANGUAGES: &[&str] = &[
    "rust",
    "python",
    "c",
    "cpp",
    "c++",
    "java",
    "javascript",
    "js",
    "typescript",
    "ts",
    "go",
    "ruby",
    "php",
    "csharp",
    "c#",
    "kotlin",
    "swift",
    "scala",
    "perl",
    "lua",
    "haskell",
    "shell",
    "bash",
    "sql",
    "r",
    "julia",
    "html",
    "css",
];

/// One row of our own files as a document; data sets of others go through [`super::rows`].
pub fn document(path: &Path, id: String, source: &str, place: String, row: &Map<String, Value>, text_field: &str) -> Result<Document> {
    let Some(text) = text_of(row, text_field) else {
        let known: Vec<&str> = row.keys().map(String::as_str).take(12).collect();
        let message =
            format!("no string field `{text_field}` and no `messages`; it has {}: set paths.text_field or on_error = \"skip\"", known.join(", "));
        return Err(record(path, place, message));
    };
    let string = |name: &str| row.get(name).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_string);
    let lang = string("lang").or_else(|| string("language")).map(|l| l.to_lowercase());
    let is_code = lang.as_deref().is_some_and(|l| CODE_LANGUAGES.contains(&l));
    let domain = string("domain").unwrap_or_else(|| {
        let default = if row.contains_key("messages") { "exercise" } else { "web" };
        if is_code { "code" } else { default }.to_string()
    });
    let url = string("url").or_else(|| string("id").filter(|id| id.starts_with("http")));
    Ok(Document { id, text, source: source.to_string(), url, lang, license: string("license"), domain, ..Document::default() })
}

/// The message without the path, which the id already gives.
pub fn reason(error: &Error) -> String {
    match error {
        Error::Record { place, message, .. } => format!("{place}: {message}"),
        Error::Format { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn compressed_files_give_the_same_lines() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"text\":\"a\"}\n\n{\"text\":\"b\"}\n";
        let plain = dir.path().join("x.jsonl");
        std::fs::write(&plain, text).unwrap();
        let gz = dir.path().join("x.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&gz).unwrap(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let zst = dir.path().join("x.jsonl.zst");
        std::fs::write(&zst, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        for path in [&plain, &gz, &zst] {
            let numbers: Vec<u64> = Lines::open(path).unwrap().map(|l| l.unwrap().0).collect();
            assert_eq!(numbers, [1, 3]);
        }
        let bytes = std::fs::read(&gz).unwrap();
        std::fs::write(&gz, &bytes[..bytes.len() - 6]).unwrap();
        let error = Lines::open(&gz).unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.contains("x.jsonl.gz") && error.contains("line") && error.contains("truncated"), "{error}");
    }

    #[test]
    fn messages_are_flattened() {
        let row =
            object(Path::new("x"), 1, br#"{"messages":[{"role":"user","content":"Q"},{"role":"assistant","reasoning_content":"R","content":"A"}]}"#)
                .unwrap();
        assert_eq!(text_of(&row, "text").unwrap(), "Q\nR\nA\n");
    }

    #[test]
    fn every_error_names_file_and_line() {
        for (line, expected) in [(&b"{"[..], "not valid JSON"), (b"[1]", "expected a JSON object")] {
            let message = object(Path::new("a.jsonl"), 7, line).unwrap_err().to_string();
            assert!(message.starts_with("a.jsonl: line 7: ") && message.contains(expected), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_a_row_or_an_error(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(Path::new("x"), 1, &line).map(|row| text_of(&row, "text"));
        }
    }
}

//! Streaming text samples from files: JSON lines `{"text", "lang", "domain", "parallel"}`, or plain text, as they are or compressed (`.gz`, `.zst`).
//!
//! Nothing is held but the current row, so a sample may be larger than memory. A plain text file is cut at blank lines.

use crate::error::{Error, Result, io};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// No single text is longer; a file without line ends must not fill the memory.
const MAX_ROW_BYTES: u64 = 256 << 20;

/// A text and what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Sample {
    /// The text.
    pub text: String,
    /// Language code, e.g. `de`.
    #[serde(default)]
    pub lang: Option<String>,
    /// Kind of text, e.g. `code`.
    #[serde(default)]
    pub domain: Option<String>,
    /// The same in all translations of a text.
    #[serde(default, deserialize_with = "name")]
    pub parallel: Option<String>,
    /// Stands for `parallel` where that is absent: parallel corpora number their sentences.
    #[serde(default, deserialize_with = "name")]
    pub id: Option<String>,
}

impl Sample {
    /// What ties this text to its translations.
    pub fn link(&self) -> Option<&str> {
        self.parallel.as_deref().or(self.id.as_deref()).filter(|link| !link.is_empty())
    }
}

/// A text or a number; whatever else is found there is no reason not to read the row.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

/// The sample files behind some paths: a file stands for itself, a folder for every `.jsonl` and `.txt` below it, compressed or not,
/// in order of their names.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let found = llm_run::atomic::walk(path)?;
            let before = files.len();
            files.extend(found.into_iter().filter(|f| is_kind(f, "jsonl") || is_kind(f, "txt")));
            if files.len() == before {
                return Err(crate::error::format(path, "there is no .jsonl or .txt file in this folder"));
            }
        } else if is_kind(path, "parquet") {
            return Err(crate::error::format(path, "Parquet is not read here: make a text sample with `llm-data sample` and give its sample.jsonl"));
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

/// The extension before a compressor's.
fn is_kind(path: &Path, extension: &str) -> bool {
    let plain = if compression(path).is_some() { path.with_extension("") } else { path.to_path_buf() };
    plain.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
}

fn compression(path: &Path) -> Option<Compression> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "gz" => Some(Compression::Gzip),
        "zst" | "zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

/// Bytes of text that files will give, roughly: compressed text is a quarter of its size.
pub fn expected_bytes(files: &[PathBuf]) -> u64 {
    let bytes = |file: &PathBuf| file.metadata().map_or(0, |m| m.len()) * if compression(file).is_some() { 4 } else { 1 };
    files.iter().map(bytes).sum()
}

/// Iterator over the samples of one file.
pub struct Reader {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    line: usize,
    json: bool,
    done: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("path", &self.path).field("line", &self.line).finish_non_exhaustive()
    }
}

impl Reader {
    /// Open a `.jsonl`, or anything else as plain text.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(io(path, "cannot open the text sample"))?;
        let json = is_kind(path, "jsonl") || is_kind(path, "json");
        let file = BufReader::with_capacity(1 << 18, file);
        let input: Box<dyn BufRead + Send> = match compression(path) {
            None => Box::new(file),
            Some(Compression::Gzip) => Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(file))),
            Some(Compression::Zstd) => {
                let decoder = zstd::Decoder::with_buffer(file).map_err(io(path, "cannot unpack"))?;
                Box::new(BufReader::with_capacity(1 << 18, decoder))
            }
        };
        Ok(Self { path: path.to_path_buf(), input, line: 0, json, done: false })
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::Sample { path: self.path.clone(), line: self.line, message: message.into() }
    }

    /// The next line with its end; `None` at the end of the file.
    fn line(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(MAX_ROW_BYTES).read_until(b'\n', &mut bytes);
        self.line += 1;
        let read = read.map_err(io(&self.path, "cannot read"))? as u64;
        if read == MAX_ROW_BYTES {
            return Err(self.error(format!("longer than {MAX_ROW_BYTES} bytes without an end of line")));
        }
        if read == 0 {
            return Ok(None);
        }
        let valid = String::from_utf8(bytes)
            .map_err(|e| self.error(format!("not UTF-8 at byte {} of the line: convert the file first", e.utf8_error().valid_up_to())))?;
        Ok(Some(valid))
    }

    fn json_row(&mut self) -> Result<Option<Sample>> {
        while let Some(line) = self.line()? {
            if line.trim().is_empty() {
                continue;
            }
            let row = serde_json::from_str(&line)
                .map_err(|e| self.error(format!("expected {{\"text\": .., \"lang\": .., \"domain\": ..}}: column {}: {e}", e.column())))?;
            return Ok(Some(row));
        }
        Ok(None)
    }

    fn paragraph(&mut self) -> Result<Option<Sample>> {
        let mut text = String::new();
        while let Some(line) = self.line()? {
            let ends = line.trim().is_empty();
            text.push_str(&line);
            if (ends && text.len() > line.len()) || text.len() as u64 > MAX_ROW_BYTES / 4 {
                break;
            }
        }
        Ok((!text.is_empty()).then_some(Sample { text, ..Sample::default() }))
    }
}

impl Iterator for Reader {
    type Item = Result<Sample>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let row = if self.json { self.json_row() } else { self.paragraph() };
        self.done = !matches!(row, Ok(Some(_)));
        row.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_row_names_file_and_line_and_plain_text_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let rows = dir.path().join("rows.jsonl");
        std::fs::write(&rows, "{\"text\":\"a\",\"lang\":\"en\",\"extra\":1}\n\n{\"txt\":\"b\"}\n").unwrap();
        let read: Vec<_> = Reader::open(&rows).unwrap().collect();
        assert_eq!(read[0].as_ref().unwrap().lang.as_deref(), Some("en"));
        let error = read[1].as_ref().unwrap_err().to_string();
        assert!(error.contains("rows.jsonl:3:") && error.contains("text"), "{error}");
        assert_eq!(read.len(), 2);

        std::fs::write(&rows, "{\"text\":\"a\",\"id\":7}\n{\"text\":\"b\",\"id\":7,\"parallel\":\"p\"}\n{\"text\":\"c\",\"id\":null}\n").unwrap();
        let links: Vec<_> = Reader::open(&rows).unwrap().map(|s| s.unwrap().link().map(str::to_string)).collect();
        assert_eq!(links, [Some("7".to_string()), Some("p".to_string()), None]);

        let plain = dir.path().join("plain.txt");
        let text = "\nfirst\nline\n\n\nsecond\r\n\r\nlast";
        std::fs::write(&plain, text).unwrap();
        let read: Vec<String> = Reader::open(&plain).unwrap().map(|s| s.unwrap().text).collect();
        assert_eq!(read.concat(), text);
        assert_eq!(read.len(), 3);

        assert_eq!(files(&[dir.path().to_path_buf()]).unwrap(), [plain, rows.clone()]);

        let (gz, zst) = (dir.path().join("rows.jsonl.gz"), dir.path().join("plain.TXT.zst"));
        let mut encoder = flate2::write::GzEncoder::new(std::fs::File::create(&gz).unwrap(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"{\"text\":\"a\"}\n").unwrap();
        encoder.finish().unwrap();
        std::fs::write(&zst, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        assert_eq!(Reader::open(&gz).unwrap().next().unwrap().unwrap().text, "a");
        assert_eq!(Reader::open(&zst).unwrap().map(|s| s.unwrap().text).collect::<String>(), text);
        assert_eq!(files(&[dir.path().to_path_buf()]).unwrap().len(), 4);
        std::fs::write(&gz, "not gzip").unwrap();
        assert!(Reader::open(&gz).unwrap().next().unwrap().unwrap_err().to_string().contains("rows.jsonl.gz"));
        std::fs::write(&rows, b"\xff\n").unwrap();
        assert!(Reader::open(&rows).unwrap().next().unwrap().unwrap_err().to_string().contains("rows.jsonl:1: not UTF-8"));
        assert!(files(&[PathBuf::from("x.parquet")]).unwrap_err().to_string().contains("llm-data sample"));
    }
}

//! The user's own files and folders.
//!
//! | file | becomes |
//! |---|---|
//! | `.txt` | Gutenberg frame off, chapter-size documents, domain `docs` |
//! | `.md` `.rst` | one document, `readme` when it is called so, else `docs` |
//! | `.html` `.htm` `.xhtml` | main text, domain `web` |
//! | `.jsonl` `.ndjson` `.json` `.parquet` | one document per row |
//! | `.warc` | one document per page |
//! | source code by extension | domain `code` |
//!
//! `.gz` and `.zst` may follow. Anything else is left out and counted. Ids start with the name of the folder or file
//! that was given, never with where it lies on this machine.

use super::jsonl::{self, Lines, OnError, or_skip};
use super::{Outcome, Sink, books, encoding, warc};
use crate::document::{Document, RowReader};
use crate::error::{Error, Result, check_interrupt, record};
use crate::extract::extract;
use crate::filter::generated_marker;
use llm_run::atomic::walk;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Settings of this reader.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PathsConfig {
    /// Files and folders.
    pub include: Vec<PathBuf>,
    /// Files whose id contains one of these are left out.
    pub exclude: Vec<String>,
    /// Name of the text field of JSON and Parquet rows.
    pub text_field: String,
    /// A damaged JSON line or Parquet row: `fail` or `skip`.
    pub on_error: OnError,
    /// Licence of documents that name none themselves.
    pub license: Option<String>,
    /// Domain of documents that name none themselves; empty: by kind of file.
    pub domain: String,
    /// Larger text, HTML and code files are left out.
    pub max_file_bytes: u64,
}

impl Default for PathsConfig {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            exclude: Vec::new(),
            text_field: "text".into(),
            on_error: OnError::Fail,
            license: None,
            domain: String::new(),
            max_file_bytes: 256 << 20,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Markdown,
    Html,
    Code(&'static str),
    JsonLines,
    Json,
    Parquet,
    Warc,
    Unsupported,
}

/// Extension to language name, for code.
const CODE: &[(&str, &str)] = &[
    ("rs", "rust"),
    ("py", "python"),
    ("c", "c"),
    ("h", "c"),
    ("cc", "cpp"),
    ("cpp", "cpp"),
    ("hpp", "cpp"),
    ("java", "java"),
    ("js", "javascript"),
    ("mjs", "javascript"),
    ("ts", "typescript"),
    ("go", "go"),
    ("rb", "ruby"),
    ("php", "php"),
    ("cs", "csharp"),
    ("kt", "kotlin"),
    ("swift", "swift"),
    ("scala", "scala"),
    ("pl", "perl"),
    ("lua", "lua"),
    ("hs", "haskell"),
    ("sh", "shell"),
    ("sql", "sql"),
    ("r", "r"),
    ("jl", "julia"),
    ("toml", "toml"),
];

fn kind(path: &Path) -> Kind {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_ascii_lowercase();
    let compressed = name.ends_with(".gz") || name.ends_with(".zst") || name.ends_with(".lz4");
    let inner = if compressed { name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem) } else { &name };
    let lz4 = name.ends_with(".lz4");
    let extension = inner.rsplit_once('.').map_or("", |(_, e)| e);
    match extension {
        "warc" | "wet" => Kind::Warc,
        _ if lz4 => Kind::Unsupported,
        "txt" | "text" => Kind::Text,
        "md" | "markdown" | "rst" => Kind::Markdown,
        "html" | "htm" | "xhtml" => Kind::Html,
        "jsonl" | "ndjson" => Kind::JsonLines,
        "json" => Kind::Json,
        "parquet" if !compressed => Kind::Parquet,
        other => CODE.iter().find(|(e, _)| *e == other).map_or(Kind::Unsupported, |(_, language)| Kind::Code(language)),
    }
}

struct Entry {
    path: PathBuf,
    id: String,
    kind: Kind,
}

/// Read everything that `include` names, in that order.
pub fn read(config: &PathsConfig, sink: &mut Sink) -> Result<()> {
    if config.include.is_empty() {
        return Err(Error::Config("paths.include is empty; name at least one file or folder, e.g. --set 'paths.include=[\"my-texts\"]'".into()));
    }
    let entries = list(config)?;
    if entries.is_empty() {
        let names: Vec<String> = config.include.iter().map(|p| p.display().to_string()).collect();
        return Err(Error::Empty(format!("{}: no file in it (after paths.exclude); nothing to read", names.join(", "))));
    }
    let light = |e: &Entry| !matches!(e.kind, Kind::JsonLines | Kind::Json | Kind::Parquet | Kind::Warc);
    // Small files are read in parallel; a container is one file with many documents, streamed.
    for group in entries.chunk_by(|a, b| light(a) && light(b)) {
        check_interrupt()?;
        let first = &group[0];
        match first.kind {
            Kind::JsonLines => json_lines(first, config, sink)?,
            Kind::Json => json(first, config, sink)?,
            Kind::Parquet => parquet(first, config, sink)?,
            Kind::Warc => warc::read(&first.path, &first.id, &source(&first.id), sink)?,
            _ => sink.run(group, |entry| single(entry, config))?,
        }
    }
    Ok(())
}

fn list(config: &PathsConfig) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut labels = BTreeSet::new();
    for root in &config.include {
        let found = if root.is_dir() {
            walk(root)?
        } else if root.is_file() {
            vec![root.clone()]
        } else {
            return Err(Error::Format { path: root.clone(), message: "no such file or folder; correct paths.include".into() });
        };
        let absolute = std::path::absolute(root).unwrap_or_else(|_| root.clone());
        let name = absolute.file_name().map_or_else(|| "root".to_string(), |n| n.to_string_lossy().into_owned());
        let label = (1..).map(|n| if n == 1 { name.clone() } else { format!("{name}~{n}") }).find(|l| !labels.contains(l)).unwrap_or(name);
        labels.insert(label.clone());
        for path in found {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            let hidden = relative.split('/').any(|part| part.starts_with('.'));
            let id = if relative.is_empty() { label.clone() } else { format!("{label}/{relative}") };
            if !hidden && !config.exclude.iter().any(|e| id.contains(e.as_str())) {
                entries.push(Entry { kind: kind(&path), path, id });
            }
        }
    }
    Ok(entries)
}

/// `paths/<top folder or file>/<second>`: enough to tell collections apart in a report.
fn source(id: &str) -> String {
    let mut parts: Vec<&str> = id.split('/').take(3).collect();
    if parts.len() > 1 {
        parts.pop();
    }
    format!("paths/{}", parts.join("/"))
}

/// A text, HTML or code file.
fn single(entry: &Entry, config: &PathsConfig) -> Result<Vec<Outcome>> {
    let id = entry.id.as_str();
    if entry.kind == Kind::Unsupported {
        return Ok(vec![Outcome::skip("unsupported file type", id, extension_of(id), "txt md html jsonl json parquet warc or source code", "")]);
    }
    let mut bytes = Vec::new();
    let limit = config.max_file_bytes;
    let read = jsonl::open(&entry.path)?.take(limit + 1).read_to_end(&mut bytes);
    if let Err(e) = read {
        let error = record(&entry.path, format!("after byte {}", bytes.len()), format!("cannot read on ({e}); copy the file again or leave it out"));
        return if config.on_error == OnError::Skip {
            Ok(vec![Outcome::skip("damaged file", id, jsonl::reason(&error), "a readable file", "")])
        } else {
            Err(error)
        };
    }
    if bytes.len() as u64 > limit {
        return Ok(vec![Outcome::skip("file size", id, format!("more than {limit}"), limit, "")]);
    }
    let declared = if entry.kind == Kind::Html { encoding::html_charset(&bytes) } else { None };
    let Some(decoded) = encoding::decode(&bytes, declared.as_deref()) else {
        return Ok(vec![Outcome::skip("binary", id, "NUL bytes", "text", "")]);
    };
    let mut outcomes = Vec::new();
    if decoded.encoding != "UTF-8" {
        outcomes.push(Outcome::Count("files not in UTF-8, decoded", 1));
    }
    let text = decoded.text;
    if text.trim().is_empty() {
        return Ok(vec![Outcome::skip("empty file", id, 0, 1, "")]);
    }
    let domain = |kind: &str| if config.domain.is_empty() { kind.to_string() } else { config.domain.clone() };
    let base = Document { id: id.to_string(), source: source(id), license: config.license.clone(), ..Document::default() };
    match entry.kind {
        Kind::Html => {
            let page = extract(&text);
            if page.text.trim().is_empty() {
                return Ok(vec![Outcome::skip("no main text", id, 0, 1, "")]);
            }
            outcomes.push(Outcome::Count(page.extractor.name(), 1));
            outcomes.push(Outcome::Keep(Document { text: page.text, url: page.url, domain: domain("web"), ..base }));
        }
        Kind::Code(language) => match generated_marker(&text) {
            Some(marker) => outcomes.push(Outcome::skip("generated file", id, marker, "no marker in the first lines", &text)),
            None => outcomes.push(Outcome::Keep(Document { text, lang: Some(language.to_string()), domain: domain("code"), ..base })),
        },
        Kind::Markdown => {
            let readme = id.rsplit('/').next().is_some_and(|n| n.to_ascii_lowercase().starts_with("readme"));
            outcomes.push(Outcome::Keep(Document { text, domain: domain(if readme { "readme" } else { "docs" }), ..base }));
        }
        _ => {
            let (body, gutenberg) = books::strip_gutenberg(&text);
            let license = base.license.clone().or_else(|| gutenberg.then(|| "Public domain (Project Gutenberg)".to_string()));
            let pieces = books::chapters(body);
            if gutenberg {
                outcomes.push(Outcome::Count("Project Gutenberg frames removed", 1));
            }
            if pieces.len() > 1 {
                outcomes.push(Outcome::Count("texts cut into chapters", 1));
            }
            let whole = pieces.len() == 1;
            for (i, piece) in pieces.into_iter().enumerate().filter(|(_, p)| !p.trim().is_empty()) {
                let id = if whole { id.to_string() } else { format!("{id}#{:03}", i + 1) };
                let text = format!("{}\n", piece.trim_matches('\n'));
                outcomes.push(Outcome::Keep(Document { id, text, license: license.clone(), domain: domain("docs"), ..base.clone() }));
            }
        }
    }
    Ok(outcomes)
}

fn extension_of(id: &str) -> String {
    let name = id.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or_else(|| "no extension".to_string(), |(_, e)| format!(".{e}"))
}

/// Settings that apply to rows which do not say otherwise.
fn with_defaults(mut document: Document, config: &PathsConfig) -> Document {
    if document.license.is_none() {
        document.license.clone_from(&config.license);
    }
    if !config.domain.is_empty() {
        document.domain.clone_from(&config.domain);
    }
    document
}

fn json_lines(entry: &Entry, config: &PathsConfig, sink: &mut Sink) -> Result<()> {
    let source = source(&entry.id);
    let job = |(number, line): &(u64, Vec<u8>)| {
        let id = format!("{}#{number}", entry.id);
        let document = jsonl::object(&entry.path, *number, line)
            .and_then(|row| jsonl::document(&entry.path, id.clone(), &source, format!("line {number}"), &row, &config.text_field))
            .map(|d| with_defaults(d, config));
        Ok(vec![or_skip(document, config.on_error, &id)?])
    };
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for line in Lines::open(&entry.path)? {
        match line {
            Ok(line) => {
                bytes += line.1.len();
                batch.push(line);
            }
            Err(error) => {
                sink.run(&batch, job)?;
                batch.clear();
                sink.take([or_skip(Err(error), config.on_error, &entry.id)?])?;
            }
        }
        if batch.len() >= 1024 || bytes >= 16 << 20 {
            sink.run(&batch, job)?;
            batch.clear();
            bytes = 0;
        }
    }
    sink.run(&batch, job)
}

fn json(entry: &Entry, config: &PathsConfig, sink: &mut Sink) -> Result<()> {
    let mut text = Vec::new();
    let parsed = jsonl::open(&entry.path)?
        .read_to_end(&mut text)
        .map_err(|e| e.to_string())
        .and_then(|_| serde_json::from_slice::<Value>(&text).map_err(|e| e.to_string()));
    let rows = match parsed {
        Ok(Value::Array(rows)) => rows,
        Ok(value) => vec![value],
        Err(e) => {
            let error = Error::Format { path: entry.path.clone(), message: format!("not valid JSON ({e}); fix it or set paths.on_error = \"skip\"") };
            return sink.take([or_skip(Err(error), config.on_error, &entry.id)?]);
        }
    };
    let source = source(&entry.id);
    for (i, row) in rows.iter().enumerate() {
        let id = format!("{}#{}", entry.id, i + 1);
        let place = format!("element {}", i + 1);
        let document = match row.as_object() {
            Some(row) => jsonl::document(&entry.path, id.clone(), &source, place, row, &config.text_field).map(|d| with_defaults(d, config)),
            None => Err(record(&entry.path, place, "expected an object with a text field; fix it or set paths.on_error = \"skip\"")),
        };
        sink.take([or_skip(document, config.on_error, &id)?])?;
    }
    Ok(())
}

fn parquet(entry: &Entry, config: &PathsConfig, sink: &mut Sink) -> Result<()> {
    let source = source(&entry.id);
    let reader = match RowReader::with_text_field(&entry.path, &config.text_field) {
        Ok(reader) => reader,
        Err(error) => return sink.take([or_skip(Err(error), config.on_error, &entry.id)?]),
    };
    for rows in reader {
        check_interrupt()?;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return sink.take([or_skip(Err(error), config.on_error, &entry.id)?]),
        };
        for row in rows {
            let id = format!("{}#{}", entry.id, row.number);
            let (number, mut document) = (row.number, row.document);
            document.id.clone_from(&id);
            document.source.clone_from(&source);
            if document.domain.is_empty() {
                let code = document.lang.as_deref().is_some_and(|l| jsonl::CODE_LANGUAGES.contains(&l));
                document.domain = if code { "code" } else { "web" }.to_string();
            }
            let checked = if document.text.trim().is_empty() {
                Err(record(&entry.path, format!("row {number}"), "the text is empty or null; fix the row or set paths.on_error = \"skip\""))
            } else {
                Ok(with_defaults(document, config))
            };
            sink.take([or_skip(checked, config.on_error, &id)?])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_extension_behind_compression() {
        for (name, expected) in [
            ("a.txt", Kind::Text),
            ("a.jsonl.zst", Kind::JsonLines),
            ("a.HTML.gz", Kind::Html),
            ("a.warc.lz4", Kind::Warc),
            ("a.rs", Kind::Code("rust")),
            ("a.arc.gz", Kind::Unsupported),
            ("README", Kind::Unsupported),
        ] {
            assert_eq!(kind(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn two_folders_of_the_same_name_get_different_ids() {
        let dir = tempfile::tempdir().unwrap();
        for parent in ["a", "b"] {
            std::fs::create_dir_all(dir.path().join(parent).join("texts")).unwrap();
            std::fs::write(dir.path().join(parent).join("texts/x.txt"), "x").unwrap();
        }
        let include = vec![dir.path().join("a/texts"), dir.path().join("b/texts")];
        let ids: Vec<String> = list(&PathsConfig { include, ..Default::default() }).unwrap().into_iter().map(|e| e.id).collect();
        assert_eq!(ids, ["texts/x.txt", "texts~2/x.txt"]);
    }
}

//! One object in one of the supported formats, wherever its bytes come from, to outcomes one by one.
//!
//! A file on a disk, an object in a bucket and a slice in a test are the same here: an [`Input`] with a name, and either a
//! stream of bytes or random access to them. [`Format::of`] says what it is, [`Format::read`] reads it and hands documents and
//! skips to a callback in the order in which they lie in the object. Memory is bounded by the limits of the formats (lines,
//! records, pages, rows), never by the size of the object.
//!
//! ```
//! use llm_data::read::format::{Format, Input};
//! use llm_data::read::{Outcome, paths::PathsConfig};
//!
//! let input = Input::stream("demo/a.jsonl", &b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n"[..]);
//! let mut texts = Vec::new();
//! Format::of("a.jsonl").read(input, &PathsConfig::default(), &mut |outcome| {
//!     if let Outcome::Keep(document) = outcome {
//!         texts.push(document.text);
//!     }
//!     Ok(())
//! })?;
//! assert_eq!(texts, ["one", "two"]);
//! # Ok::<(), llm_data::Error>(())
//! ```

use super::codec::{self, Bytes, Codec};
use super::paths::PathsConfig;
use super::{Outcome, code, latex, rows, text, warc, wiki};
use crate::document::Document;
use crate::error::{Error, Result, check_interrupt, io};
use rayon::prelude::*;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Takes outcomes, in order.
pub type Out<'a> = &'a mut dyn FnMut(Outcome) -> Result<()>;

/// Bytes at any place of an object: a file, or an object store that answers range requests.
pub trait RandomAccess: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Exactly `length` bytes from `offset`.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
}

impl RandomAccess for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        // A length that damaged metadata claim must not be allocated on faith.
        if offset.checked_add(length as u64).is_none_or(|end| end > self.size().unwrap_or(0)) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{length} bytes at {offset} are beyond the end of the file")));
        }
        let mut bytes = vec![0; length];
        #[cfg(unix)]
        std::os::unix::fs::FileExt::read_exact_at(self, &mut bytes, offset)?;
        #[cfg(windows)]
        for at in 0..length.div_ceil(1 << 20) {
            let from = at << 20;
            let part = &mut bytes[from..length.min(from + (1 << 20))];
            if std::os::windows::fs::FileExt::seek_read(self, part, offset + from as u64)? < part.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(bytes)
    }
}

impl RandomAccess for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = usize::try_from(offset).ok().and_then(|from| from.checked_add(length));
        let range = end.and_then(|end| self.get(end - length..end));
        range.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Where the bytes of an object come from.
pub enum Body {
    /// From the first to the last.
    Stream(Bytes),
    /// In any order; Parquet and Arrow files then read only what they need.
    Random(Arc<dyn RandomAccess>),
}

/// One object to read.
pub struct Input<'a> {
    /// Label: the beginning of every id, free of machine paths.
    pub id: &'a str,
    /// [`Document::source`] of the documents.
    pub source: &'a str,
    /// Where it lies, for messages.
    pub path: PathBuf,
    /// Licence of the tree it lies in.
    pub license: Option<String>,
    /// Its bytes.
    pub body: Body,
}

impl<'a> Input<'a> {
    /// A stream; the label is also its place in messages.
    pub fn stream(id: &'a str, reader: impl Read + Send + 'static) -> Self {
        Self { id, source: id, path: PathBuf::from(id), license: None, body: Body::Stream(Box::new(reader)) }
    }

    /// A file.
    pub fn file(path: &Path, id: &'a str, source: &'a str) -> Result<Self> {
        let file = File::open(path).map_err(io(path, "cannot open"))?;
        Ok(Self { id, source, path: path.to_path_buf(), license: None, body: Body::Random(Arc::new(file)) })
    }

    /// The bytes as they lie there, from the first to the last.
    pub fn raw(body: Body) -> Bytes {
        match body {
            Body::Stream(reader) => reader,
            Body::Random(access) => Box::new(BufReader::with_capacity(1 << 18, Sequential::new(access, 0))),
        }
    }

    /// The bytes without their compression.
    pub fn decoded(&mut self) -> Result<Bytes> {
        let body = std::mem::replace(&mut self.body, Body::Stream(Box::new(io::empty())));
        codec::decoded(Self::raw(body), self.id).map_err(io(&self.path, "cannot decompress"))
    }

    /// A document of this input with what all of its documents share.
    pub fn document(&self, id: String, config: &PathsConfig) -> Document {
        let license = self.license.clone().or_else(|| config.license.clone());
        Document { id, source: self.source.to_string(), license, ..Document::default() }
    }

    /// The whole content up to `config.max_file_bytes`; a skip when it is larger or cannot be read to the end and
    /// `on_error` allows it.
    pub fn content(&mut self, config: &PathsConfig) -> Result<std::result::Result<Vec<u8>, Outcome>> {
        let limit = config.max_file_bytes;
        let mut bytes = Vec::new();
        if let Err(e) = self.decoded()?.take(limit + 1).read_to_end(&mut bytes) {
            let message = format!("cannot read on ({e}); copy the file again or leave it out");
            return config
                .damaged("damaged file", self.id, crate::error::record(&self.path, format!("after byte {}", bytes.len()), message))
                .map(Err);
        }
        if bytes.len() as u64 > limit {
            return Ok(Err(Outcome::skip("file size", self.id, format!("more than {limit}"), limit, "")));
        }
        Ok(Ok(bytes))
    }
}

/// Random access as a stream, in large reads.
pub(super) struct Sequential {
    access: Arc<dyn RandomAccess>,
    at: u64,
}

impl Sequential {
    /// From place `at` on.
    pub(super) fn new(access: Arc<dyn RandomAccess>, at: u64) -> Self {
        Self { access, at }
    }
}

impl Read for Sequential {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.access.size()?.saturating_sub(self.at);
        let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = self.access.read_at(self.at, n)?;
        buffer[..n].copy_from_slice(&bytes);
        self.at += n as u64;
        Ok(n)
    }
}

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Plain text; Project Gutenberg's frame goes, long texts are cut at chapters.
    Text,
    /// Markdown or reStructuredText.
    Markdown,
    /// A web page.
    Html,
    /// Program source in the language of this name.
    Code(&'static str),
    /// One JSON object a line.
    JsonLines,
    /// One JSON value: an object or an array of objects.
    Json,
    /// Parquet rows.
    Parquet,
    /// Arrow IPC, file or stream.
    Arrow,
    /// A web archive with pages (WARC) or their text (WET).
    Warc,
    /// A MediaWiki XML dump.
    Wiki,
    /// A LaTeX file, or a tar archive with one: the sources of a paper.
    Latex,
    /// Nothing that is read.
    Unsupported,
}

impl Format {
    /// By name alone.
    pub fn of(name: &str) -> Self {
        let name = name.rsplit('/').next().unwrap_or(name);
        let (_, inner) = Codec::of_name(name);
        let lower = inner.to_ascii_lowercase();
        let extension = lower.rsplit_once('.').map_or("", |(_, e)| e);
        match extension {
            "warc" | "wet" => Self::Warc,
            "txt" | "text" => Self::Text,
            "md" | "markdown" | "rst" | "mdx" => Self::Markdown,
            "html" | "htm" | "xhtml" => Self::Html,
            "jsonl" | "ndjson" => Self::JsonLines,
            "json" => Self::Json,
            "parquet" => Self::Parquet,
            "arrow" | "feather" | "arrows" => Self::Arrow,
            "tex" | "ltx" | "tar" | "tgz" => Self::Latex,
            "xml" if lower.contains("wiki") || lower.contains("pages-articles") => Self::Wiki,
            _ => code::language_of_name(inner).map_or(Self::Unsupported, Self::Code),
        }
    }

    /// By name, and where the name says nothing by the first bytes, decompressed.
    pub fn of_content(name: &str, head: &[u8]) -> Self {
        match Self::of(name) {
            Self::Unsupported => Self::sniff(head),
            Self::Code(language) => Self::Code(code::language_of_content(language, head)),
            known => known,
        }
    }

    fn sniff(head: &[u8]) -> Self {
        let start = head.trim_ascii_start();
        let text = String::from_utf8_lossy(&start[..start.len().min(4096)]);
        if start.starts_with(b"WARC/") {
            Self::Warc
        } else if start.starts_with(b"PAR1") {
            Self::Parquet
        } else if start.starts_with(b"ARROW1") {
            Self::Arrow
        } else if text.contains("<mediawiki") {
            Self::Wiki
        } else if head.get(257..262) == Some(b"ustar") || text.contains("\\documentclass") || text.contains("\\documentstyle") {
            Self::Latex
        } else if start.len() > 14 && (start[..9].eq_ignore_ascii_case(b"<!doctype") || start[..5].eq_ignore_ascii_case(b"<html")) {
            Self::Html
        } else {
            code::language_of_shebang(&text).map_or(Self::Unsupported, Self::Code)
        }
    }

    /// Formats that hold many documents in one object, and are read one object at a time.
    pub fn is_container(self) -> bool {
        matches!(self, Self::JsonLines | Self::Json | Self::Parquet | Self::Arrow | Self::Warc | Self::Wiki | Self::Latex)
    }

    /// Read one object.
    pub fn read(self, mut input: Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
        match self {
            Self::Text => text::plain(&mut input, config, out),
            Self::Markdown => text::markdown(&mut input, config, out),
            Self::Html => text::html(&mut input, config, out),
            Self::Code(language) => code::read(&mut input, language, config, out),
            Self::JsonLines => rows::json_lines(&mut input, config, out),
            Self::Json => rows::json(&mut input, config, out),
            Self::Parquet => rows::parquet(input, config, out),
            Self::Arrow => rows::arrow(input, config, out),
            Self::Warc => warc::read(input, config, out),
            Self::Wiki => wiki::read(&mut input, config, out),
            Self::Latex => latex::read(&mut input, config, out),
            Self::Unsupported => out(Outcome::skip("unsupported file type", input.id, extension_of(input.id), SUPPORTED, "")),
        }
    }
}

const SUPPORTED: &str = "txt md html jsonl json parquet arrow warc xml (MediaWiki) tex tar or source code";

fn extension_of(id: &str) -> String {
    let name = id.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or_else(|| "no extension".to_string(), |(_, e)| format!(".{e}"))
}

/// Collects items, works on a full batch in parallel and hands the outcomes on in order.
pub(crate) struct Batches<'a, 'o, T, F> {
    items: Vec<T>,
    bytes: usize,
    job: F,
    out: &'o mut (dyn FnMut(Outcome) -> Result<()> + 'a),
}

const BATCH_ITEMS: usize = 1024;
const BATCH_BYTES: usize = 16 << 20;

impl<'a, 'o, T: Send, F: Fn(T) -> Result<Vec<Outcome>> + Sync> Batches<'a, 'o, T, F> {
    /// `job` turns one item into its outcomes.
    pub fn new(job: F, out: &'o mut (dyn FnMut(Outcome) -> Result<()> + 'a)) -> Self {
        Self { items: Vec::new(), bytes: 0, job, out }
    }

    /// Add an item of about this many bytes.
    pub fn push(&mut self, item: T, bytes: usize) -> Result<()> {
        self.items.push(item);
        self.bytes += bytes;
        if self.items.len() >= BATCH_ITEMS || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Work on what is there.
    pub fn flush(&mut self) -> Result<()> {
        check_interrupt()?;
        let items = std::mem::take(&mut self.items);
        self.bytes = 0;
        let outcomes: Vec<Result<Vec<Outcome>>> = items.into_par_iter().map(&self.job).collect();
        for outcome in outcomes {
            for outcome in outcome? {
                (self.out)(outcome)?;
            }
        }
        Ok(())
    }
}

impl PathsConfig {
    /// Damage to one record: a skip that says where and why, or the error itself when `on_error` is `fail`.
    pub(crate) fn damaged(&self, step: &str, id: &str, error: Error) -> Result<Outcome> {
        if self.on_error == super::jsonl::OnError::Skip {
            Ok(Outcome::skip(step, id, super::jsonl::reason(&error), "readable", ""))
        } else {
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_name_behind_compression() {
        for (name, expected) in [
            ("a.txt", Format::Text),
            ("a.jsonl.zst", Format::JsonLines),
            ("a.HTML.gz", Format::Html),
            ("a.warc.lz4", Format::Warc),
            ("CC-MAIN-1.warc.wet.gz", Format::Warc),
            ("a.rs", Format::Code("rust")),
            ("a.arc.gz", Format::Unsupported),
            ("README", Format::Unsupported),
            ("dewiki-20260101-pages-articles-multistream.xml.bz2", Format::Wiki),
            ("2401.00001.tar.gz", Format::Latex),
            ("data/train-00000-of-00002.parquet", Format::Parquet),
            ("shard.arrow", Format::Arrow),
        ] {
            assert_eq!(Format::of(name), expected, "{name}");
        }
    }

    #[test]
    fn formats_by_content_where_the_name_says_nothing() {
        for (name, head, expected) in [
            ("dump.xml", &b"<mediawiki xmlns=\"http://www.mediawiki.org/xml/export-0.11/\">"[..], Format::Wiki),
            ("feed.xml", b"<rss>", Format::Unsupported),
            ("2401.00001.gz", b"%arXiv\n\\documentclass{article}", Format::Latex),
            ("page", b"<!DOCTYPE html><html>", Format::Html),
            ("run", b"#!/usr/bin/env python3\n", Format::Code("python")),
            ("noise", b"\0\0\0", Format::Unsupported),
        ] {
            assert_eq!(Format::of_content(name, head), expected, "{name}");
        }
    }

    #[test]
    fn random_access_is_the_same_stream_and_never_reads_beyond_the_end() {
        let bytes: Vec<u8> = (0..700_000u32).map(|i| i as u8).collect();
        let mut read = Vec::new();
        Input::raw(Body::Random(Arc::new(bytes.clone()))).read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
        for (offset, length) in [(700_000, 1), (u64::MAX, 2), (5, usize::MAX)] {
            assert!(RandomAccess::read_at(&bytes, offset, length).is_err());
        }
    }
}

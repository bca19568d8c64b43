//! Readers: from what lies on a disk to [`Document`]s.
//!
//! | reader | reads |
//! |---|---|
//! | [`rust_docs`] | the HTML documentation that comes with the Rust toolchain |
//! | [`cargo_sources`] | sources and READMEs of the packages a `Cargo.toml` depends on |
//! | [`paths`] | the user's own files and folders, any supported format |
//!
//! | format | module |
//! |---|---|
//! | which is it, and one object of it from any source of bytes | [`format`](mod@format), [`codec`] |
//! | web archives | [`warc`] |
//! | plain text, Markdown, web pages | [`text`], [`books`], [`gutenberg`] |
//! | source code, licences | [`code`], [`license`], [`license_text`] |
//! | Wikipedia dumps, papers | [`wiki`], [`latex`] |
//! | JSON, Parquet, Arrow, data set folders | [`rows`], [`columnar`], [`jsonl`], [`dataset`] |
//! | rows as they are, for readers that know their columns | [`objects`] |
//!
//! A reader lists its files in a fixed order, turns them into outcomes in parallel, chunk by chunk, and hands the
//! outcomes to the [`Sink`] in that order, so the output does not depend on the number of threads.

pub mod books;
pub mod cargo_sources;
pub mod code;
pub mod codec;
pub mod columnar;
pub mod dataset;
pub mod dates;
pub mod encoding;
pub mod format;
pub mod gutenberg;
pub mod jsonl;
pub mod latex;
pub mod license;
pub mod license_text;
pub mod objects;
pub mod paths;
pub mod rows;
pub mod rust_docs;
pub mod text;
pub mod warc;
pub mod wiki;

use crate::document::{Document, DocumentWriter};
use crate::error::{Error, Result, check_interrupt};
use crate::funnel::{Drop, Funnel, FunnelWriter, excerpt};
use llm_run::Progress;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Configuration of `llm-data read`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadConfig {
    /// Which readers run, in this order.
    pub sources: Vec<Source>,
    /// Seed of all sampling.
    pub seed: u64,
    /// Settings of `rust_docs`.
    pub rust_docs: rust_docs::RustDocsConfig,
    /// Settings of `cargo_sources`.
    pub cargo_sources: cargo_sources::CargoSourcesConfig,
    /// Settings of `paths`.
    pub paths: paths::PathsConfig,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            sources: vec![Source::RustDocs, Source::CargoSources],
            seed: 42,
            rust_docs: Default::default(),
            cargo_sources: Default::default(),
            paths: Default::default(),
        }
    }
}

/// The readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// [`rust_docs`].
    RustDocs,
    /// [`cargo_sources`].
    CargoSources,
    /// [`paths`].
    Paths,
}

/// What became of one file, page, row or chapter.
#[derive(Debug)]
pub enum Outcome {
    /// A document.
    Keep(Document),
    /// Left out, and why.
    Skip(Drop, usize),
    /// Nothing dropped, something to count.
    Count(&'static str, u64),
}

impl Outcome {
    /// A skip at `step` because `value` broke `threshold`.
    pub fn skip(step: &str, id: impl Into<String>, value: impl Into<serde_json::Value>, threshold: impl Into<serde_json::Value>, text: &str) -> Self {
        let drop = Drop { id: id.into(), step: step.to_string(), value: value.into(), threshold: threshold.into(), text: excerpt(text) };
        Outcome::Skip(drop, text.len())
    }
}

/// Where outcomes go, in order.
#[derive(Debug)]
pub struct Sink {
    writer: DocumentWriter,
    funnel: FunnelWriter,
    progress: Progress,
}

impl Sink {
    /// Take outcomes.
    pub fn take(&mut self, outcomes: impl IntoIterator<Item = Outcome>) -> Result<()> {
        for outcome in outcomes {
            match outcome {
                Outcome::Keep(document) => {
                    self.funnel.input(document.text.len());
                    self.funnel.output(&document);
                    self.writer.push(document)?;
                    self.progress.inc(1);
                }
                Outcome::Skip(drop, bytes) => {
                    self.funnel.input(bytes);
                    self.funnel.drop(drop, bytes)?;
                }
                Outcome::Count(name, by) => self.funnel.count(name, by),
            }
        }
        Ok(())
    }

    /// Run `job` over `items` in parallel and take the outcomes in the order of the items.
    pub fn run<T: Sync>(&mut self, items: &[T], job: impl Fn(&T) -> Result<Vec<Outcome>> + Sync) -> Result<()> {
        for chunk in items.chunks(256) {
            check_interrupt()?;
            let outcomes: Vec<Result<Vec<Outcome>>> = chunk.par_iter().map(&job).collect();
            for outcome in outcomes {
                self.take(outcome?)?;
            }
        }
        Ok(())
    }

    /// A sentence for the reader of the report.
    pub fn notice(&mut self, text: impl Into<String>) {
        self.funnel.notice(text);
    }
}

/// Run the configured readers into `out`.
pub fn read(config: &ReadConfig, out: &Path) -> Result<Funnel> {
    if config.sources.is_empty() {
        return Err(Error::Config("sources is empty; name at least one of rust_docs, cargo_sources, paths".into()));
    }
    let mut sink = Sink {
        writer: DocumentWriter::create(&out.join("documents"))?,
        funnel: FunnelWriter::create(out, "read", &[])?,
        progress: Progress::new("read", 0, "documents"),
    };
    for source in &config.sources {
        match source {
            Source::RustDocs => rust_docs::read(&config.rust_docs, config.seed, &mut sink)?,
            Source::CargoSources => cargo_sources::read(&config.cargo_sources, config.seed, &mut sink)?,
            Source::Paths => paths::read(&config.paths, &mut sink)?,
        }
    }
    if sink.writer.documents == 0 {
        return Err(Error::Empty(format!(
            "no document was read: {} files or records were looked at and all were left out; check the paths and the limits of the readers",
            sink.funnel.funnel.documents_in
        )));
    }
    sink.writer.finish()?;
    let funnel = sink.funnel.finish(out)?;
    sink.progress.finish(funnel.summary());
    Ok(funnel)
}

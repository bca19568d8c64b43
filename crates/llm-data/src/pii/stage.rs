//! `llm-data redact` and `llm-data unredact`: the step over a folder of documents, with the report beside it, and back.

use super::{Kind, Pii, PiiConfig, ReportReader, ReportWriter, count_name, unredact};
use crate::document::{Document, DocumentReader, DocumentWriter};
use crate::error::{Error, Result, check_interrupt};
use crate::funnel::{Funnel, FunnelWriter};
use llm_run::Progress;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Configuration of `llm-data redact`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PiiStageConfig {
    /// A folder of documents.
    pub input: PathBuf,
    /// Folder of the reversible report; none: `OUT/private`. Only its owner can read it.
    pub report: Option<PathBuf>,
    /// False: replace without a way back.
    pub reversible: bool,
    /// What is found and how it is replaced.
    pub pii: PiiConfig,
}

impl Default for PiiStageConfig {
    fn default() -> Self {
        Self { input: PathBuf::new(), report: None, reversible: true, pii: PiiConfig::default() }
    }
}

/// Redact a folder into `out/documents`, with the report.
pub fn redact_documents(config: &PiiStageConfig, out: &Path) -> Result<Funnel> {
    let pii = Pii::new(&config.pii)?;
    let mut funnel = FunnelWriter::create(out, "redact", &[])?;
    let mut progress = Progress::new("redact", crate::document::count(&config.input)?, "documents");
    let mut writer = DocumentWriter::create(&out.join("documents"))?;
    let dir = config.report.clone().unwrap_or_else(|| out.join("private"));
    let mut report = if config.reversible { Some(ReportWriter::create(&dir)?) } else { None };
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        let redacted: Vec<(Document, usize, Vec<super::Entry>)> = batch?
            .into_par_iter()
            .map(|mut document| {
                let bytes = document.text.len();
                let entries = pii.redact_document(&mut document);
                (document, bytes, entries)
            })
            .collect();
        progress.inc(redacted.len() as u64);
        for (document, bytes, entries) in redacted {
            funnel.input(bytes);
            for kind in Kind::ALL {
                funnel.count(&count_name(kind), entries.iter().filter(|e| e.kind == kind).count() as u64);
            }
            funnel.count("documents with personal data", u64::from(!entries.is_empty()));
            funnel.output(&document);
            writer.push(document)?;
            if let Some(report) = &mut report {
                report.extend(entries)?;
            }
        }
    }
    writer.finish()?;
    match report {
        Some(report) => {
            report.finish()?;
            funnel.notice(format!("{} holds what was replaced; keep it apart from the documents or delete it", dir.display()));
        }
        None => funnel.notice("no report: what was replaced cannot be restored"),
    }
    let funnel = funnel.finish(out)?;
    progress.finish(funnel.summary());
    Ok(funnel)
}

/// Configuration of `llm-data unredact`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnredactConfig {
    /// Redacted documents, all or some, in any order.
    pub input: PathBuf,
    /// The report: `pii.parquet` or its folder.
    pub report: PathBuf,
}

/// Restore the documents of a folder into `out/documents`; the number of documents and of values put back.
pub fn unredact_documents(config: &UnredactConfig, out: &Path) -> Result<(u64, u64)> {
    if config.report.as_os_str().is_empty() {
        return Err(Error::Config("unredact.report is not set; give the pii.parquet that `llm-data redact` wrote".into()));
    }
    let report = ReportReader::open(&config.report)?;
    let mut writer = DocumentWriter::create(&out.join("documents"))?;
    let mut restored = 0;
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        for mut document in batch? {
            let entries = report.of(&document.id);
            unredact(&mut document, entries)?;
            restored += entries.len() as u64;
            writer.push(document)?;
        }
    }
    let documents = writer.documents;
    writer.finish()?;
    Ok((documents, restored))
}

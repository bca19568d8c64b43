//! What happened to a document, stage by stage, and why.
//!
//! Each stage folder is looked up twice: in its documents (`documents`, `train`, `heldout`) and in `dropped.jsonl`.

use crate::document::{Document, DocumentReader};
use crate::error::{Result, check_interrupt, record};
use crate::funnel::Drop;
use crate::read::jsonl::Lines;
use crate::signals::SignalsReader;
use crate::whatif::stored_rules;
use std::path::{Path, PathBuf};

/// What one stage did with a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Kept, in that folder of the stage.
    Kept(String, Box<Document>),
    /// Dropped.
    Dropped(Drop),
    /// The stage never saw it.
    Unseen,
}

/// The fates of the document `id`, also of its pieces `id#…`, in one stage folder.
pub fn fates(id: &str, stage: &Path) -> Result<Vec<(String, Fate)>> {
    let is_it = |other: &str| other == id || other.strip_prefix(id).is_some_and(|rest| rest.starts_with('#'));
    let mut found = Vec::new();
    for name in ["documents", "train", "heldout"] {
        let dir: PathBuf = stage.join(name);
        if !dir.is_dir() {
            continue;
        }
        for batch in DocumentReader::open(&dir)? {
            check_interrupt()?;
            for document in batch?.into_iter().filter(|d| is_it(&d.id)) {
                found.push((document.id.clone(), Fate::Kept(name.to_string(), Box::new(document))));
            }
        }
    }
    let dropped = stage.join("dropped.jsonl");
    if dropped.is_file() {
        for line in Lines::open(&dropped)? {
            let (number, line) = line?;
            let drop: Drop = serde_json::from_slice(&line)
                .map_err(|e| record(&dropped, format!("line {number}"), format!("damaged ({e}); run the stage again")))?;
            // The README of a package whose licence was refused is answered by the package.
            if is_it(&drop.id) || id.strip_prefix(drop.id.as_str()).is_some_and(|rest| rest.starts_with('/')) {
                found.push((drop.id.clone(), Fate::Dropped(drop)));
            }
        }
    }
    if found.is_empty() {
        found.push((id.to_string(), Fate::Unseen));
    }
    Ok(found)
}

/// The stored signals of a document, one line each, if the stage has any: name, value, limits of the time, and which fail.
pub fn measured(id: &str, stage: &Path) -> Result<Vec<String>> {
    if !stage.join("signals").is_dir() {
        return Ok(Vec::new());
    }
    let signals = SignalsReader::open(stage)?;
    let rules = stored_rules(&signals)?;
    let mut lines = Vec::new();
    signals.for_each(|rows| {
        if let Some(row) = rows.ids.iter().position(|i| i == id) {
            for (column, name) in signals.names.iter().enumerate().filter(|(c, _)| rows.values[*c][row].is_finite()) {
                let value = rows.values[column][row];
                let rule = rules.iter().find(|r| r.signal == *name);
                let fails = rule.is_some_and(|r| value < r.min as f32 || value > r.max as f32);
                let limit = rule.map_or_else(String::new, |r| match (r.min.is_finite(), r.max.is_finite()) {
                    (true, true) => format!(" ({} to {})", r.min, r.max),
                    (true, false) => format!(" (at least {})", r.min),
                    (false, true) => format!(" (at most {})", r.max),
                    (false, false) => String::new(),
                });
                lines.push(format!("{name} = {value}{limit}{}", if fails { "  FAILS" } else { "" }));
            }
        }
        Ok(())
    })?;
    Ok(lines)
}

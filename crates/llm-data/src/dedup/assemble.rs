//! The end, once: the units' folders become the stage's folder.

use super::audit::{self, AuditWriter};
use super::remove::STEPS;
use super::work::{Plan, Work};
use crate::document;
use crate::error::{Error, Result, io};
use crate::funnel::{Funnel, Step};
use llm_run::atomic::{self, AtomicDir, AtomicFile};
use std::fs::File;
use std::path::Path;

/// Examples per step, as in a funnel that was written in one go.
const EXAMPLES: usize = 5;

/// Add the counts of a unit.
pub(super) fn add(total: &mut Funnel, unit: Funnel) {
    total.documents_in += unit.documents_in;
    total.documents_out += unit.documents_out;
    total.bytes_in += unit.bytes_in;
    total.bytes_out += unit.bytes_out;
    for step in unit.steps {
        match total.steps.iter_mut().find(|s| s.name == step.name) {
            Some(sum) => {
                sum.dropped += step.dropped;
                sum.dropped_bytes += step.dropped_bytes;
                let room = EXAMPLES.saturating_sub(sum.examples.len());
                sum.examples.extend(step.examples.into_iter().take(room));
            }
            None => total.steps.push(step),
        }
    }
    let maps = [
        (&mut total.by_source, unit.by_source),
        (&mut total.by_lang, unit.by_lang),
        (&mut total.by_license, unit.by_license),
        (&mut total.by_domain, unit.by_domain),
        (&mut total.bytes_by_domain, unit.bytes_by_domain),
        (&mut total.counts, unit.counts),
    ];
    for (sum, map) in maps {
        for (name, count) in map {
            *sum.entry(name).or_default() += count;
        }
    }
}

/// Put everything in its place; `documents` shows up first and `funnel.json` last.
pub fn assemble(work: &Work, plan: &Plan, input: &Path, out: &Path) -> Result<Funnel> {
    let steps = STEPS.iter().map(|name| Step { name: (*name).to_string(), ..Step::default() }).collect();
    let mut total = Funnel { stage: "dedup".into(), steps, ..Funnel::default() };
    let mut filled = Vec::new();
    for unit in 0..plan.units.len() {
        let path = work.dir("remove", unit).join("funnel.json");
        let text = std::fs::read_to_string(&path).map_err(io(&path, "cannot read"))?;
        let funnel: Funnel = serde_json::from_str(&text)
            .map_err(|e| Error::Format { path: path.clone(), message: format!("damaged ({e}); remove the work folder and run again") })?;
        if funnel.documents_out > 0 {
            filled.push(unit);
        }
        add(&mut total, funnel);
    }
    if filled.is_empty() {
        return Err(Error::Empty(format!("{}: holds no document; run the stage before this one", input.display())));
    }
    let documents = AtomicDir::create(out.join("documents"))?;
    let mut part = 0;
    for unit in filled {
        for from in document::parts(&work.dir("remove", unit).join("documents"))? {
            let to = documents.path().join(format!("part-{part:05}.parquet"));
            part += 1;
            // The work folder may be on another disk, or on one without links.
            if std::fs::hard_link(&from, &to).is_err() {
                std::fs::copy(&from, &to).map_err(io(&to, "cannot write"))?;
            }
        }
    }
    documents.commit()?;
    let (dropped, audit) = rayon::join(|| dropped(work, plan, out), || whole_audit(work, plan, out));
    dropped?;
    audit?;
    let mut text = serde_json::to_string_pretty(&total).unwrap_or_default();
    text.push('\n');
    atomic::write(out.join("funnel.json"), text)?;
    Ok(total)
}

/// `dropped.jsonl` of all units.
fn dropped(work: &Work, plan: &Plan, out: &Path) -> Result<()> {
    let path = out.join("dropped.jsonl");
    let mut file = AtomicFile::create(&path)?;
    for unit in 0..plan.units.len() {
        append(&work.dir("remove", unit).join("dropped.jsonl"), &mut file, &path)?;
    }
    Ok(file.commit()?)
}

/// `audit.parquet` of all units.
fn whole_audit(work: &Work, plan: &Plan, out: &Path) -> Result<()> {
    let temporary = work.root().join("audit.parquet");
    let mut audit = AuditWriter::create(&temporary)?;
    for unit in 0..plan.units.len() {
        audit::read(&work.dir("remove", unit).join("audit.parquet"), |entry| audit.push(entry))?;
    }
    audit.finish()?;
    let path = out.join("audit.parquet");
    let mut file = AtomicFile::create(&path)?;
    append(&temporary, &mut file, &path)?;
    Ok(file.commit()?)
}

fn append(from: &Path, file: &mut AtomicFile, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(io(from, "cannot open"))?;
    std::io::copy(&mut source, file).map(|_| ()).map_err(io(to, "cannot write"))
}

//! One unit: its documents through the steps into files, then the record. One rank: its units, several at a time.
//!
//! Reading and parsing happen on the thread that has the unit, steps on all processors (`rayon`), writing on the unit's thread
//! again and in the order of the input; so neither threads nor ranks change a byte, and memory is a batch of documents a unit.

use super::input;
use super::meter::{Meter, Progressed, Shown};
use super::record::{Identity, OutputFile, Record};
use super::signals::SignalWriter;
use super::unit::{Unit, plan};
use super::{ProcessConfig, output_name};
use crate::document::{BATCH, BATCH_BYTES, Document, properties, schema, to_batch};
use crate::error::{Error, Result, check_interrupt};
use crate::filter::apply;
use crate::funnel::{self, Drop, Funnel, excerpt};
use crate::pii::{Entry, report};
use crate::ranks::Ranks;
use crate::read::Outcome;
use crate::step::{Rule, Step, Trace};
use crate::steps;
use crate::store::write::Written;
use crate::store::{Location, Writer};
use parquet::arrow::ArrowWriter;
use rayon::prelude::*;
use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a rank did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Units of the whole stage.
    pub units: usize,
    /// Units of this rank.
    pub mine: usize,
    /// Of these, complete before.
    pub skipped: usize,
    /// Documents and bytes of the others.
    pub done: Progressed,
}

struct Stage<'a> {
    config: &'a ProcessConfig,
    out: &'a Location,
    steps: Vec<Box<dyn Step>>,
    identity: Identity,
    meter: Meter,
}

/// Do the units of one rank that are not complete.
pub fn process(config: &ProcessConfig, out: &Location, ranks: Ranks, shown: Shown) -> Result<Report> {
    let steps = steps::build(&config.steps())?;
    apart(config, out)?;
    let units = plan(config)?;
    let identity = Identity::new(config)?;
    let mine: Vec<&Unit> = units.iter().filter(|u| ranks.mine(u.number)).collect();
    let complete: Vec<Result<bool>> = mine.par_iter().map(|u| Record::valid(out, u.number, &identity.of(u)).map(|record| record.is_some())).collect();
    let mut todo = Vec::new();
    for (unit, complete) in mine.iter().zip(complete) {
        if !complete? {
            todo.push(*unit);
        }
    }
    let report = |done| Report { units: units.len(), mine: mine.len(), skipped: mine.len() - todo.len(), done };
    if todo.is_empty() {
        return Ok(report(Progressed::default()));
    }
    let bytes = todo.iter().map(|u| u.bytes()).sum();
    let meter = Meter::new("process", todo.len() as u64, bytes, shown);
    let stage = Stage { config, out, steps, identity, meter };
    let threads = if config.threads == 0 { rayon::current_num_threads() } else { config.threads };
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(todo.len()) {
            scope.spawn(|| {
                while let Some(unit) = todo.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !failed()) {
                    if let Err(error) = stage.unit(unit) {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(report(stage.meter.finish())),
    }
}

/// An output within an input would be read by the next run.
fn apart(config: &ProcessConfig, out: &Location) -> Result<()> {
    let place = |l: &Location| l.as_local().map_or_else(|| l.display_path(), |path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()));
    for address in &config.input {
        if place(out).starts_with(place(&Location::parse(address)?)) {
            return Err(Error::Config(format!("the output {out} lies within the input {address}; choose another --out")));
        }
    }
    Ok(())
}

/// The files of a unit while they are written.
struct Outputs {
    documents: ArrowWriter<Writer>,
    place: Location,
    dropped: Writer,
    signals: Option<SignalWriter>,
    /// What was replaced in the documents that are kept, if that is wanted.
    replaced: Option<Vec<Entry>>,
    funnel: Funnel,
    rows: Vec<Document>,
    row_bytes: usize,
    /// Bytes of input since they were last shown, and those that were.
    consumed: Arc<AtomicU64>,
    shown: u64,
}

impl Stage<'_> {
    fn unit(&self, unit: &Unit) -> Result<()> {
        let id = self.identity.of(unit);
        // An outdated record goes before the files that it describes are replaced.
        if Record::read(self.out, unit.number)?.is_some() {
            match Record::valid(self.out, unit.number, &id)? {
                Some(_) => return Ok(()), // another process was faster
                None => Record::remove(self.out, unit.number)?,
            }
        }
        let mut outputs = self.open(unit.number)?;
        let (mut batch, mut size) = (Vec::new(), 0);
        for part in &unit.parts {
            let consumed = Arc::clone(&outputs.consumed);
            input::read(part, &self.config.paths, &consumed, &mut |outcome| {
                size += match &outcome {
                    Outcome::Keep(document) => document.text.len(),
                    _ => 0,
                };
                batch.push(outcome);
                if batch.len() >= BATCH || size >= BATCH_BYTES {
                    size = 0;
                    self.flush(&mut batch, &mut outputs)?;
                }
                Ok(())
            })?;
        }
        self.flush(&mut batch, &mut outputs)?;
        let shown = outputs.shown;
        let (files, funnel) = outputs.finish(unit.number, self.out)?;
        let inputs = unit.parts.iter().map(|p| match p.is_whole() {
            true => p.object.location.to_string(),
            false => format!("{} bytes {} to {}", p.object.location, p.start, p.end),
        });
        Record { id, unit: unit.number, inputs: inputs.collect(), outputs: files, funnel }.create(self.out)?;
        self.meter.add(0, 0, unit.bytes().saturating_sub(shown), 1);
        Ok(())
    }

    fn open(&self, unit: usize) -> Result<Outputs> {
        let place = self.out.join(&output_name("documents", unit));
        let writer = Writer::create(&place)?;
        let documents = properties().and_then(|p| ArrowWriter::try_new(writer, schema(), Some(p))).map_err(|e| parquet_error(&place, &e))?;
        let rules: Vec<Rule> = self.steps.iter().flat_map(|s| s.rules()).collect();
        let names = self.steps.iter().flat_map(|s| s.checks());
        let steps = names.map(|name| funnel::Step { name, ..Default::default() }).collect();
        Ok(Outputs {
            documents,
            dropped: Writer::create(&self.out.join(&output_name("dropped", unit)))?,
            signals: if self.config.signals { Some(SignalWriter::create(&self.out.join(&output_name("signals", unit)), &rules)?) } else { None },
            replaced: self.config.keeps_replaced(self.out).then(Vec::new),
            place,
            funnel: Funnel { stage: "process".into(), steps, ..Funnel::default() },
            rows: Vec::new(),
            row_bytes: 0,
            consumed: Arc::default(),
            shown: 0,
        })
    }

    /// Apply the steps to a batch in parallel and write it in order.
    fn flush(&self, batch: &mut Vec<Outcome>, outputs: &mut Outputs) -> Result<()> {
        check_interrupt()?;
        let outcomes = std::mem::take(batch);
        let judged: Vec<Result<Judged>> = outcomes.into_par_iter().map(|outcome| self.judge(outcome)).collect();
        let (mut documents, mut kept) = (0, 0);
        for judged in judged {
            match judged? {
                Judged::Document { document, bytes, trace, dropped } => {
                    documents += 1;
                    kept += u64::from(dropped.is_none());
                    outputs.document(*document, bytes, trace, dropped)?;
                }
                Judged::Skipped(drop, bytes) => {
                    documents += 1;
                    outputs.funnel.input(bytes);
                    outputs.drop(drop, bytes)?;
                }
                Judged::Counted(name, by) => outputs.funnel.count(name, by),
            }
        }
        let read = outputs.consumed.swap(0, Ordering::Relaxed);
        outputs.shown += read;
        self.meter.add(documents, kept, read, 0);
        Ok(())
    }

    fn judge(&self, outcome: Outcome) -> Result<Judged> {
        let mut document = match outcome {
            Outcome::Keep(document) => Box::new(document),
            Outcome::Skip(drop, bytes) => return Ok(Judged::Skipped(drop, bytes)),
            Outcome::Count(name, by) => return Ok(Judged::Counted(name, by)),
        };
        let bytes = document.text.len();
        let before = excerpt(&document.text);
        let (reason, trace) = apply(&self.steps, &mut document, self.config.signals)?;
        let dropped = reason.map(|r| Drop { step: r.check, value: r.value, threshold: r.threshold, text: before, id: document.id.clone() });
        Ok(Judged::Document { document, bytes, trace, dropped })
    }
}

enum Judged {
    Document { document: Box<Document>, bytes: usize, trace: Trace, dropped: Option<Drop> },
    Skipped(Drop, usize),
    Counted(&'static str, u64),
}

fn parquet_error(place: &Location, error: &parquet::errors::ParquetError) -> Error {
    // The cause says what happened (no space left, the bucket is gone); Parquet's own words only where.
    Error::Format {
        path: place.display_path(),
        message: format!("cannot write: {error}; nothing of this unit is visible, make room and run the same command again"),
    }
}

impl Outputs {
    fn document(&mut self, document: Document, bytes: usize, mut trace: Trace, dropped: Option<Drop>) -> Result<()> {
        self.funnel.input(bytes);
        if let Some(signals) = &mut self.signals {
            signals.push(&document.id, dropped.as_ref().map(|d| d.step.as_str()), bytes, &trace)?;
        }
        if let Some(drop) = dropped {
            return self.drop(drop, bytes);
        }
        for (name, by) in &trace.counts {
            self.funnel.count(name, *by);
        }
        if let Some(replaced) = &mut self.replaced {
            replaced.append(&mut trace.replaced);
        }
        self.funnel.output(&document);
        self.row_bytes += document.text.len();
        self.rows.push(document);
        if self.rows.len() >= BATCH || self.row_bytes >= BATCH_BYTES { self.write_rows() } else { Ok(()) }
    }

    fn drop(&mut self, drop: Drop, bytes: usize) -> Result<()> {
        self.dropped.write_all(drop.line().as_bytes()).map_err(|e| self.dropped.failed(e))?;
        self.funnel.drop(drop, bytes);
        Ok(())
    }

    fn write_rows(&mut self) -> Result<()> {
        if !self.rows.is_empty() {
            let batch = to_batch(&self.rows).map_err(|e| parquet_error(&self.place, &e.into()))?;
            self.documents.write(&batch).map_err(|e| parquet_error(&self.place, &e))?;
            self.rows.clear();
            self.row_bytes = 0;
        }
        Ok(())
    }

    fn finish(mut self, unit: usize, out: &Location) -> Result<(Vec<OutputFile>, Funnel)> {
        self.write_rows()?;
        // Not among the files that make a unit complete: it may be taken elsewhere.
        if let Some(replaced) = &self.replaced {
            let place = out.join(&output_name("private", unit));
            let writer = Writer::create_private(&place)?;
            let mut rows =
                properties().and_then(|p| ArrowWriter::try_new(writer, report::schema(), Some(p))).map_err(|e| parquet_error(&place, &e))?;
            let batch = report::to_batch(replaced).map_err(|e| parquet_error(&place, &e.into()))?;
            rows.write(&batch).map_err(|e| parquet_error(&place, &e))?;
            rows.into_inner().map_err(|e| parquet_error(&place, &e))?.finish()?;
        }
        let documents = self.documents.into_inner().map_err(|e| parquet_error(&self.place, &e))?;
        let file = |kind: &str, written: Written| OutputFile { name: output_name(kind, unit), bytes: written.bytes, blake3: written.blake3 };
        let mut files = vec![file("documents", documents.finish()?), file("dropped", self.dropped.finish()?)];
        if let Some(signals) = self.signals {
            files.push(file("signals", signals.finish()?));
        }
        Ok((files, self.funnel))
    }
}

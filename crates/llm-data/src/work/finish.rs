//! The end of a stage: when every unit is complete, its funnels and drops become those of the whole, and the manifest is written.
//!
//! Any rank may do this, and several at once: what they write is the same but for the times in the manifest. What an earlier plan with
//! more units left behind is removed first.

use super::record::{Identity, Record};
use super::unit::plan;
use super::{ProcessConfig, output_name};
use crate::error::{Error, Result};
use crate::funnel::Funnel;
use crate::store::write::sweep;
use crate::store::{self, Location, Writer};
use llm_run::run::{Manifest, peak_memory_bytes};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is said when nothing was looked for.
const NOT_DECONTAMINATED: &str = "not decontaminated: name the benchmark files that you will evaluate on in `benchmarks` or LLM_BENCHMARKS, or \
     results on them may be too good";

/// What the end of a stage found.
#[derive(Debug)]
pub enum Finished {
    /// Everything is written.
    Whole(Box<Funnel>),
    /// Units are missing: of other ranks, or failed.
    Missing {
        /// How many.
        units: usize,
        /// The first of them.
        first: usize,
    },
}

/// Write `funnel.json`, `dropped.jsonl` and `manifest.json` if all units are complete.
pub fn finish(config: &ProcessConfig, out: &Location) -> Result<Finished> {
    let started = Instant::now();
    let units = plan(config)?;
    let identity = Identity::new(config)?;
    // One list answers the usual case, a rank that is not the last.
    let present = store::list(&out.join("units"))?.len();
    if present < units.len() {
        let first = (0..units.len()).find(|u| matches!(Record::read(out, *u), Ok(None))).unwrap_or(0);
        return Ok(Finished::Missing { units: units.len() - present, first });
    }
    let records: Vec<Result<Option<Record>>> = units.par_iter().map(|u| Record::valid(out, u.number, &identity.of(u))).collect();
    let records: Vec<Option<Record>> = records.into_iter().collect::<Result<_>>()?;
    let missing: Vec<usize> = records.iter().enumerate().filter(|(_, r)| r.is_none()).map(|(i, _)| i).collect();
    if let Some(first) = missing.first() {
        return Ok(Finished::Missing { units: missing.len(), first: *first });
    }
    let records: Vec<Record> = records.into_iter().flatten().collect();
    remove_surplus(config, out, units.len())?;

    let mut dropped = Writer::create(&out.join("dropped.jsonl"))?;
    let mut hasher = blake3::Hasher::new();
    let mut funnel = Funnel { stage: "process".into(), ..Funnel::default() };
    let mut inputs = BTreeMap::new();
    for (record, unit) in records.into_iter().zip(&units) {
        let lines = out.join(&output_name("dropped", record.unit));
        if let Some(object) = store::stat(&lines)? {
            let mut reader = store::open(&object, 0..object.size)?;
            std::io::copy(&mut reader, &mut dropped).map_err(|e| dropped.failed(e))?;
        }
        for file in &record.outputs {
            hasher.update(format!("{}\n{}\n", file.name, file.blake3).as_bytes());
        }
        for part in &unit.parts {
            inputs.insert(part.object.location.to_string(), format!("{} bytes, {}", part.object.size, part.object.version));
        }
        funnel.merge(record.funnel);
    }
    dropped.finish()?;
    if !config.decontaminates() {
        funnel.notices.push(NOT_DECONTAMINATED.into());
    }
    if funnel.documents_in == 0 {
        return Err(Error::Empty(format!("{}: no document in it; check the addresses and paths.text_field", config.input.join(", "))));
    }
    if config.signals {
        store::put(&out.join("signals").join(crate::signals::STEPS), super::signals::settings(&config.steps()))?;
    }
    store::put(&out.join("funnel.json"), pretty(&funnel))?;
    let manifest = Manifest {
        program: "llm-data".into(),
        command: "process".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        command_line: std::env::args().collect(),
        config: serde_json::to_value(config).unwrap_or_default(),
        inputs,
        output_hash: Some(hasher.finalize().to_hex().to_string()),
        summary: serde_json::json!({
            "documents_in": funnel.documents_in,
            "documents_out": funnel.documents_out,
            "bytes_in": funnel.bytes_in,
            "bytes_out": funnel.bytes_out,
            "counts": funnel.counts,
            "units": units.len(),
        }),
        started_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        wall_seconds: started.elapsed().as_secs_f64(),
        peak_memory_bytes: peak_memory_bytes(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        finished: true,
        ..Manifest::default()
    };
    store::put(&out.join("manifest.json"), pretty(&manifest))?;
    sweep(out)?;
    Ok(Finished::Whole(Box::new(funnel)))
}

/// Compare every file of every complete unit with its hash; the names of those that differ.
pub fn verify(config: &ProcessConfig, out: &Location) -> Result<Vec<String>> {
    let mut damaged = Vec::new();
    for unit in plan(config)? {
        crate::error::check_interrupt()?;
        if let Some(record) = Record::read(out, unit.number)? {
            let found = record.damaged(out)?;
            if !found.is_empty() {
                // Without its record the unit is done again.
                Record::remove(out, unit.number)?;
            }
            damaged.extend(found);
        }
    }
    Ok(damaged)
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Files of units that the plan no longer has, and signals and replaced personal data that are no longer asked for.
fn remove_surplus(config: &ProcessConfig, out: &Location, units: usize) -> Result<()> {
    for kind in ["units", "documents", "dropped", "signals", "private"] {
        let unwanted = kind == "signals" && !config.signals || kind == "private" && !config.keeps_replaced(out);
        for object in store::list(&out.join(kind))? {
            let digits: String = object.relative.chars().filter(char::is_ascii_digit).collect();
            if digits.parse::<usize>().is_ok_and(|n| n >= units) || unwanted {
                store::delete(&object.location)?;
            }
        }
    }
    Ok(())
}

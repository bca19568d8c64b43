//! The identity of a unit, and the record that says it is complete.
//!
//! `units/000007.json` is written after everything that it names and only if there is none. What it says can be checked: sizes when
//! a run asks whether the unit may be skipped, BLAKE3 by `llm-data process --verify`.

use super::ProcessConfig;
use super::unit::Unit;
use crate::error::{Error, Result};
use crate::funnel::Funnel;
use crate::store::{self, Location, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// Changes when the files of a unit change their form.
const LAYOUT: u32 = 2;

/// A file of a complete unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Path below the output.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// BLAKE3.
    pub blake3: String,
}

/// The record of a complete unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// See [`Identity`].
    pub id: String,
    /// Its number in the plan.
    pub unit: usize,
    /// What was read: address, or address and range.
    pub inputs: Vec<String>,
    /// What was written.
    pub outputs: Vec<OutputFile>,
    /// What happened to its documents.
    pub funnel: Funnel,
}

/// What all units of a run have in common: settings, files that settings name, and program.
#[derive(Debug, Clone)]
pub struct Identity(Value);

impl Identity {
    /// Hash the program and the files that steps name.
    pub fn new(config: &ProcessConfig) -> Result<Self> {
        let mut steps = serde_json::to_value(config.steps()).unwrap_or_default();
        let mut read = Vec::new();
        files(&mut steps, &mut read)?;
        let paths = serde_json::to_value(&config.paths).unwrap_or_default();
        Ok(Self(json!([LAYOUT, program()?, steps, paths, config.signals, config.reversible])))
    }

    /// Hex BLAKE3 over input, settings and program.
    pub fn of(&self, unit: &Unit) -> String {
        let parts: Vec<Value> = unit.parts.iter().map(super::unit::Part::identity).collect();
        llm_run::hash::bytes(json!([self.0, parts]).to_string().as_bytes())
    }
}

/// BLAKE3 of this program: another build may do another thing.
fn program() -> Result<String> {
    let path = std::env::current_exe().map_err(crate::error::io(Path::new("llm-data"), "cannot find this program's own file"))?;
    Ok(llm_run::hash::path(path)?)
}

/// Replace every text that names a file or folder by the hash of its content: a model that was trained again is another setting.
fn files(value: &mut Value, seen: &mut Vec<(String, String)>) -> Result<()> {
    match value {
        Value::String(text) if !text.is_empty() && text.len() < 4096 && Path::new(text.as_str()).exists() => {
            let hash = match seen.iter().find(|(path, _)| path == text) {
                Some((_, hash)) => hash.clone(),
                None => llm_run::hash::path(text.as_str())?,
            };
            seen.push((text.clone(), hash.clone()));
            *value = json!({ "content": hash });
        }
        Value::String(text) if text.contains("://") => {
            if let Ok(Some(object)) = Location::parse(text).and_then(|l| store::stat(&l)) {
                *value = json!({ "object": text, "size": object.size, "version": object.version });
            }
        }
        Value::Array(values) => values.iter_mut().try_for_each(|v| files(v, seen))?,
        Value::Object(map) => map.values_mut().try_for_each(|v| files(v, seen))?,
        _ => {}
    }
    Ok(())
}

fn location(out: &Location, unit: usize) -> Location {
    out.join(&format!("units/{unit:06}.json"))
}

impl Record {
    /// The record of a unit as it lies there, whatever its identity; a damaged one counts as none.
    pub fn read(out: &Location, unit: usize) -> Result<Option<Self>> {
        Ok(store::get(&location(out, unit))?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// The record, if it is that of this identity and all its files are there with the right size.
    pub fn valid(out: &Location, unit: usize, id: &str) -> Result<Option<Self>> {
        let Some(record) = Self::read(out, unit)?.filter(|r| r.id == id) else { return Ok(None) };
        for file in &record.outputs {
            if store::stat(&out.join(&file.name))?.is_none_or(|o| o.size != file.bytes) {
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    /// Remove the record of a unit whose files are about to be written anew.
    pub fn remove(out: &Location, unit: usize) -> Result<()> {
        store::delete(&location(out, unit))
    }

    /// Write the record, last of all. If another process was there first, its results must be the same.
    pub fn create(&self, out: &Location) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        let place = location(out, self.unit);
        if store::create(&place, text)? == Outcome::Created {
            return Ok(());
        }
        let message = match Self::read(out, self.unit)? {
            Some(other) if other.id == self.id && other.outputs == self.outputs => return Ok(()),
            Some(other) if other.id != self.id => {
                // This process's files may have taken the place of the other's: the record must not vouch for them.
                store::delete(&place)?;
                "another process writes here with other settings, other inputs or another build of the program; give each its own --out"
            }
            Some(_) => {
                "another process computed something else from the same input; a step is not deterministic: report it, and run with one process"
            }
            // Removed by a process that found it outdated or damaged: that process writes it again.
            None => return store::put(&place, serde_json::to_string_pretty(self).unwrap_or_default() + "\n"),
        };
        Err(Error::Format { path: place.display_path(), message: message.into() })
    }

    /// Compare every file with its hash; the names of those that differ.
    pub fn damaged(&self, out: &Location) -> Result<Vec<String>> {
        let mut damaged = Vec::new();
        for file in &self.outputs {
            let object = out.join(&file.name);
            let mut hasher = blake3::Hasher::new();
            if let Some(found) = store::stat(&object)? {
                std::io::copy(&mut store::open(&found, 0..found.size)?, &mut hasher)
                    .map_err(crate::error::io(&object.display_path(), "cannot read"))?;
            }
            if hasher.finalize().to_hex().as_str() != file.blake3 {
                damaged.push(object.to_string());
            }
        }
        Ok(damaged)
    }
}

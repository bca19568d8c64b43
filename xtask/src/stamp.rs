//! When a stage may be skipped: its key (content of inputs, configuration, program) is the one it was last finished with.
//!
//! Two small files in the stage's folder. `.tmp-running.json` exists while a stage runs and after it was killed: the same
//! key there means the partial folder may be continued, another key means it is stale. `.stage.json` replaces it at the
//! end. Both are invisible to content hashes, so a folder's hash speaks only of results.

use anyhow::{Context, Result};
use llm_run::atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the stamp of a finished stage.
pub const DONE: &str = ".stage.json";
/// Name of the stamp of a stage that runs, or was killed.
pub const RUNNING: &str = ".tmp-running.json";

/// What the result of a stage depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Key {
    /// BLAKE3 of the program's file.
    pub program: String,
    /// Subcommand.
    pub command: String,
    /// BLAKE3 of the configuration, folders of the run left as names.
    pub config: String,
    /// Input as the recipe names it -> BLAKE3 of its content.
    pub inputs: BTreeMap<String, String>,
}

impl Key {
    /// One hash for all of it.
    pub fn hash(&self) -> String {
        llm_run::hash::bytes(json!(self).to_string().as_bytes())
    }

    /// Why a stage with the old key must run again.
    pub fn difference(&self, old: &Key) -> String {
        if self.command != old.command || self.config != old.config {
            return "its configuration changed".to_string();
        }
        let changed: Vec<&str> =
            self.inputs.iter().filter(|(name, hash)| old.inputs.get(*name) != Some(hash)).map(|(name, _)| name.as_str()).collect();
        if !changed.is_empty() || self.inputs.len() != old.inputs.len() {
            return format!("its input changed: {}", changed.join(", "));
        }
        if self.program != old.program { "its program was rebuilt".to_string() } else { "forced".to_string() }
    }
}

/// The stamp of a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stamp {
    /// Stage id.
    pub stage: String,
    /// One line for people.
    #[serde(default)]
    pub title: String,
    /// The call, as typed.
    pub command_line: Vec<String>,
    /// BLAKE3 of `depends_on`.
    pub key: String,
    /// The parts of the key.
    pub depends_on: Key,
    /// Unix seconds of the first start.
    pub started_at: u64,
    /// Wall time over all attempts.
    pub wall_seconds: f64,
    /// From the program's manifest.
    pub peak_memory_bytes: Option<u64>,
    /// How often the stage was started.
    pub attempts: u32,
    /// Process id while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Names and sizes of the outputs, to notice a deleted or truncated one.
    #[serde(default)]
    pub files: String,
}

impl Stamp {
    /// Read one; damaged or missing is `None` (the stage then runs again).
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    /// Write it atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot write a stamp")?;
        Ok(atomic::write(path, text)?)
    }
}

/// Where a stage stands before it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Finished with this key, outputs in place.
    Fresh,
    /// Started with this key and not finished.
    Partial,
    /// Nothing there.
    New,
    /// Something there that must go, and why.
    Stale(String),
}

/// Compare a stage folder with the key.
pub fn state(dir: &Path, key: &Key) -> State {
    let hash = key.hash();
    if let Some(done) = Stamp::read(&dir.join(DONE)) {
        return match (done.key == hash, done.files == listing(dir)) {
            (true, true) => State::Fresh,
            (true, false) => State::Stale("its output files were changed or removed".to_string()),
            (false, _) => State::Stale(key.difference(&done.depends_on)),
        };
    }
    match Stamp::read(&dir.join(RUNNING)) {
        Some(running) if running.key == hash => State::Partial,
        Some(running) => State::Stale(key.difference(&running.depends_on)),
        None if dir.exists() => State::Stale("what is in its folder was not made by this recipe".to_string()),
        None => State::New,
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    atomic::walk(dir).unwrap_or_default().into_iter().filter(|f| f.file_name().is_none_or(|n| n != DONE)).collect()
}

/// BLAKE3 over names and sizes of the files of a folder.
pub fn listing(dir: &Path) -> String {
    let lines: Vec<String> =
        files(dir).iter().map(|f| format!("{}\t{}", f.strip_prefix(dir).unwrap_or(f).display(), fs::metadata(f).map_or(0, |m| m.len()))).collect();
    llm_run::hash::bytes(lines.join("\n").as_bytes())
}

/// Content hashes of inputs, each computed once per run.
#[derive(Debug, Default)]
pub struct Contents {
    known: HashMap<PathBuf, String>,
}

impl Contents {
    /// BLAKE3 of a file, or of names and contents of a folder's files except bookkeeping (stamps, manifests, metrics,
    /// checkpoints).
    pub fn hash(&mut self, path: &Path) -> Result<String> {
        if let Some(hash) = self.known.get(path) {
            return Ok(hash.clone());
        }
        let hash = if path.join(DONE).exists() {
            // The stamp is no content: hash the rest the way llm-run does.
            let mut hasher = blake3::Hasher::new();
            for file in files(path) {
                let name = file.strip_prefix(path).unwrap_or(&file).display().to_string();
                if name.split('/').any(|p| matches!(p, "manifest.json" | "metrics.jsonl" | "checkpoints")) {
                    continue;
                }
                hasher.update(name.as_bytes());
                hasher.update(&[0]);
                hasher.update(llm_run::hash::path(&file)?.as_bytes());
            }
            hasher.finalize().to_hex().to_string()
        } else {
            llm_run::hash::path(path)?
        };
        self.known.insert(path.to_path_buf(), hash.clone());
        Ok(hash)
    }

    /// Forget what lies below a folder: a stage has just written there.
    pub fn forget(&mut self, dir: &Path) {
        self.known.retain(|path, _| !path.starts_with(dir));
    }
}

/// Hash of a TOML table, key order left out.
pub fn config_hash(table: &toml::Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let ordered: BTreeMap<&String, Value> = map.iter().map(|(k, v)| (k, sorted(v))).collect();
                json!(ordered)
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    llm_run::hash::bytes(sorted(&json!(table)).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(key: &Key, dir: &Path) -> Stamp {
        Stamp {
            stage: "s".into(),
            title: String::new(),
            command_line: vec![],
            key: key.hash(),
            depends_on: key.clone(),
            started_at: 0,
            wall_seconds: 1.0,
            peak_memory_bytes: None,
            attempts: 1,
            pid: None,
            files: listing(dir),
        }
    }

    #[test]
    fn a_finished_stage_is_fresh_until_key_or_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let key = Key { config: "a".into(), ..Key::default() };
        fs::write(dir.join("out"), "12345").unwrap();
        stamp(&key, dir).write(&dir.join(DONE)).unwrap();
        assert_eq!(state(dir, &key), State::Fresh);
        let other = Key { config: "b".into(), ..Key::default() };
        assert_eq!(state(dir, &other), State::Stale("its configuration changed".into()));
        let input = Key { inputs: [("{read}".to_string(), "h".to_string())].into(), ..key.clone() };
        assert_eq!(state(dir, &input), State::Stale("its input changed: {read}".into()));
        fs::write(dir.join("out"), "1").unwrap();
        assert!(matches!(state(dir, &key), State::Stale(_)));
    }

    #[test]
    fn a_killed_stage_continues_only_with_its_own_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key { config: "a".into(), ..Key::default() };
        assert_eq!(state(&dir.path().join("none"), &key), State::New);
        stamp(&key, dir.path()).write(&dir.path().join(RUNNING)).unwrap();
        assert_eq!(state(dir.path(), &key), State::Partial);
        assert!(matches!(state(dir.path(), &Key::default()), State::Stale(_)));
    }

    #[test]
    fn the_order_of_keys_in_a_config_does_not_matter() {
        let hash = |text: &str| config_hash(&toml::from_str(text).unwrap());
        assert_eq!(hash("a = 1\nb = { c = 2, d = 3 }"), hash("b = { d = 3, c = 2 }\na = 1"));
        assert_ne!(hash("a = 1"), hash("a = 2"));
    }

    #[test]
    fn stamps_do_not_change_the_content_hash_and_times_neither() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(DONE), "{}").unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        let first = Contents::default().hash(dir.path()).unwrap();
        fs::write(dir.path().join(DONE), "{ }").unwrap();
        fs::write(dir.path().join("manifest.json"), "{ }").unwrap();
        assert_eq!(Contents::default().hash(dir.path()).unwrap(), first);
        fs::write(dir.path().join("a"), "2").unwrap();
        assert_ne!(Contents::default().hash(dir.path()).unwrap(), first);
    }
}

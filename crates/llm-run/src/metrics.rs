//! `metrics.jsonl`: one JSON object per line, append-only, safe to resume.
//!
//! A killed run may leave lines of steps that its checkpoint does not know, and half a line at the end. Opening the file
//! for a resume at step N drops both, so a resumed run's metrics are those of an undisturbed one.

use crate::atomic;
use crate::error::{Error, Result, io};
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// An open metrics file.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Open `path`, keeping only whole lines whose `step` is at most `resume_step` (0 or lines without a step: dropped
    /// when `resume_step` is 0, so a fresh run starts an empty file).
    pub fn open(path: impl AsRef<Path>, resume_step: u64) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let mut kept = String::new();
        if resume_step > 0 && path.exists() {
            let text = fs::read_to_string(&path).map_err(io(&path, "cannot read"))?;
            for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
                let step = serde_json::from_str::<Value>(line).ok().and_then(|v| v.get("step").and_then(Value::as_u64));
                if step.is_some_and(|s| s <= resume_step) {
                    kept.push_str(line);
                }
            }
        }
        atomic::write(&path, kept)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io(&path, "cannot open"))?;
        Ok(Self { path, file })
    }

    /// Append one object.
    pub fn log(&mut self, record: &Value) -> Result<()> {
        let mut line = record.to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(io(&self.path, "cannot write"))
    }

    /// Read a metrics file; an unfinished last line is ignored, any other damage is an error with its line number.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Map<String, Value>>> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(io(path, "cannot read"))?;
        let mut records = Vec::new();
        for (i, line) in text.split_inclusive('\n').enumerate() {
            match serde_json::from_str(line) {
                Ok(record) => records.push(record),
                Err(_) if !line.ends_with('\n') => break,
                Err(e) => return Err(Error::Json { path: path.to_path_buf(), line: i + 1, message: e.to_string() }),
            }
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resume_drops_later_steps_and_half_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        for step in 1..=5 {
            metrics.log(&json!({"step": step, "loss": 1.0})).unwrap();
        }
        metrics.file.write_all(b"{\"step\": 6, \"lo").unwrap();
        assert_eq!(Metrics::read(&path).unwrap().len(), 5);
        drop(Metrics::open(&path, 3).unwrap());
        let steps: Vec<_> = Metrics::read(&path).unwrap().iter().map(|r| r["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
        drop(Metrics::open(&path, 0).unwrap());
        assert!(Metrics::read(&path).unwrap().is_empty());
    }

    #[test]
    fn damage_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        fs::write(&path, "{\"step\":1}\nnonsense\n{\"step\":2}\n").unwrap();
        let message = Metrics::read(&path).unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }
}

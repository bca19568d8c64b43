//! Event files that TensorBoard reads, without TensorFlow: `OUT/tensorboard/events.out.tfevents.*`.
//!
//! A file is a series of records ([`record`]) that hold `Event` messages ([`proto`]). The names of the numbers are grouped as TensorBoard
//! groups them, by what is before the first `/`: `train/loss`, `val/loss`, `eval/hellaswag/acc_norm`.
//!
//! Steps that are done again are taken out of what TensorBoard shows by a `SessionLog` of status START with the first step to come: that
//! makes its reader drop what it has read of that step and later ones (`_CheckForRestartAndMaybePurge` of its `EventAccumulator`). So a
//! resumed run writes a further file that begins so, and a run that goes back writes one in between. Files of a run that is started over
//! from its beginning are removed.

pub mod proto;
pub mod record;

use super::history::numbers;
use proto::Event;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Part of every name by which TensorBoard finds event files.
const MARK: &str = "tfevents";

/// A file being written.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
    step: u64,
    buffer: Vec<u8>,
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// `loss` is `train/loss`, `val_loss/de` is `val/loss/de`, `eval/task/metric` stays.
fn tag(key: &str, heldout: bool) -> String {
    match key.strip_prefix("val_") {
        Some(rest) => format!("val/{rest}"),
        None if heldout && key.contains('/') => key.to_string(),
        None if heldout => format!("val/{key}"),
        None => format!("train/{key}"),
    }
}

impl EventWriter {
    /// Begin a file in `dir` for a run that has taken `step` steps.
    pub fn create(dir: &Path, step: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut files = 0;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().contains(MARK) {
                if step == 0 {
                    fs::remove_file(entry.path())?;
                } else {
                    files += 1;
                }
            }
        }
        let now = seconds();
        // TensorBoard reads files in the order of their names: by time, and within a second by number.
        let file = File::create(dir.join(format!("events.out.{MARK}.{:010}.{files:04}", now as u64)))?;
        let mut writer = Self { file: BufWriter::with_capacity(1 << 16, file), step, buffer: Vec::with_capacity(1 << 10) };
        writer.write(&Event { wall_time: now, step: 0, what: proto::What::Version })?;
        if step > 0 {
            writer.restart(step + 1)?;
        }
        writer.flush()?;
        Ok(writer)
    }

    /// What was written of `step` and later ones is void.
    fn restart(&mut self, step: u64) -> io::Result<()> {
        self.write(&Event { wall_time: seconds(), step, what: proto::What::Start })
    }

    fn write(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.buffer.clear();
        event.encode(&mut self.buffer);
        record::write(&mut self.file, &self.buffer)
    }

    /// The numbers of a record, of a step or `heldout` of a validation.
    pub fn scalars(&mut self, step: u64, fields: &Map<String, Value>, heldout: bool) -> io::Result<()> {
        if !heldout {
            if step <= self.step {
                self.restart(step)?;
            }
            self.step = step;
        }
        let mut values = Vec::with_capacity(fields.len());
        numbers(fields, |key, value| {
            if key != "step" {
                values.push((tag(key, heldout), value as f32));
            }
        });
        self.write(&Event { wall_time: seconds(), step, what: proto::What::Scalars(&values) })
    }

    /// Texts, shown in TensorBoard's tab of that name as Markdown.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> io::Result<()> {
        self.write(&Event { wall_time: seconds(), step, what: proto::What::Text { tag, text } })
    }

    /// Hand everything to the system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    fn read(dir: &Path) -> Vec<(u64, proto::Read)> {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let records = files.iter().flat_map(|f| record::read(&fs::read(f).unwrap()).unwrap());
        records.map(|r| proto::read(&r).unwrap()).collect()
    }

    /// If this fails, TensorBoard shows other numbers than `metrics.jsonl`, or both tries of a step that was done again.
    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 0).unwrap();
        writer.scalars(1, &record(json!({"step": 1, "loss": 2.5, "moe_load": [[1.0, 3.0]]})), false).unwrap();
        writer.scalars(1, &record(json!({"step": 1, "val_loss": 2.0, "val_loss/de": 2.25, "eval/arc/acc": 0.5})), true).unwrap();
        writer.text(1, "samples/0", "Grüße").unwrap();
        writer.scalars(1, &record(json!({"step": 1, "loss": 2.25})), false).unwrap();
        drop(writer);
        let mut writer = EventWriter::create(dir.path(), 1).unwrap();
        writer.flush().unwrap();
        let scalars = |list: &[(&str, f32)]| proto::Read::Scalars(list.iter().map(|(k, v)| (k.to_string(), *v)).collect());
        let wanted = vec![
            (0, proto::Read::Version("brain.Event:2".into())),
            (1, scalars(&[("train/loss", 2.5), ("train/moe_load/max", 3.0), ("train/moe_load/min", 1.0)])),
            (1, scalars(&[("val/loss", 2.0), ("val/loss/de", 2.25), ("eval/arc/acc", 0.5)])),
            (1, proto::Read::Text("samples/0".into(), "Grüße".into())),
            (1, proto::Read::Start),
            (1, scalars(&[("train/loss", 2.25)])),
            (0, proto::Read::Version("brain.Event:2".into())),
            (2, proto::Read::Start),
        ];
        assert_eq!(read(dir.path()), wanted);
        drop(EventWriter::create(dir.path(), 0).unwrap());
        assert_eq!(read(dir.path()).len(), 1, "a run from the beginning replaces what was there");
    }
}

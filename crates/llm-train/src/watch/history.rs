//! Everything a training has told so far: curves, held-out numbers, events, samples, forecasts. Filled while training, or from the files
//! of a run folder: `metrics.jsonl` holds the numbers, `events.jsonl` the rest.

use super::config::About;
use super::curve::{Curve, Smooth};
use super::forecast::Forecast;
use crate::Result;
use llm_run::Metrics;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Samples and events kept for showing; the files keep all.
const MOST_EVENTS: usize = 2000;
const MOST_SAMPLES: usize = 8;

/// What can happen between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A checkpoint was saved.
    Checkpoint,
    /// The run continues from a checkpoint.
    Resumed,
    /// A loss or a gradient far outside of what came before.
    Spike,
    /// The run went back to an earlier checkpoint.
    Rewind,
    /// A step was left out.
    Skipped,
    /// The loss scale of a short number format changed.
    LossScale,
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// The run ended with an error.
    Failed,
    /// The objective saw something go wrong.
    Alarm,
    /// The objective ended the run.
    Halted,
    /// Anything else.
    Note,
}

impl Kind {
    /// In a few letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Resumed => "resumed",
            Self::Spike => "spike",
            Self::Rewind => "rewind",
            Self::Skipped => "skipped",
            Self::LossScale => "loss scale",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Alarm => "alarm",
            Self::Halted => "halted",
            Self::Note => "note",
        }
    }

    /// Colour class of a chart.
    pub fn colour(self) -> usize {
        match self {
            Self::Checkpoint | Self::Note => 4,
            Self::Resumed | Self::LossScale => 2,
            Self::Skipped | Self::Alarm => 1,
            Self::Spike | Self::Rewind => 3,
            Self::Interrupted | Self::Failed | Self::Halted => 5,
        }
    }
}

/// Something that happened after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Steps taken by then.
    pub step: u64,
    /// What kind.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

/// Texts of the model after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Steps taken by then.
    pub step: u64,
    /// Prompts and what the model wrote after them.
    pub texts: Vec<(String, String)>,
    /// What each is worth, where that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<Option<f64>>,
}

/// A line of `events.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    /// A process began.
    Start {
        /// Where.
        step: u64,
        /// What was known then.
        about: Box<About>,
    },
    /// Something happened.
    Event(Event),
    /// Texts.
    Samples(Samples),
    /// What was expected.
    Forecast(Forecast),
    /// The run is complete.
    Finish {
        /// Where.
        step: u64,
    },
}

/// What a training has told.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Numbers of every step by their key in `metrics.jsonl`; lists by `KEY/max` and `KEY/min`.
    pub curves: BTreeMap<String, Curve>,
    /// Held-out numbers by key, ascending by step.
    pub heldout: BTreeMap<String, Vec<(f64, f64)>>,
    /// What happened.
    pub events: Vec<Event>,
    /// The first and the newest texts.
    pub samples: Vec<Samples>,
    /// What was expected, and when.
    pub forecasts: Vec<Forecast>,
    /// Steps taken.
    pub step: u64,
    /// The loss without its noise.
    pub loss: Smooth,
    /// The whole run is done.
    pub finished: bool,
    /// `calibration.json` of a reward model.
    pub calibration: Option<Value>,
}

/// Numbers of a record: a list becomes its extremes, text is left out.
pub fn numbers(record: &Map<String, Value>, mut take: impl FnMut(&str, f64)) {
    for (key, value) in record {
        match value {
            Value::Number(number) => take(key, number.as_f64().unwrap_or(f64::NAN)),
            Value::Array(list) => {
                let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
                extremes(list, &mut least, &mut most);
                if least.is_finite() && most.is_finite() {
                    take(&format!("{key}/max"), most);
                    take(&format!("{key}/min"), least);
                }
            }
            _ => {}
        }
    }
}

fn extremes(list: &[Value], least: &mut f64, most: &mut f64) {
    for value in list {
        match value {
            Value::Array(inner) => extremes(inner, least, most),
            other => {
                let value = other.as_f64().unwrap_or(f64::NAN);
                (*least, *most) = (least.min(value), most.max(value));
            }
        }
    }
}

/// What `calibration.json` in the folder of a run says; none without such a file.
pub fn calibration(out: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(out.join("calibration.json")).ok()?).ok()
}

fn step_of(record: &Map<String, Value>) -> Option<u64> {
    record.get("step").and_then(Value::as_u64)
}

impl History {
    /// A record of a step.
    pub fn step(&mut self, record: &Map<String, Value>) {
        let Some(step) = step_of(record) else { return };
        self.step = step;
        numbers(record, |key, value| {
            if key == "step" {
                return;
            }
            if key == "loss" {
                self.loss.push(value);
            }
            match self.curves.get_mut(key) {
                Some(curve) => curve.push(step as f64, value),
                None => self.curves.entry(key.to_string()).or_default().push(step as f64, value),
            }
        });
    }

    /// A record of a validation.
    pub fn validation(&mut self, record: &Map<String, Value>) {
        let Some(step) = step_of(record) else { return };
        let step = step as f64;
        numbers(record, |key, value| {
            if key != "step" && value.is_finite() {
                let points = self.heldout.entry(key.to_string()).or_default();
                points.truncate(points.partition_point(|p| p.0 < step));
                points.push((step, value));
            }
        });
    }

    /// A line of `events.jsonl`.
    pub fn entry(&mut self, entry: Entry) {
        match entry {
            Entry::Event(event) => {
                if self.events.len() == MOST_EVENTS {
                    self.events.remove(0);
                }
                self.events.push(event);
            }
            Entry::Samples(samples) => {
                if self.samples.len() == MOST_SAMPLES {
                    // The first stay, to compare with.
                    self.samples.remove(1);
                }
                self.samples.push(samples);
            }
            Entry::Forecast(forecast) => self.forecasts.push(forecast),
            Entry::Finish { .. } => self.finished = true,
            Entry::Start { .. } => {}
        }
    }

    /// What the files of a run folder tell about its steps up to `last`; the second is what its newest start knew.
    pub fn read(out: &Path, last: u64) -> Result<(Self, Option<About>)> {
        let (mut history, mut about) = (Self::default(), None);
        for record in Metrics::read(out.join("metrics.jsonl"))? {
            if step_of(&record).is_none_or(|step| step > last) {
                continue;
            }
            if record.contains_key("loss") { history.step(&record) } else { history.validation(&record) }
        }
        history.calibration = calibration(out);
        let events = out.join("events.jsonl");
        if events.is_file() {
            for record in Metrics::read(events)? {
                if step_of(&record).is_none_or(|step| step > last) {
                    continue;
                }
                // A line of a newer version that is not known here is no reason to show nothing.
                match serde_json::from_value(Value::Object(record)) {
                    Ok(Entry::Start { about: started, .. }) => about = Some(*started),
                    Ok(entry) => history.entry(entry),
                    Err(_) => {}
                }
            }
        }
        Ok((history, about))
    }

    /// The newest value of a step's number.
    pub fn last(&self, key: &str) -> Option<f64> {
        self.curves.get(key)?.last()
    }

    /// The first of these keys that steps have: the same number under the names of different trainings.
    pub fn first_of<'a>(&self, keys: &[&'a str]) -> Option<&'a str> {
        keys.iter().copied().find(|key| self.curves.contains_key(*key))
    }

    /// Points of a step's number.
    pub fn points(&self, key: &str) -> &[(f64, f64)] {
        self.curves.get(key).map_or(&[], Curve::points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    /// If this fails, the report of a resumed run shows steps that were undone, or what a mixture tells is lost.
    #[test]
    fn a_run_folder_is_read_up_to_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(dir.path().join("metrics.jsonl"), 0).unwrap();
        let mut events = Metrics::open(dir.path().join("events.jsonl"), 0).unwrap();
        let about = About { name: "a".into(), max_steps: 9, ..About::default() };
        events.log(&serde_json::to_value(Entry::Start { step: 0, about: Box::new(about.clone()) }).unwrap()).unwrap();
        for step in 1..=5u64 {
            metrics.log(&json!({"step": step, "loss": 6 - step, "moe_load": [[0.5, 1.5], [1.0, 1.0]]})).unwrap();
            metrics.log(&json!({"step": step, "val_loss": 7 - step, "val_loss/de": 8 - step})).unwrap();
            let entry = Entry::Event(Event { step, kind: Kind::LossScale, text: "2^16".into() });
            events.log(&serde_json::to_value(entry).unwrap()).unwrap();
        }
        events.log(&json!({"step": 1, "what": "of the future"})).unwrap();
        let (history, found) = History::read(dir.path(), 3).unwrap();
        assert_eq!(found, Some(about));
        assert_eq!((history.step, history.events.len()), (3, 3));
        assert_eq!(history.points("loss"), [(1.0, 5.0), (2.0, 4.0), (3.0, 3.0)]);
        assert_eq!((history.last("moe_load/max"), history.last("moe_load/min")), (Some(1.5), Some(0.5)));
        assert_eq!(history.heldout["val_loss/de"], [(1.0, 7.0), (2.0, 6.0), (3.0, 5.0)]);
    }

    #[test]
    fn a_rewind_replaces_what_it_repeats() {
        let mut history = History::default();
        for step in [1, 2, 3, 2, 3, 4] {
            history.step(&record(json!({"step": step, "loss": 1.0})));
            history.validation(&record(json!({"step": step, "val_loss": 1.0})));
        }
        assert_eq!(history.points("loss").iter().map(|p| p.0).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(history.heldout["val_loss"].len(), 4);
    }
}

//! Answers to the same few prompts at the start, during and at the end of a run: what a reward curve does not tell. They stand in
//! `OUT/samples.jsonl`, a line per answer, and in the record of a validation under `samples`, where the report finds them.

use llm_run::{Metrics, atomic};
use llm_train::Result;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// `OUT/samples.jsonl`.
#[derive(Debug, Clone)]
pub struct Samples {
    path: PathBuf,
    /// The step whose answers are being recorded, and they.
    step: Option<u64>,
    lines: Vec<Map<String, Value>>,
}

impl Samples {
    /// In the folder of a run.
    pub fn new(out: &Path) -> Self {
        Self { path: out.join("samples.jsonl"), step: None, lines: Vec::new() }
    }

    /// An answer after `step` steps. The first of a step forgets what the file says of this step and later ones: a run that was killed or
    /// went back records them again.
    pub fn record(&mut self, step: u64, prompt: &str, answer: &str, reward: Option<f64>) -> Result<()> {
        if self.step != Some(step) {
            let known = if step > 0 && self.path.exists() { Metrics::read(&self.path)? } else { Vec::new() };
            self.lines = known.into_iter().filter(|line| line.get("step").and_then(Value::as_u64).is_some_and(|s| s < step)).collect();
            self.step = Some(step);
        }
        let mut line =
            Map::from_iter([("step".to_string(), json!(step)), ("prompt".to_string(), json!(prompt)), ("text".to_string(), json!(answer))]);
        line.extend(reward.map(|reward| ("reward".to_string(), json!(reward))));
        self.lines.push(line);
        let text: String = self.lines.iter().map(|line| format!("{}\n", Value::Object(line.clone()))).collect();
        Ok(atomic::write(&self.path, text)?)
    }

    /// `[{prompt, text, reward}]` of the step recorded last, for the record of a validation.
    pub fn newest(&self) -> Value {
        let of_step = self.lines.iter().filter(|line| line.get("step").and_then(Value::as_u64) == self.step);
        of_step
            .map(|line| {
                let mut line = line.clone();
                line.remove("step");
                Value::Object(line)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a run that was killed shows answers twice, or those of steps that were undone.
    #[test]
    fn a_step_is_recorded_once_however_often_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut samples = Samples::new(dir.path());
            for step in [0, 10] {
                samples.record(step, "why?", &format!("because {step}"), Some(0.5)).unwrap();
                samples.record(step, "who?", "\u{1b} \"me\"\n", None).unwrap();
            }
            let mut again = Samples::new(dir.path());
            again.record(10, "why?", "since 10", None).unwrap();
            assert_eq!(again.newest(), json!([{"prompt": "why?", "text": "since 10"}]));
            let lines = Metrics::read(dir.path().join("samples.jsonl")).unwrap();
            assert_eq!(lines.iter().map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 0, 10]);
            assert_eq!(lines[0]["reward"], 0.5);
            assert_eq!(lines[1]["text"], "\u{1b} \"me\"\n");
        }
    }
}

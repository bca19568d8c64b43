//! PIQA (Bisk et al. 2020): which of two ways reaches a household goal.
//!
//! lm-evaluation-harness `piqa`, version 1. Read are lines with `goal`, `sol1`, `sol2`, `label`, and the in-context-learning
//! layout (`query`, `choices`, `gold`).

use crate::error::Result;
use crate::reader::{Record, jsonl};
use crate::results::Metric;
use crate::task::{Document, Kind, Loaded, MetricSpec, Spec, Task, TaskName};
use std::path::Path;

const FILES: &[&str] = &["piqa/valid.jsonl", "commonsense/piqa.jsonl"];
const TRAIN: &str = "piqa/train.jsonl";

struct Piqa(Spec);

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let metrics = [Metric::Acc, Metric::AccNorm].map(MetricSpec::mean).to_vec();
    vec![Box::new(Piqa(Spec::new(TaskName::lm_eval("piqa", "1"), Kind::MultipleChoice, FILES, metrics)))]
}

impl Task for Piqa {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let read = |path: &Path| jsonl(path)?.iter().enumerate().map(|(i, r)| document(i, r)).collect::<Result<Vec<_>>>();
        let mut loaded = Loaded::with_train(read(&self.0.file(data)?)?, &data.join(TRAIN), read)?;
        // As with HellaSwag: no test split is named, so one more example is drawn.
        loaded.shots.exclude_self = true;
        Ok(loaded)
    }
}

fn document(i: usize, record: &Record) -> Result<Document> {
    let (text, choices, gold) = if record.fields.contains_key("query") {
        (record.text("query")?.to_string(), record.texts("choices")?, record.place("gold", record.texts("choices")?.len())?)
    } else {
        let choices = vec![record.text("sol1")?.to_string(), record.text("sol2")?.to_string()];
        (format!("Question: {}", record.text("goal")?), choices, record.place("label", 2)?)
    };
    Ok(Document::choice(i.to_string(), format!("{text}\nAnswer:"), choices, gold, record.value()))
}

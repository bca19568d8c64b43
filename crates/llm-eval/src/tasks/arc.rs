//! ARC (Clark et al. 2018): grade-school science questions, easy and challenge.
//!
//! lm-evaluation-harness `arc_easy` and `arc_challenge`, version 1. Read are the publisher's own lines, those of the Hugging
//! Face data set, and the in-context-learning layout (`query`, `choices`, `gold`) in which the text already says `Question:`.

use crate::error::Result;
use crate::reader::{Record, jsonl};
use crate::results::Metric;
use crate::task::{Document, Kind, Loaded, MetricSpec, Spec, Task, TaskName};
use serde_json::Value;
use std::path::Path;

struct Arc {
    spec: Spec,
    train: &'static str,
}

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let files: [(&str, &[&str], &str); 2] = [
        ("arc_easy", &["arc/ARC-Easy-Test.jsonl", "commonsense/arc_easy.jsonl"], "arc/ARC-Easy-Train.jsonl"),
        ("arc_challenge", &["arc/ARC-Challenge-Test.jsonl", "commonsense/arc_challenge.jsonl"], "arc/ARC-Challenge-Train.jsonl"),
    ];
    let task = |(name, files, train): (&str, &[&str], &'static str)| -> Box<dyn Task> {
        let metrics = [Metric::Acc, Metric::AccNorm].map(MetricSpec::mean).to_vec();
        Box::new(Arc { spec: Spec::new(TaskName::lm_eval(name, "1"), Kind::MultipleChoice, files, metrics), train })
    };
    files.into_iter().map(task).collect()
}

impl Task for Arc {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let read = |path: &Path| jsonl(path)?.iter().enumerate().map(|(i, r)| document(i, r)).collect::<Result<Vec<_>>>();
        Loaded::with_train(read(&self.spec.file(data)?)?, &data.join(self.train), read)
    }
}

fn document(i: usize, record: &Record) -> Result<Document> {
    if record.fields.contains_key("query") {
        let choices = record.texts("choices")?;
        let gold = record.place("gold", choices.len())?;
        let text = format!("{}\nAnswer:", record.text("query")?);
        return Ok(Document::choice(i.to_string(), text, choices, gold, record.value()));
    }
    let id = record.text("id").map_or_else(|_| i.to_string(), str::to_string);
    let (question, texts, labels) = match record.field("question")? {
        // {"question": {"stem": .., "choices": [{"text": .., "label": ..}]}}
        Value::Object(_) => {
            let question = record.object("question")?;
            let list = question.field("choices")?.as_array().cloned().unwrap_or_default();
            let column = |name: &str| list.iter().map(|c| c[name].as_str().map(str::to_string)).collect::<Option<Vec<String>>>();
            let wrong = || record.error("field `question.choices`: expected a list of objects with `text` and `label`");
            (question.text("stem")?.to_string(), column("text").ok_or_else(wrong)?, column("label").ok_or_else(wrong)?)
        }
        _ => {
            let choices = record.object("choices")?;
            (record.text("question")?.to_string(), choices.texts("text")?, choices.texts("label")?)
        }
    };
    let key = record.text("answerKey")?;
    let gold = labels.iter().position(|l| l == key).filter(|&g| g < texts.len());
    let gold = gold.ok_or_else(|| record.error(format!("field `answerKey`: `{key}` is not one of the labels {labels:?}")))?;
    Ok(Document::choice(id, format!("Question: {question}\nAnswer:"), texts, gold, record.value()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_layouts_give_one_document() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.jsonl");
        let lines = [
            r#"{"query": "Question: Why?", "choices": ["a", "b"], "gold": 1}"#,
            r#"{"id": "x", "question": {"stem": "Why?", "choices": [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]}, "answerKey": "2"}"#,
            r#"{"id": "x", "question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}"#,
            r#"{"id": "x", "question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}"#,
        ];
        std::fs::write(&file, lines.join("\n")).unwrap();
        let records = jsonl(&file).unwrap();
        let documents: Vec<Document> = records[..3].iter().map(|r| document(0, r).unwrap()).collect();
        for d in &documents {
            assert_eq!((&*d.text, &*d.target), ("Question: Why?\nAnswer:", "b"));
            assert_eq!(d.ask, documents[0].ask);
        }
        let message = document(0, &records[3]).unwrap_err().to_string();
        assert!(message.contains("line 4: field `answerKey`: `C` is not one of the labels"), "{message}");
    }
}

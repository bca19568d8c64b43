//! HellaSwag (Zellers et al. 2019): which of four endings continues a scene.
//!
//! lm-evaluation-harness `hellaswag`, version 1. The context is `activity: ctx_a Ctx_b`, where `ctx_b` is capitalised as Python
//! does it (all later letters become small). Files that hold only the joined `ctx` are split where the harness's two fields
//! meet: after the last sentence, if what follows begins small.

use crate::error::Result;
use crate::python::{capitalize, strip};
use crate::reader::{Record, jsonl};
use crate::results::Metric;
use crate::task::{Document, Kind, Loaded, MetricSpec, Spec, Task, TaskName};
use std::path::Path;

const FILES: &[&str] = &["hellaswag/hellaswag_val.jsonl", "hellaswag/hellaswag_val_first1500.jsonl"];
const TRAIN: &str = "hellaswag/hellaswag_train.jsonl";

struct HellaSwag(Spec);

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let metrics = [Metric::Acc, Metric::AccNorm].map(MetricSpec::mean).to_vec();
    vec![Box::new(HellaSwag(Spec::new(TaskName::lm_eval("hellaswag", "1"), Kind::MultipleChoice, FILES, metrics)))]
}

impl Task for HellaSwag {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let read = |path: &Path| jsonl(path)?.iter().enumerate().map(|(i, r)| document(i, r)).collect::<Result<Vec<_>>>();
        let mut loaded = Loaded::with_train(read(&self.0.file(data)?)?, &data.join(TRAIN), read)?;
        // The harness's task names no test split and takes the training split for the document's own: it draws one more.
        loaded.shots.exclude_self = true;
        Ok(loaded)
    }
}

fn document(i: usize, record: &Record) -> Result<Document> {
    let (a, b) = match (record.fields.get("ctx_a"), record.fields.get("ctx_b")) {
        (Some(_), Some(_)) => (record.text("ctx_a")?, record.text("ctx_b")?),
        _ => split(record.text("ctx")?),
    };
    let text = clean(&format!("{}: {a} {}", record.text("activity_label")?, capitalize(b)));
    let choices: Vec<String> = record.texts("endings")?.iter().map(|e| clean(e)).collect();
    if choices.is_empty() {
        return Err(record.error("field `endings`: expected at least one"));
    }
    let gold = record.place("label", choices.len())?;
    Ok(Document::choice(i.to_string(), text, choices, gold, record.value()))
}

/// `ctx` back into `ctx_a` and `ctx_b`.
fn split(ctx: &str) -> (&str, &str) {
    let end = ctx.char_indices().rev().find(|&(i, c)| c == ' ' && ctx[..i].ends_with(['.', '!', '?']));
    match end {
        Some((i, _)) if ctx[i + 1..].starts_with(char::is_lowercase) => (&ctx[..i], &ctx[i + 1..]),
        _ => (ctx, ""),
    }
}

/// The harness's `preprocess`: artifacts of WikiHow go.
fn clean(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    // `\[.*?\]`: up to the first closing bracket on the same line.
    while let Some(open) = rest.find('[') {
        let line = rest[open..].split('\n').next().unwrap_or_default();
        match line.find(']') {
            Some(close) => {
                out.push_str(&rest[..open]);
                rest = &rest[open + close + 1..];
            }
            None => {
                out.push_str(&rest[..open + 1]);
                rest = &rest[open + 1..];
            }
        }
    }
    out.push_str(rest);
    out.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_go_as_in_the_harness() {
        assert_eq!(clean(" How to cook [title] Boil [step] water  now [open"), "How to cook. Boil water now [open");
        assert_eq!(split("A man sits. he"), ("A man sits.", "he"));
        assert_eq!(split("A man sits. He stands."), ("A man sits. He stands.", ""));
    }
}

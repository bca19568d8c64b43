//! GSM8K (Cobbe et al. 2021): school problems in words, with a worked solution that ends in `#### number`.
//!
//! lm-evaluation-harness `gsm8k`, version 3: five examples from the training file, whole solutions; the answer is what follows
//! `#### ` (strict), or the last number (flexible). Answers longer than 256 tokens are cut before their number, as there.

use crate::error::Result;
use crate::grade::filter::{FLEXIBLE, GSM8K_STRICT, Overlook, exact_match};
use crate::reader::{Record, jsonl};
use crate::results::Metric;
use crate::task::{Answer, Ask, Document, Generate, Kind, Loaded, MetricSpec, Sampler, Score, Shots, Spec, Task, TaskName};
use std::path::Path;

const TRAIN: &[&str] = &["gsm8k/train.jsonl", "gsm8k/train_first2000.jsonl"];

struct Gsm8k(Spec);

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let metrics = vec![MetricSpec::mean(Metric::ExactMatch)];
    let mut spec = Spec::new(TaskName::lm_eval("gsm8k", "3"), Kind::Generation, &["gsm8k/test.jsonl"], metrics);
    spec.shots = 5;
    vec![Box::new(Gsm8k(spec))]
}

impl Task for Gsm8k {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let read = |path: &Path| jsonl(path)?.iter().enumerate().map(|(i, r)| document(i, r)).collect::<Result<Vec<_>>>();
        let documents = read(&self.0.file(data)?)?;
        let train = TRAIN.iter().map(|f| data.join(f)).find(|f| f.exists());
        let pool = train.map_or(Ok(Vec::new()), |path| read(&path))?;
        Ok(Loaded { documents, shots: Shots { pool, sampler: Sampler::Random, exclude_self: false } })
    }

    fn score(&self, document: &Document, answers: &[Answer]) -> Result<Vec<Score>> {
        let text = answers.first().map_or("", Answer::text);
        let score = |filter, extracted: String| {
            let right = exact_match(&extracted, &document.target, Overlook::GSM8K);
            Score::graded(filter, Metric::ExactMatch, extracted, right)
        };
        Ok(vec![score("strict-match", GSM8K_STRICT.apply(text)), score("flexible-extract", FLEXIBLE.apply(text))])
    }
}

fn document(i: usize, record: &Record) -> Result<Document> {
    let text = format!("Question: {}\nAnswer:", record.text("question")?);
    let until = ["Question:", "</s>", "<|im_end|>"].map(String::from).to_vec();
    let ask = Ask::Generate(Generate { until, ..Generate::default() });
    Ok(Document::new(i.to_string(), text, record.text("answer")?, ask, record.value()))
}

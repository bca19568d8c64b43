//! LAMBADA (Paperno et al. 2016) in OpenAI's preparation: the last word of a passage.
//!
//! lm-evaluation-harness `lambada_openai`, version 1: the text is cut at its last blank; `acc` is whether greedy decoding
//! writes the word, `perplexity` is exp of the mean negative log-likelihood of the word.

use crate::error::Result;
use crate::reader::jsonl;
use crate::results::Metric;
use crate::task::{Aggregation, Ask, Document, Kind, Loaded, MetricSpec, Spec, Task, TaskName};
use std::path::Path;

const FILES: &[&str] = &["lambada/lambada_test_en.jsonl", "lambada/lambada_test.jsonl", "lambada/lambada_test_first1500.jsonl"];

struct Lambada(Spec);

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let metrics = vec![MetricSpec::mean(Metric::Acc), MetricSpec { metric: Metric::Perplexity, aggregation: Aggregation::Perplexity }];
    let mut spec = Spec::new(TaskName::lm_eval("lambada_openai", "1"), Kind::LogLikelihood, FILES, metrics);
    spec.tag = Some("lambada");
    vec![Box::new(Lambada(spec))]
}

impl Task for Lambada {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let records = jsonl(&self.0.file(data)?)?;
        let document = |(i, record): (usize, &crate::reader::Record)| {
            let text = record.text("text")?;
            let (context, word) = text.rsplit_once(' ').ok_or_else(|| record.error("field `text`: expected at least two words"))?;
            Ok(Document::new(i.to_string(), context, format!(" {word}"), Ask::Likelihood, record.value()))
        };
        Ok(Loaded::evaluated_only(records.iter().enumerate().map(document).collect::<Result<_>>()?))
    }
}

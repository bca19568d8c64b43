//! MBPP (Austin et al. 2021): write a Python function from a sentence and three assertions, which then decide.
//!
//! lm-evaluation-harness `mbpp`, version 1: problems 11 to 510 (the test part), three examples (problems 2, 3 and 4), greedy
//! pass@1. The program is the answer up to `[DONE]` and the three assertions, run in [`llm_verify::sandbox`].

use super::programs::Programs;
use crate::error::{Error, Result};
use crate::reader::{Record, jsonl};
use crate::results::Metric;
use crate::task::{Answer, Ask, Document, Generate, Kind, Loaded, MetricSpec, Sampler, Score, Shots, Spec, Task, TaskName};
use std::path::{Path, PathBuf};

/// Problems of the test part.
const TEST: std::ops::RangeInclusive<u64> = 11..=510;
/// Problems shown as examples.
const EXAMPLES: std::ops::RangeInclusive<u64> = 2..=4;

struct Mbpp {
    spec: Spec,
    programs: Programs,
}

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    with_runner(None)
}

/// The family, with another program than the running one as the sandbox's cell (see [`llm_verify::sandbox::cell_main`]).
pub fn with_runner(runner: Option<PathBuf>) -> Vec<Box<dyn Task>> {
    let metrics = vec![MetricSpec::mean(Metric::PassAt1)];
    let mut spec = Spec::new(TaskName::lm_eval("mbpp", "1"), Kind::Code, &["mbpp/mbpp.jsonl"], metrics);
    spec.shots = 3;
    spec.target_delimiter = "";
    vec![Box::new(Mbpp { spec, programs: Programs::new(runner) })]
}

impl Task for Mbpp {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let path = self.spec.file(data)?;
        let (mut documents, mut pool) = (Vec::new(), Vec::new());
        for record in jsonl(&path)? {
            let id = record.field("task_id")?.as_u64().ok_or_else(|| record.error("field `task_id`: expected a whole number"))?;
            if TEST.contains(&id) {
                documents.push(document(id, &record, false)?);
            } else if EXAMPLES.contains(&id) {
                pool.push(document(id, &record, true)?);
            }
        }
        if documents.is_empty() {
            return Err(Error::Empty { path, what: "expected problems of the test part, with `task_id` from 11 to 510" });
        }
        self.programs.check(&self.spec.name.to_string())?;
        Ok(Loaded { documents, shots: Shots { pool, sampler: Sampler::FirstN, exclude_self: false } })
    }

    fn score(&self, document: &Document, answers: &[Answer]) -> Result<Vec<Score>> {
        let programs: Vec<String> = answers.iter().map(|a| format!("{}\n{}", a.text(), document.target)).collect();
        Ok(self.programs.scores(&programs, &[(Metric::PassAt1, 1)], "none"))
    }
}

fn document(id: u64, record: &Record, example: bool) -> Result<Document> {
    let tests = record.texts("test_list")?;
    if tests.is_empty() {
        return Err(record.error("field `test_list`: expected at least one assertion"));
    }
    // The harness shows and runs three, and nothing in the place of one that is not there.
    let shown: Vec<&str> = (0..3).map(|i| tests.get(i).map_or("", String::as_str)).collect();
    let shown = shown.join("\n");
    let text = record.text("text")?;
    let text = format!("You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{shown}\n[BEGIN]\n");
    let target = if example { format!("{}\n[DONE]", record.text("code")?) } else { shown };
    let ask = Ask::Generate(Generate { until: vec!["[DONE]".to_string()], ..Generate::default() });
    Ok(Document::new(id.to_string(), text, target, ask, record.value()))
}

//! HumanEval (Chen et al. 2021): complete a Python function; its tests decide.
//!
//! lm-evaluation-harness, version 1: `humaneval` is greedy pass@1, `humaneval_64` samples 64 programs at temperature 0.2
//! (top-p 0.95) and estimates pass@k. The program is prompt, completion, tests and the call of `check`, run in
//! [`llm_verify::sandbox`]; where that cannot be built the task is refused before anything is generated.

use super::programs::Programs;
use crate::error::Result;
use crate::reader::{Record, jsonl};
use crate::results::Metric;
use crate::task::{Answer, Ask, Document, Generate, Kind, Loaded, MetricSpec, Score, Spec, Task, TaskName};
use std::path::{Path, PathBuf};

const GREEDY: &[(Metric, u64)] = &[(Metric::PassAt1, 1)];
const SAMPLED: &[(Metric, u64)] =
    &[(Metric::PassAt2, 2), (Metric::PassAt8, 8), (Metric::PassAt16, 16), (Metric::PassAt32, 32), (Metric::PassAt64, 64)];

struct HumanEval {
    spec: Spec,
    metrics: &'static [(Metric, u64)],
    settings: Generate,
    programs: Programs,
}

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    with_runner(None)
}

/// The family, with another program than the running one as the sandbox's cell (see [`llm_verify::sandbox::cell_main`]).
pub fn with_runner(runner: Option<PathBuf>) -> Vec<Box<dyn Task>> {
    let until = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"].map(String::from).to_vec();
    let greedy = Generate { until, max_gen_toks: 1024, ..Generate::default() };
    let sampled = Generate { temperature: 0.2, top_p: 0.95, repeats: 64, ..greedy.clone() };
    let task = |name: &str, metrics: &'static [(Metric, u64)], settings: Generate| -> Box<dyn Task> {
        let specs = metrics.iter().map(|m| MetricSpec::mean(m.0)).collect();
        let spec = Spec::new(TaskName::lm_eval(name, "1"), Kind::Code, &["humaneval/HumanEval.jsonl"], specs);
        Box::new(HumanEval { spec, metrics, settings, programs: Programs::new(runner.clone()) })
    };
    vec![task("humaneval", GREEDY, greedy), task("humaneval_64", SAMPLED, sampled)]
}

impl Task for HumanEval {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let records = jsonl(&self.spec.file(data)?)?;
        let documents = records.iter().map(|r| self.document(r)).collect::<Result<_>>()?;
        self.programs.check(&self.spec.name.to_string())?;
        Ok(Loaded { documents, ..Loaded::default() })
    }

    fn score(&self, document: &Document, answers: &[Answer]) -> Result<Vec<Score>> {
        let programs: Vec<String> = answers.iter().map(|a| format!("{}{}\n{}", document.text, a.text(), document.target)).collect();
        Ok(self.programs.scores(&programs, self.metrics, "create_test"))
    }
}

impl HumanEval {
    fn document(&self, record: &Record) -> Result<Document> {
        let target = format!("{}\ncheck({})", record.text("test")?, record.text("entry_point")?);
        let id = record.text_or_number("task_id")?;
        Ok(Document::new(id, record.text("prompt")?, target, Ask::Generate(self.settings.clone()), record.value()))
    }
}

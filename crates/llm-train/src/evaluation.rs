//! Benchmarks while training: the tasks of `llm-eval` on the weights as they are, with every validation.
//!
//! The numbers are those of `llm-eval run` on the same weights, because the same engine asks the same requests. They go to
//! `metrics.jsonl` beside `val_loss`, as `eval/TASK/METRIC`.

use crate::{Error, Result};
use llm_arch::Decoder;
use llm_eval::evaluate::{Options, evaluate};
use llm_eval::model::Local;
use llm_eval::task::Task;
use llm_eval::tasks;
use llm_infer::Model;
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Which tasks, on how much.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// Names as `llm-eval tasks` lists them; none is no evaluation.
    pub tasks: Vec<String>,
    /// Folder of the benchmark files.
    pub data: PathBuf,
    /// Only the first documents of every task.
    pub limit: Option<usize>,
    /// Few-shot examples; each task's own number when absent.
    pub num_fewshot: Option<usize>,
}

/// Requests generated together.
const MAX_BATCH: usize = 64;

/// Tasks, ready to be asked.
pub struct Evaluation {
    tasks: Vec<Box<dyn Task>>,
    options: Options,
    tokenizer: Tokenizer,
}

impl std::fmt::Debug for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.tasks.iter().map(|t| t.spec().name.to_string()).collect();
        f.debug_struct("Evaluation").field("tasks", &names).finish()
    }
}

impl Evaluation {
    /// Find the tasks and read their files once, so that a wrong name or a damaged file is known before training starts.
    /// None when no task is asked for.
    pub fn open(config: &EvaluationConfig, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        if config.tasks.is_empty() {
            return Ok(None);
        }
        let tasks = tasks::find(&config.tasks, &config.data).map_err(|e| Error::Config(format!("evaluation.tasks: {e}")))?;
        for task in &tasks {
            task.load(&config.data).map_err(|e| Error::Config(format!("evaluation.data: {e}")))?;
        }
        let options = Options { data: config.data.clone(), limit: config.limit, num_fewshot: config.num_fewshot, ..Options::default() };
        Ok(Some(Self { tasks, options, tokenizer: tokenizer.clone() }))
    }

    /// Every number of every task.
    pub fn run(&self, model: &Decoder) -> Result<Map<String, Value>> {
        let local = Local::from_model(Model::from_parts(model.clone(), self.tokenizer.clone(), "training"), MAX_BATCH);
        let evaluation = evaluate(&local, &self.tasks, &self.options).map_err(|e| Error::Objective(format!("evaluation: {e}")))?;
        let numbers = evaluation.tasks.into_iter().map(|(name, result)| (format!("eval/{name}"), json!(result.value)));
        Ok(numbers.collect())
    }
}

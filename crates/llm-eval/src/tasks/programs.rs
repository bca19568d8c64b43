//! What HumanEval and MBPP share: a sandbox that is made when a task's files are read, and the count of what passes.

use crate::error::{Error, Result};
use crate::grade::pass_at_k;
use crate::results::Metric;
use crate::task::Score;
use llm_verify::sandbox::{Limits, Outcome, Sandbox, SandboxChoice};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Makes its sandbox once, for all documents.
#[derive(Default)]
pub(super) struct Programs {
    sandbox: OnceLock<std::result::Result<Sandbox, String>>,
    /// The program that cells are made of; the running one when absent.
    runner: Option<PathBuf>,
}

impl Programs {
    pub(super) fn new(runner: Option<PathBuf>) -> Self {
        Self { sandbox: OnceLock::new(), runner }
    }

    fn sandbox(&self) -> &std::result::Result<Sandbox, String> {
        // The harness's own checker gives a program 3 seconds by the clock, so that its verdict depends on what else runs; here
        // it has 6 of the processor, which every reference solution keeps to on a slow machine.
        let limits = Limits::default();
        // In WebAssembly where a python.wasm is named, which the sandbox looks for itself.
        self.sandbox.get_or_init(|| Sandbox::open(&SandboxChoice::default(), self.runner.as_deref(), limits))
    }

    /// Refuse before anything is generated where programs cannot be run.
    pub(super) fn check(&self, task: &str) -> Result<()> {
        self.sandbox().as_ref().map(|_| ()).map_err(|reason| Error::Config(format!("{task} runs generated programs, and {reason}")))
    }

    /// Run all programs of a document; the first score carries what became of the first program that did not pass.
    pub(super) fn scores(&self, programs: &[String], metrics: &[(Metric, u64)], filter: &'static str) -> Vec<Score> {
        let outcomes: Vec<Outcome> = programs
            .iter()
            .map(|program| match self.sandbox() {
                Ok(sandbox) => sandbox.run(program),
                Err(reason) => Outcome::Refused { reason: reason.clone() },
            })
            .collect();
        let passed = outcomes.iter().filter(|o| **o == Outcome::Passed).count() as u64;
        let failed = outcomes.iter().find(|o| **o != Outcome::Passed);
        let mut scores = Vec::new();
        for &(metric, k) in metrics {
            if let Some(value) = pass_at_k(outcomes.len() as u64, passed, k) {
                scores.push(Score { filter, ..Score::plain(metric, value) });
            }
        }
        if let (Some(first), Some(outcome)) = (scores.first_mut(), failed) {
            first.failure = Some(outcome.name());
            first.extracted = Some(format!("{}: {}", outcome.name(), outcome.detail()).trim_end().to_string());
        }
        scores
    }
}

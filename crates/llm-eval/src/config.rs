//! What `llm-eval run` can be told.

use crate::error::{Error, Result};
use crate::evaluate::Options;
use crate::prompt::Chat;
use llm_run::Seed;
use llm_tensor::DeviceSpec;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Configuration of `llm-eval run`. `tasks` names benchmarks; bits per byte and exercises run when their input is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Model folder (HF layout), or the URL of an OpenAI-compatible server, e.g. `http://localhost:8080/v1`: benchmarks only.
    pub model: PathBuf,
    /// What the server calls the model; the first one that it lists when absent.
    pub model_name: Option<String>,
    /// Requests that a server gets at the same time.
    pub concurrency: usize,
    /// How often a request that a server failed to answer is sent again.
    pub retries: u32,
    /// Benchmarks by name, e.g. `["hellaswag", "mmlu", "gsm8k@lm-eval@3"]`; `llm-eval tasks` lists them.
    pub tasks: Vec<String>,
    /// Folder of the benchmark files.
    pub data: PathBuf,
    /// Few-shot examples of every benchmark; each one's own number when absent.
    pub num_fewshot: Option<usize>,
    /// Render the benchmarks' prompts with the model's chat template.
    pub apply_chat_template: bool,
    /// With the chat template: few-shot examples are turns of their own.
    pub fewshot_as_multiturn: bool,
    /// With the chat template: a system message in front.
    pub system_instruction: String,
    /// Begin-of-text token in front of every prompt; what the tokenizer does on its own when absent.
    pub add_bos: Option<bool>,
    /// Longest generated answer of the benchmarks in tokens; each one's own when absent.
    pub max_gen_toks: Option<usize>,
    /// Held-out documents (a Parquet file or a folder of them): bits per byte.
    pub documents: Option<PathBuf>,
    /// Score at most this many bytes of held-out text; documents are taken in the order of their hash, the last one is
    /// cut. All of it when absent.
    pub limit_bytes: Option<u64>,
    /// Training documents: the 3-gram byte model that the held-out score is compared with.
    pub train_documents: Option<PathBuf>,
    /// Count at most this many bytes of training text, chosen like the held-out ones. All of it when absent.
    pub train_limit_bytes: Option<u64>,
    /// Held-out exercises (JSON lines with `id, lang, category, messages, answer`): exact match.
    pub exercises: Option<PathBuf>,
    /// Held-out pictures with questions (a Parquet file or a folder of them): exact match by kind and language.
    pub pictures: Option<PathBuf>,
    /// Ask at most this many exercises, and as many questions about pictures, chosen by hash, and the first so many documents of
    /// every benchmark. All of them when absent.
    pub limit: Option<usize>,
    /// Longest answer to an exercise in tokens; less where the context leaves less.
    pub max_tokens: usize,
    /// Requests generated together.
    pub max_batch: usize,
    /// Where the model runs: `auto`, `cpu`, `cuda[:N]`, `vulkan[:N]`, `webgpu[:N]`.
    pub device: DeviceSpec,
    /// Chooses the items under a limit, the samples shown, and the bootstrap's draws.
    pub seed: u64,
    /// Exercises, and questions about pictures, shown in `results.json`; all of them are in `samples.parquet`.
    pub samples: usize,
    /// Bootstrap resamples behind the interval of bits per byte.
    pub resamples: usize,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            model_name: None,
            concurrency: 8,
            retries: 5,
            tasks: Vec::new(),
            data: PathBuf::from("../shared/data/benchmarks"),
            num_fewshot: None,
            apply_chat_template: false,
            fewshot_as_multiturn: false,
            system_instruction: String::new(),
            add_bos: None,
            max_gen_toks: None,
            documents: None,
            limit_bytes: None,
            train_documents: None,
            train_limit_bytes: None,
            exercises: None,
            pictures: None,
            limit: None,
            max_tokens: 256,
            max_batch: 64,
            device: DeviceSpec::Auto,
            seed: 0,
            samples: 8,
            resamples: 1000,
        }
    }
}

impl RunConfig {
    /// The part that concerns benchmarks.
    pub fn options(&self) -> Options {
        let chat = Chat { apply: self.apply_chat_template, multiturn: self.fewshot_as_multiturn, system: self.system_instruction.clone() };
        Options {
            data: self.data.clone(),
            num_fewshot: self.num_fewshot,
            limit: self.limit,
            chat,
            max_gen_toks: self.max_gen_toks,
            add_bos: self.add_bos,
            resamples: self.resamples,
            seed: Seed(self.seed).stream("tasks"),
            samples: 2,
        }
    }

    /// Contradictions that only the whole shows.
    pub fn check(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::Config(message.to_string()));
        if self.model.as_os_str().is_empty() {
            return wrong("`model` is not set; give the folder of the model to evaluate");
        }
        let own = self.documents.is_some() || self.exercises.is_some() || self.pictures.is_some();
        if !own && self.tasks.is_empty() {
            return wrong(
                "nothing to evaluate; set `tasks` (benchmarks), `documents` (bits per byte), `exercises` or `pictures` (exact match), or several",
            );
        }
        if crate::remote::is_url(&self.model) && own {
            return wrong("`documents`, `exercises` and `pictures` need the model itself; give the model folder, or only `tasks` with a URL");
        }
        if self.train_documents.is_some() && self.documents.is_none() {
            return wrong("`train_documents` trains a baseline for `documents`, which is not set");
        }
        for (name, zero) in [
            ("limit_bytes", self.limit_bytes == Some(0)),
            ("train_limit_bytes", self.train_limit_bytes == Some(0)),
            ("limit", self.limit == Some(0)),
            ("max_tokens", self.max_tokens == 0),
            ("max_gen_toks", self.max_gen_toks == Some(0)),
            ("max_batch", self.max_batch == 0),
            ("concurrency", self.concurrency == 0),
        ] {
            if zero {
                return wrong(&format!("`{name}` is 0; leave it out for no limit, or give at least 1"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_named() {
        let base = RunConfig { model: "m".into(), ..RunConfig::default() };
        let message = |config: RunConfig| config.check().unwrap_err().to_string();
        assert!(message(RunConfig::default()).contains("`model`"));
        assert!(message(base.clone()).contains("nothing to evaluate"));
        let baseline = RunConfig { train_documents: Some("t".into()), exercises: Some("e".into()), ..base.clone() };
        assert!(message(baseline).contains("`train_documents`"));
        let zero = RunConfig { exercises: Some("e".into()), limit: Some(0), ..base };
        assert!(message(zero).contains("`limit` is 0"));
    }

    #[test]
    fn a_typo_is_answered_with_the_right_key() {
        let message = llm_run::config::load::<RunConfig>(None, &["limit_byte=1".into()]).unwrap_err().to_string();
        assert!(message.contains("did you mean `limit_bytes`"), "{message}");
    }
}

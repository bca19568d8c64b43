//! How good is it: tasks, metrics, intervals.
//!
//! Every number comes with its sample size, an interval and the rows it was computed from, and two models are compared on
//! the same items or not at all.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`run`] | `run`, `evaluate` | the tasks whose inputs are given, into one folder |
//! | [`config`] | `RunConfig` | what `llm-eval run` can be told |
//! | [`mod@logits`] | `logits` | the raw numbers, for another implementation to check |
//! | [`mod@evaluate`] | `evaluate`, `Options` | tasks on a model: from files to numbers |
//! | [`task`] | `Task`, `Document`, `Score` | what a benchmark is |
//! | [`tasks`] | `all`, `find` | the benchmarks, one file per family |
//! | [`prompt`] | `Prompt`, `Instance` | few-shot prompts and what is asked |
//! | [`metrics`] | `aggregate` | acc, acc_norm, perplexities, standard errors |
//! | [`backend`] | `Backend`, `Identity` | who answers, text level |
//! | [`tokens`] | `Tokens` | a model in memory as a backend: the harness's token rules |
//! | [`remote`] | `Remote` | an OpenAI-compatible server as a backend |
//! | [`model`] | `LanguageModel`, `Local` | a model, token level: scores sequences, continues prompts |
//! | [`journal`] | `Journal` | answers that survive a kill |
//! | [`reader`] | `jsonl`, `csv`, `json`, `tsv` | benchmark files, errors with line and field |
//! | [`python`] | `PythonRandom` | Python's random numbers and string methods |
//! | [`bits_per_byte`] | `BitsPerByte` | held-out text, by domain and language |
//! | [`windows`] | `windows` | long documents, every token scored exactly once |
//! | [`ngram`] | `ByteTrigram` | the order-3 byte model to beat |
//! | [`documents`] | `select` | which documents under a byte limit |
//! | [`exercises`] | `Exercise`, `ask` | generated answers, extracted and graded |
//! | [`pictures`] | `Asked`, `ask` | questions about images, by kind and language |
//! | [`grade`] | `filter`, `minerva`, `chart`, ... | from generated text to right or wrong |
//! | [`stats`] | `wilson95`, `bootstrap`, `mcnemar_exact` | how sure is a number |
//! | [`compare`] | `compare` | is B better than A |
//! | [`samples`] | `Sample` | `samples.parquet`, one row per scored item |
//! | [`results`] | `Results` | `results.json` |
//!
//! Deliberately absent: a second way to run a model (everything generates through `llm_infer`), and answer extraction of
//! its own for exercises (`llm_data::exercises` grades here and in training alike; [`grade`] is that of the benchmarks), running
//! generated programs outside `llm_verify`'s sandbox.

pub mod backend;
pub mod bits_per_byte;
pub mod compare;
pub mod config;
pub mod documents;
mod error;
pub mod evaluate;
pub mod exercises;
pub mod grade;
pub mod journal;
pub mod logits;
pub mod metrics;
pub mod model;
pub mod ngram;
pub mod pictures;
pub mod prompt;
pub mod python;
pub mod reader;
pub mod remote;
pub mod results;
pub mod run;
pub mod samples;
pub mod stats;
pub mod task;
pub mod tasks;
pub mod tokens;
pub mod windows;

pub use error::{Error, Result};
pub use evaluate::{Evaluation, Options, evaluate};

//! What a benchmark is: documents from local files, what the model is asked about each, and how the answers are counted.
//!
//! A task is named `task@harness@version`, because the same benchmark has different prompts in different harnesses and their
//! numbers must never be mixed. `lm-eval` is lm-evaluation-harness; the version is that of its task file. The nouns are the
//! harness's: *description*, few-shot examples, `doc_to_text` ([`Document::text`]), `doc_to_target` ([`Document::target`]),
//! `doc_to_choice`, filters, metrics.
//!
//! A new task is a type with [`Task`] in a file of `src/tasks/`, and a line in [`crate::tasks`].

use crate::error::{Error, Result};
use crate::metrics;
use crate::results::Metric;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `task@harness@version`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskName {
    /// The harness's own name of the task.
    pub task: String,
    /// Whose protocol this is.
    pub harness: &'static str,
    /// Version of the protocol.
    pub version: &'static str,
}

impl TaskName {
    /// A task as lm-evaluation-harness defines it.
    pub fn lm_eval(task: impl Into<String>, version: &'static str) -> Self {
        Self { task: task.into(), harness: "lm-eval", version }
    }

    /// A task of our own.
    pub fn own(task: impl Into<String>, version: &'static str) -> Self {
        Self { task: task.into(), harness: "llm-eval", version }
    }

    /// True for `task`, `task@harness` and the full name.
    pub fn is(&self, asked: &str) -> bool {
        asked == self.task || asked == format!("{}@{}", self.task, self.harness) || asked == self.to_string()
    }
}

impl std::fmt::Display for TaskName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}@{}", self.task, self.harness, self.version)
    }
}

/// What a task makes the model do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The likeliest of given continuations.
    MultipleChoice,
    /// The likelihood of one continuation, and whether it is the greedy one.
    LogLikelihood,
    /// The likelihood of whole texts.
    Rolling,
    /// Free text, filtered and compared.
    Generation,
    /// Free text that is run as a program.
    Code,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::MultipleChoice => "multiple choice",
            Self::LogLikelihood => "log-likelihood",
            Self::Rolling => "perplexity",
            Self::Generation => "generation",
            Self::Code => "code",
        })
    }
}

/// How the values of all documents become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    /// Their mean.
    Mean,
    /// `exp(-mean)` of log-likelihoods.
    Perplexity,
    /// `exp(-sum of values / sum of weights)`.
    WeightedPerplexity,
    /// `-sum of values / sum of weights / ln 2`.
    BitsPerByte,
}

/// A metric of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricSpec {
    /// What is counted.
    pub metric: Metric,
    /// How documents are joined.
    pub aggregation: Aggregation,
}

impl MetricSpec {
    /// The mean over documents.
    pub fn mean(metric: Metric) -> Self {
        Self { metric, aggregation: Aggregation::Mean }
    }
}

/// Everything about a task that is known before its files are read.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: TaskName,
    /// What the model does.
    pub kind: Kind,
    /// Files below the data folder, or folders of them, that must be there. Of each inner list the first that exists is read.
    pub files: Vec<Vec<String>>,
    /// Few-shot examples when the run does not say.
    pub shots: usize,
    /// The run cannot change that number: the harness's file says `num_fewshot: 0`.
    pub fixed_shots: bool,
    /// The first one is the task's value in `results.json`.
    pub metrics: Vec<MetricSpec>,
    /// The group whose mean, weighted by documents, this task is part of.
    pub group: Option<TaskName>,
    /// Another name that stands for this task and its like, without a common number.
    pub tag: Option<&'static str>,
    /// Between a question and its answer.
    pub target_delimiter: &'static str,
    /// Between few-shot examples.
    pub fewshot_delimiter: &'static str,
    /// Language, where it is one of several.
    pub lang: Option<String>,
}

impl Spec {
    /// A spec with the harness's defaults: no examples, `" "` before the answer, a blank line between examples.
    pub fn new(name: TaskName, kind: Kind, file: &[&str], metrics: Vec<MetricSpec>) -> Self {
        let files = vec![file.iter().map(ToString::to_string).collect()];
        Self {
            name,
            kind,
            files,
            shots: 0,
            fixed_shots: false,
            metrics,
            group: None,
            tag: None,
            target_delimiter: " ",
            fewshot_delimiter: "\n\n",
            lang: None,
        }
    }

    /// The only file of a task that has one.
    pub fn file(&self, data: &Path) -> Result<PathBuf> {
        let there = self.found(data).and_then(|files| files.into_iter().next());
        there.ok_or_else(|| Error::Config(format!("{}: none of its files is under {}", self.name, data.display())))
    }

    /// The files of this task under `data` that are there: one of each list.
    pub fn found(&self, data: &Path) -> Option<Vec<PathBuf>> {
        self.files.iter().map(|any| any.iter().map(|f| data.join(f)).find(|f| f.exists())).collect()
    }
}

/// What the model is asked about a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Which continuation is the likeliest.
    Choice {
        /// Without the delimiter.
        choices: Vec<String>,
        /// Right ones.
        gold: Vec<usize>,
    },
    /// How likely is [`Document::target`] after the prompt.
    Likelihood,
    /// How likely is [`Document::target`] on its own, window by window. `words` and `bytes` are the divisors of the perplexities.
    Rolling {
        /// Words of the original text.
        words: u64,
        /// Bytes of the original text.
        bytes: u64,
    },
    /// Continue the prompt.
    Generate(Generate),
}

/// Settings of a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Texts that end it; they are not part of the answer.
    pub until: Vec<String>,
    /// Longest answer in tokens.
    pub max_gen_toks: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus; 1 keeps everything.
    pub top_p: f32,
    /// Answers per document.
    pub repeats: usize,
}

impl Default for Generate {
    fn default() -> Self {
        Self { until: vec!["\n\n".to_string()], max_gen_toks: 256, temperature: 0.0, top_p: 1.0, repeats: 1 }
    }
}

/// One item of a benchmark, or one few-shot example.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Unique in its task; the place in the file where the file has no ids.
    pub id: String,
    /// Stands before everything; the system message of a chat.
    pub description: String,
    /// The question.
    pub text: String,
    /// The answer: what a few-shot example shows, and what [`Ask::Likelihood`] and [`Ask::Rolling`] score.
    pub target: String,
    /// How the model's own answer begins, e.g. `Let's think`.
    pub gen_prefix: Option<String>,
    /// What is asked.
    pub ask: Ask,
    /// Pictures shown before the question.
    pub images: Vec<PathBuf>,
    /// The record as it is in the file, for metrics that need more, and for the document's hash.
    pub record: Value,
}

impl Document {
    /// A document without description, prefix and pictures.
    pub fn new(id: impl Into<String>, text: impl Into<String>, target: impl Into<String>, ask: Ask, record: Value) -> Self {
        let (id, text, target) = (id.into(), text.into(), target.into());
        Self { id, description: String::new(), text, target, gen_prefix: None, ask, images: Vec::new(), record }
    }

    /// A multiple-choice document with one right answer.
    pub fn choice(id: impl Into<String>, text: impl Into<String>, choices: Vec<String>, gold: usize, record: Value) -> Self {
        let target = choices.get(gold).cloned().unwrap_or_default();
        Self::new(id, text, target, Ask::Choice { choices, gold: vec![gold] }, record)
    }
}

/// How few-shot examples are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampler {
    /// `random.Random(1234).sample`, one draw after the other in document order.
    #[default]
    Random,
    /// The first ones, the same for every document.
    FirstN,
}

/// Where few-shot examples come from.
#[derive(Debug, Clone, Default)]
pub struct Shots {
    /// The examples.
    pub pool: Vec<Document>,
    /// Which of them.
    pub sampler: Sampler,
    /// The pool holds the evaluated documents too: one more is drawn and the document itself left out.
    pub exclude_self: bool,
}

/// A task's files, read.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// What is evaluated, in file order.
    pub documents: Vec<Document>,
    /// What may be shown before it.
    pub shots: Shots,
}

impl Loaded {
    /// A task without a file of examples: they come from the evaluated documents, never the document itself.
    pub fn evaluated_only(documents: Vec<Document>) -> Self {
        Self { shots: Shots { pool: documents.clone(), sampler: Sampler::Random, exclude_self: true }, documents }
    }

    /// A task whose examples come from a training file, where there is one.
    pub fn with_train(documents: Vec<Document>, train: &Path, read: impl Fn(&Path) -> Result<Vec<Document>>) -> Result<Self> {
        match train.exists() {
            true => Ok(Self { documents, shots: Shots { pool: read(train)?, sampler: Sampler::Random, exclude_self: false } }),
            false => Ok(Self::evaluated_only(documents)),
        }
    }
}

/// The model's answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Of a continuation, in nats, and whether every one of its tokens is the likeliest.
    Likelihood {
        /// Sum of log p.
        sum: f64,
        /// Greedy decoding would have written it.
        greedy: bool,
    },
    /// Generated text, cut at the first stop.
    Text {
        /// The answer.
        text: String,
        /// Tokens generated.
        tokens: u32,
        /// `stop` or `length`.
        finish: String,
    },
}

impl Answer {
    /// The log-likelihood; NaN of a text.
    pub fn sum(&self) -> f64 {
        match self {
            Self::Likelihood { sum, .. } => *sum,
            Self::Text { .. } => f64::NAN,
        }
    }

    /// The text; empty of a likelihood.
    pub fn text(&self) -> &str {
        match self {
            Self::Text { text, .. } => text,
            Self::Likelihood { .. } => "",
        }
    }
}

/// A document's value under one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Name of the filter that the answer went through, e.g. `strict-match`; `none` without one.
    pub filter: &'static str,
    /// What is counted.
    pub metric: Metric,
    /// 1 for right; a log-likelihood for perplexities.
    pub value: f64,
    /// Divisor of weighted aggregations; 1 otherwise.
    pub weight: f64,
    /// What the filter made of the answer.
    pub extracted: Option<String>,
    /// Why there is nothing to count, in one word: `invalid` where a filter found no answer; what became of a program that did
    /// not pass. Such an answer is wrong; the run counts these words.
    pub failure: Option<&'static str>,
}

impl Score {
    /// Unfiltered, of weight 1.
    pub fn plain(metric: Metric, value: f64) -> Self {
        Self { filter: "none", metric, value, weight: 1.0, extracted: None, failure: None }
    }

    /// What a filter extracted, and whether it is right; `[invalid]` and its like are failures.
    pub fn graded(filter: &'static str, metric: Metric, extracted: String, right: bool) -> Self {
        let failure = (extracted.starts_with("[invalid")).then_some("invalid");
        Self { filter, extracted: Some(extracted), failure, ..Self::plain(metric, f64::from(u8::from(right))) }
    }
}

/// A benchmark.
pub trait Task: Send + Sync {
    /// What it is.
    fn spec(&self) -> &Spec;

    /// Read its files below `data`.
    fn load(&self, data: &Path) -> Result<Loaded>;

    /// Count the answers to one document: one per choice, or one per repetition. The first score is the document's value in
    /// `samples.parquet`. May be called on several threads.
    fn score(&self, document: &Document, answers: &[Answer]) -> Result<Vec<Score>> {
        Ok(metrics::standard(&self.spec().metrics, document, answers))
    }
}

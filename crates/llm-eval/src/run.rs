//! `llm-eval run`: the tasks whose inputs are given, on one model, into one folder.

use crate::backend::{Backend, Identity};
use crate::bits_per_byte::BitsPerByte;
use crate::config::RunConfig;
use crate::error::Result;
use crate::evaluate::evaluate_on;
use crate::exercises;
use crate::journal::Journal;
use crate::model::{LanguageModel, Local};
use crate::pictures;
use crate::remote::{Remote, is_url};
use crate::results::{ModelInfo, Results};
use crate::samples::{self, Sample};
use crate::tasks;
use crate::tokens::Tokens;
use llm_run::{Run, Seed};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Evaluate and write `results.json`, `samples.parquet` and `manifest.json` into `out`.
///
/// Results are written when everything has been measured; an interrupted or failed run leaves an older result as it was. The
/// answers that benchmarks got so far are kept in a journal beside them: the same command goes on from there.
pub fn run(config: &RunConfig, out: &Path) -> Result<Results> {
    config.check()?;
    // Inputs that cannot be read should fail before a model is loaded.
    let seed = Seed(config.seed);
    let asked = config.exercises.as_deref().map(|path| exercises::read(path, config.limit, seed.stream("exercises"))).transpose()?;
    let pictures = config.pictures.as_deref().map(pictures::read).transpose()?;
    for documents in config.documents.iter().chain(&config.train_documents) {
        llm_data::document::DocumentReader::open(documents)?;
    }
    let benchmarks = tasks::find(&config.tasks, &config.data)?;
    let model = if is_url(&config.model) {
        Subject::Remote(Remote::open(&config.model, config.model_name.as_deref(), config.concurrency, config.retries)?)
    } else {
        Subject::Local(Box::new(Local::load(&config.model, config.device, config.max_batch)?))
    };
    let Identity { id, hash, .. } = model.identity();
    let model_info = ModelInfo { path: config.model.clone(), hash, id };

    let mut run = Run::start(out, "llm-eval", "run", config)?;
    run.manifest.seed = Some(config.seed);
    let folder = matches!(model, Subject::Local(_)).then_some(&config.model);
    let inputs = [&config.documents, &config.train_documents, &config.exercises, &config.pictures];
    for input in inputs.into_iter().map(Option::as_ref).chain([folder]) {
        input.map_or(Ok(()), |path| run.input(path))?;
    }
    let mut files: Vec<PathBuf> = benchmarks.iter().filter_map(|t| t.spec().found(&config.data)).flatten().collect();
    files.sort();
    files.dedup();
    for file in &files {
        run.input(file)?;
    }
    let (mut results, mut samples) = match &model {
        Subject::Local(local) => evaluate(local.as_ref(), model_info, config, asked.as_deref())?,
        Subject::Remote(_) => (Results { model: model_info, tasks: BTreeMap::new(), samples: Vec::new() }, Vec::new()),
    };
    if let (Some(pictures), Subject::Local(local)) = (&pictures, &model) {
        let asked = pictures::questions(pictures, config.limit, seed.stream(pictures::TASK));
        let rows = pictures::ask(local, &asked, config.max_tokens)?;
        results.tasks.extend(pictures::summarise(&rows));
        let shown = pictures::show(&asked, &rows, config.samples, seed.stream("samples"));
        pictures::write_shown(run.dir(), pictures, &shown)?;
        results.samples.extend(shown);
        samples.extend(rows);
    }
    let mut journal = None;
    if !benchmarks.is_empty() {
        let open = Some(journal.insert(Journal::open(run.dir())?));
        let options = config.options();
        let evaluation = match &model {
            Subject::Local(local) => evaluate_on(&Tokens::new(local.as_ref(), config.add_bos)?, &benchmarks, &options, open)?,
            Subject::Remote(remote) => evaluate_on(remote, &benchmarks, &options, open)?,
        };
        results.tasks.extend(evaluation.tasks);
        results.samples.extend(evaluation.shown);
        samples.extend(evaluation.samples);
    }
    samples::write(&run.path(samples::FILE), &samples)?;
    results.write(run.dir())?;
    if let Some(journal) = journal {
        journal.remove()?;
    }
    let summary: Map<String, Value> = results.tasks.iter().map(|(name, task)| (name.clone(), json!(task.value))).collect();
    run.finish(Value::Object(summary))?;
    Ok(results)
}

/// What is measured.
enum Subject {
    Local(Box<Local>),
    Remote(Remote),
}

impl Subject {
    fn identity(&self) -> Identity {
        match self {
            Self::Local(local) => local.identity(),
            Self::Remote(remote) => remote.identity(),
        }
    }
}

/// Held-out documents and exercises, on any [`LanguageModel`].
pub fn evaluate(
    model: &dyn LanguageModel,
    model_info: ModelInfo,
    config: &RunConfig,
    asked: Option<&[exercises::Exercise]>,
) -> Result<(Results, Vec<Sample>)> {
    let seed = Seed(config.seed);
    let mut results = Results { model: model_info, tasks: BTreeMap::new(), samples: Vec::new() };
    let mut samples = Vec::new();
    if let Some(documents) = &config.documents {
        let task = BitsPerByte {
            documents,
            limit_bytes: config.limit_bytes,
            train_documents: config.train_documents.as_deref(),
            train_limit_bytes: config.train_limit_bytes,
            resamples: config.resamples,
            seed,
        };
        let (tasks, rows) = task.run(model)?;
        results.tasks.extend(tasks);
        samples.extend(rows);
    }
    if let Some(asked) = asked {
        let rows = exercises::ask(model, asked, config.max_tokens)?;
        results.tasks.extend(exercises::summarise(&rows));
        results.samples = exercises::show(asked, &rows, config.samples, seed.stream("samples"));
        samples.extend(rows);
    }
    Ok((results, samples))
}

//! `llm-eval run`: the tasks whose inputs are given, on one model, into one folder.

use crate::bits_per_byte::BitsPerByte;
use crate::config::RunConfig;
use crate::error::Result;
use crate::exercises;
use crate::model::{LanguageModel, Local};
use crate::pictures;
use crate::results::{ModelInfo, Results};
use crate::samples::{self, Sample};
use llm_run::{Run, Seed};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Evaluate and write `results.json`, `samples.parquet` and `manifest.json` into `out`.
///
/// Nothing is written before everything has been measured; an interrupted or failed run leaves an older result as it was.
pub fn run(config: &RunConfig, out: &Path) -> Result<Results> {
    config.check()?;
    // Inputs that cannot be read should fail before a model is loaded.
    let seed = Seed(config.seed);
    let asked = config.exercises.as_deref().map(|path| exercises::read(path, config.limit, seed.stream("exercises"))).transpose()?;
    let pictures = config.pictures.as_deref().map(pictures::read).transpose()?;
    for documents in config.documents.iter().chain(&config.train_documents) {
        llm_data::document::DocumentReader::open(documents)?;
    }
    let model = Local::load(&config.model, config.device, config.max_batch)?;
    let (id, hash) = model.identity();
    let model_info = ModelInfo { path: config.model.clone(), hash: hash.to_string(), id: id.to_string() };

    let mut run = Run::start(out, "llm-eval", "run", config)?;
    run.manifest.seed = Some(config.seed);
    let inputs = [&config.documents, &config.train_documents, &config.exercises, &config.pictures];
    for input in inputs.into_iter().map(Option::as_ref).chain([Some(&config.model)]) {
        input.map_or(Ok(()), |path| run.input(path))?;
    }
    let (mut results, mut samples) = evaluate(&model, model_info, config, asked.as_deref())?;
    if let Some(pictures) = &pictures {
        let asked = pictures::questions(pictures, config.limit, seed.stream(pictures::TASK));
        let rows = pictures::ask(&model, &asked, config.max_tokens)?;
        results.tasks.extend(pictures::summarise(&rows));
        let shown = pictures::show(&asked, &rows, config.samples, seed.stream("samples"));
        pictures::write_shown(run.dir(), pictures, &shown)?;
        results.samples.extend(shown);
        samples.extend(rows);
    }
    samples::write(&run.path(samples::FILE), &samples)?;
    results.write(run.dir())?;
    let summary: Map<String, Value> = results.tasks.iter().map(|(name, task)| (name.clone(), json!(task.value))).collect();
    run.finish(Value::Object(summary))?;
    Ok(results)
}

/// The measuring itself, on any [`LanguageModel`].
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

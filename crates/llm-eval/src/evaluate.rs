//! The engine: tasks on a model, from files to numbers.
//!
//! [`evaluate`] takes a model in memory, so a trainer calls it between two steps; [`evaluate_on`] takes any [`Backend`] and a
//! journal. Tasks run one after the other; the requests of a task are answered together. What is measured depends on the
//! model, the files and [`Options`] only, never on what a journal already holds.

use crate::backend::{Backend, Prepared, request_id};
use crate::error::{Error, Result, check_interrupt};
use crate::journal::Journal;
use crate::metrics::{aggregate, weighted_mean};
use crate::model::LanguageModel;
use crate::prompt::{Chat, Instance, Prompt, instances, prompts};
use crate::results::{Metric, ShownSample, TaskResult};
use crate::samples::Sample;
use crate::task::{Answer, Ask, Document, Loaded, Score, Spec, Task};
use crate::tokens::Tokens;
use llm_run::{Progress, Seed};
use llm_tensor::rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How tasks are run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Folder of the benchmark files.
    pub data: PathBuf,
    /// Few-shot examples; each task's own number when absent.
    pub num_fewshot: Option<usize>,
    /// Only the first documents of every task, as the harness's `--limit`.
    pub limit: Option<usize>,
    /// Chat template.
    pub chat: Chat,
    /// Longest generated answer; each task's own when absent.
    pub max_gen_toks: Option<usize>,
    /// Begin-of-text token in front of every text; what the tokenizer does on its own when absent.
    pub add_bos: Option<bool>,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Of the bootstrap.
    pub seed: Seed,
    /// Samples shown per task.
    pub samples: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data: PathBuf::from("."),
            num_fewshot: None,
            limit: None,
            chat: Chat::default(),
            max_gen_toks: None,
            add_bos: None,
            resamples: 1000,
            seed: Seed(0),
            samples: 2,
        }
    }
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// Task and group names -> numbers.
    pub tasks: BTreeMap<String, TaskResult>,
    /// A row per document.
    pub samples: Vec<Sample>,
    /// A few to look at.
    pub shown: Vec<ShownSample>,
}

/// Run tasks on a model in memory.
pub fn evaluate(model: &dyn LanguageModel, tasks: &[Box<dyn Task>], options: &Options) -> Result<Evaluation> {
    evaluate_on(&Tokens::new(model, options.add_bos)?, tasks, options, None)
}

/// Run tasks on any backend, with a journal if the run shall survive a kill.
pub fn evaluate_on(backend: &dyn Backend, tasks: &[Box<dyn Task>], options: &Options, mut journal: Option<&mut Journal>) -> Result<Evaluation> {
    let mut evaluation = Evaluation::default();
    for task in tasks {
        check_interrupt()?;
        one(backend, task.as_ref(), options, journal.as_deref_mut(), &mut evaluation)?;
    }
    groups(tasks, &mut evaluation);
    Ok(evaluation)
}

/// A document on its way.
struct Item<'a> {
    document: &'a Document,
    prompt: Prompt,
    /// Its requests in the list of all.
    first: usize,
    count: usize,
}

fn one(backend: &dyn Backend, task: &dyn Task, options: &Options, mut journal: Option<&mut Journal>, evaluation: &mut Evaluation) -> Result<()> {
    let spec = task.spec();
    let name = spec.name.to_string();
    let mut loaded = task.load(&options.data)?;
    let limit = options.limit.unwrap_or(usize::MAX);
    for document in &mut loaded.documents {
        if let (Ask::Generate(settings), Some(most)) = (&mut document.ask, options.max_gen_toks) {
            settings.max_gen_toks = most;
        }
    }
    let shots = options.num_fewshot.filter(|_| !spec.fixed_shots).unwrap_or(spec.shots);
    let mut asked = Vec::new();
    let mut items = Vec::new();
    for (document, prompt) in loaded.documents.iter().zip(prompts(spec, &loaded, shots, limit, &options.chat)?) {
        let requests = instances(spec, document, &prompt);
        items.push(Item { document, prompt, first: asked.len(), count: requests.len() });
        asked.extend(requests);
    }
    if items.is_empty() {
        return Err(Error::Config(format!("{name}: there is nothing to ask; raise `limit`")));
    }
    let mut progress = Progress::new(&spec.name.task, asked.len() as u64, "requests");
    let prepared = backend.prepare(&asked)?;
    let identity = backend.identity();
    let keyed = journal.as_ref().filter(|_| !identity.key.is_empty()).is_some();
    let ids: Vec<String> = match keyed {
        true => asked.par_iter().zip(&prepared).map(|(instance, prepared)| request_id(&identity, &name, instance, prepared)).collect(),
        false => Vec::new(),
    };
    let mut answers: Vec<Option<Answer>> = match &journal {
        Some(journal) if keyed => ids.iter().map(|id| journal.get(id).cloned()).collect(),
        _ => vec![None; asked.len()],
    };
    let known: Vec<bool> = answers.iter().map(Option::is_some).collect();
    progress.resume_at(known.iter().filter(|k| **k).count() as u64);
    backend.answer(&asked, &prepared, &known, &mut |place, answer| {
        if let (Some(journal), true) = (journal.as_deref_mut(), keyed) {
            journal.put(&ids[place], &answer)?;
        }
        answers[place] = Some(answer);
        progress.inc(1);
        Ok(())
    })?;
    let lost = || Error::Model { model: identity.id.clone(), message: format!("{name}: a request was not answered") };
    let answers = answers.into_iter().map(|a| a.ok_or_else(lost)).collect::<Result<Vec<Answer>>>()?;
    let scores: Vec<Vec<Score>> =
        items.par_iter().map(|item| task.score(item.document, &answers[item.first..item.first + item.count])).collect::<Result<_>>()?;
    let result = summarise(spec, &loaded, &scores, &answers, shots, options)?;
    progress.finish(format!("{} {:.4}", result.metric.name(), result.value));
    evaluation.tasks.insert(name.clone(), result);
    let first_row = evaluation.samples.len();
    for (item, scores) in items.iter().zip(&scores) {
        let range = item.first..item.first + item.count;
        evaluation.samples.push(sample(spec, item, &asked[range.clone()], &prepared[range.clone()], &answers[range], scores));
    }
    let rows = &evaluation.samples[first_row..];
    let shown = rows.iter().take(options.samples).map(|s| ShownSample {
        task: name.clone(),
        id: s.id.clone(),
        lang: s.lang.clone().unwrap_or_default(),
        category: spec.name.task.clone(),
        prompt: s.prompt.clone().unwrap_or_default(),
        response: s.response.clone().unwrap_or_default(),
        reasoning: None,
        gold: s.gold.clone().unwrap_or_default(),
        extracted: s.extracted.clone(),
        correct: s.correct == Some(true),
    });
    evaluation.shown.extend(shown);
    Ok(())
}

/// `acc`, or `exact_match,strict-match` where an answer went through a filter.
fn metric_key(score: &Score) -> String {
    if score.filter == "none" { score.metric.name().to_string() } else { format!("{},{}", score.metric.name(), score.filter) }
}

fn summarise(spec: &Spec, loaded: &Loaded, scores: &[Vec<Score>], answers: &[Answer], shots: usize, options: &Options) -> Result<TaskResult> {
    struct Column {
        key: String,
        metric: Metric,
        values: Vec<(f64, f64)>,
    }
    let mut columns: Vec<Column> = Vec::new();
    for score in scores.iter().flatten() {
        let key = metric_key(score);
        let value = (score.value, score.weight);
        match columns.iter_mut().find(|c| c.key == key) {
            Some(column) => column.values.push(value),
            None => columns.push(Column { key, metric: score.metric, values: vec![value] }),
        }
    }
    let mut metrics = Map::new();
    let mut first = None;
    for Column { key, metric, values } in &columns {
        let aggregation = spec.metrics.iter().find(|m| m.metric == *metric).map_or(crate::task::Aggregation::Mean, |m| m.aggregation);
        let number = aggregate(aggregation, values, options.resamples, options.seed.stream(&format!("{} {key}", spec.name)));
        metrics.insert(key.clone(), json!({"value": number.value, "stderr": number.stderr, "ci95": number.ci95, "n": values.len()}));
        first.get_or_insert((*metric, number, values.len()));
    }
    let (metric, number, n) = first.ok_or_else(|| Error::Config(format!("{}: no document has a metric", spec.name)))?;
    let mut details = Map::new();
    details.insert("stderr".to_string(), json!(number.stderr));
    details.insert("metrics".to_string(), Value::Object(metrics));
    details.insert("num_fewshot".to_string(), json!(shots));
    details.insert("documents".to_string(), json!(loaded.documents.len()));
    details.insert("chat_template".to_string(), json!(options.chat.apply));
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    for (score, why) in scores.iter().flatten().filter_map(|s| Some((s, s.failure?))) {
        let word = if score.filter == "none" { why.to_string() } else { format!("{why},{}", score.filter) };
        *failures.entry(word).or_default() += 1;
    }
    if answers.iter().any(|a| matches!(a, Answer::Text { .. })) {
        details.insert("failures".to_string(), json!(failures));
        let truncated = answers.iter().filter(|a| matches!(a, Answer::Text { finish, .. } if finish == "length")).count();
        details.insert("truncated".to_string(), json!(truncated));
    }
    Ok(TaskResult { metric, value: number.value, n: n as u64, ci95: number.ci95, group: None, details })
}

fn sample(spec: &Spec, item: &Item, asked: &[Instance], prepared: &[Prepared], answers: &[Answer], scores: &[Score]) -> Sample {
    let document = item.document;
    let first = scores.first();
    let graded = first.filter(|s| s.value == 0.0 || s.value == 1.0).filter(|s| s.metric.higher_is_better());
    // Perplexities keep the convention of the file: score over weight is the value of a document.
    let (score, weight) = first.map_or((0.0, 1.0), |s| if s.metric.higher_is_better() { (s.value, s.weight) } else { (-s.value, s.weight) });
    let metrics: Map<String, Value> = scores.iter().map(|s| (metric_key(s), json!(s.value))).collect();
    let filtered: Map<String, Value> = scores.iter().filter_map(|s| Some((s.filter.to_string(), json!(s.extracted.as_ref()?)))).collect();
    let choice = |i: &Instance| match i {
        Instance::Likelihood { continuation, .. } => continuation.clone(),
        Instance::Rolling { .. } | Instance::Generate { .. } => String::new(),
    };
    let likelihoods = answers.iter().any(|a| matches!(a, Answer::Likelihood { .. }));
    let texts: Vec<&str> = answers.iter().map(Answer::text).collect();
    let gold = match &document.ask {
        Ask::Choice { gold, .. } => gold.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        _ => document.target.clone(),
    };
    let (tokens, finish) = match answers.first() {
        Some(Answer::Text { tokens, finish, .. }) => (*tokens, Some(finish.clone())),
        _ => (prepared.iter().map(|p| p.continuation.len() as u32).sum(), None),
    };
    Sample {
        task: spec.name.to_string(),
        id: document.id.clone(),
        item_hash: llm_run::hash::bytes(json!([format!("{:?}", item.prompt), document.target, gold]).to_string().as_bytes()),
        lang: spec.lang.clone(),
        category: spec.group.as_ref().map(|_| spec.name.task.clone()),
        prompt: prepared.first().map(|p| p.text.clone()),
        prompt_tokens: prepared.first().map(|p| p.context.clone()).unwrap_or_default(),
        response: (!likelihoods).then(|| texts.join("\n")),
        gold: Some(gold),
        extracted: first.and_then(|s| s.extracted.clone()),
        correct: graded.map(|s| s.value == 1.0),
        score,
        weight,
        tokens,
        finish_reason: finish,
        choices: if likelihoods { asked.iter().map(choice).collect() } else { Vec::new() },
        choice_tokens: if likelihoods { prepared.iter().map(|p| p.continuation.clone()).collect() } else { Vec::new() },
        log_likelihoods: if likelihoods { answers.iter().map(Answer::sum).collect() } else { Vec::new() },
        greedy: answers.iter().filter_map(|a| if let Answer::Likelihood { greedy, .. } = a { Some(*greedy) } else { None }).collect(),
        metrics: Some(Value::Object(metrics).to_string()),
        filtered: (!filtered.is_empty()).then(|| Value::Object(filtered).to_string()),
        ..Sample::default()
    }
}

/// Means over the tasks of a group, weighted by their documents.
fn groups(tasks: &[Box<dyn Task>], evaluation: &mut Evaluation) {
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for spec in tasks.iter().map(|t| t.spec()) {
        if let Some(group) = &spec.group {
            members.entry(group.to_string()).or_default().push(spec.name.to_string());
        }
    }
    for (group, names) in members {
        let results: Vec<&TaskResult> = names.iter().filter_map(|name| evaluation.tasks.get(name)).collect();
        let Some(first) = results.first() else { continue };
        let numbers: Vec<(f64, Option<f64>, u64)> = results.iter().map(|r| (r.value, r.details["stderr"].as_f64(), r.n)).collect();
        let mean = weighted_mean(&numbers);
        let mut details = Map::new();
        details.insert("stderr".to_string(), json!(mean.stderr));
        details.insert("tasks".to_string(), json!(names));
        let n = numbers.iter().map(|t| t.2).sum();
        let result = TaskResult { metric: first.metric, value: mean.value, n, ci95: mean.ci95, group: None, details };
        evaluation.tasks.insert(group, result);
    }
}

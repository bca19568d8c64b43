//! Exact match on held-out exercises: ask, let the model answer greedily, extract the answer, compare.
//!
//! The prompt is the conversation up to the last assistant turn, rendered by the tokenizer's own chat template with a
//! generation prompt. A base model gets the same protocol; that it has never seen the template is part of its score. What
//! stands between `<think>` and `</think>` is not graded, and grading is that of the reinforcement reward. An answer from
//! which nothing can be extracted, or words where the gold answer is a number, is *malformed* and counts as wrong.

use crate::documents::hash_order;
use crate::error::{Error, Result};
use crate::model::LanguageModel;
use crate::results::{Group, Metric, ShownSample, TaskResult};
use crate::samples::{Sample, slices};
use crate::stats::wilson95;
use llm_data::exercises::{extract_answer, is_correct};
use llm_infer::{FinishReason, Request, Sampling};
use llm_run::{Progress, Seed};
use llm_tokenizer::{Message, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Task name.
pub const TASK: &str = "exercises";

/// One line of an exercise file.
#[derive(Debug, Clone, Deserialize)]
pub struct Exercise {
    /// Unique in the file.
    pub id: String,
    /// `en`, `de`, `es`.
    pub lang: String,
    /// Kind of exercise.
    pub category: String,
    /// The conversation; a worked solution at its end is not shown to the model.
    pub messages: Vec<Message>,
    /// The gold answer.
    pub answer: String,
}

impl Exercise {
    /// What the model is asked: everything before the last assistant turn.
    fn question(&self) -> &[Message] {
        match self.messages.iter().rposition(|m| m.role == "assistant") {
            Some(end) => &self.messages[..end],
            None => &self.messages,
        }
    }

    /// The user's last message, for people to read.
    fn prompt(&self) -> &str {
        self.question().last().map_or("", |m| &m.content)
    }

    fn hash(&self) -> String {
        let turns: Vec<(&str, &str)> = self.question().iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        llm_run::hash::bytes(json!([turns, self.answer]).to_string().as_bytes())
    }
}

/// Read an exercise file; under a `limit`, the exercises first in hash order are kept, in file order.
pub fn read(path: &Path, limit: Option<usize>, seed: Seed) -> Result<Vec<Exercise>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    let mut exercises: Vec<Exercise> = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let damaged = |message: String| Error::Exercise { path: path.to_path_buf(), line: i + 1, message };
        let exercise: Exercise =
            serde_json::from_str(line).map_err(|e| damaged(format!("{e}; expected an object with id, lang, category, messages, answer")))?;
        if exercise.question().last().is_none_or(|m| m.role != "user") {
            return Err(damaged("`messages` must ask something: a user message before the assistant's last".to_string()));
        }
        if exercise.answer.trim().is_empty() {
            return Err(damaged("`answer` is empty; an exercise without a gold answer cannot be graded".to_string()));
        }
        if !seen.insert(exercise.id.clone()) {
            return Err(damaged(format!("id `{}` appears twice", exercise.id)));
        }
        exercises.push(exercise);
    }
    if exercises.is_empty() {
        return Err(Error::Empty { path: path.to_path_buf(), what: "holds no exercises; run `llm-data exercises` first" });
    }
    if let Some(limit) = limit {
        let mut order: Vec<usize> = (0..exercises.len()).collect();
        order.sort_by_key(|&i| hash_order(seed, &exercises[i].id));
        let kept: BTreeSet<usize> = order.into_iter().take(limit).collect();
        let mut place = 0..;
        exercises.retain(|_| place.next().is_some_and(|i| kept.contains(&i)));
    }
    Ok(exercises)
}

/// An answer, taken apart by control tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Between `<think>` and `</think>`; `None` when the model did not think.
    pub reasoning: Option<String>,
    /// The rest.
    pub content: String,
    /// All of it, control tokens spelled out: the form that `llm_data::exercises` grades, in training as here.
    pub graded: String,
}

/// Split generated ids at `<think>` and `</think>`. A prompt whose last marker is `<think>` starts inside the reasoning.
pub fn split_answer(tokenizer: &Tokenizer, prompt: &[u32], tokens: &[u32]) -> Answer {
    let (open, close) = (tokenizer.special_id("<think>"), tokenizer.special_id("</think>"));
    let is = |marker: Option<u32>, id: u32| marker == Some(id);
    let inside = prompt.iter().rev().find(|&&id| is(open, id) || is(close, id)).is_some_and(|&id| is(open, id));
    let (mut thinking, mut thought) = (inside, inside);
    let (mut reasoning, mut content) = (Vec::new(), Vec::new());
    for &id in tokens {
        if is(open, id) || is(close, id) {
            thinking = is(open, id);
            thought |= thinking;
        } else if thinking {
            reasoning.push(id);
        } else {
            content.push(id);
        }
    }
    let graded = format!("{}{}", if inside { "<think>" } else { "" }, tokenizer.decode(tokens, false));
    Answer { reasoning: thought.then(|| tokenizer.decode(&reasoning, true)), content: tokenizer.decode(&content, true), graded }
}

/// Ask every exercise; one sample per exercise, in order.
pub fn ask(model: &dyn LanguageModel, exercises: &[Exercise], max_tokens: usize) -> Result<Vec<Sample>> {
    let tokenizer = model.tokenizer();
    let stop_ids: Vec<u32> = tokenizer.special_id("<|eot_id|>").into_iter().chain(tokenizer.eos_id()).collect();
    let mut requests = Vec::with_capacity(exercises.len());
    for exercise in exercises {
        let prompt = tokenizer.chat_ids(exercise.question(), true)?;
        let room = model.context_length().saturating_sub(prompt.len());
        if room == 0 {
            let message = format!(
                "exercise `{}` has {} prompt tokens and the context holds {}: no room for an answer",
                exercise.id,
                prompt.len(),
                model.context_length()
            );
            return Err(Error::Model { model: "context".to_string(), message });
        }
        let sampling = Sampling { temperature: 0.0, max_tokens: max_tokens.min(room), stop_ids: stop_ids.clone(), ..Sampling::default() };
        requests.push(Request::new(prompt, sampling));
    }
    let prompts: Vec<Vec<u32>> = requests.iter().map(|r| r.prompt.clone()).collect();
    let mut progress = Progress::new("exercises", exercises.len() as u64, "exercises");
    let mut generated = 0;
    let completions = model.generate(requests, &mut |_, completion| {
        generated += completion.tokens.len();
        progress.message(format!("{generated} tokens"));
        progress.inc(1);
        Ok(())
    })?;
    let samples: Vec<Sample> = exercises
        .iter()
        .zip(prompts)
        .zip(completions)
        .map(|((exercise, prompt), completion)| {
            let answer = split_answer(tokenizer, &prompt, &completion.tokens);
            let correct = is_correct(&answer.graded, &exercise.answer);
            Sample {
                task: TASK.to_string(),
                id: exercise.id.clone(),
                item_hash: exercise.hash(),
                lang: Some(exercise.lang.clone()),
                category: Some(exercise.category.clone()),
                prompt: Some(tokenizer.decode(&prompt, false)),
                extracted: extract_answer(&answer.graded),
                response: Some(answer.content),
                reasoning: answer.reasoning,
                gold: Some(exercise.answer.clone()),
                correct: Some(correct),
                score: f64::from(u8::from(correct)),
                weight: 1.0,
                tokens: u32::try_from(completion.tokens.len()).unwrap_or(u32::MAX),
                finish_reason: Some(finish_reason(completion.finish_reason).to_string()),
                prompt_tokens: prompt,
                response_tokens: completion.tokens,
                ..Sample::default()
            }
        })
        .collect();
    let right = samples.iter().filter(|s| s.correct == Some(true)).count();
    progress.finish(format!("{right} of {} right, {generated} tokens", samples.len()));
    Ok(samples)
}

pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Deadline => "deadline",
    }
}

/// The overall result and its slices: `exercises`, `exercises/LANG`, `exercises/CATEGORY`.
pub fn summarise(samples: &[Sample]) -> BTreeMap<String, TaskResult> {
    slices(TASK, samples).into_iter().map(|(name, (group, samples))| (name, summary(group, &samples))).collect()
}

/// No answer, or no number where one was asked for.
fn malformed(sample: &Sample) -> bool {
    let number = |text: Option<&str>| text.is_some_and(|t| t.parse::<f64>().is_ok());
    let gold = sample.gold.as_deref().and_then(extract_answer);
    sample.extracted.is_none() || (number(gold.as_deref()) && !number(sample.extracted.as_deref()))
}

fn summary(group: Option<Group>, samples: &[&Sample]) -> TaskResult {
    let n = samples.len() as u64;
    let count = |holds: &dyn Fn(&Sample) -> bool| samples.iter().filter(|s| holds(s)).count() as u64;
    let share = |k: u64| k as f64 / n.max(1) as f64;
    let right = count(&|s| s.correct == Some(true));
    let mut details = Map::new();
    details.insert("correct".to_string(), json!(right));
    details.insert("malformed".to_string(), json!(share(count(&malformed))));
    details.insert("truncated".to_string(), json!(share(count(&|s| s.finish_reason.as_deref() == Some("length")))));
    details.insert("mean_tokens".to_string(), json!(samples.iter().map(|s| f64::from(s.tokens)).sum::<f64>() / n.max(1) as f64));
    TaskResult { metric: Metric::ExactMatch, value: share(right), n, ci95: Some(wilson95(right, n)), group, details }
}

/// `count` samples to show, first in hash order: the same exercises for every model measured with the same seed.
pub fn show(exercises: &[Exercise], samples: &[Sample], count: usize, seed: Seed) -> Vec<ShownSample> {
    let mut pairs: Vec<(&Exercise, &Sample)> = exercises.iter().zip(samples).collect();
    pairs.sort_by_key(|(exercise, _)| hash_order(seed, &exercise.id));
    let shown = pairs.into_iter().take(count).map(|(exercise, sample)| ShownSample {
        task: TASK.to_string(),
        id: exercise.id.clone(),
        lang: exercise.lang.clone(),
        category: exercise.category.clone(),
        prompt: exercise.prompt().to_string(),
        response: sample.response.clone().unwrap_or_default(),
        reasoning: sample.reasoning.clone(),
        gold: exercise.answer.clone(),
        extracted: sample.extracted.clone(),
        correct: sample.correct == Some(true),
    });
    shown.collect()
}

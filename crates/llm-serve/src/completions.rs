//! `POST /v1/completions`: plain continuation, no chat template.

use crate::access::Tally;
use crate::api::completion::{CompletionRequest, Prompt};
use crate::api::response::{Head, Reply, TextChoice, TextLogprobs, Usage};
use crate::api::sampling::SamplingParams;
use crate::app::{App, Limits, Served};
use crate::assemble::Assembler;
use crate::error::ApiError;
use crate::fim;
use crate::generate::{Choices, Step};
use crate::logprobs::{prompt_lists, push_text};
use crate::sse::{self, Frame};
use crate::turn::{Part, Turn};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use llm_tokenizer::Tokenizer;
use std::sync::Arc;

const LIMITS: Limits = Limits { tokens: "max_tokens", prompt: "prompt" };

/// The handler.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tally): Extension<Arc<Tally>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let CompletionRequest { model, prompts, sampling, delivery, echo, best_of, suffix, shape } = CompletionRequest::parse(&body)?;
    let target = served.target(model.as_deref())?;
    let grammar = match shape {
        Some(shape) => Some(served.grammar(&shape.param, shape.constraint).await?),
        None => None,
    };

    let texts: Vec<Option<String>> = prompts.iter().map(|p| if let Prompt::Text(text) = p { Some(text.clone()) } else { None }).collect();
    let (prompts, stops) = match suffix {
        Some(suffix) => fill(served, prompts, suffix).await?,
        None => (encode(served, "prompt", prompts).await?, Vec::new()),
    };
    let tried = SamplingParams { n: best_of, ..sampling.clone() };
    let mut requests = Vec::new();
    for prompt in &prompts {
        requests.extend(served.requests(prompt, &tried, LIMITS)?);
    }
    for request in &mut requests {
        request.grammar.clone_from(&grammar);
        request.adapter = target.adapter;
        request.sampling.stop_ids.extend(&stops);
    }
    let count = requests.len();
    let turns = requests.iter().map(|_| Turn::new(Assembler::text(&served.tokenizer, &sampling.stop))).collect();
    let lengths: Vec<usize> = prompts.iter().map(|p| served.prompt_len(p)).collect();
    let choices = Choices::start(&served.worker, requests, turns, &lengths).await?;

    let head = served.head("cmpl", "text_completion", target.name);
    let tokenizer = sampling.logprobs.map(|_| served.tokenizer.clone());
    let growing = match echo {
        true => self::echo(served, &prompts, &texts, &tried).await?,
        false => vec![Growing::default(); count],
    };
    if delivery.stream {
        Ok(sse::respond(choices, Chunks { head, tokenizer, growing, include_usage: delivery.include_usage }, tally))
    } else {
        whole(choices, head, tokenizer, growing, (best_of, sampling.n), &tally).await
    }
}

/// Prompts around a gap, and the tokens besides the usual that end what fills it.
async fn fill(served: &Served, prompts: Vec<Prompt>, suffix: String) -> Result<(Vec<Vec<u32>>, Vec<u32>), ApiError> {
    let marks = fim::Marks::of(&served.tokenizer).ok_or_else(|| {
        ApiError::unsupported("suffix", "'suffix' needs a model that was trained to fill gaps; this one's tokenizer has no marks for it")
    })?;
    let tokenizer = served.tokenizer.clone();
    let encoded = tokio::task::spawn_blocking(move || {
        let text = |prompt| if let Prompt::Text(text) = prompt { text } else { String::new() };
        let ids = prompts.into_iter().map(|prompt| marks.prompt(&tokenizer, &text(prompt), &suffix)).collect();
        (ids, marks.ends)
    });
    encoded.await.map_err(|_| ApiError::internal("the tokenizer panicked"))
}

/// Text prompts start like a training document does: with the begin-of-text token, if there is one.
pub async fn encode(served: &Served, param: &'static str, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>, ApiError> {
    let tokenizer = served.tokenizer.clone();
    let encoded = tokio::task::spawn_blocking(move || prompts.into_iter().map(|prompt| encode_one(&tokenizer, param, prompt)).collect());
    encoded.await.map_err(|_| ApiError::internal("the tokenizer panicked"))?
}

/// Choices that begin with their prompt.
async fn echo(served: &Served, prompts: &[Vec<u32>], texts: &[Option<String>], sampling: &SamplingParams) -> Result<Vec<Growing>, ApiError> {
    let scores = match sampling.logprobs {
        Some(top) => served.worker.score(prompts.to_vec(), top).await?,
        None => vec![Vec::new(); prompts.len()],
    };
    let mut growing = Vec::new();
    for ((ids, text), scores) in prompts.iter().zip(texts).zip(&scores) {
        // Text prompts got a begin-of-text token that is not in their text; ids are shown as they are.
        let added = if text.is_some() { served.tokenizer.bos_id().iter().count() } else { 0 };
        let text = text.clone().unwrap_or_else(|| served.tokenizer.decode(ids, false));
        let logprobs = if sampling.logprobs.is_some() { prompt_lists(&served.tokenizer, ids, added, scores) } else { TextLogprobs::default() };
        let offset = text.chars().count();
        growing.extend(std::iter::repeat_n(Growing { text, logprobs, offset, ..Growing::default() }, sampling.n));
    }
    Ok(growing)
}

fn encode_one(tokenizer: &Tokenizer, param: &str, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
    let ids = match prompt {
        Prompt::Text(text) => {
            let mut ids: Vec<u32> = tokenizer.bos_id().into_iter().collect();
            ids.extend(tokenizer.encode(&text));
            ids
        }
        Prompt::Ids(ids) => {
            let size = tokenizer.vocab_size();
            if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
                return Err(ApiError::invalid(param, format!("token id {id} is outside of the vocabulary of {size} entries")));
            }
            ids
        }
    };
    if ids.is_empty() {
        return Err(ApiError::invalid(param, format!("'{param}' has no tokens")));
    }
    Ok(ids)
}

#[derive(Debug, Clone, Default)]
struct Growing {
    text: String,
    logprobs: TextLogprobs,
    offset: usize,
    /// Log-probability of what was generated, and how many tokens it is of.
    likelihood: (f64, usize),
    finish_reason: Option<&'static str>,
}

impl Growing {
    fn take_in(&mut self, step: &Step, tokenizer: Option<&Tokenizer>) {
        for part in &step.parts {
            // Nothing but content: no thinking is split off here and no calls are looked for.
            if let Part::Content(text) = part {
                self.text.push_str(text);
            }
        }
        if let Some(scored) = &step.scored {
            self.likelihood.0 += f64::from(scored.logprob);
            self.likelihood.1 += 1;
        }
        if let (Some(tokenizer), Some(scored)) = (tokenizer, &step.scored) {
            self.offset = push_text(&mut self.logprobs, tokenizer, scored.token, scored.logprob, &scored.top, self.offset);
        }
        self.finish_reason = step.finish_reason;
    }

    /// Per token, so that short replies are not preferred.
    fn mean(&self) -> f64 {
        self.likelihood.0 / self.likelihood.1.max(1) as f64
    }

    /// What has grown since the last call.
    fn emit(&mut self, index: usize, with_logprobs: bool) -> TextChoice {
        let logprobs = std::mem::take(&mut self.logprobs);
        TextChoice { index, text: std::mem::take(&mut self.text), logprobs: with_logprobs.then_some(logprobs), finish_reason: self.finish_reason }
    }
}

async fn whole(
    mut choices: Choices,
    head: Head,
    tokenizer: Option<Tokenizer>,
    mut growing: Vec<Growing>,
    (best_of, n): (usize, usize),
    tally: &Tally,
) -> Result<Response, ApiError> {
    tally.set(choices.usage().prompt_tokens, 0);
    while let Some(step) = choices.next().await? {
        tally.set(choices.usage().prompt_tokens, choices.usage().completion_tokens);
        if let Some(choice) = growing.get_mut(step.index) {
            choice.take_in(&step, tokenizer.as_ref());
        }
    }
    if best_of > n {
        let best = |tried: &[Growing]| {
            let mut tried = tried.to_vec();
            tried.sort_by(|a, b| b.mean().total_cmp(&a.mean()));
            tried.truncate(n);
            tried
        };
        growing = growing.chunks(best_of).flat_map(best).collect();
    }
    let choices_out = growing.iter_mut().enumerate().map(|(index, choice)| choice.emit(index, tokenizer.is_some()));
    Ok(Json(Reply { head, choices: choices_out.collect(), usage: Some(choices.usage()) }).into_response())
}

/// Renders stream chunks.
struct Chunks {
    head: Head,
    tokenizer: Option<Tokenizer>,
    growing: Vec<Growing>,
    include_usage: bool,
}

impl Chunks {
    /// What a choice has to say, unless that is nothing.
    fn chunk(&mut self, index: usize) -> Option<Frame> {
        let choice = self.growing.get_mut(index).filter(|c| !c.text.is_empty() || c.finish_reason.is_some())?;
        let choice = choice.emit(index, self.tokenizer.is_some());
        Some(Frame::new(&Reply { head: self.head.clone(), choices: vec![choice], usage: None }))
    }
}

impl sse::Render for Chunks {
    /// Echoed prompts.
    fn first(&mut self, _: &Usage) -> Vec<Frame> {
        (0..self.growing.len()).filter_map(|index| self.chunk(index)).collect()
    }

    fn step(&mut self, step: Step, _: &Usage) -> Vec<Frame> {
        if let Some(choice) = self.growing.get_mut(step.index) {
            choice.take_in(&step, self.tokenizer.as_ref());
        }
        self.chunk(step.index).into_iter().collect()
    }

    fn last(&mut self, usage: &Usage) -> Vec<Frame> {
        sse::end::<TextChoice>(&self.head, self.include_usage.then_some(usage))
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        sse::failed(error)
    }
}

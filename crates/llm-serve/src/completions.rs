//! `POST /v1/completions`: plain continuation, no chat template.

use crate::access::Tally;
use crate::api::completion::{CompletionRequest, Prompt};
use crate::api::response::{Head, Reply, TextChoice, TextLogprobs};
use crate::api::sampling::SamplingParams;
use crate::app::{App, Served};
use crate::assemble::Assembler;
use crate::error::ApiError;
use crate::generate::{Choices, Step};
use crate::logprobs::{prompt_lists, push_text};
use crate::sse;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use llm_tokenizer::Tokenizer;
use std::sync::Arc;

/// The handler.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tally): Extension<Arc<Tally>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let request = CompletionRequest::parse(&body)?;
    served.check_name(request.model.as_deref())?;

    let texts: Vec<Option<String>> = request.prompts.iter().map(|p| if let Prompt::Text(text) = p { Some(text.clone()) } else { None }).collect();
    let prompts = encode(served, request.prompts).await?;
    let mut requests = Vec::new();
    for prompt in &prompts {
        requests.extend(served.requests(prompt, &request.sampling, "max_tokens")?);
    }
    let count = requests.len();
    let assemblers = requests.iter().map(|_| Assembler::text(&served.tokenizer, &request.sampling.stop)).collect();
    let choices = Choices::start(&served.worker, requests, assemblers, prompts.iter().map(|p| served.prompt_len(p)).sum()).await?;

    let head = served.head("cmpl", "text_completion");
    let tokenizer = request.sampling.logprobs.map(|_| served.tokenizer.clone());
    let growing = match request.echo {
        true => echo(served, &prompts, &texts, &request.sampling).await?,
        false => vec![Growing::default(); count],
    };
    if request.delivery.stream {
        Ok(sse::respond(choices, Chunks { head, tokenizer, growing }, request.delivery.include_usage, tally))
    } else {
        whole(choices, head, tokenizer, growing, &tally).await
    }
}

/// Text prompts start like a training document does: with the begin-of-text token, if there is one.
async fn encode(served: &Served, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>, ApiError> {
    let tokenizer = served.tokenizer.clone();
    let encoded = tokio::task::spawn_blocking(move || prompts.into_iter().map(|prompt| encode_one(&tokenizer, prompt)).collect());
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
        growing.extend(std::iter::repeat_n(Growing { text, logprobs, offset, finish_reason: None }, sampling.n));
    }
    Ok(growing)
}

fn encode_one(tokenizer: &Tokenizer, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
    let ids = match prompt {
        Prompt::Text(text) => {
            let mut ids: Vec<u32> = tokenizer.bos_id().into_iter().collect();
            ids.extend(tokenizer.encode(&text));
            ids
        }
        Prompt::Ids(ids) => {
            let size = tokenizer.vocab_size();
            if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
                return Err(ApiError::invalid("prompt", format!("token id {id} is outside of the vocabulary of {size} entries")));
            }
            ids
        }
    };
    if ids.is_empty() {
        return Err(ApiError::invalid("prompt", "the prompt has no tokens"));
    }
    Ok(ids)
}

#[derive(Debug, Clone, Default)]
struct Growing {
    text: String,
    logprobs: TextLogprobs,
    offset: usize,
    finish_reason: Option<&'static str>,
}

impl Growing {
    fn take_in(&mut self, step: &Step, tokenizer: Option<&Tokenizer>) {
        for piece in &step.pieces {
            self.text.push_str(&piece.text);
        }
        if let (Some(tokenizer), Some(scored)) = (tokenizer, &step.scored) {
            self.offset = push_text(&mut self.logprobs, tokenizer, scored.token, scored.logprob, &scored.top, self.offset);
        }
        self.finish_reason = step.finish_reason;
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
    tally: &Tally,
) -> Result<Response, ApiError> {
    tally.set(choices.usage().prompt_tokens, 0);
    while let Some(step) = choices.next().await? {
        tally.set(choices.usage().prompt_tokens, choices.usage().completion_tokens);
        if let Some(choice) = growing.get_mut(step.index) {
            choice.take_in(&step, tokenizer.as_ref());
        }
    }
    let choices_out = growing.iter_mut().enumerate().map(|(index, choice)| choice.emit(index, tokenizer.is_some()));
    Ok(Json(Reply { head, choices: choices_out.collect(), usage: Some(choices.usage()) }).into_response())
}

/// Renders stream chunks.
struct Chunks {
    head: Head,
    tokenizer: Option<Tokenizer>,
    growing: Vec<Growing>,
}

impl sse::Render for Chunks {
    type Choice = TextChoice;

    fn first(&mut self) -> Vec<Reply<TextChoice>> {
        Vec::new()
    }

    fn step(&mut self, step: Step) -> Vec<Reply<TextChoice>> {
        let Some(choice) = self.growing.get_mut(step.index) else { return Vec::new() };
        choice.take_in(&step, self.tokenizer.as_ref());
        if choice.text.is_empty() && choice.finish_reason.is_none() {
            return Vec::new();
        }
        let choice = choice.emit(step.index, self.tokenizer.is_some());
        vec![Reply { head: self.head.clone(), choices: vec![choice], usage: None }]
    }

    fn head(&self) -> &Head {
        &self.head
    }
}

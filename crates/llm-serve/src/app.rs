//! What every handler shares: the loaded model as seen from HTTP, and small steps that both endpoints take.

use crate::adapters::Adapters;
use crate::api::response::Head;
use crate::api::sampling::SamplingParams;
use crate::call::Call;
use crate::defaults::Defaults;
use crate::error::ApiError;
use crate::guard::SlowBody;
use crate::house::House;
use crate::images::{Eyes, ImageLoader};
use crate::worker::Worker;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use llm_infer::adapters::AdapterId;
use llm_infer::grammar::{Grammar, Grammars};
use llm_infer::{Constraint, Request};
use llm_tokenizer::Tokenizer;
use std::error::Error as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// State behind the router.
#[derive(Default)]
pub struct App {
    /// Empty while the model is loading.
    pub served: OnceLock<Served>,
    /// Largest request body in bytes.
    pub body_limit: usize,
    /// Images of requests.
    pub images: ImageLoader,
    /// Who may do what, and what is counted.
    pub house: Arc<House>,
}

/// A loaded model.
pub struct Served {
    /// The name that requests use.
    pub name: String,
    /// Text <-> ids.
    pub tokenizer: Tokenizer,
    /// What it sees with, if it sees.
    pub eyes: Option<Eyes>,
    /// Sampling defaults.
    pub defaults: Defaults,
    /// Tokens that end a reply.
    pub turn_ends: Vec<u32>,
    /// Compiles what replies have to look like.
    pub grammars: Grammars,
    /// Adapters that requests may name.
    pub adapters: Adapters,
    /// Prompt and reply together, in tokens.
    pub context: usize,
    /// Numbers of an embedding.
    pub hidden_size: usize,
    /// Short hash of the weights.
    pub fingerprint: String,
    /// Unix seconds of loading.
    pub created: u64,
    /// The engine.
    pub worker: Worker,
    /// Numbers the replies.
    pub sequence: AtomicU64,
}

pub use crate::clock::now;

/// What a request asks for by its `model`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As the reply calls it.
    pub name: String,
    /// `None`: the model as it is.
    pub adapter: Option<AdapterId>,
}

/// What an endpoint calls the fields that the context limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest reply.
    pub tokens: &'static str,
    /// The prompt.
    pub prompt: &'static str,
}

impl App {
    /// The model, or 503 while it is loading.
    pub fn ready(&self) -> Result<&Served, ApiError> {
        self.served.get().ok_or_else(|| ApiError::unavailable("the model is still loading"))
    }

    /// The request body, or why it could not be read.
    pub fn body(&self, body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(self.body_limit),
            _ => slow(&rejection).unwrap_or_else(|| ApiError::bad_request(format!("the request body could not be read: {rejection}"))),
        })?;
        if let (Some(prompts), Some(call)) = (&self.house.prompts, Call::current()) {
            prompts.write(&call, &body);
        }
        Ok(body)
    }
}

/// A body that took too long is another error than one that broke off.
fn slow(rejection: &BytesRejection) -> Option<ApiError> {
    let mut cause = rejection.source();
    while let Some(error) = cause {
        if let Some(SlowBody(limit)) = error.downcast_ref() {
            return Some(ApiError::slow_body(*limit));
        }
        cause = error.source();
    }
    None
}

impl Served {
    /// Requests may leave the model out; a wrong name is an error.
    pub fn target(&self, model: Option<&str>) -> Result<Target, ApiError> {
        let Some(name) = model.filter(|asked| *asked != self.name) else { return Ok(Target { name: self.name.clone(), adapter: None }) };
        match self.adapters.find(name) {
            Some(id) => Ok(Target { name: name.to_string(), adapter: Some(id) }),
            None => Err(ApiError::model_not_found(name, &self.name)),
        }
    }

    /// The id of a new reply: start time and a counter are unique over restarts, and no randomness to explain.
    pub fn reply_id(&self, prefix: &str) -> String {
        format!("{prefix}{:x}{:08x}", self.created, self.sequence.fetch_add(1, Ordering::Relaxed))
    }

    /// A number that no other reply has.
    pub fn salt(&self) -> u64 {
        (self.created << 32).wrapping_add(self.sequence.fetch_add(1, Ordering::Relaxed))
    }

    /// The head of a new reply under the name of a model.
    pub fn head(&self, prefix: &str, object: &'static str, model: String) -> Head {
        let id = self.reply_id(&format!("{prefix}-"));
        Head { id, object, created: now(), model, system_fingerprint: self.fingerprint.clone() }
    }

    /// Compile what a reply has to look like, off the network threads. `param` asked for it.
    pub async fn grammar(&self, param: &str, constraint: Constraint) -> Result<Grammar, ApiError> {
        let grammars = self.grammars.clone();
        let compiled = tokio::task::spawn_blocking(move || grammars.compile(&constraint)).await;
        let compiled = compiled.map_err(|_| ApiError::internal("the grammar compiler panicked"))?;
        compiled.map_err(|e| ApiError::invalid(param, e.to_string()).with_code("invalid_grammar"))
    }

    /// Tokens a prompt takes: a placeholder counts as its image.
    pub fn prompt_len(&self, prompt: &[u32]) -> usize {
        let extra = |eyes: &Eyes| prompt.iter().filter(|&&id| id == eyes.image_token_id).count() * (eyes.tokens_per_image - 1);
        prompt.len() + self.eyes.as_ref().map_or(0, extra)
    }

    /// The engine's requests for `n` choices of one prompt.
    pub fn requests(&self, prompt: &[u32], params: &SamplingParams, limits: Limits) -> Result<Vec<Request>, ApiError> {
        let exceeded = |param: &str, message: String| ApiError::invalid(param, message).with_code("context_length_exceeded");
        let length = self.prompt_len(prompt);
        let room = self.context.saturating_sub(length);
        if room == 0 {
            let message = format!("the prompt has {length} tokens; the context of this model holds {}, reply included", self.context);
            return Err(exceeded(limits.prompt, message));
        }
        if let Some(asked) = params.max_tokens.filter(|&asked| asked > room) {
            let message = format!(
                "'{}' is {asked}, but the prompt has {length} tokens and the context of this model holds {}: at most {room} are left",
                limits.tokens, self.context
            );
            return Err(exceeded(limits.tokens, message));
        }
        let seed = RandomState::new().hash_one(now());
        let sampling = |index| params.resolve(&self.defaults, &self.turn_ends, room, seed, index);
        Ok((0..params.n).map(|index| Request { priority: params.priority, ..Request::new(prompt.to_vec(), sampling(index)) }).collect())
    }
}

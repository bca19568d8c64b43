//! What every handler shares: the loaded model as seen from HTTP, and small steps that both endpoints take.

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
use llm_infer::Request;
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
    /// Tokens that end a reply besides the model's own end tokens.
    pub turn_ends: Vec<u32>,
    /// Prompt and reply together, in tokens.
    pub context: usize,
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
    pub fn check_name(&self, model: Option<&str>) -> Result<(), ApiError> {
        match model {
            Some(asked) if asked != self.name => Err(ApiError::model_not_found(asked, &self.name)),
            _ => Ok(()),
        }
    }

    /// The head of a new reply.
    pub fn head(&self, prefix: &str, object: &'static str) -> Head {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        Head {
            // Start time and a counter: unique over restarts, and no randomness to explain.
            id: format!("{prefix}-{:x}{number:08x}", self.created),
            object,
            created: now(),
            model: self.name.clone(),
            system_fingerprint: self.fingerprint.clone(),
        }
    }

    /// Tokens a prompt takes: a placeholder counts as its image.
    pub fn prompt_len(&self, prompt: &[u32]) -> usize {
        let extra = |eyes: &Eyes| prompt.iter().filter(|&&id| id == eyes.image_token_id).count() * (eyes.tokens_per_image - 1);
        prompt.len() + self.eyes.as_ref().map_or(0, extra)
    }

    /// The engine's requests for `n` choices of one prompt.
    pub fn requests(&self, prompt: &[u32], params: &SamplingParams, limit_name: &str) -> Result<Vec<Request>, ApiError> {
        let exceeded = |param: &str, message: String| ApiError::invalid(param, message).with_code("context_length_exceeded");
        let length = self.prompt_len(prompt);
        let room = self.context.saturating_sub(length);
        if room == 0 {
            let message = format!("the prompt has {length} tokens; the context of this model holds {}, reply included", self.context);
            return Err(exceeded(if limit_name == "max_tokens" { "prompt" } else { "messages" }, message));
        }
        if let Some(asked) = params.max_tokens.filter(|&asked| asked > room) {
            let message = format!(
                "'{limit_name}' is {asked}, but the prompt has {length} tokens and the context of this model holds {}: at most {room} are left",
                self.context
            );
            return Err(exceeded(limit_name, message));
        }
        let seed = RandomState::new().hash_one(now());
        Ok((0..params.n).map(|index| Request::new(prompt.to_vec(), params.resolve(&self.defaults, &self.turn_ends, room, seed, index))).collect())
    }
}

//! One HTTP call as the handlers see it: choices that grow, out of engine updates.
//!
//! The endpoints differ in wording only, so they share this: submit prompts x n requests, turn updates into
//! [`Step`]s (parts of the turn, token log-probabilities, ends), count tokens.

use crate::api::response::Usage;
use crate::error::ApiError;
use crate::reasoning::Segment;
use crate::turn::{Part, Turn};
use crate::worker::{Generation, Update, Worker};
use llm_infer::{FinishReason, Request};

/// One generated token with its log-probability and alternatives.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Id.
    pub token: u32,
    /// Thinking or answer.
    pub segment: Segment,
    /// Natural logarithm.
    pub logprob: f32,
    /// The best tokens at this place.
    pub top: Vec<(u32, f32)>,
}

/// What happened to one choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Which one.
    pub index: usize,
    /// The token behind it; none for the end.
    pub scored: Option<Scored>,
    /// What is new.
    pub parts: Vec<Part>,
    /// Set when the choice is complete: `stop`, `length` or `tool_calls`.
    pub finish_reason: Option<&'static str>,
    /// The stop string that completed it.
    pub stop: Option<String>,
}

/// All choices of one call. Dropping it cancels them in the engine.
pub struct Choices {
    generation: Generation,
    turns: Vec<Option<Turn>>,
    /// Choices of each prompt.
    each: usize,
    open: usize,
    usage: Usage,
}

impl Choices {
    /// Submit `requests`; `turns` belong to them one by one. `prompts` are the lengths of the prompts, each of which has equally many
    /// requests; they count once.
    pub async fn start(worker: &Worker, requests: Vec<Request>, turns: Vec<Turn>, prompts: &[usize]) -> Result<Self, ApiError> {
        let open = requests.len();
        let generation = worker.submit(requests).await?;
        let prompt_tokens = prompts.iter().sum();
        let usage = Usage { prompt_tokens, total_tokens: prompt_tokens, ..Usage::default() };
        let each = (open / prompts.len().max(1)).max(1);
        Ok(Self { generation, turns: turns.into_iter().map(Some).collect(), each, open, usage })
    }

    /// The next step of any choice; `None` when all are complete.
    pub async fn next(&mut self) -> Result<Option<Step>, ApiError> {
        while self.open > 0 {
            let Some((index, update)) = self.generation.next().await else {
                return Err(ApiError::internal("the engine stopped before the reply was complete"));
            };
            // A choice that met a stop string is complete for us while the engine may still finish its step.
            let Some(slot) = self.turns.get_mut(index) else { continue };
            let Some(turn) = slot else { continue };
            let (scored, parts, reason) = match update {
                Update::Started { cached_tokens } => {
                    if index % self.each == 0 {
                        self.usage.prompt_tokens_details.cached_tokens += cached_tokens;
                    }
                    continue;
                }
                Update::Token { token, logprob, top } => {
                    let (segment, parts) = turn.push(token);
                    self.usage.completion_tokens += 1;
                    self.usage.total_tokens += 1;
                    if segment == Segment::Reasoning {
                        self.usage.completion_tokens_details.reasoning_tokens += 1;
                    }
                    (Some(Scored { token, segment, logprob, top }), parts, turn.ended().then_some("stop"))
                }
                Update::Done(reason) => {
                    let parts = turn.finish();
                    let reason = match reason {
                        _ if turn.ended() => "stop",
                        FinishReason::Stop => "stop",
                        FinishReason::Length => "length",
                        FinishReason::Cancelled => return Err(ApiError::internal("the engine cancelled the request")),
                        FinishReason::Deadline => return Err(ApiError::unavailable("the request took longer than it may")),
                    };
                    (None, parts, Some(reason))
                }
                Update::Failed(why) => return Err(ApiError::internal(why)),
            };
            let finish_reason = reason.map(|reason| if reason == "stop" && turn.called() { "tool_calls" } else { reason });
            let stop = turn.stop().filter(|_| finish_reason.is_some()).map(str::to_string);
            if finish_reason.is_some() {
                self.open -= 1;
                *slot = None;
            }
            return Ok(Some(Step { index, scored, parts, finish_reason, stop }));
        }
        Ok(None)
    }

    /// Token counts so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }
}

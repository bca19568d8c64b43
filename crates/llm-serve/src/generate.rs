//! One HTTP call as the handlers see it: choices that grow, out of engine updates.
//!
//! The endpoints differ in wording only, so they share this: submit prompts x n requests, turn updates into
//! [`Step`]s (parts of the turn, token log-probabilities, ends), count tokens.

use crate::api::response::Usage;
use crate::call::Lease;
use crate::error::ApiError;
use crate::reasoning::Segment;
use crate::turn::{Part, Turn};
use crate::worker::{Generation, Update, Worker};
use llm_infer::{FinishReason, Request};
use std::time::{Duration, Instant};

/// After a deadline, the engine has this long to say so.
const GRACE: Duration = Duration::from_secs(2);

fn late() -> ApiError {
    ApiError::timeout("the reply took longer than this server allows (--request-timeout)")
}

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
    lease: Lease,
    /// When the first choice left the queue.
    started: Option<Instant>,
}

impl Choices {
    /// Submit `requests`; `turns` belong to them one by one. `prompts` are the lengths of the prompts, each of which has equally many
    /// requests; they count once. What they may use is taken from the call that the handler runs for.
    pub async fn start(worker: &Worker, mut requests: Vec<Request>, turns: Vec<Turn>, prompts: &[usize]) -> Result<Self, ApiError> {
        let open = requests.len();
        let prompt_tokens = prompts.iter().sum();
        let mut lease = Lease::take(&mut requests, prompt_tokens)?;
        let generation = worker.submit(requests).await?;
        lease.submitted(prompt_tokens);
        let usage = Usage { prompt_tokens, total_tokens: prompt_tokens, ..Usage::default() };
        let each = (open / prompts.len().max(1)).max(1);
        Ok(Self { generation, turns: turns.into_iter().map(Some).collect(), each, open, usage, lease, started: None })
    }

    /// The next step of any choice; `None` when all are complete. The step that completes the last choice is not given out before the
    /// usage is recorded.
    pub async fn next(&mut self) -> Result<Option<Step>, ApiError> {
        if self.open == 0 {
            return Ok(None);
        }
        let step = match self.advance().await {
            Ok(step) => step,
            Err(error) => {
                self.lease.failed(&error);
                return Err(error);
            }
        };
        if self.open == 0 {
            self.lease.settle(self.usage.prompt_tokens, self.usage.completion_tokens).await?;
        }
        Ok(step)
    }

    async fn advance(&mut self) -> Result<Option<Step>, ApiError> {
        while self.open > 0 {
            let update = match self.lease.deadline() {
                // The engine ends a request that is late; this is for an engine that is late itself.
                Some(deadline) => tokio::time::timeout_at((deadline + GRACE).into(), self.generation.next()).await.map_err(|_| late())?,
                None => self.generation.next().await,
            };
            let Some((index, update)) = update else {
                return Err(ApiError::internal("the engine stopped before the reply was complete"));
            };
            // A choice that met a stop string is complete for us while the engine may still finish its step.
            let Some(slot) = self.turns.get_mut(index) else { continue };
            let Some(turn) = slot else { continue };
            let (scored, parts, reason) = match update {
                Update::Started { cached_tokens, queued } => {
                    self.started.get_or_insert_with(Instant::now);
                    if index % self.each == 0 {
                        self.usage.prompt_tokens_details.cached_tokens += cached_tokens;
                        self.lease.started(cached_tokens, queued);
                    }
                    continue;
                }
                Update::Token { token, logprob, top } => {
                    self.lease.token();
                    let (segment, parts) = turn.push(token);
                    self.usage.completion_tokens += 1;
                    self.usage.total_tokens += 1;
                    if segment == Segment::Reasoning {
                        self.usage.completion_tokens_details.reasoning_tokens += 1;
                    }
                    self.lease.so_far(self.usage.prompt_tokens, self.usage.completion_tokens);
                    (Some(Scored { token, segment, logprob, top }), parts, turn.ended().then_some("stop"))
                }
                Update::Done(reason) => {
                    let parts = turn.finish();
                    let reason = match reason {
                        _ if turn.ended() => "stop",
                        FinishReason::Stop => "stop",
                        FinishReason::Length => "length",
                        FinishReason::Cancelled => return Err(ApiError::internal("the engine cancelled the request")),
                        FinishReason::Deadline => return Err(late()),
                    };
                    self.lease.served(self.started.map_or(Duration::ZERO, |at| at.elapsed()));
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

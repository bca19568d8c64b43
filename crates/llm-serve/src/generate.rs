//! One HTTP call as the handlers see it: choices that grow, out of engine updates.
//!
//! The two endpoints differ in wording only, so they share this: submit prompts x n requests, turn updates into
//! [`Step`]s (text pieces, token log-probabilities, ends), count tokens.

use crate::api::response::Usage;
use crate::assemble::{Assembler, Piece};
use crate::call::Lease;
use crate::error::ApiError;
use crate::reasoning::Segment;
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
    /// New text.
    pub pieces: Vec<Piece>,
    /// Set when the choice is complete.
    pub finish_reason: Option<&'static str>,
}

/// All choices of one call. Dropping it cancels them in the engine.
pub struct Choices {
    generation: Generation,
    assemblers: Vec<Option<Assembler>>,
    open: usize,
    usage: Usage,
    lease: Lease,
    /// When the first choice left the queue.
    started: Option<Instant>,
}

impl Choices {
    /// Submit `requests`; `assemblers` belong to them one by one. `prompt_tokens` counts each prompt once. What they may use is taken from
    /// the call that the handler runs for.
    pub async fn start(worker: &Worker, mut requests: Vec<Request>, assemblers: Vec<Assembler>, prompt_tokens: usize) -> Result<Self, ApiError> {
        let open = requests.len();
        let mut lease = Lease::take(&mut requests, prompt_tokens)?;
        let generation = worker.submit(requests).await?;
        lease.submitted(prompt_tokens);
        let usage = Usage { prompt_tokens, total_tokens: prompt_tokens, ..Usage::default() };
        Ok(Self { generation, assemblers: assemblers.into_iter().map(Some).collect(), open, usage, lease, started: None })
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
            let Some(slot) = self.assemblers.get_mut(index) else { continue };
            let Some(assembler) = slot else { continue };
            match update {
                Update::Started { cached_tokens, queued } => {
                    self.started.get_or_insert_with(Instant::now);
                    self.lease.started(cached_tokens, queued);
                }
                Update::Token { token, logprob, top } => {
                    self.lease.token();
                    let (segment, pieces) = assembler.push(token);
                    self.usage.completion_tokens += 1;
                    self.usage.total_tokens += 1;
                    if segment == Segment::Reasoning {
                        self.usage.completion_tokens_details.reasoning_tokens += 1;
                    }
                    let finish_reason = assembler.stopped().then_some("stop");
                    if finish_reason.is_some() {
                        self.open -= 1;
                        *slot = None;
                    }
                    self.lease.so_far(self.usage.prompt_tokens, self.usage.completion_tokens);
                    return Ok(Some(Step { index, scored: Some(Scored { token, segment, logprob, top }), pieces, finish_reason }));
                }
                Update::Done(reason) => {
                    let pieces = assembler.finish();
                    let finish_reason = match reason {
                        _ if assembler.stopped() => "stop",
                        FinishReason::Stop => "stop",
                        FinishReason::Length => "length",
                        FinishReason::Cancelled => return Err(ApiError::internal("the engine cancelled the request")),
                        FinishReason::Deadline => return Err(late()),
                    };
                    self.open -= 1;
                    *slot = None;
                    self.lease.served(self.started.map_or(Duration::ZERO, |at| at.elapsed()));
                    return Ok(Some(Step { index, scored: None, pieces, finish_reason: Some(finish_reason) }));
                }
                Update::Failed(why) => return Err(ApiError::internal(why)),
            }
        }
        Ok(None)
    }

    /// Token counts so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }
}

//! One HTTP call as the handlers see it: choices that grow, out of engine updates.
//!
//! The two endpoints differ in wording only, so they share this: submit prompts x n requests, turn updates into
//! [`Step`]s (text pieces, token log-probabilities, ends), count tokens.

use crate::api::response::Usage;
use crate::assemble::{Assembler, Piece};
use crate::error::ApiError;
use crate::reasoning::Segment;
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
}

impl Choices {
    /// Submit `requests`; `assemblers` belong to them one by one. `prompt_tokens` counts each prompt once.
    pub async fn start(worker: &Worker, requests: Vec<Request>, assemblers: Vec<Assembler>, prompt_tokens: usize) -> Result<Self, ApiError> {
        let open = requests.len();
        let generation = worker.submit(requests).await?;
        let usage = Usage { prompt_tokens, total_tokens: prompt_tokens, ..Usage::default() };
        Ok(Self { generation, assemblers: assemblers.into_iter().map(Some).collect(), open, usage })
    }

    /// The next step of any choice; `None` when all are complete.
    pub async fn next(&mut self) -> Result<Option<Step>, ApiError> {
        while self.open > 0 {
            let Some((index, update)) = self.generation.next().await else {
                return Err(ApiError::internal("the engine stopped before the reply was complete"));
            };
            // A choice that met a stop string is complete for us while the engine may still finish its step.
            let Some(slot) = self.assemblers.get_mut(index) else { continue };
            let Some(assembler) = slot else { continue };
            match update {
                Update::Token { token, logprob, top } => {
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
                    return Ok(Some(Step { index, scored: Some(Scored { token, segment, logprob, top }), pieces, finish_reason }));
                }
                Update::Done(reason) => {
                    let pieces = assembler.finish();
                    let finish_reason = match reason {
                        _ if assembler.stopped() => "stop",
                        FinishReason::Stop => "stop",
                        FinishReason::Length => "length",
                        FinishReason::Cancelled => return Err(ApiError::internal("the engine cancelled the request")),
                        FinishReason::Deadline => return Err(ApiError::unavailable("the request took longer than it may")),
                    };
                    self.open -= 1;
                    *slot = None;
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

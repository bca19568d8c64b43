//! Going on with a request that another engine began.

use super::{Engine, Request, RequestId};
use crate::{Error, Result};

impl Engine {
    /// Queue a request of which `tokens` were generated already, elsewhere, with these log-probabilities. What follows is what would have
    /// followed there; events are sent for the new tokens only, and the completion holds all of them.
    pub fn resume(&mut self, request: Request, tokens: &[u32], logprobs: &[f32]) -> Result<RequestId> {
        if tokens.len() != logprobs.len() || (tokens.len() >= request.sampling.max_tokens && !tokens.is_empty()) {
            return Err(Error::Request(format!("{} tokens cannot be the beginning of this reply", tokens.len())));
        }
        let id = self.submit(request)?;
        if let Some(sequence) = self.waiting.iter_mut().find(|sequence| sequence.id == id) {
            for (&token, &logprob) in tokens.iter().zip(logprobs) {
                sequence.tokens.push(token);
                sequence.logprobs.push(logprob);
                if let Some(text) = &mut sequence.text {
                    // It did not stop there the first time.
                    text.push(token, &sequence.sampling.stop);
                }
            }
        }
        Ok(id)
    }

    /// The requests that generate now.
    pub fn running(&self) -> Vec<RequestId> {
        self.running.iter().map(|sequence| sequence.id).collect()
    }
}

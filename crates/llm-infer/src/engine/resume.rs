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
        let begun = match self.queue.waiting.iter_mut().find(|sequence| sequence.id == id) {
            Some(sequence) => sequence.resume(tokens, logprobs),
            None => Ok(()),
        };
        if begun.is_err() {
            self.withdraw(id);
        }
        begun.map(|()| id)
    }

    /// The requests that generate now.
    pub fn running(&self) -> Vec<RequestId> {
        self.running.iter().map(|sequence| sequence.id).collect()
    }

    /// Take a request out of the queue as if it had never come.
    fn withdraw(&mut self, id: RequestId) {
        if let Some(at) = self.queue.waiting.iter().position(|s| s.id == id) {
            let sequence = self.queue.waiting.swap_remove(at);
            self.queue.leave(sequence.user);
        }
    }
}

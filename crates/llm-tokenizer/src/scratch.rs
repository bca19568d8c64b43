//! What encoding keeps from call to call: remembered words and buffers. A [`Pool`] lends them, so that nothing waits for another thread.

use crate::cache::WordCache;
use crate::spm::unigram::Node;
use std::sync::{Mutex, PoisonError};

/// Buffers of a call.
#[derive(Debug, Default)]
pub struct Scratch {
    pub cache: WordCache,
    pub bpe: crate::bpe::Scratch,
    pub path: Vec<Node>,
    pub ends: Vec<usize>,
    pub text: String,
}

/// Buffers of calls that are not running; a call borrows one.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Vec<Scratch>>);

impl Pool {
    /// Run `body` with buffers of its own.
    pub fn with<R>(&self, body: impl FnOnce(&mut Scratch) -> R) -> R {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = lock().pop().unwrap_or_default();
        let result = body(&mut scratch);
        lock().push(scratch);
        result
    }
}

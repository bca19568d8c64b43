//! Sizes and habits of an engine.

use crate::{Error, Result};
use llm_arch::KvDtype;
use std::time::Duration;

/// Where a sequence's keys and values go when it is preempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preemption {
    /// They are dropped and computed again: needs no memory, costs a prefill.
    #[default]
    Recompute,
    /// They are copied to memory outside the pool, at most [`EngineConfig::swap_bytes`] of it, and beyond that dropped.
    Swap,
}

/// Several tokens per pass: who proposes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculation {
    /// Nobody.
    #[default]
    None,
    /// The sequence itself: what followed when its last tokens stood in it before.
    Lookup {
        /// Longest ending that is looked for; shorter ones are tried after it.
        max_ngram: usize,
        /// Most tokens proposed at once.
        tokens: usize,
    },
    /// A smaller model: [`crate::Model::draft`], or given with [`crate::Engine::with_draft`]. Without one nobody guesses.
    Draft {
        /// Most tokens proposed at once.
        tokens: usize,
    },
}

/// Sizes of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineConfig {
    /// Sequences that generate at the same time.
    pub max_batch: usize,
    /// Tokens per forward pass.
    pub max_step_tokens: usize,
    /// Pages of the key/value cache; 0 means enough for `max_batch` full contexts, at most 1 GiB.
    pub kv_pages: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// Number format of keys and values.
    pub kv_dtype: KvDtype,
    /// Share pages among requests with a common prefix, and keep them after the requests end until somebody needs the room.
    pub prefix_cache: bool,
    /// What becomes of a preempted sequence's keys and values.
    pub preemption: Preemption,
    /// Memory for [`Preemption::Swap`].
    pub swap_bytes: usize,
    /// Several tokens per pass.
    pub speculation: Speculation,
    /// Time of a guess as a share of what a sequence takes of a pass: how many are worth it depends on this and on how often they are right.
    /// None measures it; a number makes the count of guesses a function of the requests.
    pub guess_cost: Option<f64>,
    /// Waiting so long counts as much as a priority lower by one, so no request waits for ever; zero turns this off.
    pub aging: Duration,
    /// Bitwise the same numbers, whatever else is in the batch and however a prompt is cut. Costs speed.
    pub exact: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch: 64,
            max_step_tokens: 512,
            kv_pages: 0,
            page_size: 16,
            kv_dtype: KvDtype::F32,
            prefix_cache: true,
            preemption: Preemption::default(),
            swap_bytes: 1 << 30,
            speculation: Speculation::default(),
            guess_cost: None,
            aging: Duration::from_secs(2),
            exact: false,
        }
    }
}

impl EngineConfig {
    /// Sizes that cannot work are refused.
    pub(crate) fn check(&self) -> Result<()> {
        if self.max_batch == 0 || self.page_size == 0 || self.max_step_tokens < self.max_batch {
            return Err(Error::Request("engine: max_batch and page_size must be positive, and max_step_tokens at least max_batch".into()));
        }
        match self.speculation {
            Speculation::Lookup { max_ngram: 0, .. } => Err(Error::Request("engine: speculation by lookup needs max_ngram of at least 1".into())),
            Speculation::Lookup { tokens: 0, .. } | Speculation::Draft { tokens: 0 } => {
                Err(Error::Request("engine: speculation needs at least 1 token to propose".into()))
            }
            _ => Ok(()),
        }
    }
}

//! What an engine did so far.

/// Sizes now, and totals since the engine was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that generate now.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages of the key/value cache.
    pub kv_pages: usize,
    /// Pages that running sequences hold; the others are free or keep a prefix that somebody may ask for.
    pub kv_pages_used: usize,
    /// Tokens that were looked for in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Tokens that were found there.
    pub prefix_cache_hits: u64,
    /// Tokens of the prompts of requests that were started, found in the cache or not.
    pub prompt_tokens: u64,
    /// Tokens generated, end tokens left out.
    pub generation_tokens: u64,
    /// Times a sequence had to give its pages back before its end.
    pub preemptions: u64,
    /// Tokens proposed by speculation.
    pub drafted_tokens: u64,
    /// Those of them that the model would have chosen itself.
    pub accepted_tokens: u64,
    /// Forward passes.
    pub steps: u64,
}

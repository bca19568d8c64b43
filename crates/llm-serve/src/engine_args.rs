//! Flags of `llm-serve serve` that size the engine.

use anyhow::ensure;
use llm_infer::{EngineConfig, KvDtype, Preemption, Speculation};
use llm_serve::server::Matrices;
use llm_tensor::Precision;
use llm_tensor::quant::Activations;
use std::path::PathBuf;
use std::time::Duration;

/// Sizes and habits of the engine (docs/serving.md, "The engine").
#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// Replies generated at the same time.
    #[arg(long, value_name = "N")]
    max_batch: Option<usize>,
    /// Tokens in a forward pass; longer prompts are read in pieces.
    #[arg(long, value_name = "N")]
    max_step_tokens: Option<usize>,
    /// Pages of the key/value cache; without it, enough for every reply at full length, at most 1 GiB.
    #[arg(long, value_name = "N")]
    kv_pages: Option<usize>,
    /// Number format of cached keys and values: f32, bf16, int8 (docs/serving.md, "Cache formats").
    #[arg(long, value_name = "FORMAT", default_value_t)]
    kv_dtype: KvDtype,
    /// Do not share or keep the keys and values of common prefixes.
    #[arg(long)]
    no_prefix_cache: bool,
    /// Copy a preempted request's keys and values to so much other memory instead of computing them again.
    #[arg(long, value_name = "MIB")]
    swap_mib: Option<usize>,
    /// Guess up to N tokens at once, from what the text said before or with --draft-model [with that, default: 4].
    #[arg(long, value_name = "N")]
    guess: Option<usize>,
    /// Folder of a smaller model with the same vocabulary, which guesses.
    #[arg(long, value_name = "DIR")]
    pub draft_model: Option<PathBuf>,
    /// Longest ending that a guess is looked up by.
    #[arg(long, value_name = "N", default_value_t = 4)]
    guess_ngram: usize,
    /// Waiting so many seconds counts as much as a priority lower by one; 0 turns it off.
    #[arg(long, value_name = "S", default_value_t = EngineConfig::default().aging.as_secs_f64())]
    aging_seconds: f64,
    /// Keep dense matrices in that format on the processor: float32, or bfloat16 for half the memory to hold and to read.
    #[arg(long, value_name = "FORMAT", default_value_t = Precision::F32)]
    dtype: Precision,
    /// Inputs of quantised matrices: exact, or int8 [default: int8 for GGUF files, exact for all others] (docs/quantisation.md).
    #[arg(long, value_name = "KIND")]
    activations: Option<Activations>,
    /// Bitwise the same replies in any company; slower.
    #[arg(long)]
    exact: bool,
}

impl EngineArgs {
    /// How matrices are kept.
    pub fn matrices(&self) -> anyhow::Result<Matrices> {
        let known = matches!(self.dtype, Precision::F32 | Precision::Bf16);
        ensure!(known, "--dtype {}: the processor keeps matrices in float32 or bfloat16", self.dtype);
        Ok(Matrices { keep_bf16: self.dtype == Precision::Bf16, activations: self.activations })
    }

    /// What they say.
    pub fn config(&self) -> anyhow::Result<EngineConfig> {
        let mut config = EngineConfig::default();
        config.max_batch = self.max_batch.unwrap_or(config.max_batch);
        ensure!(config.max_batch > 0, "--max-batch must be at least 1");
        config.max_step_tokens = self.max_step_tokens.unwrap_or(config.max_step_tokens.max(config.max_batch));
        ensure!(config.max_step_tokens >= config.max_batch, "--max-step-tokens must be at least --max-batch, {}", config.max_batch);
        config.kv_pages = self.kv_pages.unwrap_or(0);
        config.kv_dtype = self.kv_dtype;
        config.prefix_cache = !self.no_prefix_cache;
        if let Some(mib) = self.swap_mib {
            (config.preemption, config.swap_bytes) = (Preemption::Swap, mib.saturating_mul(1 << 20));
        }
        let guess = self.guess.or(self.draft_model.as_ref().map(|_| 4));
        if let Some(tokens) = guess.filter(|&tokens| tokens > 0) {
            ensure!(self.guess_ngram > 0, "--guess-ngram must be at least 1");
            config.speculation = match self.draft_model {
                Some(_) => Speculation::Draft { tokens },
                None => Speculation::Lookup { max_ngram: self.guess_ngram, tokens },
            };
        }
        config.aging = Duration::try_from_secs_f64(self.aging_seconds).map_err(|e| anyhow::anyhow!("--aging-seconds {}: {e}", self.aging_seconds))?;
        config.exact = self.exact;
        Ok(config)
    }
}

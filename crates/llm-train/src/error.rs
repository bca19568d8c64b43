//! What can stop a training run.

use std::path::PathBuf;

/// Errors of setting up, running and resuming.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot work.
    #[error("training configuration: {0}")]
    Config(String),
    /// A checkpoint that is damaged or belongs to another run.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// Measured points that cannot be read.
    #[error("{}: {message}", path.display())]
    Points {
        /// File or folder.
        path: PathBuf,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A checkpoint that was written by another run.
    #[error(
        "{}: belongs to another run: {differences}; set them as they were, use another --out, or delete the checkpoints folder to start over",
        path.display()
    )]
    AnotherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        differences: String,
    },
    /// The loss stopped being a number, or rises for good.
    #[error(
        "step {step}: training diverged: {reason}. Lower optimizer.lr (now {lr:e}), raise schedule.warmup_steps or lower optimizer.grad_clip; look at spikes.jsonl for the documents, or set trainer.spikes.policy = \"rewind\". The checkpoints before it are whole"
    )]
    Diverged {
        /// Step.
        step: u64,
        /// What was seen, and where.
        reason: String,
        /// Learning rate.
        lr: f64,
    },
    /// Ctrl-C or SIGTERM; everything up to this step is saved.
    #[error("interrupted after step {step}; start the same command again to continue from there")]
    Interrupted {
        /// Step.
        step: u64,
    },
    /// The objective failed: data, generation, grading.
    #[error("{0}")]
    Objective(String),
    /// Models.
    #[error(transparent)]
    Arch(#[from] llm_arch::Error),
    /// Shards.
    #[error(transparent)]
    Data(#[from] llm_data::Error),
    /// Weights and devices.
    #[error(transparent)]
    Tensor(#[from] llm_tensor::Error),
    /// Images and models that see.
    #[error(transparent)]
    Vision(#[from] llm_vision::Error),
    /// Tokenizers.
    #[error(transparent)]
    Tokenizer(#[from] llm_tokenizer::Error),
    /// Files.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

//! What can go wrong with a model folder or a request.

use std::path::PathBuf;

/// Errors of loading and generating.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the model folder.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected.
        message: String,
    },
    /// The request cannot fit the model's context.
    #[error(
        "the prompt has {prompt} tokens and {max_tokens} were asked for, but the context holds {context}; shorten the prompt or lower max_tokens"
    )]
    ContextLength {
        /// Prompt tokens.
        prompt: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// Positions the model or its cache can hold.
        context: usize,
    },
    /// A request that makes no sense on its own.
    #[error("{0}")]
    Request(String),
    /// A schema, pattern or grammar that cannot be compiled or goes beyond its bounds, or a token against it.
    #[error("{0}")]
    Grammar(String),
    /// Loading the decoder.
    #[error(transparent)]
    Arch(#[from] llm_arch::Error),
    /// Devices.
    #[error(transparent)]
    Tensor(#[from] llm_tensor::Error),
    /// Loading the tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] llm_tokenizer::Error),
    /// Loading the eyes, or an image that cannot be read.
    #[error(transparent)]
    Vision(#[from] llm_vision::Error),
    /// Reading.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

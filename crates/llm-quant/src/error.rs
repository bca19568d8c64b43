//! One error type: every variant names the place and says what to do.

use std::path::PathBuf;

/// What can go wrong when a model is quantised or compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Output folder, configuration, atomic writes.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
    /// Model folders.
    #[error(transparent)]
    Arch(#[from] llm_arch::Error),
    /// Tokenizer and engine.
    #[error(transparent)]
    Infer(#[from] llm_infer::Error),
    /// Devices and weight files.
    #[error(transparent)]
    Tensor(#[from] llm_tensor::Error),
    /// Encoding text.
    #[error(transparent)]
    Tokenizer(#[from] llm_tokenizer::Error),
    /// Documents and token rows.
    #[error(transparent)]
    Data(#[from] llm_data::Error),
    /// Exercises.
    #[error(transparent)]
    Eval(#[from] llm_eval::Error),
    /// A setting asks for something that cannot be done.
    #[error("configuration: {0}")]
    Config(String),
    /// A projection cannot be quantised as asked.
    #[error("`{layer}`: {message}")]
    Layer {
        /// Its canonical name.
        layer: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// An input exists but cannot be used.
    #[error("{}: {message}", path.display())]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What was expected there.
        message: String,
    },
    /// Ctrl-C.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Ctrl-C ends a loop with an error.
pub(crate) fn check_interrupt() -> Result<()> {
    if llm_run::program::interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

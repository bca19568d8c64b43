//! What can be wrong with an image, a model folder or a prompt.

use std::path::{Path, PathBuf};

/// Errors of vision models and image preprocessing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what to do.
        message: String,
    },
    /// A field of a configuration.
    #[error("vision configuration: {0}")]
    Config(String),
    /// The weights do not fit the configuration; every problem is listed.
    #[error("{}: weights do not fit config.json:\n  {}", path.display(), problems.iter().take(20).cloned().collect::<Vec<_>>().join("\n  "))]
    Weights {
        /// The model folder.
        path: PathBuf,
        /// One line per tensor; the first twenty are shown.
        problems: Vec<String>,
    },
    /// An image that cannot be decoded or is too large.
    #[error("image: {0}")]
    Image(String),
    /// Images and placeholder tokens do not match.
    #[error("prompt: {0}")]
    Prompt(String),
    /// The language model.
    #[error(transparent)]
    Arch(#[from] llm_arch::Error),
    /// Devices and weight files.
    #[error(transparent)]
    Tensor(#[from] llm_tensor::Error),
    /// Writing.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_path_buf(), message: message.into() }
    }
}

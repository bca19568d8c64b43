//! The crate's error type. Every variant names the file or template and says what was expected.

use std::path::{Path, PathBuf};

/// What can go wrong while a tokenizer is loaded, trained, saved or used for chat.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, e.g. "cannot read".
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A tokenizer file does not have the form it should have.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        message: String,
    },
    /// A row of a text sample is not what the reader expects.
    #[error("{}:{line}: {message}", path.display())]
    Sample {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: usize,
        /// What was expected and what was found.
        message: String,
    },
    /// A chat template does not parse, uses something unknown, or refused the messages.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer has no chat template.
    #[error("this tokenizer has no chat template: put a chat_template.jinja beside its tokenizer.json")]
    NoTemplate,
    /// Training cannot work with these settings or this text.
    #[error("tokenizer training: {0}")]
    Train(String),
    /// The vocabulary cannot be changed in this way.
    #[error("changing the vocabulary: {0}")]
    Surgery(String),
    /// Writing an output failed.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, action, source }
}

pub(crate) fn format(path: &Path, message: impl Into<String>) -> Error {
    Error::Format { path: path.to_path_buf(), message: message.into() }
}

//! One error type: every variant names the file and the place in it, and says what to do.

use std::path::{Path, PathBuf};

/// What can go wrong while documents become shards.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Configuration, atomic files, manifests.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
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
    /// One line, row or record of a file is not what it should be.
    #[error("{}: {place}: {message}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// "line 12", "row 4", "record 7".
        place: String,
        /// What was expected and what to do.
        message: String,
    },
    /// A file as a whole cannot be read as what it claims to be.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and what to do.
        message: String,
    },
    /// An object of an object store could not be read or written.
    #[error("{object}: {action}: {message}")]
    Store {
        /// Its address.
        object: String,
        /// What was being done, e.g. "cannot read".
        action: &'static str,
        /// The answer and what to do.
        message: String,
    },
    /// A stage would have nothing to write.
    #[error("{0}")]
    Empty(String),
    /// A setting that no type can refuse.
    #[error("configuration: {0}")]
    Config(String),
    /// Stopped by Ctrl-C or SIGTERM; nothing was written.
    #[error("interrupted; nothing was written, run the same command again")]
    Interrupted,
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Shorthand for `map_err(io(path, "cannot read"))`.
pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, action, source }
}

/// Shorthand for a damaged line, row or record.
pub(crate) fn record(path: &Path, place: impl Into<String>, message: impl Into<String>) -> Error {
    Error::Record { path: path.to_path_buf(), place: place.into(), message: message.into() }
}

/// [`Error::Interrupted`] after Ctrl-C; long loops ask between batches.
pub(crate) fn check_interrupt() -> Result<()> {
    if llm_run::program::interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

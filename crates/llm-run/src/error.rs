//! One error type: every variant names the place and says what to do.

use std::path::{Path, PathBuf};

/// What can go wrong while a program is being set up, or while it writes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {action}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, e.g. "cannot read".
        action: &'static str,
        /// The operating system's answer.
        cause: std::io::Error,
    },
    /// A configuration does not parse or holds an unknown or ill-typed key.
    #[error("{origin}: {message}")]
    Config {
        /// The file, or `--set`.
        origin: String,
        /// What was expected and, if a key looks like a typo, which one was probably meant.
        message: String,
    },
    /// A JSON file of ours (manifest, metrics) is damaged.
    #[error("{}: line {line}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: usize,
        /// The parser's answer.
        message: String,
    },
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Shorthand for `map_err(io(path, "cannot read"))`.
pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |cause| Error::Io { path, action, cause }
}

//! One error type: every variant names the place and says what to do.

use std::path::PathBuf;

/// What can go wrong while answers are graded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Configuration, atomic files.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
    /// A reward's settings ask for something that cannot be done.
    #[error("rewards: {name}: {message}")]
    Config {
        /// The reward.
        name: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// One row cannot be graded at all: it lacks a column, or a program answered with something that is no reward.
    #[error("row {row}: reward {name}: {message}")]
    Row {
        /// 1-based place among the tasks of the call.
        row: usize,
        /// The reward.
        name: String,
        /// What was expected.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A line of a file of answers is damaged.
    #[error("{}: line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

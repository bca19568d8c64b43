//! One error type: every variant names the place and says what to do.

use std::path::PathBuf;

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Configuration, run folder, atomic writes.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
    /// Encoding, decoding, the chat template.
    #[error(transparent)]
    Tokenizer(#[from] llm_tokenizer::Error),
    /// Loading the model, scoring, generating.
    #[error(transparent)]
    Infer(#[from] llm_infer::Error),
    /// Reading documents.
    #[error(transparent)]
    Data(#[from] llm_data::Error),
    /// A file could not be read.
    #[error("{}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A setting asks for something that cannot be done.
    #[error("configuration: {0}")]
    Config(String),
    /// An input exists but holds nothing to evaluate.
    #[error("{}: {what}", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
        /// What was expected there.
        what: &'static str,
    },
    /// A line of an exercise file is damaged.
    #[error("{}: line {line}: {message}", path.display())]
    Exercise {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The model folder lacks something that a task needs.
    #[error("model {model}: {message}")]
    Model {
        /// Its id.
        model: String,
        /// What is missing and what to do.
        message: String,
    },
    /// A Parquet or JSON file of results is damaged or not ours.
    #[error("{}: {message}", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// The parser's answer.
        message: String,
    },
    /// Two result folders were not measured on the same items.
    #[error("cannot compare {} with {}: {message}", a.display(), b.display())]
    Incomparable {
        /// First folder.
        a: PathBuf,
        /// Second folder.
        b: PathBuf,
        /// The first difference.
        message: String,
    },
    /// Ctrl-C.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Between two units of work: has the user asked to stop?
pub(crate) fn check_interrupt() -> Result<()> {
    if llm_run::program::interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

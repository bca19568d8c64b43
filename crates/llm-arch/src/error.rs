//! What can be wrong with a model folder or a configuration.

use std::path::PathBuf;

/// Errors of loading, saving and describing models.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of a model folder is missing or damaged.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what to do.
        message: String,
    },
    /// The sizes contradict each other.
    #[error("model configuration: {0}")]
    Config(String),
    /// A page of keys and values that does not belong here.
    #[error("key/value cache: {0}")]
    Cache(String),
    /// The weights do not fit the configuration; every problem is listed.
    #[error("{}: weights do not fit the configuration:\n  {}", path.display(), shortened(problems))]
    Weights {
        /// The model folder.
        path: PathBuf,
        /// One line per tensor.
        problems: Vec<String>,
    },
    /// An adapter does not fit its model, or cannot be used in that way; every problem is listed.
    #[error("{}: the adapter does not fit:\n  {}", path.display(), shortened(problems))]
    Adapter {
        /// The adapter's file or folder.
        path: PathBuf,
        /// One line per problem.
        problems: Vec<String>,
    },
    /// Tokenizer and model do not belong together; every problem is listed.
    #[error("{}: tokenizer and model do not belong together:\n  {}", path.display(), shortened(problems))]
    Vocabulary {
        /// The model folder.
        path: PathBuf,
        /// One line per problem.
        problems: Vec<String>,
    },
    /// The tokenizer of a model folder.
    #[error(transparent)]
    Tokenizer(#[from] llm_tokenizer::Error),
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
    pub(crate) fn weights(path: &std::path::Path, problems: Vec<String>) -> Self {
        Self::Weights { path: path.to_path_buf(), problems }
    }
}

/// Enough to see what is wrong, without a page per layer.
fn shortened(problems: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut lines: Vec<String> = problems.iter().take(SHOWN).cloned().collect();
    if problems.len() > SHOWN {
        lines.push(format!("and {} more", problems.len() - SHOWN));
    }
    lines.join("\n  ")
}

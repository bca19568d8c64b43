//! One error type for devices, weight files and settings.

use std::path::PathBuf;

/// What can go wrong between a file, a device or a request and a tensor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device that does not exist, or was not compiled in.
    #[error("device `{spec}`: {message}")]
    Device {
        /// What was asked for.
        spec: String,
        /// What to do.
        message: String,
    },
    /// A weight file could not be read.
    #[error("{}: {message}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What was expected.
        message: String,
    },
    /// A sampling setting outside its range.
    #[error("'{field}': {message}")]
    Sampling {
        /// Its name in [`Sampling`](crate::sample::Sampling).
        field: &'static str,
        /// What was expected.
        message: String,
    },
    /// Writing failed.
    #[error(transparent)]
    Run(#[from] llm_run::Error),
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

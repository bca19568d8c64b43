//! What can be wrong with a mixture's configuration or its initial values.

/// Errors of describing and building a layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that is impossible, alone or beside another.
    #[error("mixture of experts: {0}")]
    Config(String),
    /// Initial values that do not fill their parameter.
    #[error("mixture of experts: `{name}` has {got} values, its shape {shape:?} holds {}", shape.iter().product::<usize>())]
    Parameter {
        /// Name relative to the layer.
        name: String,
        /// What the configuration asks for.
        shape: Vec<usize>,
        /// How many values were given.
        got: usize,
    },
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

//! Weights in 4, 8 and 16 bits: one matrix type for the kernels, and the layouts of files.
//!
//! | module | layout |
//! |---|---|
//! | `packed` | [`Packed`]: a matrix in memory, and how its inputs are multiplied ([`Activations`]) |
//! | `panels` | [`Panels`]: the same codes, 16 rows side by side, for products with inputs in 8 bits |
//! | [`gptq`] | `qweight`, `qzeros`, `scales`, `g_idx` of AutoGPTQ and GPTQModel |
//! | [`awq`] | `qweight`, `qzeros`, `scales` of AutoAWQ, version `gemm` |
//! | [`gguf`] | the blocks of llama.cpp |
//! | [`bitsandbytes`] | 4-bit tables (NF4, FP4) with one or two levels of scales; int8 rows |
//! | [`mod@nf4`] | values to such a table: also what freezes a base as it is read |
//!
//! Other ways from values to codes are not here but in `llm-quant`; this module stores and decodes.
//!
//! Legend: I input features, O output features, G groups, P padded row length.

pub mod awq;
pub mod bitsandbytes;
pub mod gguf;
pub mod gptq;
pub mod nf4;
mod packed;
mod panels;

pub use packed::{Activations, Codes, Meaning, Packed, Zeros};
pub(crate) use packed::{Body, Rows};
pub use panels::Panels;
pub(crate) use panels::{Moved, Numbers, widen};

use crate::weights::RawTensor;

/// A matrix as its file holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// GPTQ layout.
    Gptq(gptq::Gptq),
    /// Table of 16 values.
    Table4(bitsandbytes::Table4),
    /// Int8 rows.
    Int8(bitsandbytes::Int8),
}

impl Stored {
    /// `[O, I]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Gptq(matrix) => matrix.shape,
            Self::Table4(matrix) => matrix.shape,
            Self::Int8(matrix) => matrix.shape,
        }
    }

    /// For the kernels.
    pub fn packed(&self) -> Result<Packed, String> {
        match self {
            Self::Gptq(matrix) => matrix.unpack().packed(),
            Self::Table4(matrix) => Ok(matrix.packed()),
            Self::Int8(matrix) => Ok(matrix.packed()),
        }
    }

    /// The tensors of a file, of the layer `prefix`.
    pub fn tensors(&self, prefix: &str) -> Vec<RawTensor> {
        match self {
            Self::Gptq(matrix) => matrix.tensors(prefix),
            Self::Table4(matrix) => matrix.tensors(prefix),
            Self::Int8(matrix) => matrix.tensors(prefix),
        }
    }
}

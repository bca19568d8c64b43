//! What an optimiser keeps of one parameter: the same description makes it for a first step, reads it from a checkpoint and writes it.

use super::config::{OptimizerKind, Rule, StateFormat};
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::host;
use llm_tensor::ops::Quantized;
use llm_tensor::weights::Dtype;
use std::convert::Infallible;

/// State of one parameter. Names of parts are those of PyTorch.
#[derive(Debug, Clone)]
pub enum Moments {
    /// First and second moment.
    AdamW {
        /// Mean of gradients.
        exp_avg: Tensor<1>,
        /// Mean of their squares.
        exp_avg_sq: Tensor<1>,
    },
    /// The same in 8 bits.
    AdamW8bit {
        /// Mean of gradients.
        exp_avg: Box<Quantized>,
        /// Mean of their squares.
        exp_avg_sq: Box<Quantized>,
    },
    /// Muon's momentum.
    Muon {
        /// Mean of gradients.
        momentum_buffer: Tensor<1>,
    },
    /// Lion's momentum.
    Lion {
        /// Mean of gradients.
        exp_avg: Tensor<1>,
    },
    /// Adafactor's second moment of matrices.
    Factors {
        /// Mean of squares of every row.
        row_var: Tensor<1>,
        /// Mean of squares of every column.
        col_var: Tensor<1>,
    },
    /// Adafactor's second moment of a vector.
    Variance {
        /// Mean of squares.
        variance: Tensor<1>,
    },
}

/// Where the parts of a state come from.
pub trait Source {
    /// What can go wrong there.
    type Error;
    /// A part in `f32`.
    fn floats(&mut self, part: &str, len: usize) -> Result<Tensor<1>, Self::Error>;
    /// A part in 8 bits.
    fn quantized(&mut self, part: &str, len: usize) -> Result<Quantized, Self::Error>;
}

/// Parameters that have taken no step.
struct Zeros<'a>(&'a Device);

impl Source for Zeros<'_> {
    type Error = Infallible;
    fn floats(&mut self, _: &str, len: usize) -> Result<Tensor<1>, Infallible> {
        Ok(Tensor::zeros([len], (self.0, DType::F32)))
    }
    fn quantized(&mut self, _: &str, len: usize) -> Result<Quantized, Infallible> {
        Ok(Quantized::zeros(len, self.0))
    }
}

/// Rows and columns of the matrices of a parameter with two dimensions or more.
pub fn matrix(shape: &[usize]) -> Option<[usize; 2]> {
    shape.last_chunk::<2>().copied()
}

/// A part as a file holds it.
#[derive(Debug)]
pub enum Part {
    /// In `f32`.
    Floats(Box<Tensor<1>>),
    /// One code an element.
    Codes(Box<Quantized>),
}

impl Part {
    /// Number format in a file.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Floats(_) => Dtype::F32,
            Self::Codes(_) => Dtype::U8,
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(x) => x.dims()[0],
            Self::Codes(x) => x.len,
        }
    }

    /// Little-endian.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Floats(x) => host::to_vec(Tensor::clone(x)).into_iter().flat_map(f32::to_le_bytes).collect(),
            Self::Codes(x) => x.codes(),
        }
    }
}

impl Moments {
    /// For a parameter that has taken no step.
    pub fn zeros(rule: &Rule, shape: &[usize], device: &Device) -> Self {
        let Ok(moments) = Self::build(rule, shape, &mut Zeros(device));
        moments
    }

    /// What a parameter of that shape needs.
    pub fn build<S: Source>(rule: &Rule, shape: &[usize], source: &mut S) -> Result<Self, S::Error> {
        let n = shape.iter().product::<usize>();
        Ok(match (rule.kind, rule.state) {
            (OptimizerKind::AdamW, StateFormat::F32) => {
                Self::AdamW { exp_avg: source.floats("exp_avg", n)?, exp_avg_sq: source.floats("exp_avg_sq", n)? }
            }
            (OptimizerKind::AdamW, StateFormat::Int8) => {
                let (exp_avg, exp_avg_sq) = (source.quantized("exp_avg", n)?, source.quantized("exp_avg_sq", n)?);
                Self::AdamW8bit { exp_avg: Box::new(exp_avg), exp_avg_sq: Box::new(exp_avg_sq) }
            }
            (OptimizerKind::Muon, _) => Self::Muon { momentum_buffer: source.floats("momentum_buffer", n)? },
            (OptimizerKind::Lion, _) => Self::Lion { exp_avg: source.floats("exp_avg", n)? },
            (OptimizerKind::Adafactor, _) => match matrix(shape) {
                Some([rows, columns]) => {
                    let of = |len: usize| n.checked_div(len).unwrap_or(0);
                    Self::Factors { row_var: source.floats("row_var", of(columns))?, col_var: source.floats("col_var", of(rows))? }
                }
                None => Self::Variance { variance: source.floats("variance", n)? },
            },
        })
    }

    /// Every part and its name in a file.
    pub fn parts(&self) -> Vec<(String, Part)> {
        let floats = |name: &str, x: &Tensor<1>| (name.to_string(), Part::Floats(Box::new(x.clone())));
        let quantized =
            |name: &str, x: &Quantized| [(format!("{name}_codes"), Part::Codes(Box::new(x.clone()))), floats(&format!("{name}_absmax"), &x.absmax)];
        match self {
            Self::AdamW { exp_avg, exp_avg_sq } => vec![floats("exp_avg", exp_avg), floats("exp_avg_sq", exp_avg_sq)],
            Self::AdamW8bit { exp_avg, exp_avg_sq } => quantized("exp_avg", exp_avg).into_iter().chain(quantized("exp_avg_sq", exp_avg_sq)).collect(),
            Self::Muon { momentum_buffer } => vec![floats("momentum_buffer", momentum_buffer)],
            Self::Lion { exp_avg } => vec![floats("exp_avg", exp_avg)],
            Self::Factors { row_var, col_var } => vec![floats("row_var", row_var), floats("col_var", col_var)],
            Self::Variance { variance } => vec![floats("variance", variance)],
        }
    }
}

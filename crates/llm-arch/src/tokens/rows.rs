//! Rows of a vocabulary table: where each row of the new one comes from.
//!
//! **Mean.** The mean of the rows of the pieces that the token's text was cut into. In the output projection that makes the new logit the
//! mean of the pieces' logits, hence at most their log-mean-exp: a new token never gets more probability than its pieces have on average
//! (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models", shows it for the mean of all rows).
//! **Normal.** A draw around the mean of all old rows, with their variance in each dimension (Hewitt's other proposal, without covariances).
//! **Rows without a token** that pad a table to a round size get the mean of all old rows, so that none of them is likelier than an old
//! token on average; a row of zeros would have the logit 0, which may be the highest.

use crate::{Error, Result};
use llm_run::Seed;
use llm_tensor::Precision;
use llm_tensor::weights::{Dtype, RawTensor, Weights};
use std::path::Path;

/// Where a row comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// The old row of that id, to the bit.
    Kept(u32),
    /// A new token, whose text was cut into these old ids.
    Made(Vec<u32>),
    /// No token has this id.
    Filled,
}

/// Values of rows that are new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowInit {
    /// The mean of the rows of the token's pieces.
    Mean,
    /// Draws around the mean of all old rows; a function of the seed, the table's name and the id.
    Normal(Seed),
    /// Zeros.
    Zeros,
}

/// Mean and standard deviation of the old rows, by dimension.
struct Spread {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Spread {
    fn of(values: &[f32], width: usize, kept: impl Iterator<Item = usize>) -> Self {
        let (mut count, mut sum, mut squares) = (0.0, vec![0f64; width], vec![0f64; width]);
        for row in kept {
            count += 1.0;
            for (j, &v) in values[row * width..][..width].iter().enumerate() {
                sum[j] += f64::from(v);
                squares[j] += f64::from(v) * f64::from(v);
            }
        }
        let count = f64::max(count, 1.0);
        let mean: Vec<f64> = sum.iter().map(|s| s / count).collect();
        let deviation = squares.iter().zip(&mean).map(|(s, m)| (s / count - m * m).max(0.0).sqrt()).collect();
        Self { mean, deviation }
    }

    fn rounded(&self) -> Vec<f32> {
        self.mean.iter().map(|&m| m as f32).collect()
    }
}

/// The new form of the table `name`, one row per entry of `plan`, in the number format it has.
pub(super) fn table(weights: &Weights, name: &str, plan: &[Row], init: RowInit) -> Result<RawTensor> {
    let path = weights.file(name).unwrap_or(Path::new("")).to_path_buf();
    let bad = |message: String| Error::File { path: path.clone(), message };
    let (dtype, shape, bytes) = weights.raw(name)?;
    let precision = match dtype {
        Dtype::F32 => Precision::F32,
        Dtype::F16 => Precision::F16,
        Dtype::BF16 => Precision::Bf16,
        other => {
            return Err(bad(format!("`{name}` has dtype {other:?}; rows can be made in F32, F16 and BF16 (`llm-arch convert` writes those)")));
        }
    };
    let [rows, width] = *shape else { return Err(bad(format!("`{name}` has shape {shape:?}, expected rows and columns"))) };
    let size = width * precision.bytes();
    let kept = plan.iter().filter_map(|row| if let Row::Kept(id) = row { Some(*id as usize) } else { None });
    let pieces = plan.iter().filter_map(|row| if let Row::Made(pieces) = row { Some(pieces) } else { None }).flatten().map(|&id| id as usize);
    if let Some(id) = kept.clone().chain(pieces).find(|&id| id >= rows) {
        return Err(bad(format!("`{name}` has {rows} rows, but the token {id} needs one")));
    }
    let values = weights.get(name)?.values;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(bad(format!("`{name}` holds {} in row {}; the checkpoint is damaged or its training diverged", values[at], at / width.max(1))));
    }
    let spread = Spread::of(&values, width, kept);
    let mut out = Vec::with_capacity(plan.len() * size);
    for (id, row) in plan.iter().enumerate() {
        let made: Vec<f32> = match (row, init) {
            (Row::Kept(old), _) => {
                out.extend_from_slice(&bytes[*old as usize * size..][..size]);
                continue;
            }
            (_, RowInit::Zeros) => vec![0.0; width],
            (Row::Made(_), RowInit::Normal(seed)) => {
                let mut rng = seed.stream(name).at(id as u64).rng();
                spread.mean.iter().zip(&spread.deviation).map(|(mean, deviation)| (mean + deviation * rng.normal()) as f32).collect()
            }
            (Row::Made(pieces), RowInit::Mean) if !pieces.is_empty() => {
                let sum = |j: usize| pieces.iter().map(|&id| f64::from(values[id as usize * width + j])).sum::<f64>();
                (0..width).map(|j| (sum(j) / pieces.len() as f64) as f32).collect()
            }
            _ => spread.rounded(),
        };
        out.extend(precision.encode(&made));
    }
    Ok(RawTensor { name: name.to_string(), dtype, shape: vec![plan.len(), width], bytes: out })
}

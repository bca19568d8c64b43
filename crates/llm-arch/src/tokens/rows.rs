//! Rows of a vocabulary table: where each row of the new one comes from.
//!
//! **Mean.** The mean of the rows of the pieces that the token's text was cut into. In the output projection that makes the new logit the
//! mean of the pieces' logits, hence at most their log-mean-exp: a new token never gets more probability than its pieces have on average
//! (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models", shows it for the mean of all rows).
//! **Normal.** A draw around the mean of all old rows, with their variance in each dimension (Hewitt's other proposal, without covariances).
//! **Drawn.** For control tokens of another tokenizer: the mean of the old rows and very little noise with their covariance, as
//! transformers' `mean_resizing` (1e-9 times the covariance). The covariance is never computed: a sum of old rows, less their mean, with
//! standard normal factors has it.
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
    /// A new token whose text says nothing: a draw around the mean of all old rows, a function of the seed, the table's name and the id.
    Drawn(Seed),
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

/// New tables: one row per entry of the plan.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    pub plan: Vec<Row>,
    pub init: RowInit,
    /// Old rows that means are over.
    pub averaged: Vec<u32>,
}

impl Tables {
    /// Padded to `rows`, with means over what is kept.
    pub fn of(mut plan: Vec<Row>, rows: usize, init: RowInit) -> Self {
        plan.resize(rows, Row::Filled);
        let averaged = plan.iter().filter_map(|row| if let Row::Kept(id) = row { Some(*id) } else { None }).collect();
        Self { plan, init, averaged }
    }
}

/// Part of the old rows' covariance that draws have.
const DRAWN_VARIANCE: f64 = 1e-9;
/// Old rows in the noise of a draw.
const DRAWN_FROM: usize = 256;

/// Makes the new rows of a table out of its old ones.
pub(super) struct Maker<'a> {
    name: &'a str,
    values: &'a [f32],
    width: usize,
    init: RowInit,
    averaged: &'a [u32],
    /// Mean and standard deviation of these, by dimension.
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl<'a> Maker<'a> {
    /// `values` is the old table `name`.
    pub fn new(name: &'a str, values: &'a [f32], width: usize, tables: &'a Tables) -> Self {
        let averaged = tables.averaged.as_slice();
        let (mut sum, mut squares) = (vec![0f64; width], vec![0f64; width]);
        for &row in averaged {
            for (j, &v) in values[row as usize * width..][..width].iter().enumerate() {
                sum[j] += f64::from(v);
                squares[j] += f64::from(v) * f64::from(v);
            }
        }
        let count = f64::max(averaged.len() as f64, 1.0);
        let mean: Vec<f64> = sum.iter().map(|s| s / count).collect();
        let deviation = squares.iter().zip(&mean).map(|(s, m)| (s / count - m * m).max(0.0).sqrt()).collect();
        Self { name, values, width, init: tables.init, averaged, mean, deviation }
    }

    fn old_row(&self, id: u32) -> &'a [f32] {
        &self.values[id as usize * self.width..][..self.width]
    }

    /// The row of id `id`.
    pub fn row(&self, id: usize, row: &Row) -> Vec<f32> {
        match (row, self.init) {
            (Row::Kept(old), _) => self.old_row(*old).to_vec(),
            (Row::Drawn(seed), _) if !self.averaged.is_empty() => self.drawn(seed.stream(self.name).at(id as u64)),
            (_, RowInit::Zeros) => vec![0.0; self.width],
            (Row::Made(_), RowInit::Normal(seed)) => {
                let mut rng = seed.stream(self.name).at(id as u64).rng();
                self.mean.iter().zip(&self.deviation).map(|(mean, deviation)| (mean + deviation * rng.normal()) as f32).collect()
            }
            (Row::Made(pieces), RowInit::Mean) if !pieces.is_empty() => {
                let sum = |j: usize| pieces.iter().map(|&id| f64::from(self.old_row(id)[j])).sum::<f64>();
                (0..self.width).map(|j| (sum(j) / pieces.len() as f64) as f32).collect()
            }
            _ => self.mean.iter().map(|&m| m as f32).collect(),
        }
    }

    fn drawn(&self, seed: Seed) -> Vec<f32> {
        let mut rng = seed.rng();
        let scale = (DRAWN_VARIANCE / DRAWN_FROM as f64).sqrt();
        let mut out = self.mean.clone();
        for _ in 0..DRAWN_FROM {
            let (row, factor) = (self.old_row(*rng.pick(self.averaged)), scale * rng.normal());
            out.iter_mut().zip(row).zip(&self.mean).for_each(|((out, &v), mean)| *out += factor * (f64::from(v) - mean));
        }
        out.into_iter().map(|v| v as f32).collect()
    }
}

/// The new form of the table `name`, one row per entry of `plan`, in the number format it has.
pub(super) fn table(weights: &Weights, name: &str, tables: &Tables) -> Result<RawTensor> {
    let plan = &tables.plan;
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
    if let Some(id) = kept.chain(pieces).chain(tables.averaged.iter().map(|&id| id as usize)).find(|&id| id >= rows) {
        return Err(bad(format!("`{name}` has {rows} rows, but the token {id} needs one")));
    }
    let values = weights.get(name)?.values;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(bad(format!("`{name}` holds {} in row {}; the checkpoint is damaged or its training diverged", values[at], at / width.max(1))));
    }
    let maker = Maker::new(name, &values, width, tables);
    let mut out = Vec::with_capacity(plan.len() * size);
    for (id, row) in plan.iter().enumerate() {
        match row {
            Row::Kept(old) => out.extend_from_slice(&bytes[*old as usize * size..][..size]),
            row => out.extend(precision.encode(&maker.row(id, row))),
        }
    }
    Ok(RawTensor { name: name.to_string(), dtype, shape: vec![plan.len(), width], bytes: out })
}

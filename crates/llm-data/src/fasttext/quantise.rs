//! Product quantisation (`.ftz`): rows are cut into short sub-vectors, each replaced by the nearest of 256 centroids.
//!
//! k-means as the reference does it (256 centroids, 25 rounds, at most 65,536 points), but from evenly spaced points and with the
//! largest cluster split where one is empty, so that the result is a function of the model alone.

use super::dictionary::{Dictionary, EOS, Entry};
use super::matrix::{CENTROIDS, Dense, Matrix, Quantised, Quantiser};
use super::{Args, Model};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

const ROUNDS: usize = 25;
const MAX_POINTS: usize = CENTROIDS * CENTROIDS;

/// How to quantise.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantiseConfig {
    /// Numbers per sub-vector (`dsub`).
    pub width: usize,
    /// Quantise the lengths of rows apart from their directions (`qnorm`).
    pub norms: bool,
    /// Keep the rows of greatest length only, that many (`cutoff`); 0: all.
    pub keep_rows: usize,
}

impl Default for QuantiseConfig {
    fn default() -> Self {
        Self { width: 2, norms: true, keep_rows: 0 }
    }
}

impl Model {
    /// A smaller model that answers nearly the same.
    pub fn quantise(&self, config: &QuantiseConfig) -> Result<Model> {
        let Matrix::Dense(input) = &self.input else { return Err(Error::Config("the model is quantised already".into())) };
        if config.width == 0 {
            return Err(Error::Config("quantise.width is 0, expected at least 1".into()));
        }
        let (dictionary, kept) = if config.keep_rows > 0 && config.keep_rows < input.rows {
            prune(&self.dictionary, input, config.keep_rows, &self.args).map_err(Error::Config)?
        } else {
            (self.dictionary.clone(), input.clone())
        };
        if kept.rows < CENTROIDS {
            return Err(Error::Config(format!("cannot quantise {} rows, at least {CENTROIDS} are needed; save the model as .bin", kept.rows)));
        }
        let input = Matrix::Quantised(quantise(kept, config));
        Model::new(self.args.clone(), dictionary, input, self.output.clone(), false).map_err(Error::Config)
    }
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// Keep the longest rows. `</s>` always stays.
fn prune(dictionary: &Dictionary, input: &Dense, keep: usize, args: &Args) -> Result<(Dictionary, Dense), String> {
    let words = dictionary.words();
    let eos = dictionary.find(EOS, super::dictionary::hash(EOS));
    let mut rows: Vec<usize> = (0..input.rows).collect();
    let norms: Vec<f32> = input.data.par_chunks(input.columns).map(norm).collect();
    rows.sort_by(|a, b| (Some(*b) == eos).cmp(&(Some(*a) == eos)).then(norms[*b].total_cmp(&norms[*a])).then(a.cmp(b)));
    rows.truncate(keep);
    rows.sort_unstable();
    let entries: Vec<Entry> =
        rows.iter().filter(|r| **r < words).map(|r| dictionary.entries[*r].clone()).chain(dictionary.entries[words..].iter().cloned()).collect();
    let kept: Vec<(i32, i32)> = rows.iter().filter(|r| **r >= words).enumerate().map(|(place, r)| ((r - words) as i32, place as i32)).collect();
    let data = rows.iter().flat_map(|r| &input.data[r * input.columns..(r + 1) * input.columns]).copied().collect();
    let dictionary = Dictionary::new(entries, dictionary.tokens, Some(kept), args)?;
    Ok((dictionary, Dense { rows: rows.len(), columns: input.columns, data }))
}

fn quantise(mut matrix: Dense, config: &QuantiseConfig) -> Quantised {
    let Dense { rows, columns, .. } = matrix;
    let norms = config.norms.then(|| {
        let norms: Vec<f32> = matrix.data.par_chunks(columns).map(norm).collect();
        for (row, norm) in matrix.data.chunks_mut(columns).zip(&norms).filter(|(_, n)| **n > 0.0) {
            row.iter_mut().for_each(|x| *x /= norm);
        }
        let (quantiser, codes) = fit(&norms, 1, 1);
        (codes, quantiser)
    });
    let (quantiser, codes) = fit(&matrix.data, columns, config.width);
    Quantised { rows, columns, codes, quantiser, norms }
}

fn fit(data: &[f32], dim: usize, width: usize) -> (Quantiser, Vec<u8>) {
    let mut quantiser = Quantiser::new(dim, width);
    let rows = data.len() / dim;
    let parts: Vec<(Vec<f32>, Vec<u8>)> = (0..quantiser.parts)
        .into_par_iter()
        .map(|part| {
            let start = part * width;
            let d = if part + 1 == quantiser.parts { quantiser.last_width } else { width };
            let part_of = |row: usize| &data[row * dim + start..row * dim + start + d];
            let n = rows.min(MAX_POINTS);
            let points: Vec<f32> = (0..n).flat_map(|i| part_of(i * rows / n)).copied().collect();
            let centroids = k_means(&points, d);
            let codes = (0..rows).map(|row| nearest(&centroids, part_of(row))).collect();
            (centroids, codes)
        })
        .collect();
    let mut codes = vec![0; rows * quantiser.parts];
    for (part, (centroids, own)) in parts.iter().enumerate() {
        for (code, centroid) in centroids.chunks(centroids.len() / CENTROIDS).enumerate() {
            let range = quantiser.range(part, code);
            quantiser.centroids[range].copy_from_slice(centroid);
        }
        own.iter().enumerate().for_each(|(row, code)| codes[row * quantiser.parts + part] = *code);
    }
    (quantiser, codes)
}

fn nearest(centroids: &[f32], point: &[f32]) -> u8 {
    let mut best = (f32::INFINITY, 0);
    for (i, c) in centroids.chunks_exact(point.len()).enumerate() {
        let distance: f32 = c.iter().zip(point).map(|(c, p)| (c - p) * (c - p)).sum();
        if distance < best.0 {
            best = (distance, i);
        }
    }
    best.1 as u8
}

fn k_means(points: &[f32], d: usize) -> Vec<f32> {
    let n = points.len() / d;
    let mut centroids: Vec<f32> = (0..CENTROIDS).flat_map(|i| &points[i * n / CENTROIDS * d..][..d]).copied().collect();
    for _ in 0..ROUNDS {
        let codes: Vec<u8> = points.chunks_exact(d).map(|p| nearest(&centroids, p)).collect();
        let (mut sums, mut counts) = (vec![0f64; CENTROIDS * d], vec![0usize; CENTROIDS]);
        for (point, code) in points.chunks_exact(d).zip(&codes) {
            let code = usize::from(*code);
            counts[code] += 1;
            sums[code * d..(code + 1) * d].iter_mut().zip(point).for_each(|(s, p)| *s += f64::from(*p));
        }
        for code in 0..CENTROIDS {
            if counts[code] > 0 {
                (0..d).for_each(|i| centroids[code * d + i] = (sums[code * d + i] / counts[code] as f64) as f32);
            }
        }
        for empty in 0..CENTROIDS {
            if counts[empty] > 0 {
                continue;
            }
            let largest = (0..CENTROIDS).max_by_key(|c| (counts[*c], usize::MAX - c)).unwrap_or(0);
            for i in 0..d {
                let (value, sign) = (centroids[largest * d + i], if i % 2 == 0 { 1e-7 } else { -1e-7 });
                centroids[empty * d + i] = value + sign;
                centroids[largest * d + i] = value - sign;
            }
            counts[empty] = counts[largest] / 2;
            counts[largest] -= counts[empty];
        }
    }
    centroids
}

//! A connector that starts where its input has no favourite: data-dependent initial weights (after Salimans and Kingma, 2016).
//!
//! A small tower's features are mostly brightness and colour: shape and place are under one per cent of their variance, and a random
//! projection hands the language model a hundredth of what it should learn from. Here the first layer centres features and makes their
//! covariance the identity before it mixes them at random: with the covariance `C + e I = L L^T` of some training images it is
//! `R L^-1 (x - mean)`, `R` normal with variance `1 / E`. Directions with less than `e`, a thousandth of the mean variance, stay small.
//!
//! Legend: M image tokens, E width of the tower's features, D width of the language model.

use super::images::Images;
use crate::{Error, Result};
use llm_run::Seed;
use llm_tensor::rayon::prelude::*;
use llm_tensor::{host, params};
use llm_vision::{ConnectorKind, Vlm};

/// Images that are looked at.
const IMAGES: usize = 512;
/// Images per forward pass.
const GROUP: usize = 64;
/// Smallest variance that is made one, as a share of the mean.
const FLOOR: f64 = 1e-3;

/// `model` with another first layer of the connector, a function of the seed and of the first images.
pub(super) fn whiten(model: Vlm, images: &Images, count: usize, seed: Seed) -> Result<Vlm> {
    let e = model.config().feature_size();
    let d = model.config().text.hidden_size;
    let untracked = model.untracked();
    let order: Vec<usize> = (0..count.min(IMAGES)).collect();
    let mut features_ME: Vec<f32> = Vec::new();
    for group in order.chunks(GROUP) {
        let pixel_values = images.pixel_values(group, &model.device())?.cast(model.precision().dtype());
        features_ME.extend(host::to_vec(untracked.tower_features(pixel_values)?));
    }
    let (mean_E, covariance_EE) = moments(&features_ME, e);
    let lower_EE = cholesky(covariance_EE, e).ok_or_else(|| {
        Error::Objective("the tower's features cannot be whitened: they are not finite or all alike; use connector_init = \"normal\"".into())
    })?;
    let mut rng = seed.stream("whitened connector").rng();
    // A linear connector writes token vectors, whose size is that of the table; before a gelu it is one.
    let scale = if model.config().connector == ConnectorKind::Linear { spread(&untracked) } else { 1.0 };
    let mut weight_DE = Vec::with_capacity(d * e);
    let mut bias_D = Vec::with_capacity(d);
    for _ in 0..d {
        let row: Vec<f64> = (0..e).map(|_| scale * rng.normal() / (e as f64).sqrt()).collect();
        let row = solve_transposed(&lower_EE, row);
        bias_D.push(-row.iter().zip(&mean_E).map(|(w, m)| w * m).sum::<f64>() as f32);
        weight_DE.extend(row.into_iter().map(|w| w as f32));
    }
    Ok(params::map(model, |name, _, value| {
        let values = match name {
            "multi_modal_projector.linear_1.weight" => &weight_DE,
            "multi_modal_projector.linear_1.bias" => &bias_D,
            _ => return value,
        };
        host::from_vec(values.clone(), [values.len()], &value.device()).cast(value.dtype())
    }))
}

/// Standard deviation of the entries of the token table.
fn spread(model: &Vlm) -> f64 {
    let table = host::to_vec(model.language_model.embed((0..model.config().text.vocab_size as u32).collect::<Vec<u32>>().into()));
    (table.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / table.len().max(1) as f64).sqrt()
}

/// Mean and covariance of rows, the latter with [`FLOOR`] of its mean diagonal added to the diagonal.
fn moments(rows: &[f32], e: usize) -> (Vec<f64>, Vec<f64>) {
    let m = (rows.len() / e).max(1) as f64;
    let mut mean = vec![0f64; e];
    for row in rows.chunks_exact(e) {
        mean.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    mean.iter_mut().for_each(|v| *v /= m);
    let mut covariance = vec![0f64; e * e];
    // Each row of the matrix is summed by one thread in the order of the data.
    covariance.par_chunks_exact_mut(e).enumerate().for_each(|(i, out)| {
        for row in rows.chunks_exact(e) {
            let a = f64::from(row[i]) - mean[i];
            for ((sum, v), mean) in out.iter_mut().zip(row).zip(&mean) {
                *sum += a * (f64::from(*v) - mean);
            }
        }
        out.iter_mut().for_each(|v| *v /= m);
    });
    let floor = FLOOR * (0..e).map(|i| covariance[i * e + i]).sum::<f64>() / e as f64;
    (0..e).for_each(|i| covariance[i * e + i] += floor);
    (mean, covariance)
}

/// Lower triangle `L` with `L L^T = a`; none where `a` is not positive definite.
fn cholesky(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    for j in 0..n {
        for i in j..n {
            let dot: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - dot;
            if i == j && !(rest > 0.0 && rest.is_finite()) {
                return None;
            }
            a[i * n + j] = if i == j { rest.sqrt() } else { rest / a[j * n + j] };
        }
    }
    Some(a)
}

/// `x` with `L^T x = b`.
fn solve_transposed(lower: &[f64], mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in (0..n).rev() {
        b[i] /= lower[i * n + i];
        let x = b[i];
        b[..i].iter_mut().zip(&lower[i * n..i * n + i]).for_each(|(b, l)| *b -= x * l);
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, the connector does not see what the tower sees least.
    #[test]
    fn whitened_rows_have_no_favourite_direction() {
        let (e, m) = (6, 4000);
        let mut rng = Seed(1).rng();
        let scales = [100.0, 10.0, 3.0, 1.0, 0.5, 0.3];
        let mut rows = Vec::new();
        for _ in 0..m {
            let z: Vec<f64> = (0..e).map(|_| rng.normal()).collect();
            rows.extend((0..e).map(|i| (5.0 + scales[i] * z[i] + if i > 0 { z[0] } else { 0.0 }) as f32));
        }
        let (mean, covariance) = moments(&rows, e);
        assert!((mean[2] - 5.0).abs() < 0.3);
        let lower = cholesky(covariance.clone(), e).unwrap();
        for i in 0..e {
            for j in 0..=i {
                let product: f64 = (0..=j).map(|k| lower[i * e + k] * lower[j * e + k]).sum();
                assert!((product - covariance[i * e + j]).abs() < 1e-8 * covariance[0], "{i} {j}");
            }
        }
        // Rows of L^-1, one for each unit vector: outputs are uncorrelated, and as large as the floor allows.
        let inverse: Vec<Vec<f64>> = (0..e).map(|i| solve_transposed(&lower, (0..e).map(|j| f64::from(u8::from(i == j))).collect())).collect();
        let out: Vec<f32> = rows
            .chunks_exact(e)
            .flat_map(|x| {
                inverse.iter().map(|w| w.iter().zip(x).zip(&mean).map(|((w, x), m)| w * (f64::from(*x) - m)).sum::<f64>() as f32).collect::<Vec<_>>()
            })
            .collect();
        let (_, after) = moments(&out, e);
        for i in 0..e {
            assert!(after[i * e + i] > 0.04 && after[i * e + i] < 1.1, "variance {i} is {}", after[i * e + i]);
        }
        assert!(after[0] > 0.9 && after[e + 1] > 0.8);
        assert_eq!(cholesky(vec![1.0, 2.0, 2.0, 1.0], 2), None);
    }
}

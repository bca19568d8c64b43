//! A connector that starts where its input has no favourite: data-dependent initial weights (after Salimans and Kingma, 2016).
//!
//! A small tower's features are mostly brightness and colour: shape and place are under one per cent of their variance, and a random
//! projection hands the language model a hundredth of what it should learn from. Here the first layer
//!
//! - measures variation *within* a place of the picture: with the covariance `C` of features minus the mean at their place, so that what
//!   tells places apart stays as large as it is beside what one place shows (linear discriminants; Fisher, 1936);
//! - keeps the directions that tell places apart and those in which features differ most, as many as it has outputs: `Q`;
//! - gives these the same variance and turns them at random: `R L^-1 Q (x - mean)`, `Q C Q^T = L L^T`, the columns of `R` orthogonal.
//!   A thousandth of the mean variance is added to `C`, so that directions with less stay small.
//!
//! Before a gelu one is added, which then bends less and loses less, and the second layer turns what comes out into tokens without a mean
//! and thirty times as large as those of the text: as large as what the layers of a trained model add, which would drown them. In the
//! vision recipe a linear classifier finds in the gelu's output 1.00 of the colours, 0.84 of the
//! shapes and 0.99 of the places; with random outputs of all whitened directions, without the one added, 0.77, 0.60 and 0.40. An
//! optimiser undoes the first layer at once, as what differs most in its input moves its output most: freeze it
//! (`multi_modal_projector.linear_1.*`).
//!
//! Legend: M image tokens, E width of the tower's features, D width of the language model, K the smaller of E and D, P places of an image.

use super::images::Images;
use crate::{Error, Result};
use llm_run::{Rng, Seed};
use llm_tensor::rayon::prelude::*;
use llm_tensor::{host, params};
use llm_vision::{ConnectorKind, Vlm};

/// What is added before a gelu.
const SHIFT: f64 = 1.0;
/// Mean of the gelu of a normal variable around [`SHIFT`]: `z cdf(z / sqrt 2) + pdf(z / sqrt 2) / sqrt 2`.
const GELU_MEAN: f64 = 0.979_9;
/// Its standard deviation.
const GELU_SPREAD: f64 = 0.898_4;
/// Size of a token of an image, in those of the text.
const SIZE: f64 = 30.0;
/// Images that are looked at.
const IMAGES: usize = 512;
/// Images per forward pass.
const GROUP: usize = 64;
/// Smallest variance that is made one, as a share of the mean.
const FLOOR: f64 = 1e-3;
/// Rounds after which principal directions are good enough: those that differ in variance by a tenth are told apart.
const ROUNDS: usize = 40;

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
    let mut rng = seed.stream("whitened connector").rng();
    let unusable =
        || Error::Objective("the tower's features cannot be whitened: they are not finite or all alike; use connector_init = \"normal\"".into());
    let moments = Moments::of(&features_ME, e, model.config().tokens_per_image());
    let first_DE = moments.whitening(d, &mut rng).ok_or_else(unusable)?;
    let size = SIZE * spread(&untracked);
    let mut layers: Vec<(&str, Vec<f64>)> = Vec::new();
    match model.config().connector {
        ConnectorKind::Linear => {
            let first_DE: Vec<f64> = first_DE.iter().map(|w| size * w).collect();
            layers.push(("linear_1.bias", centred(&first_DE, &moments.mean_E, 0.0)));
            layers.push(("linear_1.weight", first_DE));
        }
        ConnectorKind::Mlp => {
            let mut second_DD: Vec<f64> = (0..d * d).map(|_| rng.normal()).collect();
            orthonormalise(&mut second_DD, d, 0).ok_or_else(unusable)?;
            second_DD.iter_mut().for_each(|w| *w *= size / GELU_SPREAD);
            layers.push(("linear_1.bias", centred(&first_DE, &moments.mean_E, SHIFT)));
            layers.push(("linear_1.weight", first_DE));
            layers.push(("linear_2.bias", centred(&second_DD, &vec![GELU_MEAN; d], 0.0)));
            layers.push(("linear_2.weight", second_DD));
        }
    }
    Ok(params::map(model, |name, _, value| {
        let values = name.strip_prefix("multi_modal_projector.").and_then(|name| layers.iter().find(|(layer, _)| *layer == name));
        let Some((_, values)) = values else { return value };
        host::from_vec(values.iter().map(|v| *v as f32).collect(), [values.len()], &value.device()).cast(value.dtype())
    }))
}

/// Biases with which outputs have the mean `to` where inputs have `mean`.
fn centred(weight: &[f64], mean: &[f64], to: f64) -> Vec<f64> {
    weight.chunks_exact(mean.len()).map(|row| to - dot(row, mean)).collect()
}

/// Standard deviation of the entries of the token table.
fn spread(model: &Vlm) -> f64 {
    let table = host::to_vec(model.language_model.embed((0..model.config().text.vocab_size as u32).collect::<Vec<u32>>().into()));
    (table.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / table.len().max(1) as f64).sqrt()
}

/// First and second moments of features.
struct Moments {
    e: usize,
    mean_E: Vec<f64>,
    /// Of each place, minus the mean of all.
    places_PE: Vec<f64>,
    /// Within places, with [`FLOOR`] of its mean diagonal added to the diagonal.
    within_EE: Vec<f64>,
}

impl Moments {
    /// Of rows that come place by place, image by image.
    fn of(rows: &[f32], e: usize, places: usize) -> Self {
        let count = (rows.len() / e).max(1) as f64;
        let mut places_PE = vec![0f64; places * e];
        for (i, row) in rows.chunks_exact(e).enumerate() {
            let sums = &mut places_PE[i % places * e..][..e];
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        places_PE.iter_mut().for_each(|v| *v *= places as f64 / count);
        let mut within_EE = vec![0f64; e * e];
        // Each row of the matrix is summed by one thread in the order of the data.
        within_EE.par_chunks_exact_mut(e).enumerate().for_each(|(i, out)| {
            for (at, row) in rows.chunks_exact(e).enumerate() {
                let mean = &places_PE[at % places * e..][..e];
                let a = f64::from(row[i]) - mean[i];
                out.iter_mut().zip(row).zip(mean).for_each(|((sum, v), mean)| *sum += a * (f64::from(*v) - mean));
            }
            out.iter_mut().for_each(|v| *v /= count);
        });
        let floor = FLOOR * (0..e).map(|i| within_EE[i * e + i]).sum::<f64>() / e as f64;
        (0..e).for_each(|i| within_EE[i * e + i] += floor);
        let mean_E: Vec<f64> = (0..e).map(|i| places_PE.iter().skip(i).step_by(e).sum::<f64>() / places as f64).collect();
        places_PE.chunks_exact_mut(e).for_each(|place| place.iter_mut().zip(&mean_E).for_each(|(v, mean)| *v -= mean));
        Self { e, mean_E, places_PE, within_EE }
    }

    /// `[D, E]`: outputs of equal variance without correlation, within a place.
    fn whitening(&self, d: usize, rng: &mut Rng) -> Option<Vec<f64>> {
        let (e, k) = (self.e, self.e.min(d));
        let whole_EE = cholesky(self.within_EE.clone(), e)?;
        let mut kept_KE = Vec::new();
        for place in self.places_PE.chunks_exact(e).take(k / 2) {
            // Directions that others make up, or of a tower that does not tell places apart, are left out.
            let known = kept_KE.len();
            kept_KE.extend(solve_transposed(&whole_EE, solve(&whole_EE, place.to_vec())));
            if orthonormalise(&mut kept_KE, e, known / e).is_none() {
                kept_KE.truncate(known);
            }
        }
        let kept_KE = principal(&self.within_EE, e, kept_KE, k, rng)?;
        let seen_KE = times(&kept_KE, &self.within_EE, e);
        let inner_KK: Vec<f64> = seen_KE.chunks_exact(e).flat_map(|a| kept_KE.chunks_exact(e).map(|b| dot(a, b)).collect::<Vec<_>>()).collect();
        let lower_KK = cholesky(inner_KK, k)?;
        let mut turn_KD: Vec<f64> = (0..k * d).map(|_| rng.normal()).collect();
        orthonormalise(&mut turn_KD, d, 0)?;
        let size = (d as f64 / k as f64).sqrt();
        let row = |i: usize| solve_transposed(&lower_KK, (0..k).map(|j| size * turn_KD[j * d + i]).collect());
        let mixed_DK: Vec<f64> = (0..d).flat_map(row).collect();
        Some(times(&mixed_DK, &kept_KE, e))
    }
}

/// `kept`, orthonormal rows, and the directions in which rows of covariance `covariance_EE` differ most, `k` in all, by subspace iteration
/// (Halko, Martinsson and Tropp, 2011, section 4.5).
fn principal(covariance_EE: &[f64], e: usize, kept: Vec<f64>, k: usize, rng: &mut Rng) -> Option<Vec<f64>> {
    let first = kept.len();
    let mut directions_KE = kept;
    directions_KE.extend((first..k * e).map(|_| rng.normal()));
    // Where all are kept there is nothing to choose.
    for _ in 0..if k < e { ROUNDS } else { 0 } {
        orthonormalise(&mut directions_KE, e, first / e)?;
        let further = times(&directions_KE[first..], covariance_EE, e);
        directions_KE.truncate(first);
        directions_KE.extend(further);
    }
    orthonormalise(&mut directions_KE, e, first / e)?;
    Some(directions_KE)
}

/// `a @ b`, rows of `b` and of the result `n` long; each row is summed by one thread in order.
fn times(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let inner = b.len() / n;
    let row = |a: &[f64]| {
        let mut out = vec![0f64; n];
        a.iter().zip(b.chunks_exact(n)).for_each(|(a, b)| out.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b));
        out
    };
    a.par_chunks_exact(inner).flat_map_iter(row).collect()
}

/// Rows of length `n` from the `first` made orthogonal to those before them and of length one (Gram and Schmidt, each twice); none where
/// one is a sum of others.
fn orthonormalise(rows: &mut [f64], n: usize, first: usize) -> Option<()> {
    for i in first..rows.len() / n {
        let (before, rest) = rows.split_at_mut(i * n);
        let row = &mut rest[..n];
        let length = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(n) {
                let share = dot(row, other);
                row.iter_mut().zip(other).for_each(|(v, o)| *v -= share * o);
            }
        }
        let left = dot(row, row).sqrt();
        if !(left > 1e-9 * length && left.is_finite()) {
            return None;
        }
        row.iter_mut().for_each(|v| *v /= left);
    }
    Some(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
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

/// `x` with `L x = b`.
fn solve(lower: &[f64], mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        b[i] = (b[i] - dot(&lower[i * n..i * n + i], &b[..i])) / lower[i * n + i];
    }
    b
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

    /// Rows of three places with variances from 0.09 to 10,000, correlated, the places half a unit apart in the smallest direction.
    fn rows(e: usize, images: usize, rng: &mut Rng) -> Vec<f32> {
        let scales = [100.0, 10.0, 3.0, 1.0, 0.5, 0.3];
        let mut rows = Vec::new();
        for at in 0..3 * images {
            let z: Vec<f64> = (0..e).map(|_| rng.normal()).collect();
            let place = 0.5 * (at % 3) as f64;
            let entry = |i: usize| 5.0 + scales[i] * z[i] + if i > 0 { z[0] } else { 0.0 } + if i == 5 { place } else { 0.0 };
            rows.extend((0..e).map(|i| entry(i) as f32));
        }
        rows
    }

    /// If this fails, the connector does not see what the tower sees least, or not where it is.
    #[test]
    fn outputs_have_no_favourite_direction_and_tell_places_apart() {
        let e = 6;
        let mut rng = Seed(1).rng();
        let rows = rows(e, 4000, &mut rng);
        let moments = Moments::of(&rows, e, 3);
        assert!((moments.mean_E[5] - 5.5).abs() < 0.05 && (moments.places_PE[5] + 0.5).abs() < 0.05, "{:?}", moments.places_PE);
        for d in [e, 3, 10] {
            let weights = moments.whitening(d, &mut rng).unwrap();
            let bias = centred(&weights, &moments.mean_E, 0.0);
            let output = |x: &[f32], w: &[f64], b: f64| w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum::<f64>() + b;
            let out: Vec<f32> = rows
                .chunks_exact(e)
                .flat_map(|x| weights.chunks_exact(e).zip(&bias).map(|(w, b)| output(x, w, *b) as f32).collect::<Vec<_>>())
                .collect();
            let after = Moments::of(&out, d, 3);
            assert!(after.mean_E.iter().all(|m| m.abs() < 0.01), "{:?}", after.mean_E);
            let total: f64 = (0..d).map(|i| after.within_EE[i * d + i]).sum();
            assert!((total / d as f64 - 1.0).abs() < 0.45, "{d} outputs have a variance of {total} in all; below the floor it is less");
            if d == 3 {
                let far = |i: usize, j: usize| (after.within_EE[i * d + j] - f64::from(u8::from(i == j))).abs();
                assert!((0..9).all(|at| at / 3 == at % 3 || far(at / 3, at % 3) < 0.3), "{:?}", after.within_EE);
            }
            let apart = after.places_PE[..d].iter().zip(&after.places_PE[2 * d..]).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            assert!(apart > 0.6, "{d} outputs: the first and last place are {apart} apart");
        }
    }

    /// If this fails, a tower with dead features or without places stops a run, or one that shows nothing starts one.
    #[test]
    fn features_that_differ_nowhere_are_refused_and_others_not() {
        let mut rng = Seed(2).rng();
        let dead = Moments::of(&[1.0, 0.0, 2.0, 0.0, 5.0, 0.0, 4.0, 0.0], 2, 2);
        assert!(dead.whitening(2, &mut rng).is_some());
        assert_eq!(Moments::of(&[1.0, 3.0, 1.0, 3.0], 2, 1).whitening(2, &mut rng), None);
        assert_eq!(Moments::of(&[f32::NAN; 8], 2, 2).whitening(2, &mut rng), None);
    }

    #[test]
    fn a_triangle_gives_the_matrix_and_the_solution_back() {
        let a = [4.0, 2.0, 0.0, 2.0, 5.0, 1.0, 0.0, 1.0, 3.0];
        let lower = cholesky(a.to_vec(), 3).unwrap();
        let x = solve_transposed(&lower, solve(&lower, vec![6.0, 8.0, 4.0]));
        assert!(times(&x, &a, 3).iter().zip([6.0, 8.0, 4.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{x:?}");
        assert_eq!(cholesky(vec![1.0, 2.0, 2.0, 1.0], 2), None);
    }

    /// If this fails, tokens of images have a mean or another size than those of the text.
    #[test]
    fn the_constants_are_those_of_a_shifted_gelu() {
        let gelu = |z: f64| z * 0.5 * (1.0 + (0.797_884_560_8 * (z + 0.044_715 * z * z * z)).tanh());
        let (mut mean, mut square) = (0.0, 0.0);
        for i in -8000..8000 {
            let x = f64::from(i) * 1e-3;
            let weight = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt() * 1e-3;
            mean += weight * gelu(x + SHIFT);
            square += weight * gelu(x + SHIFT).powi(2);
        }
        assert!((mean - GELU_MEAN).abs() < 1e-3 && ((square - mean * mean).sqrt() - GELU_SPREAD).abs() < 1e-3, "{mean} {square}");
    }
}

//! What GPTQ needs of linear algebra: the upper Cholesky factor of an inverse.
//!
//! In double precision, since the Hessian of correlated inputs is close to singular. Work is split into fixed pieces, so the result does not
//! depend on the number of threads.

use rayon::prelude::*;

/// Rows of a task.
const ROWS: usize = 32;

/// Lower Cholesky factor of a symmetric `[n, n]` matrix; None when it is not positive definite.
fn cholesky(a: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut l = vec![0f64; n * n];
    for j in 0..n {
        let (above, below) = l.split_at_mut((j + 1) * n);
        let row_j = &mut above[j * n..];
        let pivot = a[j * n + j] - dot(&row_j[..j], &row_j[..j]);
        if pivot <= 0.0 || !pivot.is_finite() {
            return None;
        }
        let pivot = pivot.sqrt();
        row_j[j] = pivot;
        let row_j = &row_j[..j];
        let column = |first: usize, rows: &mut [f64]| {
            for (r, row) in rows.chunks_exact_mut(n).enumerate() {
                row[j] = (a[(first + r) * n + j] - dot(&row[..j], row_j)) / pivot;
            }
        };
        if (n - j) * j > 1 << 16 {
            below.par_chunks_mut(ROWS * n).enumerate().for_each(|(i, rows)| column(j + 1 + i * ROWS, rows));
        } else {
            column(j + 1, below);
        }
    }
    Some(l)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0f64; 8];
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// The upper triangular `u` with `u^T u = a^-1`, `[n, n]`; None when `a` is not positive definite.
///
/// With the order of rows and columns reversed, `a = l l^T`; the inverse of `l`, reversed back, is `u`. One factorisation and one triangular
/// inverse instead of two factorisations and a full inverse.
pub fn inverse_upper_cholesky(a: &[f64], n: usize) -> Option<Vec<f64>> {
    let reversed: Vec<f64> = a.iter().rev().copied().collect();
    let l = cholesky(&reversed, n)?;
    // Columns of the inverse are independent: pieces of columns, each row-major.
    let pieces: Vec<(usize, usize, Vec<f64>)> = (0..n.div_ceil(ROWS))
        .into_par_iter()
        .map(|piece| {
            let first = piece * ROWS;
            let width = ROWS.min(n - first);
            let mut x = vec![0f64; n * width];
            for i in first..n {
                let (before, row) = x.split_at_mut(i * width);
                let row = &mut row[..width];
                for k in first..i {
                    let factor = l[i * n + k];
                    for (out, value) in row.iter_mut().zip(&before[k * width..]) {
                        *out -= factor * value;
                    }
                }
                if i < first + width {
                    row[i - first] += 1.0;
                }
                for out in row {
                    *out /= l[i * n + i];
                }
            }
            (first, width, x)
        })
        .collect();
    let mut u = vec![0f64; n * n];
    for (first, width, x) in pieces {
        for (i, row) in x.chunks_exact(width).enumerate() {
            for (c, value) in row.iter().enumerate() {
                u[(n - 1 - i) * n + (n - 1 - first - c)] = *value;
            }
        }
    }
    Some(u)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_squares_to_the_inverse() {
        for n in [1, 2, 7, 33, 70] {
            let x: Vec<f64> = (0..2 * n * n).map(|i| ((i * 7919 + 13) % 101) as f64 / 101.0 - 0.5).collect();
            let mut a = vec![0f64; n * n];
            for i in 0..n {
                for j in 0..n {
                    a[i * n + j] = (0..2 * n).map(|k| x[k * n + i] * x[k * n + j]).sum::<f64>() + if i == j { 0.1 } else { 0.0 };
                }
            }
            let u = inverse_upper_cholesky(&a, n).unwrap();
            assert!((0..n).all(|i| (0..i).all(|j| u[i * n + j] == 0.0)), "not upper at {n}");
            for i in 0..n {
                for j in 0..n {
                    // (u^T u) a = 1
                    let got: f64 = (0..n).map(|k| (0..n).map(|m| u[m * n + i] * u[m * n + k]).sum::<f64>() * a[k * n + j]).sum();
                    assert!((got - f64::from(u8::from(i == j))).abs() < 1e-8, "{n}: ({i}, {j}) {got}");
                }
            }
        }
        assert!(inverse_upper_cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
    }
}

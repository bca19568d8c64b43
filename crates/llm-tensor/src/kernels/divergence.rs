//! How far two rows of logits are apart: Kullback-Leibler divergence and logarithms of the sums.

use super::{LANES, exp, fold, max, sum_exp, vectorized};

/// Two rows of logits, p and q, over the same tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// `ln sum exp p`.
    pub log_sum_p: f64,
    /// `ln sum exp q`.
    pub log_sum_q: f64,
    /// KL(p || q) in nats, at least 0. Absolute error about 1e-6.
    pub kl: f64,
}

vectorized! {
    fn sums(x: &[f32]) -> (f32, f32) {
        let largest = max(x);
        (largest, sum_exp(x, largest))
    }

    /// `sum exp(p - shift) (p - q)`.
    fn weighted(p: &[f32], q: &[f32], shift: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let (p_chunks, p_rest) = p.as_chunks::<LANES>();
        let (q_chunks, q_rest) = q.as_chunks::<LANES>();
        for (p, q) in p_chunks.iter().zip(q_chunks) {
            for i in 0..LANES {
                lanes[i] += exp(p[i] - shift) * (p[i] - q[i]);
            }
        }
        fold(lanes, |a, b| a + b) + p_rest.iter().zip(q_rest).map(|(p, q)| exp(p - shift) * (p - q)).sum::<f32>()
    }
}

/// `ln sum exp x`.
pub fn log_sum(x: &[f32]) -> f64 {
    let (largest, sum) = sums(x);
    f64::from(largest) + f64::from(sum).ln()
}

/// Compare two rows.
pub fn divergence(p: &[f32], q: &[f32]) -> Divergence {
    let (largest, sum) = sums(p);
    let log_sum_p = f64::from(largest) + f64::from(sum).ln();
    let log_sum_q = log_sum(q);
    let mean_difference = f64::from(weighted(p, q, largest)) / f64::from(sum);
    Divergence { log_sum_p, log_sum_q, kl: (mean_difference - (log_sum_p - log_sum_q)).max(0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_in_double_precision() {
        for n in [1, 5, 16, 100, 4096] {
            let p: Vec<f32> = (0..n).map(|i| ((i * 31 + 7) % 97) as f32 / 7.0).collect();
            let q: Vec<f32> = (0..n).map(|i| p[i] + ((i * 17) % 13) as f32 / 20.0 - 3.0).collect();
            let log = |x: &[f32]| x.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln();
            let (a, b) = (log(&p), log(&q));
            let kl: f64 = p.iter().zip(&q).map(|(&p, &q)| (f64::from(p) - a).exp() * ((f64::from(p) - a) - (f64::from(q) - b))).sum();
            let got = divergence(&p, &q);
            assert!((got.log_sum_p - a).abs() < 1e-5 && (got.log_sum_q - b).abs() < 1e-5 && (got.kl - kl).abs() < 3e-6, "{n}: {got:?}, {kl}");
            assert!(divergence(&p, &p).kl < 1e-7);
        }
    }
}

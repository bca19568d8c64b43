//! Sum of squares in double precision: the gradient norm.

use super::vectorized;
use rayon::prelude::*;

/// Elements of one task; fixed, and the tasks' sums are added in order, so the result has one value for any thread count.
const CHUNK: usize = 1 << 14;

const LANES: usize = 8;

vectorized! {
    fn chunk_sum(x: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

/// `sum(x^2)`.
pub fn square_sum(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(chunk_sum).collect();
    parts.iter().sum()
}

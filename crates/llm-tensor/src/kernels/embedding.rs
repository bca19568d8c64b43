//! Row lookup and its gradient.

use rayon::prelude::*;

/// `out[n] = table[ids[n]]`, rows of `d` elements.
pub fn forward(table: &[f32], ids: &[u32], d: usize) -> Vec<f32> {
    let mut out = vec![0f32; ids.len() * d];
    out.par_chunks_exact_mut(d).zip(ids).with_min_len(256).for_each(|(out, &id)| out.copy_from_slice(&table[id as usize * d..][..d]));
    out
}

/// `d_table[ids[n]] += dy[n]`, added in token order, so the sum has one value.
pub fn backward(dy: &[f32], ids: &[u32], d: usize, rows: usize) -> Vec<f32> {
    let mut out = vec![0f32; rows * d];
    for (dy, &id) in dy.chunks_exact(d).zip(ids) {
        for (o, x) in out[id as usize * d..][..d].iter_mut().zip(dy) {
            *o += x;
        }
    }
    out
}

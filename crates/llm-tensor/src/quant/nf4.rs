//! NF4 with double quantisation (QLoRA, Dettmers et al. 2023, section 3), bit for bit as bitsandbytes does it.
//!
//! Weights, flat, in blocks that share their absolute maximum; each becomes the nearest of 16 values. The maxima, less their mean, are quantised
//! again to 256 values of a dynamic 8-bit type (Dettmers, 2016) in blocks of 256.

use super::bitsandbytes::{Absmax, NF4, Table4};
use rayon::prelude::*;

/// Maxima that share a maximum.
pub const NESTED_BLOCK: usize = 256;

/// The signed dynamic 8-bit type: seven decades, the higher ones finer; sorted.
pub fn dynamic_map() -> Vec<f32> {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let items = 1usize << decade;
        let step = (1.0 - 0.1f32) / items as f32;
        // A linspace as PyTorch computes it: from the left in the first half, from the right in the second, multiply and add fused.
        let at = |i: usize| f64::from(step) * i as f64;
        let boundary = |i: usize| if i < items.div_ceil(2) { (f64::from(0.1f32) + at(i)) as f32 } else { (1.0 - at(items - i)) as f32 };
        let factor = 10f64.powi(decade - 6) as f32;
        for i in 0..items {
            let mean = f32::midpoint(boundary(i), boundary(i + 1));
            values.push(factor * mean);
            values.push(-(factor * mean));
        }
    }
    values.sort_by(f32::total_cmp);
    values
}

/// Index of the nearest value of a short table; the first of two equally near ones.
fn nearest(table: &[f32], x: f32) -> u8 {
    let mut best = (f32::INFINITY, 0);
    for (i, value) in table.iter().enumerate() {
        let distance = (x - value).abs();
        if distance < best.0 {
            best = (distance, i);
        }
    }
    best.1 as u8
}

fn maxima(values: &[f32], block: usize) -> Vec<f32> {
    values.par_chunks(block).map(|block| block.iter().fold(0f32, |m, x| m.max(x.abs()))).collect()
}

fn indices(values: &[f32], maxima: &[f32], block: usize, table: &[f32]) -> Vec<u8> {
    let mut out = vec![0; values.len()];
    let blocks = out.par_chunks_mut(block).zip(values.par_chunks(block)).zip(maxima);
    blocks.for_each(|((out, values), &largest)| {
        for (out, x) in out.iter_mut().zip(values) {
            *out = nearest(table, if largest > 0.0 { x / largest } else { 0.0 });
        }
    });
    out
}

/// Maxima quantised again.
fn nested(absmax: &[f32]) -> Absmax {
    let offset = (absmax.iter().map(|&m| f64::from(m)).sum::<f64>() / absmax.len().max(1) as f64) as f32;
    let moved: Vec<f32> = absmax.iter().map(|m| m - offset).collect();
    let (outer, table) = (maxima(&moved, NESTED_BLOCK), dynamic_map());
    let codes = indices(&moved, &outer, NESTED_BLOCK, &table);
    Absmax::Nested { codes, absmax: outer, table, blocksize: NESTED_BLOCK, offset }
}

/// A matrix in NF4. `dtype` is the format it had, as PyTorch names it.
pub fn nf4(weights: &[f32], shape: [usize; 2], blocksize: usize, double: bool, dtype: &str) -> Table4 {
    let absmax = maxima(weights, blocksize);
    let codes = indices(weights, &absmax, blocksize, &NF4);
    let packed = codes.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect();
    let absmax = if double { nested(&absmax) } else { Absmax::Plain(absmax) };
    Table4 { shape, quant_type: "nf4".into(), blocksize, table: NF4, packed, absmax, dtype: dtype.into() }
}

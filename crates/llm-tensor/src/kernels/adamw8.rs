//! One AdamW step with moments in 8 bits ([`super::dynamic_map`]): a block is decoded, updated as [`super::adamw`] does and encoded again while
//! it is in the processor's first cache.
//!
//! The step is taken with the moments before they are rounded. A second moment above zero never becomes zero: the first moment, which
//! rounds later, would then be divided by epsilon alone.

use super::adamw::Step;
use super::dynamic_map::{BLOCK, Map, WORDS};
use super::{LANES, fold, vectorized};
use rayon::prelude::*;

/// Blocks of one task.
const BLOCKS: usize = 64;

/// Codes and largest magnitudes of one moment.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Four codes a word, [`WORDS`] words a block.
    pub words: &'a mut [i32],
    /// One a block.
    pub absmax: &'a mut [f32],
}

/// Update `p` and both moments with gradient `g`.
///
/// # Panics
/// When a moment has another number of blocks than `p`: the caller's arithmetic is wrong.
pub fn step(p: &mut [f32], m: Moment, v: Moment, g: &[f32], s: Step) {
    let blocks = p.len().div_ceil(BLOCK);
    for moment in [&m, &v] {
        assert!(moment.absmax.len() == blocks && moment.words.len() == blocks * WORDS, "8-bit moments of another size");
    }
    let exponent = s.step.min(i32::MAX as u64) as i32;
    let rate = (f64::from(s.lr) / (1.0 - f64::from(s.beta1).powi(exponent))) as f32;
    let root = (1.0 / (1.0 - f64::from(s.beta2).powi(exponent)).sqrt()) as f32;
    let maps = (Map::signed(), Map::unsigned());
    p.par_chunks_mut(BLOCKS * BLOCK)
        .zip(g.par_chunks(BLOCKS * BLOCK))
        .zip(tasks(m))
        .zip(tasks(v))
        .for_each(|(((p, g), m), v)| update(p, g, m, v, maps, s, rate, root));
}

/// Words and magnitudes of a task's blocks.
type Part<'a> = (&'a mut [i32], &'a mut [f32]);

fn tasks(moment: Moment<'_>) -> impl IndexedParallelIterator<Item = Part<'_>> {
    moment.words.par_chunks_mut(BLOCKS * WORDS).zip(moment.absmax.par_chunks_mut(BLOCKS))
}

vectorized! {
    fn update(p: &mut [f32], g: &[f32], m: Part<'_>, v: Part<'_>, maps: (&Map, &Map), s: Step, rate: f32, root: f32) {
        let keep = 1.0 - s.lr * s.weight_decay;
        let blocks = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
        let m_blocks = m.0.as_chunks_mut::<WORDS>().0.iter_mut().zip(m.1);
        let v_blocks = v.0.as_chunks_mut::<WORDS>().0.iter_mut().zip(v.1);
        for (((p, g), (m_words, m_max)), (v_words, v_max)) in blocks.zip(m_blocks).zip(v_blocks) {
            let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
            maps.0.decode(m_words, *m_max, &mut m);
            maps.1.decode(v_words, *v_max, &mut v);
            let n = p.len();
            for (((p, m), v), g) in p.iter_mut().zip(&mut m).zip(&mut v).zip(g) {
                let g = g * s.grad_scale;
                *m = s.beta1 * *m + (1.0 - s.beta1) * g;
                *v = s.beta2 * *v + (1.0 - s.beta2) * g * g;
                *p = *p * keep - rate * *m / (v.sqrt() * root + s.eps);
            }
            m[n..].fill(0.0);
            v[n..].fill(0.0);
            (*m_max, *v_max) = (largest(&m), largest(&v));
            maps.0.encode(&m, *m_max, 0, m_words);
            maps.1.encode(&v, *v_max, 1, v_words);
        }
    }
}

/// Largest magnitude.
#[inline(always)]
fn largest(x: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0f32; LANES];
    for chunk in x.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            let x = chunk[i].abs();
            lanes[i] = if x > lanes[i] { x } else { lanes[i] };
        }
    }
    fold(lanes, |a, b| if b > a { b } else { a })
}

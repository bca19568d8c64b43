//! How fast this machine reads memory: the ceiling of decoding, which reads every weight once a token.
//!
//! All threads read their part of a buffer that no cache holds, front to back, several times; the median pass counts. As in STREAM, but
//! reading only, since that is what products with weights do.

use super::vectorized;
use rayon::prelude::*;
use std::time::Instant;

/// The least buffer, in bytes.
const BUFFER: usize = 256 << 20;
/// The largest.
const LARGEST: usize = 1 << 30;
/// Passes that are timed.
const PASSES: usize = 9;

vectorized! {
    /// Four places of a part at a time: one run of addresses does not keep enough reads under way.
    fn sum(words: &[u64]) -> u64 {
        let quarter = words.len() / 4;
        let part = |i: usize| words[i * quarter..][..quarter].as_chunks::<16>().0;
        let (mut a, mut b, mut c, mut d) = ([0u64; 16], [0u64; 16], [0u64; 16], [0u64; 16]);
        for (((w, x), y), z) in part(0).iter().zip(part(1)).zip(part(2)).zip(part(3)) {
            for i in 0..16 {
                a[i] ^= w[i];
                b[i] ^= x[i];
                c[i] ^= y[i];
                d[i] ^= z[i];
            }
        }
        [a, b, c, d].as_flattened().iter().fold(0u64, |sum, x| sum ^ x)
    }
}

/// Bytes of the last-level cache, where the system says so.
fn cache() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").unwrap_or_default();
    text.trim().strip_suffix('K').and_then(|n| n.parse::<usize>().ok()).map_or(0, |n| n << 10)
}

/// Bytes a second that all threads of the current pool together read from memory. Takes about a fifth of a second.
pub fn measure() -> f64 {
    measure_with((4 * cache()).clamp(BUFFER, LARGEST), PASSES)
}

/// [`measure`] with a buffer of that many bytes, the median of so many passes.
pub fn measure_with(bytes: usize, passes: usize) -> f64 {
    let threads = rayon::current_num_threads().max(1);
    let part = (bytes / 8).div_ceil(threads).max(64);
    let mut words = vec![0u64; part * threads];
    // Every thread touches its part first, so that its pages are real and, where that matters, near it.
    words.par_chunks_mut(part).enumerate().for_each(|(i, part)| part.fill(i as u64 + 1));
    let mut seconds: Vec<f64> = (0..=passes.max(1))
        .map(|_| {
            let began = Instant::now();
            std::hint::black_box(words.par_chunks(part).map(sum).reduce(|| 0, |a, b| a ^ b));
            began.elapsed().as_secs_f64()
        })
        .skip(1) // the first pass warms up
        .collect();
    seconds.sort_by(f64::total_cmp);
    (8 * words.len()) as f64 / seconds[seconds.len() / 2].max(1e-9)
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_faster_than_a_network_and_slower_than_arithmetic() {
        let speed = super::measure_with(64 << 20, 3);
        assert!((1e8..1e13).contains(&speed), "{speed:e} bytes/s");
    }
}

//! One token and many through dense and quantised matrices, beside what the memory can do.
//!
//! `cargo bench -p llm-tensor --bench packed [-- FILTER]`: for each matrix and number of rows the best of several calls in microseconds, the weights
//! read a second (one pass over the matrix a call) and their share of the read bandwidth measured just before, and multiply-adds a second. The
//! smaller matrices lie in a cache, so their share says nothing about memory.

use llm_tensor::kernels::{self, RowInvariant, bandwidth, matmul};
use llm_tensor::quant::{Activations, Meaning, Packed};
use std::hint::black_box;
use std::time::Instant;

fn best(mut f: impl FnMut()) -> f64 {
    let began = Instant::now();
    let (mut best, mut calls) = (f64::INFINITY, 0);
    while calls < 3 || began.elapsed().as_secs_f64() < 0.25 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}

fn matrix(outputs: usize, inputs: usize, group: usize, meaning: Meaning) -> Packed {
    let codes: Vec<u8> = (0..outputs * inputs).map(|i| ((i * 7919) >> 3) as u8 % if meaning == Meaning::Bits8 { 255 } else { 16 }).collect();
    packed(outputs, inputs, group, meaning, &codes)
}

fn six_bits(outputs: usize, inputs: usize) -> Packed {
    let codes: Vec<u8> = (0..outputs * inputs).map(|i| 96 + ((i * 7919) >> 3) as u8 % 64).collect();
    packed(outputs, inputs, 16, Meaning::Bits8, &codes)
}

fn packed(outputs: usize, inputs: usize, group: usize, meaning: Meaning, codes: &[u8]) -> Packed {
    let groups = inputs / group;
    let zero = if meaning == Meaning::Bits8 { 128 } else { 8 };
    let zeros = if matches!(meaning, Meaning::Table(..)) { None } else { Some(vec![zero; outputs * groups]) };
    Packed::new([outputs, inputs], group, None, codes, meaning, vec![0.01; outputs * groups], zeros)
}

fn with_mins(outputs: usize, inputs: usize) -> Packed {
    let n = outputs * inputs / 32;
    let codes: Vec<u8> = (0..outputs * inputs).map(|i| ((i * 7919) >> 3) as u8 % 16).collect();
    Packed::with_mins([outputs, inputs], 32, &codes, Meaning::Bits4, vec![0.01; n], vec![0.08; n])
}

/// A name and how to make the matrix.
type Kind = (&'static str, fn(usize, usize) -> Packed);

const KINDS: [Kind; 10] = [
    ("bf16", |o, i| Packed::bf16([o, i], &values(o, i))),
    ("int8 exact", |o, i| matrix(o, i, 32, Meaning::Bits8)),
    ("int8", |o, i| matrix(o, i, 32, Meaning::Bits8).with_activations(Activations::Int8)),
    ("int8 rows", |o, i| matrix(o, i, i, Meaning::Bits8).with_activations(Activations::Int8)),
    ("int8 by 16", |o, i| matrix(o, i, 16, Meaning::Bits8).with_activations(Activations::Int8)),
    ("int6 by 16", |o, i| six_bits(o, i).with_activations(Activations::Int8)),
    ("int4 exact", |o, i| matrix(o, i, 32, Meaning::Bits4)),
    ("int4", |o, i| matrix(o, i, 32, Meaning::Bits4).with_activations(Activations::Int8)),
    ("int4 mins", |o, i| with_mins(o, i).with_activations(Activations::Int8)),
    ("nf4 exact", |o, i| matrix(o, i, 64, Meaning::Table("nf4", llm_tensor::quant::bitsandbytes::NF4))),
];

fn values(outputs: usize, inputs: usize) -> Vec<f32> {
    (0..outputs * inputs).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect()
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{} threads, {:?}", llm_tensor::rayon::current_num_threads(), kernels::int8::Isa::best());
    println!("{:<14} {:<16} {:>5} {:>10} {:>8} {:>6} {:>8}", "matrix", "weights", "rows", "us", "GB/s", "share", "GMAC/s");
    // The last is larger than caches in any format.
    for (outputs, inputs, most) in [(1024, 192, 1024), (192, 512, 1024), (768, 768, 1024), (2048, 5632, 256), (32000, 2048, 128), (128_256, 2048, 4)]
    {
        let label = format!("{outputs} x {inputs}");
        let wanted = |name: &str| format!("{label} {name}").contains(&filter);
        let lines = |name: &str, bytes: usize, product: &dyn Fn(&[f32]) -> Vec<f32>| {
            let ceiling = bandwidth::measure();
            for rows in [1, 4, 16, 64, 256, 1024].into_iter().filter(|rows| *rows <= most) {
                let x: Vec<f32> = (0..rows * inputs).map(|i| (i % 29) as f32 / 29.0 - 0.5).collect();
                let seconds = best(|| drop(black_box(product(&x))));
                let (speed, work) = (bytes as f64 / seconds, (rows * outputs * inputs) as f64 / seconds);
                let share = 100.0 * speed / ceiling;
                println!("{label:<14} {name:<16} {rows:>5} {:>10.1} {:>8.1} {share:>5.0}% {:>8.1}", seconds * 1e6, speed / 1e9, work / 1e9);
            }
        };
        if wanted("f32") {
            let w = values(outputs, inputs);
            lines("f32", 4 * w.len(), &|x| matmul::linear(x, &w, inputs, outputs));
            let _one_order = RowInvariant::begin();
            lines("f32 invariant", 4 * w.len(), &|x| matmul::linear(x, &w, inputs, outputs));
        }
        for (name, make) in KINDS.into_iter().filter(|(name, _)| wanted(name)) {
            let w = make(outputs, inputs);
            lines(name, w.bytes(), &|x| kernels::packed::linear(x, &w));
        }
    }
}

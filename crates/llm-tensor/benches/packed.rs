//! One token and many through dense and quantised matrices, beside what the memory can do.
//!
//! `cargo bench -p llm-tensor --bench packed [-- FILTER]`: for each matrix and number of rows the best of several calls in microseconds, the weights
//! read a second (one pass over the matrix a call) as a share of the read bandwidth measured in the same run, and multiply-adds a second.

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

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let ceiling = bandwidth::measure();
    println!("read bandwidth {:.1} GB/s on {} threads", ceiling / 1e9, llm_tensor::rayon::current_num_threads());
    println!("{:<14} {:<16} {:>5} {:>10} {:>8} {:>6} {:>8}", "matrix", "weights", "rows", "us", "GB/s", "share", "GMAC/s");
    for (outputs, inputs) in [(768, 768), (2048, 5632), (32000, 2048)] {
        let values: Vec<f32> = (0..outputs * inputs).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
        let nf4 = Meaning::Table("nf4", llm_tensor::quant::bitsandbytes::NF4);
        let int8 = |w: Packed| w.with_activations(Activations::Int8);
        let packs = [
            ("bf16", Packed::bf16([outputs, inputs], &values)),
            ("int8 exact", matrix(outputs, inputs, 32, Meaning::Bits8)),
            ("int8", int8(matrix(outputs, inputs, 32, Meaning::Bits8))),
            ("int8 rows", int8(matrix(outputs, inputs, inputs, Meaning::Bits8))),
            ("int8 by 16", int8(matrix(outputs, inputs, 16, Meaning::Bits8))),
            ("int6 by 16", int8(six_bits(outputs, inputs))),
            ("int4 exact", matrix(outputs, inputs, 32, Meaning::Bits4)),
            ("int4", int8(matrix(outputs, inputs, 32, Meaning::Bits4))),
            ("int4 mins", int8(with_mins(outputs, inputs))),
            ("int4 by 128", int8(matrix(outputs, inputs, 128, Meaning::Bits4))),
            ("nf4 exact", matrix(outputs, inputs, 64, nf4)),
        ];
        for rows in [1, 4, 16, 128, 512] {
            let x: Vec<f32> = (0..rows * inputs).map(|i| (i % 29) as f32 / 29.0 - 0.5).collect();
            let line = |name: &str, bytes: usize, f: &mut dyn FnMut()| {
                let label = format!("{outputs} x {inputs}");
                if !format!("{label} {name} {rows}").contains(&filter) {
                    return;
                }
                let seconds = best(f);
                let (speed, work) = (bytes as f64 / seconds, (rows * outputs * inputs) as f64 / seconds);
                let share = 100.0 * speed / ceiling;
                println!("{label:<14} {name:<16} {rows:>5} {:>10.1} {:>8.1} {share:>5.0}% {:>8.1}", seconds * 1e6, speed / 1e9, work / 1e9);
            };
            line("f32", 4 * values.len(), &mut || drop(black_box(matmul::linear(&x, &values, inputs, outputs))));
            if rows > matmul::FEW {
                let _one_order = RowInvariant::begin();
                line("f32 invariant", 4 * values.len(), &mut || drop(black_box(matmul::linear(&x, &values, inputs, outputs))));
            }
            if rows > 128 {
                continue; // where dense products change over
            }
            for (name, pack) in &packs {
                line(name, pack.bytes(), &mut || drop(black_box(kernels::packed::linear(&x, pack))));
            }
        }
    }
}

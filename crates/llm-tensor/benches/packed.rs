//! One token and many through dense and quantised matrices, at sizes of a small and a medium model.
//!
//! `cargo bench -p llm-tensor --bench packed`: microseconds a product, best of several, and bytes a matrix.

use llm_tensor::kernels::{matmul, packed};
use llm_tensor::quant::{Meaning, Packed};
use std::hint::black_box;
use std::time::Instant;

fn best(mut f: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || began.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e6
}

fn matrix(outputs: usize, inputs: usize, group: usize, meaning: Meaning, ordered: bool) -> Packed {
    let codes: Vec<u8> = (0..outputs * inputs).map(|i| ((i * 7919) >> 3) as u8 % if meaning == Meaning::Bits8 { 255 } else { 16 }).collect();
    let groups = inputs / group;
    let zeros = match meaning {
        Meaning::Bits8 => Some(vec![128; outputs * groups]),
        Meaning::Bits4 => Some(vec![8; outputs * groups]),
        Meaning::Table(..) => None,
    };
    let order = ordered.then(|| (0..inputs as u32).map(|i| (i * 5 + 3) % inputs as u32).collect());
    Packed::new([outputs, inputs], group, order, &codes, meaning, vec![0.01; outputs * groups], zeros)
}

fn main() {
    let table = llm_tensor::quant::bitsandbytes::NF4;
    println!("{:<14} {:>5} {:>10} {:>10} {:>10} {:>10} {:>10}", "matrix", "rows", "dense", "int8", "int4", "int4 order", "nf4");
    for (outputs, inputs) in [(192, 192), (512, 192), (192, 512), (2048, 2048), (5632, 2048), (4096, 4096)] {
        let dense: Vec<f32> = (0..outputs * inputs).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
        let packs = [
            matrix(outputs, inputs, inputs, Meaning::Bits8, false),
            matrix(outputs, inputs, 64, Meaning::Bits4, false),
            matrix(outputs, inputs, 64, Meaning::Bits4, true),
            matrix(outputs, inputs, 64, Meaning::Table("nf4", table), false),
        ];
        for rows in [1, 4, 64] {
            let x: Vec<f32> = (0..rows * inputs).map(|i| (i % 29) as f32 / 29.0 - 0.5).collect();
            let mut line = format!(
                "{:<14} {rows:>5} {:>10.1}",
                format!("{outputs} x {inputs}"),
                best(|| drop(black_box(matmul::linear(&x, &dense, inputs, outputs))))
            );
            for pack in &packs {
                line += &format!(" {:>10.1}", best(|| drop(black_box(packed::linear(&x, pack)))));
            }
            println!("{line}");
        }
        let bytes: Vec<String> = packs.iter().map(|p| format!("{:.2}", p.bytes() as f64 / (4 * outputs * inputs) as f64)).collect();
        println!("{:<20} bytes of dense: {}", "", bytes.join(", "));
    }
}

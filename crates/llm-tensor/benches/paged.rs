//! Attention against the paged cache in its three formats: many sequences decoding, one long one, and pieces of prompts.
//!
//! `cargo bench -p llm-tensor --bench paged`: milliseconds for one layer, best of several, and the largest difference from `f32`.

use llm_run::Seed;
use llm_tensor::kernels::kv::{Cells, KvDtype};
use llm_tensor::kernels::paged_attention::{Pool, Query, Shape, forward};
use llm_tensor::ops::Score;
use std::hint::black_box;
use std::time::Instant;

const PAGE: usize = 16;

/// Name, query and key heads, sizes of keys and values, sequences, tokens of each in the cache, new tokens of each.
type Case = (&'static str, (usize, usize), (usize, usize), usize, usize, usize);

const CASES: [Case; 8] = [
    ("32/8 heads of 128, 16 texts", (32, 8), (128, 128), 16, 2048, 1),
    ("14/2 heads of 64, 32 texts", (14, 2), (64, 64), 32, 1024, 1),
    ("12/12 heads of 64, 16 texts", (12, 12), (64, 64), 16, 1024, 1),
    ("14/2 heads of 64, one text", (14, 2), (64, 64), 1, 8192, 1),
    ("latent, 16 heads, 4 texts", (16, 1), (576, 512), 4, 2048, 1),
    ("32/8 heads of 128, prompt", (32, 8), (128, 128), 1, 2048, 256),
    ("14/2 heads of 64, prompt", (14, 2), (64, 64), 1, 512, 512),
    ("12/12 heads of 64, prompt", (12, 12), (64, 64), 1, 1024, 256),
];

fn best(mut f: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || began.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e3
}

fn cells(dtype: KvDtype, rows: usize, heads: usize, width: usize, values: &[f32]) -> Cells {
    let mut cells = Cells::new(dtype, rows, heads, width);
    (0..rows).for_each(|row| cells.write(row, &values[row * heads * width..][..heads * width]));
    cells
}

fn main() {
    println!("{:<28} {:>6} {:>6} {:>9} {:>9} {:>9}   {:<16}", "one layer", "cached", "new", "f32", "bf16", "int8", "off by");
    for (name, (heads, kv_heads), (head_dim, value_dim), texts, context, new) in CASES {
        let latent = kv_heads == 1;
        let each = (context + new).div_ceil(PAGE);
        let rows = texts * each * PAGE;
        let floats = |name: &str, n: usize| -> Vec<f32> {
            let mut rng = Seed(1).stream(name).rng();
            (0..n).map(|_| rng.normal() as f32).collect()
        };
        let mut order: Vec<u32> = (0..(texts * each) as u32).collect();
        Seed(1).stream("pages").rng().shuffle(&mut order);
        let pages: Vec<&[u32]> = order.chunks(each).collect();
        let keys = floats("k", rows * kv_heads * head_dim);
        let values = if latent { Vec::new() } else { floats("v", rows * kv_heads * value_dim) };
        let q = floats("q", texts * new * heads * head_dim);
        let score = Score { scale: 1.0 / (head_dim as f32).sqrt(), softcap: None };
        let shape =
            Shape { heads, kv_heads, head_dim, value_dim, page_size: PAGE, value_stride: if latent { head_dim } else { kv_heads * value_dim } };
        let queries: Vec<Query> = (0..texts * new).map(|i| Query { pages: pages[i / new], first: 0, position: context + i % new }).collect();
        let (mut line, mut off, mut exact) = (format!("{name:<28} {context:>6} {new:>6}"), String::new(), Vec::new());
        for dtype in KvDtype::ALL {
            let keys = cells(dtype, rows, kv_heads, head_dim, &keys);
            let values = (!latent).then(|| cells(dtype, rows, kv_heads, value_dim, &values));
            let pool = Pool { keys: keys.view(), values: values.as_ref().unwrap_or(&keys).view() };
            line += &format!(" {:>9.2}", best(|| drop(black_box(forward(&q, pool, &queries, shape, score)))));
            let out = forward(&q, pool, &queries, shape, score);
            if exact.is_empty() {
                exact = out;
                continue;
            }
            let worst = out.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            off += &format!(" {worst:.1e}");
        }
        println!("{line}  {off}");
    }
}

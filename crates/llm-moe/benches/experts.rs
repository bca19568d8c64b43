//! Does the time of a layer grow with its active or with its total experts? Forward and backward with 8, 16 and 64 experts of which
//! each token uses 2, everything else equal.
//!
//! `cargo bench --workspace --bench experts --profile dev` (the dev profile is optimised). The last line is the ratio of 64 experts to 8,
//! from medians of interleaved steps; the bar is 1.3.

#![allow(missing_docs, non_snake_case)] // criterion_group! writes a public function

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llm_moe::{Moe, MoeConfig};
use llm_run::Seed;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::{host, params};
use std::time::{Duration, Instant};

const HIDDEN: usize = 256;
const TOKENS: usize = 4096;
const EXPERTS: [usize; 3] = [8, 16, 64];
const ROUNDS: usize = 31;

fn random<const D: usize>(name: &str, shape: [usize; D], scale: f64, device: &Device) -> Tensor<D> {
    host::from_vec(values(name, shape.iter().product(), scale), shape, device)
}

fn values(name: &str, n: usize, scale: f64) -> Vec<f32> {
    let mut rng = Seed(1).stream(name).rng();
    (0..n).map(|_| (rng.normal() * scale) as f32).collect()
}

struct Step {
    moe: Moe,
    x_ND: Tensor<2>,
    d_ND: Tensor<2>,
}

impl Step {
    fn new(num_experts: usize) -> Self {
        let device = Device::flex().autodiff();
        let config = MoeConfig { num_experts, moe_intermediate_size: 256, ..Default::default() };
        let moe = Moe::new(&config, HIDDEN, &mut |name, shape| values(name, shape.iter().product(), 0.06), &device).unwrap();
        let step = Self { moe, x_ND: random("x", [TOKENS, HIDDEN], 1.0, &device), d_ND: random("d", [TOKENS, HIDDEN], 1.0, &device) };
        let counts = step.moe.forward(step.x_ND.clone(), None).1.counts;
        assert!(counts.iter().all(|&c| c > 0), "{num_experts} experts: some have no tokens, so there is less to do: {counts:?}");
        step
    }

    /// Forward and backward; returns how many parameters got a gradient.
    fn run(&self) -> usize {
        let x_ND = self.x_ND.clone().detach().require_grad();
        let (y_ND, _) = self.moe.forward(x_ND, None);
        let gradients = (y_ND * self.d_ND.clone()).sum().backward();
        params::gradients(&self.moe, &gradients).len()
    }
}

fn experts(c: &mut Criterion) {
    let steps = EXPERTS.map(Step::new);
    let mut group = c.benchmark_group("forward and backward, 2 of N experts");
    group.sample_size(20).throughput(Throughput::Elements(TOKENS as u64));
    for (n, step) in EXPERTS.iter().zip(&steps) {
        group.bench_function(n.to_string(), |b| b.iter(|| step.run()));
    }
    group.finish();
    let mut times = EXPERTS.map(|_| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for (step, times) in steps.iter().zip(&mut times) {
            let start = Instant::now();
            assert_eq!(step.run(), 4);
            times.push(start.elapsed());
        }
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2]
    });
    println!(
        "medians of {ROUNDS} interleaved steps: {}",
        EXPERTS.iter().zip(medians).map(|(n, t)| format!("{n}: {t:.1?}")).collect::<Vec<_>>().join(", ")
    );
    println!("64 experts : 8 experts = {:.3} (bar 1.3)", ratio(medians[2], medians[0]));
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

criterion_group!(benches, experts);
criterion_main!(benches);

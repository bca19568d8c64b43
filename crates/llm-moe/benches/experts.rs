//! Does the time of a layer grow with its active or with its total experts? Forward and backward with 8, 16 and 64 experts of which
//! each token uses 2, everything else equal.
//!
//! `cargo bench --workspace --bench experts --profile dev` (the dev profile is optimised). The last line is the ratio of 64 experts to 8
//! in neighbouring steps; the bar is 1.3. What remains above 1 is memory: 64 experts have 50 MB of weights and as much gradient,
//! whose fresh pages alone are almost half of the difference.

#![allow(missing_docs, non_snake_case)] // criterion_group! writes a public function

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llm_moe::{Moe, MoeConfig};
use llm_run::Seed;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::{DeviceSpec, host, params};
use std::time::Instant;

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
        let device = DeviceSpec::Cpu.open().expect("the CPU is always there").autodiff();
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
    compare(&steps);
}

/// Steps of all sizes in turn, so that whatever else the machine does meets all of them; the ratio is that of neighbours in time.
fn compare(steps: &[Step; EXPERTS.len()]) {
    let rounds: Vec<[f64; EXPERTS.len()]> = (0..ROUNDS)
        .map(|_| {
            std::array::from_fn(|i| {
                let start = Instant::now();
                assert_eq!(steps[i].run(), 4, "router and three projections have gradients");
                start.elapsed().as_secs_f64() * 1e3
            })
        })
        .collect();
    for (i, n) in EXPERTS.iter().enumerate() {
        let fastest = rounds.iter().map(|r| r[i]).fold(f64::INFINITY, f64::min);
        println!("{n} experts: median {:.1} ms, fastest {fastest:.1} ms", median(rounds.iter().map(|r| r[i])));
    }
    println!("64 experts : 8 experts = {:.3}, median of {ROUNDS} interleaved rounds (bar 1.3)", median(rounds.iter().map(|r| r[2] / r[0])));
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

criterion_group!(benches, experts);
criterion_main!(benches);

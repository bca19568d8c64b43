//! The step of each optimiser alone, on a Llama of 10 M parameters: milliseconds, and bytes of state per parameter.
//!
//! - `cargo bench -p llm-train --bench optimizer_step --profile dev`: Criterion (the dev profile is optimised).
//! - `... -- --json [STEPS]`: one line of JSON an optimiser with the median of so many steps.
//!
//! Model: 4 layers, hidden 384, feed-forward 1024, vocabulary 4096, untied head. Gradients are the initial weights: no optimiser's time depends
//! on them.

#![allow(missing_docs)] // criterion_group! writes a public function

use criterion::{Criterion, Throughput, criterion_group};
use llm_arch::{Decoder, DecoderConfig};
use llm_run::Seed;
use llm_tensor::params;
use llm_tensor::{DeviceSpec, Precision, host};
use llm_train::bench::{Spread, reference_model};
use llm_train::optimizer::{Gradients, MuonConfig, NsCoefficients};
use llm_train::{Clip, Optimizer, OptimizerConfig, OptimizerKind, StateFormat};
use serde_json::json;
use std::time::Instant;

fn kinds() -> Vec<(&'static str, OptimizerConfig)> {
    let of = |kind| OptimizerConfig { kind, ..OptimizerConfig::default() };
    let polar = MuonConfig { ns_coefficients: NsCoefficients::PolarExpress, ..MuonConfig::default() };
    vec![
        ("adamw", of(OptimizerKind::AdamW)),
        ("adamw int8", OptimizerConfig { state: StateFormat::Int8, ..of(OptimizerKind::AdamW) }),
        ("muon", of(OptimizerKind::Muon)),
        ("muon polar_express", OptimizerConfig { muon: polar, ..of(OptimizerKind::Muon) }),
        ("adafactor", of(OptimizerKind::Adafactor)),
        ("lion", of(OptimizerKind::Lion)),
    ]
}

/// An optimiser, what it updates and with what.
struct Stepping {
    model: Option<Decoder>,
    optimizer: Optimizer,
    gradients: Gradients,
    step: u64,
}

impl Stepping {
    fn new(config: OptimizerConfig) -> Self {
        let sizes = DecoderConfig { hidden_size: 384, intermediate_size: 1024, ..reference_model(256) };
        let device = DeviceSpec::Cpu.open().expect("a CPU");
        let model = Decoder::new_as(&sizes, Seed(0), Precision::F32, &device).expect("valid sizes");
        let gradients = params::to_host(&model).into_iter().map(|(name, t)| (name, (t.values.len(), t.values)));
        let gradients = gradients.map(|(name, (n, values))| (name, host::from_vec(values, [n], &device))).collect();
        let optimizer = Optimizer::new(config, &params::layouts(&model)).expect("valid settings");
        Self { model: Some(model), optimizer, gradients, step: 0 }
    }

    fn parameters(&self) -> usize {
        self.model.as_ref().map_or(0, Decoder::num_parameters)
    }

    fn step(&mut self) {
        self.step += 1;
        let gradients = self.gradients.clone();
        let clip = Clip::new(&gradients, 1.0, 1.0);
        if let Some(model) = self.model.take() {
            self.model = Some(self.optimizer.step(model, gradients, &clip, 1e-4, self.step));
        }
    }
}

fn optimizer_step(c: &mut Criterion) {
    for (name, config) in kinds() {
        let mut stepping = Stepping::new(config);
        let mut group = c.benchmark_group("optimizer");
        group.sample_size(10).throughput(Throughput::Elements(stepping.parameters() as u64));
        group.bench_function(name, |b| b.iter(|| stepping.step()));
        group.finish();
    }
}

fn print_json(steps: usize) {
    for (name, config) in kinds() {
        let mut stepping = Stepping::new(config);
        stepping.step();
        let seconds = (0..steps).map(|_| {
            let clock = Instant::now();
            stepping.step();
            clock.elapsed().as_secs_f64()
        });
        let seconds = Spread::of(seconds.collect()).expect("at least one step");
        let n = stepping.parameters();
        let bytes = stepping.optimizer.state_bytes() as f64 / n as f64;
        let ms = |s: f64| (s * 1e5).round() / 1e2;
        println!(
            "{}",
            json!({"bench": "optimizer_step", "optimizer": name, "parameters": n, "ms": ms(seconds.median), "ms_least": ms(seconds.least),
                   "bytes_per_parameter": (bytes * 1e3).round() / 1e3, "threads": llm_tensor::rayon::current_num_threads(), "steps": steps})
        );
    }
}

criterion_group!(benches, optimizer_step);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().position(|a| a == "--json") {
        Some(i) => print_json(arguments.get(i + 1).and_then(|n| n.parse().ok()).unwrap_or(10).max(1)),
        None => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}

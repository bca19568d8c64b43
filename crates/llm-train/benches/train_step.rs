//! One training step (forward, backward, clipping, AdamW) of a 5.3 M-parameter Llama: how fast, and in how much memory.
//!
//! - `cargo bench --workspace --bench train_step --profile dev`: Criterion (the dev profile is optimised).
//! - `... -- --json [STEPS]`: one line of JSON with the median tokens/s, to put beside `benches/peers/train_step.py`.
//! - `... -- --memory`: one line of JSON with the peak memory of steps over rows of 512 to 4096 tokens, 4096 tokens per batch,
//!   each measured in a process of its own.
//!
//! Model: 4 layers, hidden 256, feed-forward 704, vocabulary 4096, 8 heads, untied head; batch 8 x 256. Tokens are random:
//! no operation's time depends on them.

#![allow(missing_docs)] // criterion_group! writes a public function

use criterion::{Criterion, Throughput, criterion_group};
use llm_tensor::{DeviceSpec, Precision};
use llm_train::Recompute;
use llm_train::bench::{self, Setup, Training};
use serde_json::json;
use std::process::Command;

fn setup(batch: usize, length: usize) -> Setup {
    Setup {
        model: bench::reference_model(length),
        device: DeviceSpec::Cpu,
        precision: Precision::F32,
        batch,
        length,
        micro_batches: 1,
        recompute: Recompute::None,
        adapter: None,
    }
}

fn training(batch: usize, length: usize) -> Training {
    Training::new(&setup(batch, length)).expect("a valid configuration on the CPU")
}

fn train_step(c: &mut Criterion) {
    let mut training = training(8, 256);
    let mut group = c.benchmark_group("train");
    group.sample_size(10).throughput(Throughput::Elements(8 * 256));
    group.bench_function("step of 5.3M parameters, 8 x 256 tokens", |b| b.iter(|| training.step().expect("random rows cannot fail")));
    group.finish();
}

/// What `llm-train bench --json --steps STEPS` prints.
fn print_speed(steps: usize) {
    let report = bench::run(&setup(8, 256), 3, steps, None, &mut |_, _, _| {}).expect("a valid configuration on the CPU");
    println!("{}", json!(report));
}

/// Two steps over 4096 tokens in rows of `length`, then the peak.
fn print_peak(length: usize) {
    let mut training = training(4096 / length, length);
    for _ in 0..2 {
        training.step().expect("random rows cannot fail");
    }
    match bench::host_peak_mib() {
        Some(peak) => println!("{peak:.1}"),
        None => eprintln!("no VmHWM in /proc/self/status; peak memory is only measured on Linux"),
    }
}

fn print_memory() {
    let program = std::env::current_exe().expect("the path of this program");
    let peaks: Vec<_> = [512usize, 1024, 2048, 4096]
        .map(|length| {
            let output = Command::new(&program).args(["--memory-of", &length.to_string()]).output().expect("starting this program again");
            assert!(output.status.success(), "rows of {length}: {}", String::from_utf8_lossy(&output.stderr));
            let peak = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().ok();
            json!({"length": length, "rows": 4096 / length, "peak_mib": peak})
        })
        .into();
    println!("{}", json!({"bench": "train_step_memory", "tokens": 4096, "peaks": peaks}));
}

criterion_group!(benches, train_step);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).map(|i| arguments.get(i + 1).and_then(|n| n.parse::<usize>().ok()));
    if let Some(length) = after("--memory-of") {
        print_peak(length.filter(|&n| n > 0 && n <= 4096).expect("--memory-of LENGTH, at most 4096"));
    } else if after("--memory").is_some() {
        print_memory();
    } else if let Some(steps) = after("--json") {
        print_speed(steps.unwrap_or(20).max(1));
    } else {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}

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
use llm_arch::{Decoder, DecoderConfig, PackedBatch};
use llm_run::Seed;
use llm_tensor::{DeviceSpec, ops};
use llm_train::trainer::accumulate;
use llm_train::{AdamW, Loss, Objective, OptimizerConfig, Result};
use serde_json::json;
use std::process::Command;
use std::time::Instant;

/// Next-token prediction on random rows.
struct RandomRows {
    rows: usize,
    length: usize,
    vocab: usize,
}

impl Objective for RandomRows {
    type Batch = (PackedBatch, ops::Indices);

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<Self::Batch>> {
        let mut rng = Seed(1).at(step).rng();
        let mut draw = || (0..self.rows * self.length).map(|_| rng.below(self.vocab) as u32).collect::<Vec<_>>();
        let starts = vec![&[0u32][..]; self.rows];
        Ok(vec![(PackedBatch::documents(draw(), &starts, self.length), draw().into())])
    }

    fn loss(&mut self, model: &Decoder, (batch, targets): &Self::Batch) -> Result<Loss> {
        let tokens = targets.len() as u64;
        Ok(Loss { value: model.nll(model.hidden(batch), targets.clone()).sum() / tokens as f32, tokens })
    }
}

/// Everything a step needs and changes.
struct Training {
    decoder: Option<Decoder>,
    optimizer: AdamW,
    objective: RandomRows,
    step: u64,
}

impl Training {
    fn new(rows: usize, length: usize) -> Self {
        let config = DecoderConfig {
            vocab_size: 4096,
            hidden_size: 256,
            intermediate_size: 704,
            num_hidden_layers: 4,
            num_attention_heads: 8,
            num_key_value_heads: 8,
            max_position_embeddings: length,
            tie_word_embeddings: false,
            ..DecoderConfig::default()
        };
        let decoder =
            Decoder::new(&config, Seed(0), &DeviceSpec::Cpu.open().expect("the CPU is always there").autodiff()).expect("a valid configuration");
        let objective = RandomRows { rows, length, vocab: config.vocab_size };
        Self { decoder: Some(decoder), optimizer: AdamW::new(OptimizerConfig::default()), objective, step: 0 }
    }

    fn parameters(&self) -> usize {
        self.decoder.as_ref().map_or(0, Decoder::num_parameters)
    }

    /// One step; returns its loss.
    fn step(&mut self) -> f32 {
        let decoder = self.decoder.take().expect("put back by every step");
        let (loss, _, gradients) = accumulate(&mut self.objective, &decoder, self.step).expect("random rows cannot fail");
        self.step += 1;
        let (decoder, _) = self.optimizer.step(decoder, gradients, 1e-3, self.step);
        self.decoder = Some(decoder);
        loss
    }
}

fn train_step(c: &mut Criterion) {
    let mut training = Training::new(8, 256);
    let mut group = c.benchmark_group("train");
    group.sample_size(10).throughput(Throughput::Elements(8 * 256));
    group.bench_function("step of 5.3M parameters, 8 x 256 tokens", |b| b.iter(|| training.step()));
    group.finish();
}

/// Median tokens per second of `steps` steps after three that warm up.
fn print_speed(steps: usize) {
    let mut training = Training::new(8, 256);
    let mut loss = 0.0;
    let mut seconds: Vec<f64> = (0..steps + 3)
        .map(|_| {
            let clock = Instant::now();
            loss = training.step();
            clock.elapsed().as_secs_f64()
        })
        .skip(3)
        .collect();
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| (8.0 * 256.0 / seconds).round();
    let record = json!({
        "bench": "train_step",
        "framework": "llm-train",
        "threads": llm_tensor::rayon::current_num_threads(),
        "parameters": training.parameters(),
        "batch": [8, 256],
        "steps": steps,
        "tokens_per_second": rate(seconds[steps / 2]),
        "tokens_per_second_best": rate(seconds[0]),
        "last_loss": loss,
    });
    println!("{record}");
}

/// Peak resident memory of this process in MiB, as Linux counts it.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()? / 1024.0)
}

/// Two steps over 4096 tokens in rows of `length`, then the peak.
fn print_peak(length: usize) {
    let mut training = Training::new(4096 / length, length);
    training.step();
    training.step();
    match peak_mib() {
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

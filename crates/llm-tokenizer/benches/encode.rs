//! Encoding speed beside the `tokenizers` crate, one thread, and the worst case.
//!
//! `cargo bench -p llm-tokenizer --profile dev` (the dev profile is optimised). Text: the file named by `BENCH_TEXT`, else
//! prose and code repeated from here.

#![allow(missing_docs)] // criterion_group! writes a public function

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{Trainer, TrainerConfig, train};
use std::hint::black_box;

const PROSE: &str = include_str!("../src/lib.rs");
const CODE: &str = include_str!("../src/bpe.rs");

fn text() -> String {
    match std::env::var("BENCH_TEXT") {
        Ok(path) => std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("BENCH_TEXT={path}: {e}")),
        Err(_) => [PROSE, CODE].concat().repeat(60),
    }
}

fn pair(text: &str) -> (Tokenizer, tokenizers::Tokenizer) {
    let ours = train([text], &TrainerConfig::default()).unwrap();
    let dir = std::env::temp_dir().join(format!("llm-tokenizer-bench-{}", std::process::id()));
    ours.save(&dir).unwrap();
    let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    (ours, theirs)
}

fn encode(c: &mut Criterion) {
    let text = text();
    let (ours, theirs) = pair(&text);
    // Documents of about 4 kB, as a packer sees them.
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let documents: Vec<String> = lines.chunks(80).map(|chunk| chunk.concat()).collect();
    let mut group = c.benchmark_group("encode");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("ours, one thread", |b| b.iter(|| documents.iter().map(|d| ours.encode(black_box(d)).len()).sum::<usize>()));
    group.bench_function("ours, batch", |b| b.iter(|| ours.encode_batch(black_box(&documents)).len()));
    group.bench_function("tokenizers, one thread", |b| {
        b.iter(|| documents.iter().map(|d| theirs.encode_fast(black_box(d.as_str()), false).unwrap().get_ids().len()).sum::<usize>())
    });
    let ids = ours.encode(&text);
    group.bench_function("ours, decode", |b| b.iter(|| ours.decode(black_box(&ids), true).len()));
    for (name, unit) in [("worst case a", "a"), ("worst case CJK", "日本語天気")] {
        let long = unit.repeat(1_000_000 / unit.len());
        group.throughput(Throughput::Bytes(long.len() as u64));
        group.bench_function(name, |b| b.iter(|| ours.encode(black_box(&long)).len()));
    }
    group.finish();
}

fn training(c: &mut Criterion) {
    let text = text();
    let mut group = c.benchmark_group("train");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("vocabulary of 4096", |b| {
        b.iter(|| {
            let mut trainer = Trainer::new(TrainerConfig::default()).unwrap();
            trainer.feed(&[black_box(text.as_str())]);
            trainer.finish().unwrap().1.merges
        })
    });
    group.finish();
}

criterion_group!(benches, encode, training);
criterion_main!(benches);

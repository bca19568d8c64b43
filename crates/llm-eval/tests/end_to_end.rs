//! The program itself on a tiny random model: folder in, `results.json` and `samples.parquet` out, twice the same bytes.

use llm_arch::{Decoder, DecoderConfig, hf};
use llm_data::document::{Document, DocumentWriter};
use llm_eval::results::Results;
use llm_eval::samples::read_graded;
use llm_run::Seed;
use llm_tensor::DeviceSpec;
use llm_tokenizer::trainer::{TrainerConfig, train};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Output};

const TEXT: &str = "How much is 3 + 4? Wie viel ist 3 + 4? The sun shines on the roof of the old house. ";

fn model(dir: &Path, seed: u64) {
    let tokenizer = train([TEXT.repeat(30)], &TrainerConfig { vocab_size: 320, ..TrainerConfig::default() }).unwrap();
    let config = DecoderConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 96,
        bos_token_id: tokenizer.bos_id(),
        eos_token_id: tokenizer.special_id("<|eot_id|>").into_iter().collect(),
        ..DecoderConfig::default()
    };
    let decoder = Decoder::new(&config, Seed(seed), &DeviceSpec::Cpu.open().unwrap()).unwrap();
    hf::save(dir, &decoder).unwrap();
    tokenizer.save(dir).unwrap();
}

fn inputs(dir: &Path) {
    let mut writer = DocumentWriter::create(&dir.join("heldout")).unwrap();
    for i in 0..6 {
        let text = TEXT.repeat(i + 1);
        writer.push(Document { id: format!("d{i}"), text, domain: "docs".into(), lang: Some("en".into()), ..Document::default() }).unwrap();
    }
    writer.finish().unwrap();
    let row = |i: usize| {
        let messages = json!([{"role": "user", "content": format!("How much is {i} + 4?")}, {"role": "assistant", "content": format!("{}", i + 4)}]);
        json!({"id": format!("h{i}"), "lang": "en", "category": "add", "messages": messages, "answer": format!("{}", i + 4)}).to_string()
    };
    std::fs::write(dir.join("heldout.jsonl"), (0..5).map(row).collect::<Vec<_>>().join("\n")).unwrap();
}

fn llm_eval(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-eval")).current_dir(dir).args(arguments).output().unwrap()
}

fn run(dir: &Path, model: &str, out: &str, more: &[&str]) -> Output {
    let model = format!("model={model}");
    let base = ["run", "--set", &model, "--set", "device=cpu", "--set", "documents=heldout", "--set", "train_documents=heldout"];
    let rest = ["--set", "exercises=heldout.jsonl", "--set", "max_tokens=12", "--set", "samples=2", "--out", out];
    llm_eval(dir, &[&base[..], more, &rest[..]].concat())
}

#[test]
fn a_random_model_is_measured_reproducibly_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    inputs(dir);
    model(&dir.join("m1"), 1);
    model(&dir.join("m2"), 2);
    for (name, out) in [("m1", "a"), ("m1", "again"), ("m2", "b")] {
        let output = run(dir, name, out, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("bits_per_byte"));
    }
    for file in ["results.json", "samples.parquet"] {
        assert_eq!(
            std::fs::read(dir.join("a").join(file)).unwrap(),
            std::fs::read(dir.join("again").join(file)).unwrap(),
            "{file} is not reproducible"
        );
    }
    let results = Results::read(&dir.join("a")).unwrap();
    let (bits, baseline) = (&results.tasks["bits_per_byte"], &results.tasks["ngram3"]);
    // A random model is near uniform: about log2(320) bits for each token, and far behind a counter that saw the text.
    let tokens = bits.details["tokens"].as_f64().unwrap();
    let uniform = tokens * 320f64.log2() / bits.details["bytes"].as_f64().unwrap();
    assert!((bits.value / uniform - 1.0).abs() < 0.15, "{} against {uniform}", bits.value);
    assert!(baseline.value < bits.value);
    assert_eq!((results.tasks["exercises"].n, results.samples.len()), (5, 2));
    assert_eq!(read_graded(&dir.join("a")).unwrap().len(), 11);
    let output = llm_eval(dir, &["compare", "a", "b"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && table.contains("bits_per_byte") && table.contains("exercises"), "{table}");

    assert!(run(dir, "m1", "limited", &["--set", "limit=3"]).status.success());
    let refused = llm_eval(dir, &["compare", "a", "limited"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("cannot compare a with limited"));
}

#[test]
fn bad_inputs_end_in_one_line_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    inputs(dir);
    let fails = |arguments: &[&str], expected: &str| {
        let output = llm_eval(dir, arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.starts_with("error: ") && message.contains(expected), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
        assert!(!dir.join("out").exists());
    };
    fails(&["run", "--set", "model=m", "--out", "out"], "nothing to evaluate");
    fails(&["run", "--set", "model=m", "--set", "exercises=missing.jsonl", "--out", "out"], "missing.jsonl");
    fails(&["run", "--set", "model=m", "--set", "documents=missing", "--out", "out"], "missing");
    fails(&["run", "--set", "model=nowhere", "--set", "documents=heldout", "--out", "out"], "nowhere");
}

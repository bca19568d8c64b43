//! `llm-train bench` as a user meets it. If this fails, a speed that is published was measured wrongly or not at all.

use serde_json::Value;
use std::process::{Command, Output};

const TINY: [&str; 10] = ["bench", "--model", "gpt2", "--set", "hidden_size=48", "--set", "num_hidden_layers=1", "--batch", "2", "--steps=2"];
const SMALL: [&str; 8] = ["--set", "num_attention_heads=4", "--set", "num_key_value_heads=4", "--set", "vocab_size=96", "--length", "16"];
const NARROW: [&str; 3] = ["--set", "intermediate_size=64", "--warmup=1"];

fn bench(more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-train")).args(TINY).args(SMALL).args(NARROW).args(more).output().unwrap()
}

#[test]
fn float32_and_bfloat16_steps_are_measured_on_the_cpu() {
    for precision in ["float32", "bfloat16"] {
        let output = bench(&["--precision", precision, "--json", "--peak-tflops", "2"]);
        assert!(output.status.success(), "{precision}: {}", String::from_utf8_lossy(&output.stderr));
        let r: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |key: &str| r[key].as_f64().unwrap_or_else(|| panic!("no {key} in {r}"));
        assert_eq!((r["precision"].as_str(), r["model"].as_str(), r["batch"][1].as_u64()), (Some(precision), Some("gpt2"), Some(16)));
        // Random tokens: the first loss is the entropy of the vocabulary.
        assert!((number("first_loss") - 96f64.ln()).abs() < 0.1, "{r}");
        let rate = 32.0 / r["step_seconds"]["median"].as_f64().unwrap();
        assert!((number("tokens_per_second") - rate).abs() <= 1.0 && number("tokens_per_second_best") >= number("tokens_per_second"));
        let tflops = number("flops_per_token") * rate / 1e12;
        assert!((number("tflops") / tflops - 1.0).abs() < 1e-3 && (number("mfu") / (tflops / 2.0) - 1.0).abs() < 1e-3, "{r}");
    }
}

#[test]
fn the_report_for_people_fits_eighty_columns_and_progress_is_elsewhere() {
    let output = bench(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["tokens/s", "MFU", "--peak-tflops", "host memory", "cpu, ", "2 rows of 16 tokens, 2 steps after 1"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("bench"), "progress goes to stderr");
}

#[test]
fn what_cannot_be_measured_is_an_error_that_says_what_to_change() {
    for (more, words) in [
        (&["--set", "hidden_sise=3"][..], "did you mean `hidden_size`"),
        (&["--set", "num_attention_heads=5"], "num_attention_heads"),
        (&["--set", "max_position_embeddings=8"], "max_position_embeddings=16"),
        (&["--device", "cuda:0"], "--device cpu"),
        (&["--precision", "float8"], "bfloat16"),
        (&["--peak-tflops", "0"], "positive"),
    ] {
        let output = bench(more);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(words), "{more:?}: {message}");
        assert!(output.stdout.is_empty() && !message.contains("panicked"), "{message}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_llm-train")).args(["bench", "--model", "gpt3"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean gpt2"), "{output:?}");
}

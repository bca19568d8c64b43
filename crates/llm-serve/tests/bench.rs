//! `llm-serve bench`: a server of its own is started, measured and ended, and what went wrong is said.

mod common;

use common::tiny_model;
use serde_json::Value;
use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-serve")).arg("bench").args(args).output().unwrap()
}

#[test]
fn a_model_is_served_and_measured() {
    let model = tiny_model();
    let json = model.path().join("bench.json");
    let (dir, file) = (model.path().to_str().unwrap(), json.to_str().unwrap());
    let sizes = ["--requests", "6", "--prompt-tokens", "16", "--output-tokens", "8", "--warmup", "1"];
    let out = bench(&[&["--model", dir, "--device", "cpu", "--concurrency", "1,3", "--rate", "50", "--json", file][..], &sizes].concat());
    let (stdout, stderr) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success(), "{stderr}");
    for line in stdout.lines().skip(1) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.iter().map(|p| p["load"].as_str().unwrap()).collect::<Vec<_>>(), ["1 stream", "3 streams", "50 req/s"]);
    for point in points {
        assert_eq!((&point["complete"], point["errors"].as_object().unwrap().len()), (&6.into(), 0), "{point}");
        assert_eq!((point["prompt_tokens"].as_f64(), point["output_tokens"].as_f64()), (Some(16.0), Some(8.0)));
        assert!(point["output_tokens_per_second"].as_f64().unwrap() > 0.0 && stdout.contains(point["load"].as_str().unwrap()));
    }
    // Prompts alone were measured, and every load compared with them.
    assert_eq!(report["compute"]["streams"], 3);
    assert!(report["compute"]["tokens_per_second"].as_f64().unwrap() > 0.0 && stdout.contains("tokens/s of prompts alone, 3 at a time"));
    for point in points {
        let tokens = point["prompt_tokens_per_second"].as_f64().unwrap() + point["output_tokens_per_second"].as_f64().unwrap();
        let share = point["compute_share"].as_f64().unwrap() * report["compute"]["tokens_per_second"].as_f64().unwrap() / tokens;
        assert!((share - 1.0).abs() < 1e-6, "{point}");
    }
    // Every weight is f32 and counts once, but for the embedding table.
    let weights = std::fs::metadata(model.path().join("model.safetensors")).unwrap().len() as f64;
    let counted = report["ceiling"]["bytes_per_step"].as_f64().unwrap();
    assert!(counted < weights && counted > 0.7 * weights, "{counted} of {weights}");
}

#[test]
fn what_cannot_be_measured_is_said_in_a_line() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (args, words) in [
        (vec!["--model", "no/such/model"], "no/such/model"),
        (vec!["--url", &format!("http://{nobody}")], "cannot connect"),
        (vec!["--url", "https://a"], "https is not supported"),
        (vec!["--url", "http://a", "--concurrency", "0"], "--concurrency"),
    ] {
        let out = bench(&args);
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && stderr.starts_with("error: ") && stderr.contains(words), "{args:?}: {stderr}");
    }
}

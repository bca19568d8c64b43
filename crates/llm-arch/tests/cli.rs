//! The program as a user meets it: presets, folders, typos, JSON. If one of these fails, `llm-arch` answers with nonsense or not at all.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn llm_arch(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-arch")).args(args).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = llm_arch(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

fn stderr(args: &[&str]) -> String {
    let output = llm_arch(args);
    assert!(!output.status.success(), "{args:?} succeeded");
    String::from_utf8(output.stderr).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decoder").join(name)
}

#[test]
fn presets_are_described_within_eighty_columns() {
    let text = stdout(&["inspect", "llama-3-8b"]);
    for part in ["8,030,261,248", "131,072 B", "RTX 4090", "32 of 128, 8 key/value"] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let mut text = text + &stdout(&["inspect", "deepseek-v3", "--batch", "64"]) + &stdout(&["presets"]) + &stdout(&["plan", "--hours", "24"]);
    for preset in json(&["presets", "--json"]).as_array().unwrap() {
        let name = preset["name"].as_str().unwrap();
        text += &stdout(&["inspect", name]);
        text += &stdout(&["plan", "--preset", name, "--gpus", "1024", "--tokens-per-parameter", "2000"]);
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 80 && line.trim_end() == line, "`{line}`");
    }
    assert!(!text.contains('\u{1b}'), "piped output holds terminal codes");
}

#[test]
fn a_huge_preset_answers_at_once_and_in_json() {
    let start = std::time::Instant::now();
    let value = json(&["inspect", "DeepSeek-V3", "--json"]);
    assert!(start.elapsed().as_secs_f64() < 2.0, "took {:?}", start.elapsed());
    assert_eq!(value["report"]["parameters"]["total"], 671_026_404_352u64);
    assert_eq!(value["report"]["kv_bytes_per_token"], 61 * 576 * 2);
    assert_eq!(value["config"]["num_hidden_layers"], 61);
    assert!(value["weights"].is_null());
}

#[test]
fn a_folder_is_compared_with_its_weight_files() {
    let dir = fixture("qwen2");
    let value = json(&["inspect", dir.to_str().unwrap(), "--json"]);
    assert_eq!(value["weights"]["parameters"], value["report"]["parameters"]["total"]);
    assert!(value["weights"]["problem"].is_null());
    assert!(stdout(&["inspect", dir.to_str().unwrap()]).contains("every tensor fits the configuration"));
}

/// Fused projections, stacked experts, transposed matrices, shards, 8-bit blocks with scales: what the headers hold is what we count.
#[test]
fn every_fixture_holds_as_many_numbers_as_its_configuration() {
    let mut folders = 0;
    for entry in std::fs::read_dir(fixture("")).unwrap() {
        let dir = entry.unwrap().path();
        let value = json(&["inspect", dir.to_str().unwrap(), "--json"]);
        if !value["weights"].is_null() {
            assert_eq!(value["weights"]["parameters"], value["report"]["parameters"]["total"], "{}", dir.display());
            folders += 1;
        }
    }
    assert!(folders >= 20, "only {folders} folders with weights");
}

#[test]
fn weights_that_do_not_fit_are_reported_by_name() {
    let dir = fixture("qwen2");
    // One more layer in config.json than in the weights.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("config.json")).unwrap()).unwrap();
    let layers = config["num_hidden_layers"].as_u64().unwrap();
    config["num_hidden_layers"] = (layers + 1).into();
    config.as_object_mut().unwrap().remove("layer_types");
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    let output = llm_arch(&["inspect", copy.path().to_str().unwrap()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && out.contains("DO NOT FIT"), "{out}");
    assert!(err.contains(&format!("model.layers.{layers}.self_attn.q_proj.weight")), "{err}");

    // Without weights the configuration alone is described.
    std::fs::remove_file(copy.path().join("model.safetensors")).unwrap();
    assert!(json(&["inspect", copy.path().to_str().unwrap(), "--json"])["weights"].is_null());
}

#[test]
fn what_is_not_there_is_named() {
    assert!(stderr(&["inspect", "lama-3-8b"]).contains("llama-3-8b"));
    assert!(stderr(&["plan", "--preset", "gpt-2-xxl"]).contains("gpt2-xl"));
    assert!(stderr(&["inspect", "no/such/folder"]).contains("not a folder"));
    let empty = tempfile::tempdir().unwrap();
    assert!(stderr(&["inspect", empty.path().to_str().unwrap()]).contains("config.json"));
    assert!(stderr(&["plan", "--hours", "1", "--gpu", "abacus"]).contains("H100"));
    assert!(stderr(&["plan", "--hours", "1", "--gpu", "CPU 16 GB"]).contains("not published"));
    assert!(stderr(&["plan", "--hours", "1", "--mfu", "40"]).contains("--mfu 40"));
    assert!(stderr(&["plan", "--params", "large"]).contains("124M"));
    assert!(stderr(&["plan"]).contains("--budget"));
    assert!(stderr(&["plan", "--params", "1B", "--hours", "3"]).contains("cannot be used with"));
}

#[test]
fn plans_agree_with_themselves() {
    let by_hours = json(&["plan", "--gpus", "8", "--gpu", "H100", "--hours", "24", "--json"]);
    let run = &by_hours["plan"]["chosen"];
    let number = |v: &Value| v.as_f64().unwrap();
    let params = number(&run["parameters"]).to_string();
    let by_size = json(&["plan", "--params", &params, "--json"]);
    assert!((number(&by_size["plan"]["chosen"]["days"]) - 1.0).abs() < 1e-6, "24 hours became {} days", by_size["plan"]["chosen"]["days"]);
    let cost = number(&run["cost"]).to_string();
    let by_money = json(&["plan", "--budget", &cost, "--price", "2.5", "--json"]);
    assert!((number(&by_money["plan"]["chosen"]["tokens"]) / number(&run["tokens"]) - 1.0).abs() < 1e-6);

    let mixtral = stdout(&["plan", "--preset", "mixtral-8x7b"]);
    assert!(mixtral.contains("active; 46.7 B in all"), "{mixtral}");
    assert!(stdout(&["presets"]).contains("deepseek-v3"));
    assert!(json(&["presets", "--json"]).as_array().unwrap().len() >= 34);
}

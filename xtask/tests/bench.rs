//! `cargo xtask bench` with stand-ins for the programs: shell scripts that answer as they would.
#![cfg(unix)]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const ARCH: &str = r#"#!/bin/sh
echo "llm-arch $*" >> "$(dirname "$0")/calls"
case "$*" in
  *"--device cpu"*) off=1e-6 ;;
  *) off=1e-3 ;;
esac
echo '[{"name":"gpt2","logits":'$off',"hidden":null,"greedy":[30,32],"passed":false}]'
echo "error: 1 of 1 folders differ" >&2
exit 1
"#;

const TRAIN: &str = r#"#!/bin/sh
echo "llm-train $* threads=$RAYON_NUM_THREADS" >> "$(dirname "$0")/calls"
case "$*" in
  *"--batch 16"*) echo "thread panicked" >&2; echo "error: out of memory" >&2; exit 101 ;;
esac
echo '{"batch":[8,64],"tokens_per_second":3000,"tokens_per_second_best":3100,"step_seconds":{"median":0.17},"tflops":0.5,"mfu":null,"host_peak_mib":512}'
"#;

fn stand_ins() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("llm-arch", ARCH), ("llm-train", TRAIN)] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

fn xtask(programs: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("bench").args(arguments).arg("--programs").arg(programs).arg("--out").arg(programs.join("results"));
    command.output().unwrap()
}

fn result(programs: &Path, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(programs.join("results").join(name)).unwrap()).unwrap()
}

#[test]
fn gpu_compares_trains_until_memory_ends_and_saves_all_of_it() {
    let dir = stand_ins();
    let output =
        xtask(dir.path(), &["gpu", "--device", "webgpu:0", "--fixture", "gpt2", "--length", "64", "--batch", "16", "--batch", "8", "--batch", "32"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("3,000") && text.contains("30/32") && text.contains("out of memory"), "{text}");
    assert!(text.lines().filter(|l| !l.contains(".json")).all(|l| l.chars().count() <= 80), "{text}");
    let saved = result(dir.path(), "gpu-webgpu-0.json");
    assert_eq!(saved["parity"]["cpu"][0]["logits"], 1e-6);
    assert_eq!(saved["parity"]["device"][0]["logits"], 1e-3);
    assert_eq!(saved["train"].as_array().unwrap().len(), 2, "nothing larger after a failure");
    assert_eq!(saved["train"][1]["error"].as_str().unwrap().split(" (").next(), Some("out of memory"));
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    for part in
        ["fixtures/decoder/gpt2 --device webgpu:0 --json --tolerance 0.02", "--precision bfloat16 --batch 8 --length 64", "--set vocab_size=50304"]
    {
        assert!(calls.contains(part), "no `{part}` in\n{calls}");
    }
}

#[test]
fn gpu_fails_past_the_tolerance_and_says_when_there_is_no_such_device() {
    let dir = stand_ins();
    let failure = |arguments: &[&str]| {
        let output = xtask(dir.path(), arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(failure(&["gpu", "--device", "cpu", "--fixture", "gpt2", "--batch", "8", "--tolerance", "1e-7"]).contains("1 of 1 models differ"));
    let message = failure(&["gpu", "--device", "tpu"]);
    assert!(message.lines().count() == 1 && message.contains("expected cuda"), "{message}");
    if !["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"].iter().any(|p| Path::new(p).exists()) && cfg!(target_os = "linux") {
        let message = failure(&["gpu"]);
        assert!(message.lines().count() == 1 && message.contains("no NVIDIA card"), "{message}");
    }
}

#[test]
fn train_interleaves_both_and_takes_medians() {
    let dir = stand_ins();
    let python = dir.path().join("python");
    fs::write(&python, "#!/bin/sh\necho \"python $*\" >> \"$(dirname \"$0\")/calls\"\necho '{\"tokens_per_second\":2000}'\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let output = xtask(dir.path(), &["train", "--rounds", "2", "--steps", "3", "--python", python.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let saved = result(dir.path(), "train-cpu.json");
    assert_eq!((saved["ratio"].as_f64(), saved["rounds"]["pytorch"].as_array().map(Vec::len)), (Some(1.5), Some(2)));
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    let order: Vec<&str> = calls.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(order, ["llm-train", "python", "llm-train", "python"]);
    assert!(calls.contains("--steps 3 threads=2") && calls.contains("--steps 3 --threads 2"), "{calls}");

    let output = xtask(dir.path(), &["train", "--rounds", "1"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("not measured"));
    assert!(result(dir.path(), "train-cpu.json")["ratio"].is_null());
}

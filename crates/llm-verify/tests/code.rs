//! Programs as rewards: right ones pass, and every kind of harm is a failed test and nothing more.
#![cfg(target_os = "linux")]

use llm_verify::{RewardSpec, Rewards, Task};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

fn rewards(spec: Value) -> Option<Rewards> {
    let specs: Vec<RewardSpec> = serde_json::from_value(json!([spec])).unwrap();
    let runner = Path::new(env!("CARGO_BIN_EXE_llm-verify"));
    Rewards::with_runner(&specs, Some(runner)).map_err(|reason| println!("skipped: {reason}")).ok()
}

fn columns(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

fn task<'a>(response: &'a str, columns: &'a Map<String, Value>) -> Task<'a> {
    Task { prompt: "Write it.", response, answer: None, columns }
}

const ADD: &str = "<think>Easy.</think>Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.<|eot_id|>";

#[test]
fn right_wrong_and_half_right() {
    let Some(all) = rewards(json!({"kind": "code"})) else { return };
    let Some(share) = rewards(json!({"kind": "code", "credit": "fraction"})) else { return };
    let value = |rewards: &Rewards, response: &str, row: Value| rewards.grade(&[task(response, &columns(row))]).unwrap()[0].total;
    let check = json!({"tests": "def check(candidate):\n    assert candidate(1, 2) == 3\n", "entry_point": "add"});
    let asserts = json!({"tests": ["assert add(1, 2) == 3", "assert add(1, 2) == 4"]});
    let uses_setup = json!({"tests": ["assert add(1, math.floor(2.5)) == 3"], "setup": "import math"});
    assert_eq!(value(&all, ADD, check), Some(1.0));
    assert_eq!(value(&all, ADD, asserts.clone()), Some(0.0));
    assert_eq!(value(&share, ADD, asserts), Some(0.5));
    assert_eq!(value(&all, ADD, uses_setup), Some(1.0));
    assert_eq!(value(&all, "<think>never ends", json!({"tests": ["pass"]})), Some(0.0));
    assert_eq!(value(&all, ADD, json!({})), None, "a row without tests cannot be scored");
    let printed = json!({"tests": [{"input": "2 3\n", "output": "5\n"}, {"input": "1 1", "output": "3"}]});
    let program = "```python\na, b = map(int, input().split())\nprint(a + b)\n```";
    assert_eq!(value(&share, program, printed.clone()), Some(0.5));
    assert_eq!(value(&share, "```\nimport sys\nsys.exit(0)\n```", printed), Some(0.0));
    let message = all.grade(&[task(ADD, &columns(json!({"tests": 5})))]).unwrap_err().to_string();
    assert!(message.contains("row 1") && message.contains("`tests`"), "{message}");
}

#[test]
fn harm_is_a_failed_test() {
    let limits = json!({"seconds": 3.0, "processor_seconds": 1, "memory_bytes": 256 << 20});
    let Some(rewards) = rewards(json!({"kind": "code", "limits": limits})) else { return };
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), "secret").unwrap();
    let reads = format!("assert open('{}').read() == 'secret'", outside.path().display());
    let programs = [
        "import os\nwhile True: os.fork()",
        "x = []\nwhile True: x.append(bytearray(1 << 24))",
        "with open('/tmp/x', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))",
        "import socket\nsocket.create_connection(('127.0.0.1', 22), timeout=1)",
        "import socket\ns = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen()",
        "open('/etc/passwd').read()",
        reads.as_str(),
        "while True: pass",
        "import time\ntime.sleep(3600)",
        "import sys\nfor _ in range(1024): sys.stdout.write('x' * (1 << 20))",
        "exit(0)",
        "import os\nos.kill(os.getppid(), 9); os.kill(-1, 9); os.abort()",
        "import ctypes\nctypes.string_at(0)",
    ];
    let row = columns(json!({"tests": ["assert True"]}));
    let responses: Vec<String> = programs.iter().map(|p| format!("```python\n{p}\n```")).collect();
    let tasks: Vec<Task> = responses.iter().map(|r| task(r, &row)).collect();
    let before = llm_run::run::memory_bytes().unwrap_or(0);
    let start = Instant::now();
    let scored = rewards.grade(&tasks).unwrap();
    for (program, scored) in programs.iter().zip(&scored) {
        assert_eq!(scored.total, Some(0.0), "{program}");
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(llm_run::run::memory_bytes().unwrap_or(0) < before + (128 << 20));
    assert_eq!(std::fs::read_to_string(outside.path()).unwrap(), "secret");
    // And the sandbox still works.
    assert_eq!(rewards.grade(&[task("```python\nx = 1\n```", &row)]).unwrap()[0].total, Some(1.0));
}

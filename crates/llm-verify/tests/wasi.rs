//! The sandbox in WebAssembly: the same evil programs as in `sandbox.rs`, each with its verdict; and the same verdicts as the cell of
//! processes on HumanEval. Needs `--features wasi` and a `python.wasm` named by LLM_PYTHON_WASM.
#![cfg(feature = "wasi")]

mod verdict;

use llm_verify::sandbox::{Limits, Outcome, PYTHON_WASM, Sandbox, SandboxChoice, SandboxKind};
use llm_verify::{RewardSpec, Rewards, Task};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use verdict::{fails, passes, run};

const CELL: &str = env!("CARGO_BIN_EXE_llm-verify");

fn python() -> Option<PathBuf> {
    let path = std::env::var_os(PYTHON_WASM).map(PathBuf::from);
    if path.is_none() {
        println!("skipped: {PYTHON_WASM} names no python.wasm");
    }
    path
}

fn open(limits: Limits) -> Option<Sandbox> {
    let choice = SandboxChoice { kind: SandboxKind::Wasi, python_wasm: Some(python()?) };
    Some(Sandbox::open(&choice, Some(Path::new(CELL)), limits).unwrap())
}

fn sandbox() -> Option<&'static Sandbox> {
    static SANDBOX: OnceLock<Option<Sandbox>> = OnceLock::new();
    SANDBOX.get_or_init(|| open(Limits { seconds: 6.0, processor_seconds: 3, ..Limits::default() })).as_ref()
}

/// The deadline of a program and its grace.
const WITHIN: Duration = Duration::from_secs(10);

#[test]
fn ordinary_programs() {
    passes("def add(a, b):\n    return a + b\nassert add(2, 3) == 5\nprint('ü')\n");
    passes("import tempfile\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x')\n");
    passes("import hashlib, json, re, math, random, collections, itertools, heapq, datetime, decimal, fractions, bisect, typing, string\n");
    passes("import hashlib\nassert hashlib.md5(b'Hello world').hexdigest() == '3e25960a79dbc69b674cd4ec67a72c62'\n");
    fails("assert 1 == 2\n", "AssertionError");
    fails("def f(:\n", "SyntaxError");
    fails("def f(): return f()\nf()\n", "RecursionError");
    fails("import numpy_that_is_not_there\n", "ModuleNotFoundError");
    fails("input()\n", "EOFError");
}

#[test]
fn ending_before_the_end_is_not_passing() {
    for program in
        ["exit(0)\nassert False\n", "import os\nos._exit(0)\n", "import sys\nsys.exit()\n", "raise SystemExit\n", "import os\nos._exit(80)\n"]
    {
        fails(program, "");
    }
    fails("import os\nos.abort()\n", "");
}

#[test]
fn endless_loops_end() {
    for program in ["while True: pass\n", "import time\ntime.sleep(1000)\n", "import time\nwhile True: time.sleep(0.001)\n"] {
        if let Some(outcome) = run(program) {
            assert_eq!(outcome, Outcome::TimedOut, "{program}");
        }
    }
    // The processor's clock ends what runs, long before the wall's.
    #[cfg(target_os = "linux")]
    if let Some(patient) = open(Limits { seconds: 60.0, processor_seconds: 1, ..Limits::default() }) {
        let start = Instant::now();
        assert_eq!(patient.run("while True: pass\n"), Outcome::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    }
}

#[test]
fn there_are_no_processes_and_threads() {
    fails("import os\nwhile True: os.fork()\n", "AttributeError");
    fails("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'])\n", "");
    fails("import os\nos.system('true')\n", "AttributeError");
    fails("import os\nos.execv('/bin/true', ['true'])\n", "");
    fails("import threading\nthreading.Thread(target=print).start()\n", "RuntimeError");
    fails("import os, signal\nos.kill(1, 9)\n", "AttributeError");
    fails("import ctypes\nctypes.string_at(0)\n", "ModuleNotFoundError");
}

#[test]
fn memory_is_bounded() {
    for program in ["x = bytearray(1 << 30)\n", "x = []\nwhile True: x.append(bytearray(1 << 20))\n", "x = 'a'\nwhile True: x += x\n"] {
        if let Some(outcome) = run(program) {
            // On a slow machine the clock may be first.
            assert!(matches!(outcome, Outcome::Limit { what: "memory" } | Outcome::TimedOut), "{outcome:?} for {program}");
        }
    }
    fails("x = bytearray(4 << 30)\n", "OverflowError");
    passes("x = bytearray(300 << 20)\n");
}

#[test]
fn the_disk_is_bounded() {
    fails("with open('/tmp/big', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))\n", "OSError");
    fails("i = 0\nwhile True:\n    i += 1\n    with open(f'/tmp/{i}', 'wb') as f: f.write(b'x' * (1 << 20))\n", "No space left");
    fails("i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'wb').close()\n", "No space left");
    fails("held = []\nwhile True: held.append(open('/tmp/x', 'wb'))\n", "No file descriptors available");
    fails("import os\nos.truncate('/tmp/program.py', 1 << 40)\n", "No space left");
    fails("f = open('/tmp/x', 'wb')\nf.seek(1 << 40)\nf.write(b'x')\nf.flush()\n", "No space left");
    // Room comes back.
    passes("import os\nfor _ in range(8):\n    with open('/tmp/x', 'wb') as f: f.write(b'x' * (10 << 20))\n    os.remove('/tmp/x')\n");
}

#[test]
fn files_are_files() {
    passes(
        "import os, shutil\nos.mkdir('/tmp/d')\nos.makedirs('d/e/f')\nwith open('d/e/f/x.txt', 'w') as f: f.write('one\\ntwo\\n')\nwith open('d/e/f/x.txt', 'a') as f: f.write('three\\n')\nassert open('d/e/f/x.txt').read().split() == ['one', 'two', 'three']\nassert os.path.getsize('/tmp/d/e/f/x.txt') == 14 and os.path.isdir('d') and not os.path.isdir('d/e/f/x.txt')\nassert [(p, sorted(d), sorted(f)) for p, d, f in os.walk('d')] == [('d', ['e'], []), ('d/e', ['f'], []), ('d/e/f', [], ['x.txt'])]\nos.rename('d/e/f/x.txt', 'd/y')\nassert sorted(os.listdir('d')) == ['e', 'y']\nwith open('d/y', 'r+b') as f:\n    f.seek(4)\n    f.write(b'TWO')\n    f.seek(0, 2)\n    assert f.tell() == 14\nassert open('d/y').readlines()[1] == 'TWO\\n'\nshutil.copy('d/y', 'z')\nshutil.rmtree('d')\nassert sorted(os.listdir('.')) == ['program.py', 'z']\nwith open(os.devnull, 'w') as f: print('x', file=f)\n",
    );
    passes("import os\nfor i in range(300): open(f'/tmp/{i:04}' + 'n' * 100, 'w').close()\nassert len(os.listdir('/tmp')) == 301\n");
}

#[test]
fn output_is_bounded() {
    for program in ["while True: print('x' * 10000)\n", "import sys\nwhile True: sys.stderr.write('y' * 10000)\n"] {
        if let Some(outcome) = run(program) {
            assert_eq!(outcome, Outcome::Limit { what: "output" }, "{program}");
        }
    }
    // A gigabyte, of which nothing is kept.
    let before = llm_run::run::memory_bytes().unwrap_or(0);
    if let Some(outcome) = run("import sys\nfor _ in range(1024): sys.stdout.write('x' * (1 << 20))\n") {
        assert_eq!(outcome, Outcome::Limit { what: "output" });
        assert!(llm_run::run::memory_bytes().unwrap_or(0) < before + (64 << 20));
    }
    if let Some(Outcome::Failed { stderr }) = run("import sys\nsys.stderr.write('y' * 100000)\nassert False\n") {
        assert!(stderr.len() <= 2048 + 3 && stderr.contains("AssertionError"), "{} bytes", stderr.len());
    }
}

#[test]
fn there_is_no_network() {
    // Whatever of a socket module there is: nothing opens or connects.
    fails("import socket\nsocket.socket()\n", "");
    fails("import socket\nsocket.create_connection(('127.0.0.1', 80))\n", "");
    fails("import socket\ns = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen()\n", "");
    fails("import urllib.request\nurllib.request.urlopen('http://example.org')\n", "");
    for fd in 0..8 {
        passes(&format!(
            "import socket\ntry:\n    s = socket.socket(fileno={fd})\n    s.send(b'x'); s.recv(1)\n    raise SystemExit('sent')\nexcept (OSError, AttributeError, ValueError): pass\n"
        ));
    }
}

#[test]
fn the_host_is_out_of_sight_and_reach() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let path = outside.path().display();
    fails(&format!("open('{path}')\n"), "FileNotFoundError");
    for gone in ["/etc/passwd", "/proc/self/status", "/sys", "/etc/shadow", "/home", "/var", "/dev/sda", "/dev/mem", "/run", "/root", "/bin/sh"] {
        passes(&format!("import os\nassert not os.path.exists('{gone}') and not os.path.exists('/tmp/../..{gone}')\n"));
    }
    for place in ["/tmp/..", "/tmp/../etc", "/tmp/../../etc/passwd", "/dev/../etc/passwd", "../etc/passwd", "/proc/self/fd/0"] {
        passes(&format!(
            "import os\nfor use in (os.listdir, lambda p: open(p), lambda p: open(p + '/written', 'w')):\n    try:\n        found = use('{place}')\n    except OSError: continue\n    assert isinstance(found, list) and set(found) <= {{'tmp', 'dev', 'usr'}}, found\n"
        ));
    }
    for place in ["/", "/usr/lib", "/usr", "/lib", "/usr/local", "/bin", "/dev/null", "/nowhere"] {
        passes(&format!("try:\n    open('{place}/written', 'w')\n    raise SystemExit('written')\nexcept OSError:\n    pass\n"));
    }
    passes(
        "import os\nfor make in (os.symlink, os.link):\n    try:\n        make('/etc/passwd', '/tmp/link')\n        raise SystemExit('linked')\n    except OSError: pass\n",
    );
    passes("import os\nassert os.listdir('/tmp') == ['program.py'] and os.getcwd() == '/tmp' and os.path.expanduser('~') == '/tmp'\n");
    passes("import os\nassert sorted(os.environ) == ['HOME', 'TMPDIR'], os.environ\n");
    passes("import sys\nassert getattr(sys, 'orig_argv', []) == [] and len(sys.argv) == 1, sys.argv\n");
    assert!(outside.path().exists());
}

#[test]
fn verdicts_do_not_depend_on_luck() {
    let program = "import random, os\nraise ValueError(str(random.random()) + os.urandom(8).hex() + str(hash('x')))\n";
    assert_eq!(run(program), run(program));
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    let Some(sandbox) = sandbox() else { return };
    std::thread::scope(|scope| {
        let run = |i: usize| sandbox.run(&format!("open('/tmp/mine', 'x').write('{i}')\nassert open('/tmp/mine').read() == '{i}'\n"));
        let runs: Vec<_> = (0..4).map(|i| scope.spawn(move || run(i))).collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), Outcome::Passed);
        }
    });
}

#[test]
fn without_a_cell_nothing_runs() {
    let Some(python) = python() else { return };
    let choice = SandboxChoice { kind: SandboxKind::Wasi, python_wasm: Some(python) };
    for runner in ["/bin/true", "/bin/false", "/nonexistent"] {
        assert!(Sandbox::open(&choice, Some(Path::new(runner)), Limits::default()).is_err(), "{runner}");
    }
}

#[test]
fn what_is_no_python_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let choice = SandboxChoice { kind: SandboxKind::Wasi, python_wasm: Some(path) };
        Sandbox::open(&choice, Some(Path::new(CELL)), Limits::default()).unwrap_err()
    };
    let text = named("text.wasm", b"#!/bin/sh\n");
    assert!(text.contains("not a WebAssembly module") && text.contains("npm pack"), "{text}");
    let empty = named("empty.wasm", b"\0asm\x01\0\0\0");
    assert!(empty.contains("_start"), "{empty}");
    let broken = named("broken.wasm", b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\x0f");
    assert!(broken.contains("broken.wasm"), "{broken}");
}

#[test]
fn as_a_reward() {
    let Some(python) = python() else { return };
    let specs: Vec<RewardSpec> =
        serde_json::from_value(json!([{"kind": "code", "sandbox": "wasi", "python_wasm": python, "credit": "fraction"}])).unwrap();
    let rewards = Rewards::with_runner(&specs, Some(Path::new(CELL))).unwrap();
    let value = |response: &str, row: Value| {
        let columns = row.as_object().cloned().unwrap();
        rewards.grade(&[Task { prompt: "Write it.", response, answer: None, columns: &columns }]).unwrap()[0].total
    };
    let add = "<think>Easy.</think>Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.<|eot_id|>";
    assert_eq!(value(add, json!({"tests": ["assert add(1, 2) == 3", "assert add(1, 2) == 4"]})), Some(0.5));
    let printed = json!({"tests": [{"input": "2 3\n", "output": "5\n"}, {"input": "1 1", "output": "3"}]});
    assert_eq!(value("```python\na, b = map(int, input().split())\nprint(a + b)\n```", printed.clone()), Some(0.5));
    assert_eq!(value("```\nimport sys\nsys.exit(0)\n```", printed), Some(0.0));
}

/// Solutions of HumanEval, and the same cut short: both sandboxes say the same of every one.
#[test]
fn both_sandboxes_agree_on_humaneval() {
    const TASKS: usize = 40;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/benchmarks/humaneval/HumanEval.jsonl");
    let Ok(text) = std::fs::read_to_string(&file) else { return println!("skipped: {} is absent", file.display()) };
    let Some(wasi) = open(Limits::default()) else { return };
    let process = match Sandbox::new(Path::new(CELL), Limits::default()) {
        Ok(sandbox) => sandbox,
        Err(reason) => return println!("skipped: no isolation here: {reason}"),
    };
    let mut seconds = [0.0; 2];
    for line in text.lines().take(TASKS) {
        let row: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| row[name].as_str().unwrap().to_string();
        let program = |body: &str| format!("{}{body}\n{}\ncheck({})\n", field("prompt"), field("test"), field("entry_point"));
        for (body, right) in [(field("canonical_solution"), true), ("    return None\n".to_string(), false)] {
            for (sandbox, seconds) in [&wasi, &process].into_iter().zip(&mut seconds) {
                let start = Instant::now();
                let outcome = sandbox.run(&program(&body));
                *seconds += start.elapsed().as_secs_f64();
                assert_eq!(outcome == Outcome::Passed, right, "{:?} {}: {outcome:?}", sandbox.kind(), field("task_id"));
            }
        }
    }
    let each = |seconds: f64| 1000.0 * seconds / (2 * TASKS) as f64;
    println!("ms per program: wasi {:.0}, process {:.0}", each(seconds[0]), each(seconds[1]));
}

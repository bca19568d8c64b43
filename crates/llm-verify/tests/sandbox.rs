//! Evil programs: every one is stopped, in bounded time, and the host is as it was.
#![cfg(target_os = "linux")]

mod verdict;

use llm_verify::sandbox::{Limits, Outcome, Sandbox};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use verdict::{fails, passes, run};

fn sandbox() -> Option<&'static Sandbox> {
    static SANDBOX: OnceLock<Option<Sandbox>> = OnceLock::new();
    let made = SANDBOX.get_or_init(|| {
        let limits = Limits { seconds: 3.0, processor_seconds: 1, ..Limits::default() };
        Sandbox::new(Path::new(env!("CARGO_BIN_EXE_llm-verify")), limits).map_err(|reason| println!("skipped: no isolation here: {reason}")).ok()
    });
    made.as_ref()
}

/// The deadline of a program and its grace.
const WITHIN: Duration = Duration::from_secs(8);

#[test]
fn ordinary_programs() {
    passes("def add(a, b):\n    return a + b\nassert add(2, 3) == 5\nprint('ü')\n");
    passes("import tempfile\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x')\n");
    passes("import threading\nt = threading.Thread(target=print); t.start(); t.join()\n");
    passes("import hashlib, json, re, math, random, collections, itertools, heapq, datetime, decimal, fractions, bisect\n");
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
    fails("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\nos.abort()\n", "");
}

#[test]
fn endless_loops_end() {
    for program in [
        "while True: pass\n",
        "import time\ntime.sleep(1000)\n",
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass\n",
    ] {
        if let Some(outcome) = run(program) {
            assert_eq!(outcome, Outcome::TimedOut, "{program}");
        }
    }
    // The processor's clock ends what runs, long before the wall's.
    let patient = Limits { seconds: 60.0, processor_seconds: 1, ..Limits::default() };
    if sandbox().is_some() {
        let start = Instant::now();
        let patient = Sandbox::new(Path::new(env!("CARGO_BIN_EXE_llm-verify")), patient).unwrap();
        assert_eq!(patient.run("while True: pass\n"), Outcome::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    }
}

#[test]
fn fork_bombs_fizzle() {
    fails("import os\nwhile True: os.fork()\n", "");
    fails("import subprocess\nrunning = [subprocess.Popen(['/usr/bin/sleep', '9']) for _ in range(64)]\n", "unavailable");
    fails("import threading, time\nfor _ in range(64): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n", "thread");
    // Two processes that replace each other for ever.
    if let Some(outcome) = run("import os\nwhile True:\n    if os.fork(): os._exit(0)\n") {
        assert!(matches!(outcome, Outcome::Failed { .. } | Outcome::TimedOut), "{outcome:?}");
    }
}

#[test]
fn daemons_do_not_outlive_their_program() {
    let mark = format!("llm-sandbox-daemon-{}", std::process::id());
    let program = format!(
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', '{mark}'])\n    os._exit(0)\ntime.sleep(0.3)\n"
    );
    passes(&program);
    if sandbox().is_some() {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.contains(&mark) || line.contains("sandbox-"), "still running: {line}");
            assert!(!(line.contains(&mark) && line.contains("time.sleep(60)")), "still running: {line}");
        }
    }
}

#[test]
fn memory_is_bounded() {
    for program in ["x = bytearray(4 << 30)\n", "x = []\nwhile True: x.append(bytearray(1 << 20))\n", "x = 'a'\nwhile True: x += x\n"] {
        if let Some(outcome) = run(program) {
            // On a slow machine the clock may be first.
            assert!(matches!(outcome, Outcome::Limit { what: "memory" } | Outcome::TimedOut), "{outcome:?} for {program}");
        }
    }
    // Memory that the limit on address space does not count.
    fails("import os\nos.memfd_create('x')\n", "PermissionError");
    fails("import mmap, os\nf = open('/dev/shm/x', 'wb')\n", "No such file");
}

#[test]
fn the_disk_is_bounded() {
    fails("with open('/tmp/big', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))\n", "OSError");
    fails("i = 0\nwhile True:\n    i += 1\n    with open(f'/tmp/{i}', 'wb') as f: f.write(b'x' * (1 << 20))\n", "No space left");
    fails("i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'wb').close()\n", "No space left");
    fails("held = []\nwhile True: held.append(open('/tmp/x', 'wb'))\n", "Too many open files");
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
    fails("import socket\nsocket.socket()\n", "PermissionError");
    fails("import socket\nsocket.create_connection(('127.0.0.1', 80))\n", "PermissionError");
    fails("import socket\nsocket.getaddrinfo('example.org', 80)\n", "gaierror");
    fails("import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\n", "PermissionError");
    fails("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\n", "PermissionError");
    fails("import urllib.request\nurllib.request.urlopen('http://example.org')\n", "URLError");
}

#[test]
fn the_host_is_out_of_sight_and_reach() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let path = outside.path().display();
    fails(&format!("open('{path}')\n"), "FileNotFoundError");
    for gone in ["/etc/passwd", "/proc/self/status", "/proc/1/environ", "/sys", "/etc/shadow", "/home", "/var", "/dev/sda", "/dev/mem", "/run"] {
        passes(&format!("import os\nassert not os.path.exists('{gone}')\n"));
    }
    for place in ["/", "/usr/lib", "/usr", "/dev", "/lib", "/usr/local", "/bin"] {
        passes(&format!("try:\n    open('{place}/written', 'w')\n    raise SystemExit('written')\nexcept OSError:\n    pass\n"));
    }
    passes("import sys, os\ntry:\n    open(os.path.join(sys.base_prefix, 'written'), 'w')\n    raise SystemExit('written')\nexcept OSError: pass\n");
    passes("import os\nassert os.listdir('/tmp') == ['program.py'] and os.getcwd() == '/tmp' and os.path.expanduser('~') == '/tmp'\n");
    passes(
        "import os\nassert sorted(os.environ) == sorted(['HOME', 'TMPDIR', 'PATH', 'LANG', 'OMP_NUM_THREADS', 'PYTHONHASHSEED'] + [k for k in os.environ if k == 'LC_CTYPE']), os.environ\n",
    );
    // Everything that can be deleted is its own temporary folder.
    passes("import shutil\nfor place in ['/tmp', '/dev', '/usr/bin', '/usr/include']: shutil.rmtree(place, ignore_errors=True)\n");
    assert!(outside.path().exists() && Path::new("/usr/lib").exists());
}

#[test]
fn nobody_can_be_killed_or_traced() {
    passes("import os\nassert os.getpid() == 1 and os.getppid() == 0\n");
    let me = std::process::id();
    passes(&format!("import os\ntry:\n    os.kill({me}, 9)\n    raise SystemExit('killed')\nexcept ProcessLookupError: pass\n"));
    passes("import os, signal\nsignal.signal(15, signal.SIG_IGN)\ntry: os.kill(-1, 9)\nexcept OSError: pass\n");
    passes("import os\ntry: os.killpg(0, 0)\nexcept OSError: pass\n");
    // The group of the process, to which its cell must not belong: process 1 itself is immune inside.
    passes("import os\nfor who in (0, os.getppid(), -1, 1):\n    try: os.kill(who, 9)\n    except OSError: pass\n");
    passes(
        "import os\nassert os.getuid() == 1000 and os.geteuid() == 1000 and os.getgroups() in ([], [1000], [65534])\nfor change in (os.setuid, os.setgid):\n    try:\n        change(0)\n        raise SystemExit('root')\n    except OSError: pass\n",
    );
    // ptrace, mount, unshare, namespaces of its own, another root: through the C library, without Python's help.
    passes(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nCLONE_NEWUSER = 0x10000000\nassert libc.unshare(CLONE_NEWUSER) == -1\nassert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == -1\nassert libc.ptrace(0, 0, 0, 0) == -1\nassert libc.chroot(b'/tmp') == -1\nassert libc.umount2(b'/usr', 2) == -1\nassert libc.syscall(56, CLONE_NEWUSER | 17, 0, 0, 0, 0) == -1 or __import__('platform').machine() != 'x86_64'\nassert libc.shmget(0, 1 << 20, 0o1666) == -1\nassert libc.setpriority(0, 0, -10) == -1\nassert libc.sethostname(b'x', 1) == -1\n",
    );
    // The second numbers of system calls on x86-64: unshare, ptrace (x32's own), socket.
    passes(
        "import ctypes, platform\nlibc = ctypes.CDLL(None, use_errno=True)\nif platform.machine() == 'x86_64':\n    X32 = 0x40000000\n    assert libc.syscall(X32 | 272, 0x10000000) == -1\n    assert libc.syscall(X32 | 521, 0, 0, 0, 0) == -1\n    assert libc.syscall(X32 | 41, 2, 1, 0) == -1\nassert libc.klogctl(3, ctypes.create_string_buffer(64), 64) == -1\n",
    );
    // Neither the host's name nor the code that means success is in sight.
    passes("import os, sys\nassert os.uname().nodename == 'sandbox' and getattr(sys, 'orig_argv', []) == [], os.uname()\n");
    passes(
        "import os\ntry:\n    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\n    raise SystemExit('real time')\nexcept OSError: pass\n",
    );
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    let Some(sandbox) = sandbox() else { return };
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|i| {
                scope.spawn(move || {
                    sandbox.run(&format!(
                        "import threading, time\nt = threading.Thread(target=time.sleep, args=(0.2,)); t.start(); t.join()\nassert {i} == {i}\n"
                    ))
                })
            })
            .collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), Outcome::Passed);
        }
    });
}

#[test]
fn without_a_cell_nothing_runs() {
    // A program that is no cell must not be taken for one, whatever it exits with.
    for runner in ["/bin/true", "/bin/false", "/nonexistent"] {
        assert!(Sandbox::new(Path::new(runner), Limits::default()).is_err(), "{runner}");
    }
}

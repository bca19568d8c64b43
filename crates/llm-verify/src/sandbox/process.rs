//! The sandbox of processes, from outside: which Python, and what of the machine a cell shows.

use super::{CELL, Limits, Outcome, watch};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a cell is told, on its standard input.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) program: String,
    pub(super) python: PathBuf,
    /// Shown inside, read-only, at the same place.
    pub(super) readable: Vec<PathBuf>,
    /// An empty folder to mount the new root on.
    pub(super) root: PathBuf,
    pub(super) limits: Limits,
    /// Python's exit code at the true end of the program.
    pub(super) end_code: u8,
}

/// The machine's Python and where cells put their root.
#[derive(Debug)]
pub(super) struct Cells {
    python: PathBuf,
    readable: Vec<PathBuf>,
    root: tempfile::TempDir,
    runs: AtomicU64,
}

#[derive(Deserialize)]
struct Interpreter {
    executable: PathBuf,
    prefixes: Vec<PathBuf>,
}

impl Cells {
    /// Find `python3` on `PATH`, and what it needs.
    pub(super) fn new() -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err(
                "the machine's Python only runs generated code on Linux, where it can be isolated; sandbox = \"wasi\" runs anywhere".to_string()
            );
        }
        let interpreter = interpreter()?;
        let mut readable: Vec<PathBuf> = ["/usr", "/bin", "/lib", "/lib32", "/lib64"].iter().map(PathBuf::from).filter(|p| p.exists()).collect();
        for prefix in interpreter.prefixes {
            if prefix.parent().is_none() {
                return Err("the Python installation is the root folder itself; its files cannot be shown alone".to_string());
            }
            if !readable.iter().any(|shown| prefix.starts_with(shown)) {
                readable.push(prefix);
            }
        }
        let root = tempfile::Builder::new().prefix("llm-sandbox-").tempdir().map_err(|e| format!("temporary folder: {e}"))?;
        Ok(Cells { python: interpreter.executable, readable, root, runs: AtomicU64::new(0) })
    }

    /// Run `program` in a cell.
    pub(super) fn run(&self, runner: &Path, program: &str, limits: &Limits) -> Result<Outcome, String> {
        // Not 0, which Python ends with when a program calls exit() before its tests.
        let end_code = 101 + (self.runs.fetch_add(1, Ordering::Relaxed) % 101) as u8;
        let order = Order {
            program: program.to_string(),
            python: self.python.clone(),
            readable: self.readable.clone(),
            root: self.root.path().to_path_buf(),
            limits: *limits,
            end_code,
        };
        watch::watch(runner, CELL, &order, limits)
    }
}

/// Which files are Python's.
fn interpreter() -> Result<Interpreter, String> {
    const ASK: &str = "import json, os, sys\n\
        real = os.path.realpath\n\
        executable = real(getattr(sys, '_base_executable', sys.executable))\n\
        prefixes = sorted({real(sys.base_prefix), real(sys.base_exec_prefix), os.path.dirname(os.path.dirname(executable))})\n\
        print(json.dumps({'executable': executable, 'prefixes': prefixes}))";
    let asked = Command::new("python3").args(["-I", "-c", ASK]).stdin(Stdio::null()).output();
    let output = asked.map_err(|e| format!("python3 is not on PATH ({e}); generated programs need it"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| format!("python3 on PATH does not work: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

//! The second sandbox: CPython compiled to WebAssembly, run by wasmtime.
//!
//! A program can do nothing but compute in memory of its own, and ask for what [`calls`] offers: a clock, two pipes, and files that
//! are themselves in memory. Nothing of the system is within reach, so this needs no namespaces and no rights, and works
//! where the cell of processes cannot be built. The price is speed, and a Python without threads, processes and
//! sockets, whose library lacks what needs them.
//!
//! As with the other sandbox, all of it happens in a process of its own: this very program, started anew with a hidden argument
//! ([`cell`]). Its walls against a fault of the runtime: an empty environment, `/` as its folder, no file that it could make
//! grow, and on Linux the same list of forbidden system calls.
//!
//! Compiling the interpreter takes seconds of the whole machine, so the machine code is kept ([`module`]); a program then starts as
//! quickly as with the machine's Python.

mod calls;
mod files;
mod guest;
mod module;
mod run;
mod world;

use super::{Limits, Outcome, PASSED, watch};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The hidden first argument that makes a program a cell of this kind.
pub(super) const CELL: &str = "__sandbox-wasi";
/// Longest order.
const MOST_BYTES: u64 = 64 << 20;

/// What a cell is told, on its standard input.
#[derive(Serialize, Deserialize)]
enum Order {
    /// Compile `python`, or find it compiled in `cache`.
    Prepare { python: PathBuf, cache: PathBuf },
    /// Run a program.
    Run { program: String, module: PathBuf, limits: Limits },
}

/// What a cell that prepares says, a line each.
#[derive(Serialize, Deserialize)]
enum Said {
    Compiling,
    Ready { module: PathBuf },
}

/// An interpreter, compiled.
#[derive(Debug)]
pub(super) struct Interpreter {
    module: PathBuf,
}

impl Interpreter {
    /// Have a cell compile `python`, or find what was compiled before.
    pub(super) fn prepare(runner: &Path, python: &Path) -> Result<Self, String> {
        let python = std::fs::canonicalize(python).map_err(|e| format!("{}: {e}; {}", python.display(), super::choice::HOW))?;
        let order = Order::Prepare { python: python.clone(), cache: module::cache()? };
        let mut command = Command::new(runner);
        command.arg(CELL).env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut cell = command.spawn().map_err(|e| format!("{}: cannot start: {e}", runner.display()))?;
        let mut line = serde_json::to_vec(&order).map_err(|e| e.to_string())?;
        line.push(b'\n');
        // Kept open: a cell whose standard input closes ends itself. One that has ended already says why.
        let mut stdin = cell.stdin.take();
        if let Some(pipe) = &mut stdin {
            let _ = pipe.write_all(&line);
        }
        let mut module = None;
        for said in cell.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
            match serde_json::from_str(&said) {
                Ok(Said::Compiling) => eprintln!("compiling {} for this machine, once; it takes some seconds", python.display()),
                Ok(Said::Ready { module: path }) => module = Some(path),
                Err(_) => break,
            }
        }
        let mut reason = String::new();
        if let Some(mut stderr) = cell.stderr.take() {
            let _ = stderr.read_to_string(&mut reason);
        }
        let status = cell.wait().map_err(|e| e.to_string())?;
        match (status.code(), module) {
            (Some(code), Some(module)) if code == i32::from(PASSED) => Ok(Interpreter { module }),
            (Some(code), _) if code == i32::from(super::REFUSED) => Err(reason),
            _ => Err(format!("{} is not a sandbox cell ({status}): {reason}", runner.display())),
        }
    }

    /// Run `program` in a cell.
    pub(super) fn run(&self, runner: &Path, program: &str, limits: &Limits) -> Result<Outcome, String> {
        let order = Order::Run { program: program.to_string(), module: self.module.clone(), limits: *limits };
        watch::watch(runner, CELL, &order, limits)
    }
}

/// Be a cell.
pub(super) fn cell() -> Result<u8, String> {
    let mut line = String::new();
    // Whatever the reader buffers beyond the line is nothing: the other side only ever closes after it.
    std::io::stdin().lock().take(MOST_BYTES).read_line(&mut line).map_err(|e| format!("order: {e}"))?;
    match serde_json::from_str(&line).map_err(|e| format!("order: {e}"))? {
        Order::Prepare { python, cache } => {
            run::end_with_standard_input();
            let say = |said: &Said| {
                let line = serde_json::to_string(said).map_err(|e| e.to_string())?;
                writeln!(std::io::stdout(), "{line}").map_err(|e| e.to_string())
            };
            let module = module::prepare(&python, &cache, || say(&Said::Compiling))?;
            say(&Said::Ready { module })?;
            Ok(PASSED)
        }
        Order::Run { program, module, limits } => run::run(&program, &module, limits),
    }
}

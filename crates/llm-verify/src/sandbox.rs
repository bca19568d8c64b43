//! Generated Python, run where it can do no harm.
//!
//! There are two sandboxes ([`SandboxKind`]); programs, limits and outcomes are the same. One has the machine's own Python in a cell
//! of processes, which is told of here. The other, with the feature `wasi`, has CPython compiled to WebAssembly: no threads, no processes,
//! no sockets, a smaller library, slower; but it needs nothing of the system and runs where the cell cannot be built.
//!
//! A program runs in a *cell*: own user, mount, process, network, IPC and host-name namespaces; a root file system of
//! the Python installation and the system's libraries, read-only, and one small temporary folder; no capabilities, no
//! way to gain any; a list of forbidden system calls; resource limits; an empty environment. Nobody needs to be root,
//! and for root the cell gives the rights up. Where one of these walls cannot be built the program is **not run**:
//! [`Sandbox::new`] and [`Sandbox::run`] say which wall and why ([`Outcome::Refused`]).
//!
//! The cell is this program itself, started anew with one hidden argument ([`cell_main`]): a fresh process has one
//! thread, so that namespaces, mounts and limits are set by ordinary safe calls before Python starts, and nothing has to
//! run between `fork` and `exec`. Python is process 1 of its process namespace: when it ends, or is killed at the
//! deadline, the kernel ends everything it ever started, daemons included. If the evaluating program dies, the cell
//! sees its standard input close and does the same.
//!
//! The bound on memory is `processes * memory_bytes + disk_bytes`; shared memory and anonymous files are forbidden.
//! What a cell can read: system libraries and programs under `/usr` and the Python installation. What it cannot hide
//! from: a program that wants to cheat (not to harm) can, since tests and program share an interpreter, as in every
//! harness. Ending early (`exit(0)` before the tests) does count as failure.

#[cfg(target_os = "linux")]
mod cell;
mod choice;
#[cfg(target_os = "linux")]
mod forbidden;
mod process;
#[cfg(feature = "wasi")]
mod wasi;
mod watch;

pub use choice::{PYTHON_WASM, SandboxChoice, SandboxKind};

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The hidden first argument that makes a program a cell.
const CELL: &str = "__sandbox-cell";
/// Exit codes of a cell; nothing that runs inside can choose them. 100 and more: ended by that signal less 100.
const PASSED: u8 = 80;
const FAILED: u8 = 81;
const TIMED_OUT: u8 = 82;
const REFUSED: u8 = 83;
const MEMORY: u8 = 84;
const BY_SIGNAL: u8 = 100;

/// What one program may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds of one process on the processor: what decides, whatever else the machine does.
    pub processor_seconds: u64,
    /// Seconds by the clock.
    pub seconds: f64,
    /// Address space of a process.
    pub memory_bytes: u64,
    /// Everything written to files.
    pub disk_bytes: u64,
    /// Processes and threads at a time, the first included.
    pub processes: u64,
    /// Open files of a process.
    pub open_files: u64,
    /// Bytes printed before the program is stopped.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            processor_seconds: 6,
            seconds: 12.0,
            memory_bytes: 512 << 20,
            disk_bytes: 16 << 20,
            processes: 4,
            open_files: 64,
            output_bytes: 1 << 20,
        }
    }
}

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran to its end.
    Passed,
    /// It raised, crashed, or ended before its end.
    Failed {
        /// The last of what it wrote to standard error.
        stderr: String,
    },
    /// The clock or its processor time ran out.
    TimedOut,
    /// Stopped for using too much.
    Limit {
        /// Of what.
        what: &'static str,
    },
    /// Not run.
    Refused {
        /// Which wall is missing, and why.
        reason: String,
    },
}

impl Outcome {
    /// One word for records and counts.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed { .. } => "failed",
            Outcome::TimedOut => "timed_out",
            Outcome::Limit { .. } => "limit",
            Outcome::Refused { .. } => "refused",
        }
    }

    /// The explanation, if there is one.
    pub fn detail(&self) -> &str {
        match self {
            Outcome::Failed { stderr } => stderr,
            Outcome::Limit { what } => what,
            Outcome::Refused { reason } => reason,
            Outcome::Passed | Outcome::TimedOut => "",
        }
    }
}

/// Runs programs in cells; cheap to share between threads.
#[derive(Debug)]
pub struct Sandbox {
    runner: PathBuf,
    limits: Limits,
    cells: Cells,
}

#[derive(Debug)]
enum Cells {
    Process(process::Cells),
    #[cfg(feature = "wasi")]
    Wasi(wasi::Interpreter),
}

impl Sandbox {
    /// The sandbox of `choice`, whose cells are `runner`: a program whose `main` begins with [`cell_main`]; the running program if
    /// none is given. Runs one trivial program.
    ///
    /// # Errors
    /// The reason why programs cannot be isolated here.
    pub fn open(choice: &SandboxChoice, runner: Option<&Path>, limits: Limits) -> Result<Sandbox, String> {
        if !(limits.seconds > 0.0 && limits.seconds <= 3600.0) || limits.processes == 0 || limits.processor_seconds == 0 {
            return Err("a sandbox needs between 0 and 3600 seconds, and at least one process and one second of processor time".to_string());
        }
        let runner = match runner {
            Some(runner) => runner.to_path_buf(),
            None => std::env::current_exe().map_err(|e| format!("this program's own file: {e}"))?,
        };
        let cells = match choice.python(std::env::var_os(PYTHON_WASM).map(PathBuf::from))? {
            #[cfg(feature = "wasi")]
            Some(python) => Cells::Wasi(wasi::Interpreter::prepare(&runner, &python)?),
            #[cfg(not(feature = "wasi"))]
            Some(python) => return Err(choice::left_out(&python)),
            None => Cells::Process(process::Cells::new()?),
        };
        let sandbox = Sandbox { runner, limits, cells };
        match sandbox.run("assert 1 + 1 == 2\n") {
            Outcome::Passed => Ok(sandbox),
            Outcome::Refused { reason } => Err(reason),
            other => Err(format!("a trivial program did not pass in the sandbox: {} {}", other.name(), other.detail())),
        }
    }

    /// The sandbox of processes, whose cells are `runner`. See [`Sandbox::open`].
    ///
    /// # Errors
    /// The reason why programs cannot be isolated here.
    pub fn new(runner: &Path, limits: Limits) -> Result<Sandbox, String> {
        Sandbox::open(&SandboxChoice { kind: SandboxKind::Process, python_wasm: None }, Some(runner), limits)
    }

    /// Which of the two it is.
    pub fn kind(&self) -> SandboxKind {
        match self.cells {
            Cells::Process(_) => SandboxKind::Process,
            #[cfg(feature = "wasi")]
            Cells::Wasi(_) => SandboxKind::Wasi,
        }
    }

    /// Run `program`; it passes if its last line is reached.
    pub fn run(&self, program: &str) -> Outcome {
        let outcome = match &self.cells {
            Cells::Process(cells) => cells.run(&self.runner, program, &self.limits),
            #[cfg(feature = "wasi")]
            Cells::Wasi(interpreter) => interpreter.run(&self.runner, program, &self.limits),
        };
        outcome.unwrap_or_else(|reason| Outcome::Refused { reason })
    }
}

/// If this process was started as a cell: be one, and give its exit code. To be called first in `main`, before any thread.
pub fn cell_main() -> Option<ExitCode> {
    let argument = std::env::args_os().nth(1)?;
    let result = match argument.to_str()? {
        #[cfg(target_os = "linux")]
        CELL => cell::run(),
        #[cfg(feature = "wasi")]
        wasi::CELL => wasi::cell(),
        _ => return None,
    };
    let code = result.unwrap_or_else(|reason| {
        eprint!("{reason}");
        REFUSED
    });
    Some(ExitCode::from(code))
}

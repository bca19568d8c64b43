//! Generated Python, run where it can do no harm.
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
#[cfg(target_os = "linux")]
mod forbidden;

use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The hidden first argument that makes a program a cell.
const CELL: &str = "__sandbox-cell";
/// Exit codes of a cell; nothing that runs inside can choose them. 100 and more: ended by that signal less 100.
const PASSED: u8 = 80;
const FAILED: u8 = 81;
const TIMED_OUT: u8 = 82;
const REFUSED: u8 = 83;
const BY_SIGNAL: u8 = 100;
/// How long after the deadline the cell itself may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// How much of a program's errors is kept.
const TAIL: usize = 2048;

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

/// What a cell is told, on its standard input.
#[derive(Serialize, Deserialize)]
struct Order {
    program: String,
    python: PathBuf,
    /// Shown inside, read-only, at the same place.
    readable: Vec<PathBuf>,
    /// An empty folder to mount the new root on.
    root: PathBuf,
    limits: Limits,
    /// Python's exit code at the true end of the program.
    end_code: u8,
}

/// Runs programs in cells; cheap to share between threads.
#[derive(Debug)]
pub struct Sandbox {
    runner: PathBuf,
    python: PathBuf,
    readable: Vec<PathBuf>,
    root: tempfile::TempDir,
    limits: Limits,
    runs: AtomicU64,
}

#[derive(Deserialize)]
struct Interpreter {
    executable: PathBuf,
    prefixes: Vec<PathBuf>,
}

impl Sandbox {
    /// A sandbox whose cells are `runner`: a program whose `main` begins with [`cell_main`].
    ///
    /// Finds `python3` on `PATH` and runs one trivial program.
    ///
    /// # Errors
    /// The reason why programs cannot be isolated here.
    pub fn new(runner: &Path, limits: Limits) -> Result<Sandbox, String> {
        if !cfg!(target_os = "linux") {
            return Err("generated code is only run on Linux, where it can be isolated".to_string());
        }
        if !(limits.seconds > 0.0 && limits.seconds <= 3600.0) || limits.processes == 0 || limits.processor_seconds == 0 {
            return Err("a sandbox needs between 0 and 3600 seconds, and at least one process and one second of processor time".to_string());
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
        let sandbox = Sandbox { runner: runner.to_path_buf(), python: interpreter.executable, readable, root, limits, runs: AtomicU64::new(0) };
        match sandbox.run("assert 1 + 1 == 2\n") {
            Outcome::Passed => Ok(sandbox),
            Outcome::Refused { reason } => Err(reason),
            other => Err(format!("a trivial program did not pass in the sandbox: {} {}", other.name(), other.detail())),
        }
    }

    /// A sandbox whose cells are the running program itself.
    ///
    /// # Errors
    /// See [`Sandbox::new`].
    pub fn of_this_program(limits: Limits) -> Result<Sandbox, String> {
        let runner = std::env::current_exe().map_err(|e| format!("this program's own file: {e}"))?;
        Sandbox::new(&runner, limits)
    }

    /// Run `program`; it passes if its last line is reached.
    pub fn run(&self, program: &str) -> Outcome {
        // Not 0, which Python ends with when a program calls exit() before its tests.
        let end_code = 101 + (self.runs.fetch_add(1, Ordering::Relaxed) % 101) as u8;
        let order = Order {
            program: program.to_string(),
            python: self.python.clone(),
            readable: self.readable.clone(),
            root: self.root.path().to_path_buf(),
            limits: self.limits,
            end_code,
        };
        match self.watch(&order) {
            Ok(outcome) => outcome,
            Err(reason) => Outcome::Refused { reason },
        }
    }

    fn watch(&self, order: &Order) -> Result<Outcome, String> {
        let mut command = Command::new(&self.runner);
        command.arg(CELL).env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut cell = command.spawn().map_err(|e| format!("{}: cannot start: {e}", self.runner.display()))?;
        let printed = Arc::new(AtomicU64::new(0));
        let (send, receive) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] = match (cell.stdout.take(), cell.stderr.take()) {
            (Some(out), Some(err)) => [Box::new(out), Box::new(err)],
            _ => return Err("no pipes to the cell".to_string()),
        };
        for (which, stream) in streams.into_iter().enumerate() {
            let (send, printed, most) = (send.clone(), printed.clone(), self.limits.output_bytes);
            std::thread::spawn(move || send.send((which, tail(stream, &printed, most))));
        }
        drop(send);
        let mut line = serde_json::to_vec(order).map_err(|e| e.to_string())?;
        line.push(b'\n');
        // A cell that could not be built may have ended already; its exit code says why.
        let mut stdin = cell.stdin.take();
        if let Some(pipe) = &mut stdin {
            let _ = pipe.write_all(&line);
        }
        let deadline = Instant::now() + Duration::from_secs_f64(self.limits.seconds) + GRACE;
        let (mut flooded, mut overdue) = (false, false);
        let status = loop {
            if let Some(status) = cell.try_wait().map_err(|e| e.to_string())? {
                break status;
            }
            if printed.load(Ordering::Relaxed) > self.limits.output_bytes {
                flooded = true;
                stdin = None; // the cell ends its program
            }
            if Instant::now() > deadline {
                overdue = true;
                stdin = None;
                std::thread::sleep(Duration::from_millis(200));
                kill(&mut cell);
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        drop(stdin);
        let mut stderr = String::new();
        while let Ok((which, text)) = receive.recv_timeout(GRACE) {
            if which == 1 {
                stderr = text;
            }
        }
        if flooded {
            return Ok(Outcome::Limit { what: "output" });
        }
        if overdue {
            return Ok(Outcome::TimedOut);
        }
        // Nothing inside can send a signal to the cell; the system can, when it runs out of memory.
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return Ok(Outcome::Failed { stderr: format!("{stderr}its cell was ended by signal {signal}") });
        }
        Ok(match status.code().and_then(|c| u8::try_from(c).ok()) {
            Some(PASSED) => Outcome::Passed,
            Some(FAILED) if stderr.trim_end().lines().last().is_some_and(|l| l.starts_with("MemoryError")) => Outcome::Limit { what: "memory" },
            Some(FAILED) => Outcome::Failed { stderr },
            Some(TIMED_OUT) => Outcome::TimedOut,
            Some(REFUSED) => Outcome::Refused { reason: stderr },
            // Nobody but the system itself sends this one: it ran out of memory.
            Some(code) if code == BY_SIGNAL + 9 => Outcome::Limit { what: "memory" },
            Some(code) if code > BY_SIGNAL => Outcome::Failed { stderr: format!("{stderr}ended by signal {}", code - BY_SIGNAL) },
            _ => Outcome::Refused { reason: format!("{} is not a sandbox cell ({status}): {stderr}", self.runner.display()) },
        })
    }
}

/// End the cell and whatever is in its group.
fn kill(cell: &mut Child) {
    #[cfg(target_os = "linux")]
    if let Ok(group) = i32::try_from(cell.id()) {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = cell.kill();
}

/// Read to the end, or until too much came; the last [`TAIL`] bytes.
fn tail(mut stream: impl Read, printed: &AtomicU64, most: u64) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = [0u8; 8192];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..n]);
        if kept.len() > 2 * TAIL {
            kept.drain(..kept.len() - TAIL);
        }
        if printed.fetch_add(n as u64, Ordering::Relaxed) > most {
            break;
        }
    }
    let from = kept.len().saturating_sub(TAIL);
    String::from_utf8_lossy(&kept[from..]).into_owned()
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

/// If this process was started as a cell: be one, and give its exit code. To be called first in `main`, before any thread.
pub fn cell_main() -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != CELL) {
        return None;
    }
    #[cfg(target_os = "linux")]
    let code = cell::run().unwrap_or_else(|reason| {
        eprint!("{reason}");
        REFUSED
    });
    #[cfg(not(target_os = "linux"))]
    let code = REFUSED;
    Some(ExitCode::from(code))
}

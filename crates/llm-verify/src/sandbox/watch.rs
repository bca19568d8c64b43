//! The outside of a cell: the process that is started for one program, what it prints, and its exit code.

use super::{BY_SIGNAL, FAILED, Limits, MEMORY, Outcome, PASSED, REFUSED, TIMED_OUT};
use serde::Serialize;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long after the deadline the cell itself may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// How much of a program's errors is kept.
const TAIL: usize = 2048;

/// Start `runner` as a cell with `order`, and stop it when it prints too much or its time is long over.
pub(super) fn watch(runner: &Path, cell: &str, order: &impl Serialize, limits: &Limits) -> Result<Outcome, String> {
    let mut command = Command::new(runner);
    command.arg(cell).env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut cell = command.spawn().map_err(|e| format!("{}: cannot start: {e}", runner.display()))?;
    let printed = Arc::new(AtomicU64::new(0));
    let (send, receive) = mpsc::channel();
    let streams: [Box<dyn Read + Send>; 2] = match (cell.stdout.take(), cell.stderr.take()) {
        (Some(out), Some(err)) => [Box::new(out), Box::new(err)],
        _ => return Err("no pipes to the cell".to_string()),
    };
    for (which, stream) in streams.into_iter().enumerate() {
        let (send, printed, most) = (send.clone(), printed.clone(), limits.output_bytes);
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
    let deadline = Instant::now() + Duration::from_secs_f64(limits.seconds) + GRACE;
    let (mut flooded, mut overdue) = (false, false);
    let status = loop {
        if let Some(status) = cell.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        if printed.load(Ordering::Relaxed) > limits.output_bytes {
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
        Some(MEMORY) => Outcome::Limit { what: "memory" },
        Some(REFUSED) => Outcome::Refused { reason: stderr },
        // Nobody but the system itself sends this one: it ran out of memory.
        Some(code) if code == BY_SIGNAL + 9 => Outcome::Limit { what: "memory" },
        Some(code) if code > BY_SIGNAL => Outcome::Failed { stderr: format!("{stderr}ended by signal {}", code - BY_SIGNAL) },
        _ => Outcome::Refused { reason: format!("{} is not a sandbox cell ({status}): {stderr}", runner.display()) },
    })
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

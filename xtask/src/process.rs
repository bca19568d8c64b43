//! Running one stage program: its progress goes to the terminal, an interrupt reaches it exactly once, and what a killed
//! run left behind is stopped before anything is written again.
//!
//! The child is its own process group, so that Ctrl-C in a terminal comes to us alone and is passed on: once to let the
//! stage stop at a safe point, a second time to end it at once.

use crate::stamp::{RUNNING, Stamp};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// How a stage ended.
#[derive(Debug)]
pub enum Ended {
    /// Status zero and a manifest, which a stage writes last.
    Well,
    /// Any other status.
    Badly(ExitStatus),
    /// Ctrl-C or SIGTERM came, to us or to the program: one that saved what it had ends with status zero then.
    Interrupted,
}

/// Count Ctrl-C and SIGTERM instead of dying from them.
pub fn catch_interrupts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = ctrlc::set_handler(|| {
            INTERRUPTS.fetch_add(1, Ordering::SeqCst);
        });
    });
}

/// True after Ctrl-C or SIGTERM.
pub fn interrupted() -> bool {
    INTERRUPTS.load(Ordering::SeqCst) > 0
}

/// Start the program and wait; the running stamp in `dir` is kept up to date meanwhile.
pub fn run(mut command: Command, dir: &Path, stamp: &mut Stamp) -> Result<Ended> {
    let shown = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let started = Instant::now();
    let before = stamp.wall_seconds;
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    stamp.pid = Some(child.id());
    stamp.write(&dir.join(RUNNING))?;
    let mut told = 0;
    let mut saved = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for {shown}"))? {
            break status;
        }
        let count = INTERRUPTS.load(Ordering::SeqCst);
        if count > told {
            if told == 0 && count == 1 {
                signal(child.id(), "INT")
            } else {
                stop(&mut child)
            }
            told = count;
        }
        if saved.elapsed() > Duration::from_secs(5) {
            saved = Instant::now();
            stamp.wall_seconds = before + started.elapsed().as_secs_f64();
            stamp.write(&dir.join(RUNNING))?;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stamp.wall_seconds = before + started.elapsed().as_secs_f64();
    stamp.pid = None;
    if status.success() && dir.join("manifest.json").is_file() {
        return Ok(Ended::Well);
    }
    if dir.exists() {
        stamp.write(&dir.join(RUNNING))?;
    }
    Ok(if interrupted() || status.success() { Ended::Interrupted } else { Ended::Badly(status) })
}

fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status();
}

fn stop(child: &mut Child) {
    let _ = child.kill();
}

/// After `kill -9` of the pipeline its stage may still be writing: stop it before the stage is started again.
pub fn stop_leftover(dir: &Path, stamp: &Stamp) {
    let Some(pid) = stamp.pid else { return };
    let ours = || {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let out = dir.display().to_string();
        line.split(|&b| b == 0).any(|arg| arg == out.as_bytes())
    };
    if !ours() {
        return;
    }
    eprintln!("stage `{}` of a killed run was still going (process {pid}); stopping it first", stamp.stage);
    for (name, patience) in [("TERM", 100), ("KILL", 100)] {
        signal(pid, name);
        for _ in 0..patience {
            if !ours() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// `exit status 1`, `killed by signal 9 (out of memory?)`.
pub fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let hint = if signal == 9 { " (killed from outside, or out of memory)" } else { "" };
        return format!("signal {signal}{hint}");
    }
    status.code().map_or_else(|| "no exit status".to_string(), |code| format!("exit status {code}"))
}

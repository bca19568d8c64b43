//! Runs as child processes of the same program: one run's crash, leak or divergence is no other's.
//!
//! A child has its own process group, so that Ctrl-C in the terminal reaches only the sweep, which passes it on once: children save a
//! checkpoint and end, and the sweep, started again, continues them. What a child prints is in `logs/NAME.log`.

use super::results::{self, Failure, Results, Status};
use super::runs::Planned;
use super::spec::Spec;
use crate::{Error, Result};
use llm_run::{Progress, atomic, program};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A sweep in a folder.
#[derive(Debug)]
pub struct Execution<'a> {
    /// Description.
    pub spec: &'a Spec,
    /// Runs.
    pub runs: &'a [Planned],
    /// Output folder.
    pub out: &'a Path,
    /// The program to start.
    pub executable: PathBuf,
    /// Children at a time; the cores are shared between them.
    pub jobs: usize,
}

impl Execution<'_> {
    /// Do what is not done yet. `after` hears of the state after every run.
    pub fn run(&self, after: &(dyn Fn(&Results) -> Result<()> + Sync)) -> Result<Results> {
        let state = Results::of(self.spec, self.runs, self.out);
        let todo: VecDeque<&Planned> =
            self.runs.iter().zip(&state.runs).filter(|(_, r)| matches!(r.status, Status::Open | Status::Failed)).map(|(run, _)| run).collect();
        let progress = Progress::new("sweep", self.runs.len() as u64, "runs");
        let done = self.runs.len() - todo.len();
        if done > 0 {
            progress.resume_at(done as u64);
            progress.note(format!("{done} of {} runs are done already", self.runs.len()));
        }
        program::catch_interrupts();
        let queue = Mutex::new(todo);
        let shared = Mutex::new(progress);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while !program::interrupted() && lock(&failed).is_none() {
                        let Some(run) = lock(&queue).pop_front() else { break };
                        let told = self.one(run).and_then(|()| {
                            if program::interrupted() {
                                return Ok(());
                            }
                            let result = results::read(self.out, run, &self.spec.metric);
                            let mut progress = lock(&shared);
                            progress.note(line(&result, &self.spec.metric));
                            progress.inc(1);
                            after(&Results::of(self.spec, self.runs, self.out))
                        });
                        if let Err(error) = told {
                            *lock(&failed) = Some(error);
                        }
                    }
                });
            }
        });
        let results = Results::of(self.spec, self.runs, self.out);
        let progress = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (finished, bad) = (results.count(Status::Finished), results.count(Status::Diverged) + results.count(Status::Failed));
        progress.finish(format!(
            "{finished} of {} runs finished{}",
            self.runs.len(),
            if bad > 0 { format!(", {bad} failed") } else { String::new() }
        ));
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(results),
        }
    }

    /// Start a child and wait for it. Its failure is written down, not returned: the sweep goes on.
    fn one(&self, run: &Planned) -> Result<()> {
        let config = self.out.join("configs").join(format!("{}.toml", run.name));
        let text = toml::to_string(&run.table).map_err(|e| Error::Config(format!("run {}: cannot write its configuration: {e}", run.name)))?;
        atomic::write(&config, text)?;
        let log = self.out.join("logs").join(format!("{}.log", run.name));
        atomic::write(&log, "")?;
        let failure = results::failure_file(self.out, &run.name);
        let _ = std::fs::remove_file(&failure);
        let status = self.spawn(run, &config, &log).and_then(wait).map_err(|e| Error::Objective(format!("run {}: {e}", run.name)))?;
        if status.success() || program::interrupted() {
            return Ok(());
        }
        let reason = last_error(&log).unwrap_or_else(|| format!("ended with {status}"));
        let status = if reason.contains("training diverged") { Status::Diverged } else { Status::Failed };
        let text = serde_json::to_string_pretty(&Failure { status, reason }).unwrap_or_default();
        Ok(atomic::write(failure, text)?)
    }

    fn spawn(&self, run: &Planned, config: &Path, log: &Path) -> std::io::Result<Child> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let file = File::options().append(true).open(log)?;
        let mut command = Command::new(&self.executable);
        command.arg(self.spec.program.command()).arg("--config").arg(config).arg("--out").arg(self.out.join("runs").join(&run.name));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        if self.jobs > 1 {
            command.env("RAYON_NUM_THREADS", (cores / self.jobs).max(1).to_string());
        }
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wait, passing an interruption on once.
fn wait(mut child: Child) -> std::io::Result<ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if program::interrupted() && !told {
            told = true;
            terminate(&mut child)?;
        }
        std::thread::sleep(POLL);
    }
}

/// Ask a child to save and end.
#[cfg(unix)]
fn terminate(child: &mut Child) -> std::io::Result<()> {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    // It may just have ended by itself.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    Ok(())
}

/// Runs survive being killed, they only repeat what came after their last checkpoint.
#[cfg(not(unix))]
fn terminate(child: &mut Child) -> std::io::Result<()> {
    child.kill()
}

/// The last `error: ` line of a log, shortened.
fn last_error(log: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&std::fs::read(log).ok()?).into_owned();
    let line = text.lines().rev().find_map(|l| l.trim().strip_prefix("error: ")).or_else(|| text.lines().rev().find(|l| !l.trim().is_empty()))?;
    Some(line.chars().take(300).collect())
}

fn line(result: &results::RunResult, metric: &str) -> String {
    match (result.status, result.value) {
        (_, Some(value)) => format!("{}: {metric} {}", result.name, crate::quantity::short(value)),
        (status, _) => {
            let word = if status == Status::Diverged { "diverged" } else { "failed" };
            format!("{}: {word}: {}", result.name, result.reason.as_deref().unwrap_or("no reason known"))
        }
    }
}

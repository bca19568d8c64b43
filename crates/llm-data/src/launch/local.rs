//! All ranks on this machine: processes of this program, one line of progress for all, another attempt for one that fails.
//!
//! Processes and not threads, because a process that dies (out of memory, a bug in a parser) takes nothing with it.

use super::Call;
use crate::error::{Error, Result, io};
use crate::work::meter::Progressed;
use llm_run::Progress;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pause before another attempt, times the number of the attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// What ranks have to stop in after Ctrl-C before they are ended; their work is safe either way.
const GRACE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// What the other thread reads from a rank's standard error.
#[derive(Debug, Default)]
struct Heard {
    progressed: Progressed,
    /// The last lines that were no progress: the error, if there is one.
    lines: Vec<String>,
}

struct Rank {
    number: usize,
    attempt: usize,
    child: Option<(Child, JoinHandle<()>)>,
    heard: Arc<Mutex<Heard>>,
    /// When to start again.
    again: Option<Instant>,
    /// Progress of earlier attempts.
    before: Progressed,
}

/// Run all ranks to their end.
pub fn launch(call: &Call, attempts: usize, threads: usize) -> Result<()> {
    call.check()?;
    let mut ranks: Vec<Rank> = (0..call.world_size)
        .map(|number| Rank { number, attempt: 0, child: None, heard: Arc::default(), again: Some(Instant::now()), before: Progressed::default() })
        .collect();
    let mut progress = Progress::new("launch", 0, "documents");
    let started = Instant::now();
    let mut stopping: Option<Instant> = None;
    let mut failure = None;
    loop {
        for rank in &mut ranks {
            if rank.again.is_some_and(|at| at <= Instant::now()) && stopping.is_none() {
                rank.start(call, threads)?;
            }
            match rank.ended()? {
                Some(status) if status.success() => {}
                Some(status) => {
                    let error = rank.error(status);
                    if stopping.is_none() && rank.attempt < attempts.max(1) {
                        progress.note(format!("rank {}: {error}; attempt {} of {}", rank.number, rank.attempt + 1, attempts));
                        rank.again = Some(Instant::now() + PAUSE * rank.attempt as u32);
                    } else {
                        failure.get_or_insert(Error::Empty(format!("rank {} failed: {error}", rank.number)));
                    }
                }
                None => {}
            }
        }
        let sum = ranks.iter().fold(Progressed::default(), |sum, rank| add(sum, rank.progressed()));
        progress.set(sum.documents);
        progress.message(sum.message(started.elapsed().as_secs_f64()));
        if llm_run::program::interrupted() {
            stopping.get_or_insert_with(Instant::now);
        }
        if stopping.is_some_and(|since| since.elapsed() > GRACE) {
            ranks.iter_mut().for_each(Rank::kill);
        }
        if ranks.iter().all(|r| r.child.is_none() && (r.again.is_none() || stopping.is_some())) {
            progress.finish(sum.message(started.elapsed().as_secs_f64()));
            return match (stopping, failure) {
                (Some(_), _) => Err(Error::Interrupted),
                (None, Some(error)) => Err(error),
                (None, None) => Ok(()),
            };
        }
        std::thread::sleep(POLL);
    }
}

fn add(a: Progressed, b: Progressed) -> Progressed {
    Progressed {
        documents: a.documents + b.documents,
        kept: a.kept + b.kept,
        bytes: a.bytes + b.bytes,
        total_bytes: a.total_bytes + b.total_bytes,
        units: a.units + b.units,
        total_units: a.total_units + b.total_units,
    }
}

impl Rank {
    fn start(&mut self, call: &Call, threads: usize) -> Result<()> {
        let arguments = call.arguments();
        let program = Path::new(&call.program);
        let mut child = Command::new(program)
            .args(&arguments[1..])
            .args(["--rank", &self.number.to_string(), "--progress-lines"])
            .env("RAYON_NUM_THREADS", threads.max(1).to_string())
            .env_remove("SLURM_ARRAY_TASK_ID")
            .env_remove("JOB_COMPLETION_INDEX")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io(program, "cannot start a rank"))?;
        self.before = self.progressed();
        self.heard = Arc::default();
        let (heard, errors) = (Arc::clone(&self.heard), child.stderr.take());
        let listener = std::thread::spawn(move || {
            for line in errors.into_iter().flat_map(|e| BufReader::new(e).lines()).map_while(std::result::Result::ok) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                match serde_json::from_str(&line) {
                    Ok(progressed) => heard.progressed = progressed,
                    Err(_) => {
                        heard.lines.push(line);
                        let surplus = heard.lines.len().saturating_sub(20);
                        heard.lines.drain(..surplus);
                    }
                }
            }
        });
        self.child = Some((child, listener));
        self.attempt += 1;
        self.again = None;
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some((child, _)) = &mut self.child else { return Ok(None) };
        let status = child.try_wait().map_err(io(Path::new("llm-data"), "cannot wait for a rank"))?;
        if status.is_some()
            && let Some((_, listener)) = self.child.take()
        {
            let _ = listener.join();
        }
        Ok(status)
    }

    fn kill(&mut self) {
        if let Some((child, _)) = &mut self.child {
            let _ = child.kill();
        }
    }

    /// Documents count from the first attempt on, totals are those of the present one.
    fn progressed(&self) -> Progressed {
        let now = self.heard.lock().unwrap_or_else(PoisonError::into_inner).progressed;
        let sum = add(self.before, now);
        Progressed { total_bytes: self.before.bytes + now.total_bytes, total_units: self.before.units + now.total_units, ..sum }
    }

    fn error(&self, status: ExitStatus) -> String {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let error = heard.lines.iter().rev().find_map(|l| l.strip_prefix("error: "));
        error.or(heard.lines.last().map(String::as_str)).map_or_else(|| format!("ended with {status}"), |line| format!("{line} ({status})"))
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // An error on the way out must leave no process behind.
        self.kill();
    }
}

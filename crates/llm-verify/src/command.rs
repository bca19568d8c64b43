//! A judge of the user's own: any program that reads one JSON line per answer and writes one number per line.
//!
//! The program is started once and kept: loading a model or a compiler may take long. It reads `{"prompt", "response", "answer",
//! "columns"}` on standard input and answers each line, in order, with a number, `null` (cannot be scored) or
//! `{"reward": number}` on standard output, flushed. Standard error is for its own messages; the last of them are quoted when it
//! fails. A program that dies or exceeds its time for one answer is started again and asked the same row; when that does not help,
//! grading ends with an error that names the row. NaN and infinity are errors at once: a program that computes them is broken.
//!
//! It runs with the rights of this process. Code of a model belongs in [`crate::sandbox`], not here.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest line of an answer.
const MOST_BYTES: u64 = 1 << 16;
/// How much of standard error is quoted.
const TAIL: usize = 2048;
/// How often a wait looks whether the user wants to stop.
const TICK: Duration = Duration::from_millis(100);

/// The program and its process.
#[derive(Debug)]
pub struct Judge {
    command: Vec<String>,
    timeout: Duration,
    restarts: u32,
    process: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    questions: Sender<Vec<u8>>,
    answers: Receiver<Result<String, String>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
}

/// What went wrong, and at which question (0-based).
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The question.
    pub at: usize,
    /// Why, and what to do.
    pub message: String,
}

impl Judge {
    /// `command` is a program and its arguments; `timeout` is for one answer; `restarts` for one row.
    ///
    /// # Errors
    /// An empty command or a time that is none.
    pub fn new(command: &[String], timeout_seconds: f64, restarts: u32) -> Result<Self, String> {
        if command.first().is_none_or(String::is_empty) {
            return Err("command is empty; expected a program and its arguments, such as [\"python3\", \"judge.py\"]".into());
        }
        if !(timeout_seconds > 0.0 && timeout_seconds <= 86_400.0) {
            return Err(format!("timeout_seconds = {timeout_seconds}; expected more than 0 and at most a day"));
        }
        Ok(Self { command: command.to_vec(), timeout: Duration::from_secs_f64(timeout_seconds), restarts, process: Mutex::new(None) })
    }

    /// One reward per question, each a line of JSON without its end.
    ///
    /// # Errors
    /// The first question that has no proper answer.
    pub fn ask(&self, questions: &[String]) -> Result<Vec<Option<f32>>, Failure> {
        let mut guard = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rewards = Vec::with_capacity(questions.len());
        let mut left = self.restarts;
        while rewards.len() < questions.len() {
            let at = rewards.len();
            let failed = |message: String| Failure { at, message };
            let running = guard.take();
            let process = match running {
                Some(process) => process,
                None => Process::start(&self.command).map_err(failed)?,
            };
            let before = rewards.len();
            match self.converse(&process, &questions[at..], &mut rewards) {
                Ok(()) => *guard = Some(process),
                Err(Trouble::Wrong(message)) => return Err(Failure { at: rewards.len(), message: process.explain(message) }),
                Err(Trouble::Gone(message)) => {
                    // Every row has its own number of tries.
                    if rewards.len() > before {
                        left = self.restarts;
                    }
                    if left == 0 {
                        return Err(Failure { at: rewards.len(), message: process.explain(message) });
                    }
                    left -= 1;
                }
            }
        }
        Ok(rewards)
    }

    /// Ask all that is left and collect answers until one is missing.
    fn converse(&self, process: &Process, questions: &[String], rewards: &mut Vec<Option<f32>>) -> Result<(), Trouble> {
        if let Ok(unasked) = process.answers.try_recv() {
            return Err(match unasked {
                Ok(line) => Trouble::Wrong(format!("answered {line:?} to nothing; expected one line for each question")),
                Err(end) => Trouble::Gone(end),
            });
        }
        for question in questions {
            let line = format!("{question}\n").into_bytes();
            // A program that ended is noticed when its answer is missing.
            let _ = process.questions.send(line);
        }
        for _ in questions {
            let line = self.next(process)?;
            rewards.push(reward(&line).map_err(Trouble::Wrong)?);
        }
        Ok(())
    }

    fn next(&self, process: &Process) -> Result<String, Trouble> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match process.answers.recv_timeout(left.min(TICK)) {
                Ok(Ok(line)) => return Ok(line),
                Ok(Err(end)) => return Err(Trouble::Gone(end)),
                Err(RecvTimeoutError::Disconnected) => return Err(Trouble::Gone("the program ended".into())),
                Err(RecvTimeoutError::Timeout) if llm_run::program::interrupted() => return Err(Trouble::Wrong("interrupted".into())),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(Trouble::Gone(format!("no answer within {} seconds", self.timeout.as_secs_f64())));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

enum Trouble {
    /// Another try may help.
    Gone(String),
    /// It will not.
    Wrong(String),
}

/// A number, `null`, or an object with one of them as `reward`.
fn reward(line: &str) -> Result<Option<f32>, String> {
    let wrong = || format!("answered {line:?}; expected a finite number, null or {{\"reward\": number}}");
    let line = line.trim();
    if let Ok(number) = line.parse::<f64>() {
        let number = number as f32;
        return if number.is_finite() { Ok(Some(number)) } else { Err(wrong()) };
    }
    let value: serde_json::Value = serde_json::from_str(line).map_err(|_| wrong())?;
    let value = if value.is_object() { value.get("reward").cloned().ok_or_else(wrong)? } else { value };
    match value {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::Number(n) => n.as_f64().map(|n| n as f32).filter(|n| n.is_finite()).map(Some).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

impl Process {
    fn start(command: &[String]) -> Result<Self, String> {
        let mut program = Command::new(&command[0]);
        program.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for us: the program ends when we do.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut program, 0);
        let mut child = program.spawn().map_err(|e| format!("{}: cannot start: {e}", command[0]))?;
        let (Some(mut stdin), Some(stdout), Some(stderr_pipe)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(format!("{}: no pipes to the program", command[0]));
        };
        let (questions, to_write) = channel::<Vec<u8>>();
        std::thread::spawn(move || {
            for line in to_write {
                if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
                    break;
                }
            }
        });
        // Bounded: a program that writes without being asked waits.
        let (to_read, answers) = sync_channel(1024);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                let read = (&mut reader).take(MOST_BYTES).read_until(b'\n', &mut line);
                let answer = match read {
                    Ok(0) => Err("the program ended".to_string()),
                    Err(e) => Err(format!("cannot read its answers: {e}")),
                    Ok(_) if line.len() as u64 == MOST_BYTES && !line.ends_with(b"\n") => Err("a line of an answer does not end".to_string()),
                    Ok(_) => Ok(String::from_utf8_lossy(&line).trim_end().to_string()),
                };
                let last = answer.is_err();
                if to_read.send(answer).is_err() || last {
                    break;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let kept = stderr.clone();
        std::thread::spawn(move || {
            let mut pipe = stderr_pipe;
            let mut buffer = [0u8; 1024];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..n]);
                let excess = kept.len().saturating_sub(TAIL);
                kept.drain(..excess);
            }
        });
        Ok(Self { child, questions, answers, stderr })
    }

    /// The message, and what the program said last.
    fn explain(&self, message: String) -> String {
        // What it wrote before it ended may still be on its way.
        std::thread::sleep(Duration::from_millis(50));
        let said: Vec<u8> = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let said = String::from_utf8_lossy(&said).trim().to_string();
        if said.is_empty() { message } else { format!("{message}; it wrote: {said}") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if let Ok(group) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(script: &str, timeout: f64, restarts: u32) -> Judge {
        Judge::new(&["sh".into(), "-c".into(), script.into()], timeout, restarts).unwrap()
    }

    fn lines(n: usize) -> Vec<String> {
        (0..n).map(|i| i.to_string()).collect()
    }

    #[test]
    fn one_process_answers_in_order_and_stays() {
        let judge = judge("n=0; while read line; do n=$((n+1)); echo $line.5; done", 10.0, 0);
        assert_eq!(judge.ask(&lines(3)).unwrap(), [Some(0.5), Some(1.5), Some(2.5)]);
        let first = judge.process.lock().unwrap().as_ref().unwrap().child.id();
        assert_eq!(judge.ask(&lines(2000)).unwrap().len(), 2000);
        assert_eq!(judge.process.lock().unwrap().as_ref().unwrap().child.id(), first);
    }

    #[test]
    fn null_objects_and_what_is_no_reward() {
        assert_eq!((reward("null"), reward("{\"reward\": 1}"), reward(" -2.5 ")), (Ok(None), Ok(Some(1.0)), Ok(Some(-2.5))));
        for bad in ["nan", "NaN", "inf", "Infinity", "1e99", "true", "\"1\"", "{}", "{\"reward\": NaN}", "", "1 2"] {
            assert!(reward(bad).is_err(), "{bad}");
        }
        let failure = judge("read a; echo 1; read b; echo nan; read c", 10.0, 3).ask(&lines(3)).unwrap_err();
        assert!(failure.at == 1 && failure.message.contains("nan"), "{failure:?}");
    }

    /// The file says whether it is the first start.
    #[test]
    fn a_program_that_dies_or_hangs_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark").display().to_string();
        for trouble in ["exit 3", "sleep 60"] {
            let _ = std::fs::remove_file(&mark);
            let script = format!("read a; echo $a; if [ ! -e {mark} ]; then touch {mark}; {trouble}; fi; while read a; do echo $a; done");
            assert_eq!(judge(&script, 1.0, 1).ask(&lines(4)).unwrap(), [0.0, 1.0, 2.0, 3.0].map(Some), "{trouble}");
        }
        let failure = judge("read a; echo oh no >&2; exit 1", 5.0, 1).ask(&lines(2)).unwrap_err();
        assert!(failure.at == 0 && failure.message.contains("ended") && failure.message.contains("oh no"), "{failure:?}");
        let failure = judge("read a; sleep 60", 0.2, 0).ask(&lines(1)).unwrap_err();
        assert!(failure.message.contains("no answer within 0.2 seconds"), "{failure:?}");
        let failure = judge("read a; yes | tr -d '\\n'", 20.0, 0).ask(&lines(1)).unwrap_err();
        assert!(failure.message.contains("does not end"), "{failure:?}");
    }

    #[test]
    fn what_cannot_be_a_judge() {
        assert!(Judge::new(&[], 1.0, 0).is_err() && Judge::new(&["true".into()], f64::NAN, 0).is_err());
        let missing = Judge::new(&["/nonexistent/judge".into()], 1.0, 0).unwrap();
        assert!(missing.ask(&lines(1)).unwrap_err().message.contains("cannot start"));
        assert_eq!(missing.ask(&[]).unwrap(), []);
    }
}

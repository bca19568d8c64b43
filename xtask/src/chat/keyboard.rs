//! Lines from the terminal or a pipe, and Ctrl-C.
//!
//! A blocking read cannot be interrupted, so lines are read on a thread of their own and the program waits for either. In a terminal
//! Ctrl-C counts: what it means depends on what the program is doing. In a pipe, and for SIGTERM, it ends the program.

use anyhow::{Context, Result};
use llm_run::signals::{self, Signal};
use std::io::{BufRead, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

static PRESSES: AtomicU32 = AtomicU32::new(0);
static ENDED: AtomicBool = AtomicBool::new(false);

/// Two presses within this time leave the program.
const TWICE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(40);

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end; lines that end with a backslash are joined with the next one.
    Text(String),
    /// Ctrl-C while nothing was going on.
    Interrupted,
    /// Ctrl-D, the end of the pipe, Ctrl-C twice, SIGTERM.
    End,
}

/// Where questions come from.
#[derive(Debug)]
pub struct Keyboard {
    lines: Receiver<std::io::Result<String>>,
    interactive: bool,
    heard: u32,
    last: Option<Instant>,
}

impl Keyboard {
    /// Begin to read standard input and to hear Ctrl-C.
    pub fn open() -> Result<Self> {
        let interactive = std::io::stdin().is_terminal();
        let heard = move |signal| {
            if signal == Signal::Terminate || !interactive {
                ENDED.store(true, Ordering::SeqCst);
            }
            PRESSES.fetch_add(1, Ordering::SeqCst);
        };
        signals::listen(heard).context("cannot catch Ctrl-C")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { lines, interactive, heard: 0, last: None })
    }

    /// A person types.
    pub fn interactive(&self) -> bool {
        self.interactive
    }

    /// How often Ctrl-C was pressed so far.
    pub fn presses(&self) -> u32 {
        PRESSES.load(Ordering::SeqCst)
    }

    /// The program is to end now.
    pub fn ended(&self) -> bool {
        ENDED.load(Ordering::SeqCst)
    }

    /// Wait for a line.
    pub fn next(&mut self) -> Result<Line> {
        // What was pressed during an answer was meant for the answer.
        self.heard = self.presses();
        let mut text = String::new();
        loop {
            if self.ended() {
                return Ok(Line::End);
            }
            if self.presses() != self.heard {
                self.heard = self.presses();
                let again = self.last.replace(Instant::now()).is_some_and(|last| last.elapsed() < TWICE);
                return Ok(if again { Line::End } else { Line::Interrupted });
            }
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => {
                    let line = line.context("cannot read the question (is it UTF-8?)")?;
                    let (part, more) = joined(&line);
                    text.push_str(part);
                    if !more {
                        return Ok(Line::Text(text));
                    }
                    text.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if text.is_empty() => return Ok(Line::End),
                Err(RecvTimeoutError::Disconnected) => return Ok(Line::Text(text)),
            }
        }
    }
}

/// The line, and whether the next one belongs to it.
fn joined(line: &str) -> (&str, bool) {
    line.strip_suffix('\\').map_or((line, false), |part| (part, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_joins_lines() {
        assert_eq!(joined("a\\"), ("a", true));
        assert_eq!(joined("a\\b"), ("a\\b", false));
    }
}

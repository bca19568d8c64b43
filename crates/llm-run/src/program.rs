//! What all binaries share: flags, one-line errors, exit codes, Ctrl-C.
//!
//! | how it ended | status |
//! |---|---|
//! | everything is written | 0 |
//! | SIGTERM, and the same command continues from what was saved ([`saved`]) | 0 |
//! | any other interruption | 130 |
//! | an error | 1 |

use crate::signals::{self, Signal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

/// Flags of every command that produces a folder.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TOML configuration; what it leaves out has defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Override a configuration value, e.g. --set optimizer.lr=1e-3 (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

impl Args {
    /// The configuration as a typed value.
    pub fn load<T: serde::de::DeserializeOwned>(&self) -> crate::Result<T> {
        crate::config::load(self.config.as_deref(), &self.sets)
    }
}

/// Exit status after Ctrl-C, as shells expect it.
pub const EXIT_INTERRUPTED: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static TERMINATED: AtomicBool = AtomicBool::new(false);
static SAVED: AtomicBool = AtomicBool::new(false);

/// Run a program body: prints an error as one `error: ...` line with its causes and returns a non-zero status.
///
/// A closed pipe (`llm-data explain | head`) ends the program quietly.
pub fn main<E: std::fmt::Display>(body: impl FnOnce() -> Result<(), E>) -> ExitCode {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        if text.contains("Broken pipe") {
            std::process::exit(0);
        }
        default(info);
    }));
    match body() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if interrupted() => {
            eprintln!("{}", said_once(&format!("{error:#}")));
            let orderly = TERMINATED.load(Ordering::SeqCst) && SAVED.load(Ordering::SeqCst);
            if orderly { ExitCode::SUCCESS } else { ExitCode::from(EXIT_INTERRUPTED) }
        }
        Err(error) => {
            // anyhow's alternate form prints "context: cause: cause".
            eprintln!("error: {}", said_once(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Without a last cause that the error before it has already told: `cannot open: not found: not found`.
fn said_once(text: &str) -> &str {
    let repeated = |&(at, _): &(usize, &str)| at + 2 < text.len() && text[..at].ends_with(&text[at + 2..]);
    text.match_indices(": ").find(repeated).map_or(text, |(at, _)| &text[..at])
}

/// Catch Ctrl-C and SIGTERM from now on: long loops ask [`interrupted`] and stop at the next safe point. A second signal ends the
/// process at once if it is Ctrl-C; SIGTERM often comes twice, to a process and to its group, and changes nothing then.
pub fn catch_interrupts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let listening = signals::listen(|signal| match signal {
            Signal::Interrupt => interrupt(),
            Signal::Terminate => terminate(),
        });
        if let Err(error) = listening {
            eprintln!("note: Ctrl-C will end this at once, without saving: {error}");
        }
    });
}

static FULL_SCREEN: Mutex<Option<fn()>> = Mutex::new(None);

/// While something fills the screen: how to give the terminal back before the process ends without unwinding. None when it is back.
pub fn full_screen(restore: Option<fn()>) {
    *FULL_SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = restore;
}

/// What Ctrl-C does, for whoever reads the keys in its place.
pub fn interrupt() {
    let restore = *FULL_SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    if INTERRUPTED.swap(true, Ordering::SeqCst) {
        if let Some(restore) = restore {
            restore();
        }
        std::process::exit(i32::from(EXIT_INTERRUPTED));
    }
    if restore.is_none() {
        eprintln!("\ninterrupted: finishing the current step (Ctrl-C again to stop at once)");
    }
}

/// What SIGTERM does: the same, but a second one changes nothing.
fn terminate() {
    if !INTERRUPTED.swap(true, Ordering::SeqCst) {
        TERMINATED.store(true, Ordering::SeqCst);
        if FULL_SCREEN.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            eprintln!("SIGTERM: finishing the current step");
        }
    }
}

/// True after Ctrl-C or SIGTERM.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Say, after [`interrupted`], that all that was done is on the disk and the same command continues from there: SIGTERM then ends the
/// program with status 0, as a scheduler expects of one that stopped in order.
pub fn saved() {
    SAVED.store(true, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::said_once;

    #[test]
    fn a_cause_is_not_told_twice() {
        assert_eq!(said_once("a.json: cannot open: no file (2): no file (2)"), "a.json: cannot open: no file (2)");
        assert_eq!(said_once("x: outer: line 3: bad: line 3: bad"), "x: outer: line 3: bad");
        for text in ["", "a", "a: b", "a: ", "a: b: c"] {
            assert_eq!(said_once(text), text);
        }
    }
}

//! How fast it goes: documents and megabytes per second, the share that is kept, time left.

use llm_run::Progress;
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who reads the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A person: a bar, or a line now and then.
    People,
    /// The launcher: one JSON object a line on standard error ([`Progressed`]).
    Lines,
    /// Nobody.
    Nothing,
}

/// How far a rank is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Progressed {
    /// Documents looked at.
    pub documents: u64,
    /// Documents kept.
    pub kept: u64,
    /// Bytes of input read, as they lie there.
    pub bytes: u64,
    /// Bytes of input there are for this rank and not complete at its start.
    pub total_bytes: u64,
    /// Units completed.
    pub units: u64,
    /// Units there are for this rank and not complete at its start.
    pub total_units: u64,
}

impl Progressed {
    /// The text after a bar.
    pub fn message(&self, seconds: f64) -> String {
        let per = |n: u64| n as f64 / seconds.max(1e-3);
        let kept = 100.0 * self.kept as f64 / self.documents.max(1) as f64;
        format!(
            "{:.0} documents/s {:.1} MB/s {kept:.0} % kept, {}/{} units",
            per(self.documents),
            per(self.bytes) / 1e6,
            self.units,
            self.total_units
        )
    }
}

/// Counts of all threads of a rank.
#[derive(Debug)]
pub struct Meter {
    shown: Shown,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sum: Progressed,
    progress: Option<Progress>,
    last: Option<Instant>,
}

const EVERY: Duration = Duration::from_millis(250);

impl Meter {
    /// Start the clock.
    pub fn new(name: &str, total_units: u64, total_bytes: u64, shown: Shown) -> Self {
        let progress = (shown == Shown::People).then(|| Progress::new(name, total_bytes.div_ceil(1_000_000), "MB"));
        let sum = Progressed { total_units, total_bytes, ..Progressed::default() };
        Self { shown, started: Instant::now(), state: Mutex::new(State { sum, progress, last: None }) }
    }

    /// Add what happened since the last call.
    pub fn add(&self, documents: u64, kept: u64, bytes: u64, units: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sum.documents += documents;
        state.sum.kept += kept;
        state.sum.bytes += bytes;
        state.sum.units += units;
        let last = state.sum.units == state.sum.total_units;
        if !last && state.last.is_some_and(|t| t.elapsed() < EVERY) {
            return;
        }
        state.last = Some(Instant::now());
        let sum = state.sum;
        match self.shown {
            Shown::Nothing => {}
            Shown::Lines => eprintln!("{}", serde_json::to_string(&sum).unwrap_or_default()),
            Shown::People => {
                if let Some(progress) = &mut state.progress {
                    progress.message(sum.message(self.started.elapsed().as_secs_f64()));
                    progress.set((sum.bytes / 1_000_000).min(sum.total_bytes.div_ceil(1_000_000)));
                }
            }
        }
    }

    /// A line that stays.
    pub fn note(&self, line: &str) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.progress {
            Some(progress) => progress.note(line),
            None => eprintln!("process: {line}"),
        }
    }

    /// End with a summary.
    pub fn finish(self) -> Progressed {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let summary = state.sum.message(self.started.elapsed().as_secs_f64());
        match state.progress {
            Some(progress) => progress.finish(summary),
            None if self.shown == Shown::Lines => eprintln!("{}", serde_json::to_string(&state.sum).unwrap_or_default()),
            None => {}
        }
        state.sum
    }
}

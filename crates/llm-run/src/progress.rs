//! One progress line per stage: a bar with rate and ETA on a terminal, a plain line now and then when piped.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Of a line that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// As the terminal writes.
    Plain,
    /// Worth a look.
    Yellow,
    /// Something ended.
    Red,
}

/// A running stage's progress. Everything goes to stderr; stdout stays free for results.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    name: String,
    plain: bool,
    /// The message is all there is: no bar, no counter.
    bare: bool,
    started: Instant,
    last_plain: Instant,
}

impl Progress {
    /// A line whose text is the message alone.
    pub fn line(name: &str) -> Self {
        let mut progress = Self::new(name, 0, "");
        progress.bare = true;
        if let Ok(style) = ProgressStyle::with_template("{prefix:.cyan} {wide_msg}") {
            progress.bar.set_style(style);
        }
        progress
    }

    /// A bar of `total` `unit`s; `total == 0` means unknown.
    pub fn new(name: &str, total: u64, unit: &str) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain { ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()) } else { ProgressBar::new(total) };
        let template = if total == 0 {
            format!("{{prefix:>12}} {{spinner}} {{human_pos}} {unit} {{per_sec:>8}} {{wide_msg}}")
        } else {
            format!("{{prefix:>12}} {{bar:20.cyan/dim}} {{percent:>3}}% {{human_pos}}/{{human_len}} {unit} ETA {{eta}} {{wide_msg}}")
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(name.to_string());
        if plain {
            eprintln!("{name}: started{}", if total > 0 { format!(", {total} {unit}") } else { String::new() });
        } else {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let now = Instant::now();
        Self { bar, name: name.to_string(), plain, bare: false, started: now, last_plain: now }
    }

    /// Where a resumed stage starts; keeps the ETA honest.
    pub fn resume_at(&self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    /// Advance.
    pub fn inc(&mut self, by: u64) {
        self.bar.inc(by);
        self.plain_line(false);
    }

    /// Set the position.
    pub fn set(&mut self, position: u64) {
        self.bar.set_position(position);
        self.plain_line(false);
    }

    /// The text after the bar: loss, rate, counts.
    pub fn message(&mut self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// Whether nothing is drawn and lines appear now and then: stderr is no terminal.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// A line above the bar that stays.
    pub fn note(&self, line: impl AsRef<str>) {
        self.note_in(Colour::Plain, line);
    }

    /// [`Progress::note`] in a colour, where somebody sees it and has not refused colour (<https://no-color.org>).
    pub fn note_in(&self, colour: Colour, line: impl AsRef<str>) {
        let line = line.as_ref();
        if self.plain {
            eprintln!("{}: {line}", self.name);
            return;
        }
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let text = match colour {
            Colour::Yellow if !refused => format!("\x1b[33m{line}\x1b[0m"),
            Colour::Red if !refused => format!("\x1b[31m{line}\x1b[0m"),
            _ => line.to_string(),
        };
        self.bar.println(format!("{:>12} {text}", self.name));
    }

    /// End with a summary line.
    pub fn finish(self, summary: impl AsRef<str>) {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        eprintln!("{:>12} {} ({})", self.name, summary.as_ref(), human_seconds(seconds));
    }

    fn plain_line(&mut self, force: bool) {
        if !self.plain || (!force && self.last_plain.elapsed() < PLAIN_EVERY) {
            return;
        }
        self.last_plain = Instant::now();
        if self.bare {
            eprintln!("{}: {}", self.name, self.bar.message());
            return;
        }
        let total = self.bar.length().filter(|&t| t > 0);
        let position = self.bar.position();
        let place = total.map_or_else(|| position.to_string(), |t| format!("{position}/{t}, ETA {}", human_seconds(self.bar.eta().as_secs_f64())));
        eprintln!("{}: {place} {}", self.name, self.bar.message());
    }
}

/// `12345` -> `12,345`.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `75.3` -> `1m15s`, `4.2` -> `4.2s`.
pub fn human_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1}s"),
        s if s < 3600.0 => format!("{}m{:02}s", (s / 60.0) as u64, (s % 60.0) as u64),
        s => format!("{}h{:02}m", (s / 3600.0) as u64, (s % 3600.0 / 60.0) as u64),
    }
}

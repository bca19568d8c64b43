//! How every program of this workspace runs.
//!
//! A program here is `PROGRAM COMMAND --config FILE --set key=value --out DIR`. It reads one TOML configuration, writes
//! into one folder, leaves a `manifest.json` there that says what went in and what came out, logs `metrics.jsonl`, shows
//! one progress line, and ends with a clear error and a non-zero status or with everything written.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`program`] | `Args`, `main` | shared flags, error printing, exit codes, Ctrl-C |
//! | [`config`] | `load` | TOML + `--set`, typos answered with a suggestion |
//! | [`run`] | `Run` | the output folder and its manifest |
//! | [`metrics`] | `Metrics` | append-only JSON lines that survive a resume |
//! | [`progress`] | `Progress` | a bar with ETA on a terminal, plain lines when piped |
//! | [`seed`] | `Seed`, `Rng` | randomness as a function of (seed, stream, step) |
//! | [`signals`] | `Signal` | Ctrl-C and SIGTERM, told apart |
//! | [`atomic`] | `write`, `AtomicFile`, `AtomicDir` | nothing is ever half-written |
//! | [`hash`] | `path`, `bytes` | BLAKE3 of files and folders |
//! | [`html`] | `Html` | markup that text cannot break, and the look of reports |
//! | [`chart`] | `Chart`, `Series` | curves and points as SVG |
//! | [`curves`] | | which numbers of `metrics.jsonl` belong into one chart, and what it is called |
//! | [`answers`] | `Answers` | what a model wrote before and after, side by side |
//!
//! Deliberately absent: any knowledge of text, tensors or models.

pub mod answers;
pub mod atomic;
pub mod chart;
pub mod config;
pub mod curves;
mod error;
pub mod hash;
pub mod html;
pub mod metrics;
pub mod program;
pub mod progress;
pub mod run;
pub mod seed;
pub mod signals;

pub use error::{Error, Result};
pub use metrics::Metrics;
pub use program::Args;
pub use progress::Progress;
pub use run::Run;
pub use seed::{Rng, Seed};

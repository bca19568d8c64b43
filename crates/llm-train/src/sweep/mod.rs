//! Many runs of one program that differ in some settings, one after another, and which of them is best.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`spec`] | `Spec` | `sweep.toml`: a base, a grid, random draws, single runs, seeds |
//! | [`runs`] | `Planned` | the runs it names, each with its whole configuration, checked before the first one starts |
//! | [`execute`] | `Execution` | child processes; what is finished is kept, what fails is counted |
//! | [`results`] | `Results` | metric of every run, mean and spread over seeds, ranking |
//! | [`report`] | | the table, `sweep.json`, `sweep.html` |
//!
//! A run's folder is named after its settings and the hash of its whole configuration: a sweep that is started again runs what is missing,
//! and after a change of the base it runs everything anew.

pub mod execute;
pub mod report;
pub mod results;
pub mod runs;
pub mod spec;

pub use execute::Execution;
pub use results::Results;
pub use runs::{Planned, plan};
pub use spec::{Goal, Program, Spec};

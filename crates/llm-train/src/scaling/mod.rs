//! Scaling laws: how the loss falls with parameters and tokens, and how to divide the next budget between them.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`points`] | `Point` | measured (N, D, loss, C) from CSV, JSON lines, run folders or a sweep |
//! | [`isoflop`] | `Frontier` | approach 2 of Hoffmann et al. 2022: a parabola for each budget, a power law through their minima |
//! | [`parametric`] | `Surface` | approach 3: `L = E + A/N^alpha + B/D^beta` |
//! | [`minimize`] | | L-BFGS in a handful of dimensions |
//! | [`fit`] | `Fit` | both, with bootstrap intervals and predictions |
//! | [`plan`] | `IsoFlops` | a sweep of runs to fit on, with the dial's shapes |
//! | [`report`], [`axis`], [`picture`], [`page`] | | table, SVG, page |
//!
//! N is the number of parameters that multiply an input (table lookups left out), D tokens, C floating-point operations, losses are nats per
//! token.

pub mod axis;
pub mod fit;
pub mod isoflop;
pub mod minimize;
pub mod page;
pub mod parametric;
pub mod picture;
pub mod plan;
pub mod points;
pub mod report;

pub use fit::{Fit, FitOptions};
pub use isoflop::Frontier;
pub use parametric::Surface;
pub use plan::IsoFlops;
pub use points::Point;

//! Commands of the program that are more than a call of the library.

mod bench;
mod dial;
mod scaling;
mod sweep;

pub use bench::BenchArgs;
pub use dial::DialArgs;
pub use scaling::ScalingTask;
pub use sweep::SweepArgs;

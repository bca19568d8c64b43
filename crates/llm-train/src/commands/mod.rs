//! Commands of the program that are more than a call of the library.

mod bench;

pub use bench::BenchArgs;

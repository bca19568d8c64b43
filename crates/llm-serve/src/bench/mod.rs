//! `llm-serve bench`: how fast is a server, for how many users, and how far from what the memory allows?
//!
//! ```text
//! args -> target (a server that runs, or one started here) -> workload (prompts) -> load (closed or open loop) -> stats -> report
//!                                                              ceiling (measured bandwidth, bytes of weights) ----^
//! ```
//!
//! | module | job |
//! |---|---|
//! | [`args`] | flags, and the order of things |
//! | [`target`] | the server's address, its model, a server of our own |
//! | [`workload`] | request bodies: random prompts of a length, or a file of conversations |
//! | [`load`] | N streams at a time, or arrivals at a rate; one record per request |
//! | [`stats`] | percentiles, throughput, goodput |
//! | [`ceiling`] | bytes that a token needs, and how fast the memory gives them |
//! | [`report`] | the table of 80 columns and the JSON |
//!
//! The client runs on one thread and does little: on a small machine it takes its time from the server it measures.
//! In an open loop times count from when a request was *due*, not from when it could be sent, or a slow server would
//! look fast because it was asked less often.

pub mod args;
pub mod ceiling;
pub mod load;
pub mod report;
pub mod stats;
pub mod target;
pub mod workload;

pub use args::BenchArgs;

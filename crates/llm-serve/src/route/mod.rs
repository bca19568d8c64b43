//! `llm-serve route`: one address in front of several servers that serve the same model.
//!
//! ```text
//! request -> balance (which replica) -> proxy (send, or send elsewhere) -> relay (bytes as they come) -> client
//!                 health (who is ready) -> upstream (what is known of a replica) <- metrics
//! ```
//!
//! | module | job |
//! |---|---|
//! | [`balance`] | prefix affinity with bounded loads, as a pure function |
//! | [`upstream`] | one replica: its state, its requests, its counts |
//! | [`health`] | asks `/ready`, with growing pauses while nobody answers |
//! | [`proxy`] | the handler: retries while nothing has reached the client, never after |
//! | [`relay`] | the body on its way; a stream that breaks ends with an error event |
//! | [`metrics`] | `/metrics` of the router itself |
//! | [`args`] | flags, and how the program runs and drains |
//!
//! Invariants: a byte of a reply that has reached the client fixes the replica; from then on nothing is sent again. The
//! router keeps no state that it could not lose: two routers with the same upstreams send a conversation to the same place.
//!
//! Deliberately absent: keys and limits (the servers' business, `Authorization` is passed through), TLS, loading adapters
//! everywhere at once, discovery of replicas.

pub mod args;
pub mod balance;
pub mod health;
pub mod metrics;
pub mod proxy;
pub mod relay;
pub mod upstream;

pub use args::RouteArgs;
pub use proxy::{Router, RouterConfig, service};

//! OpenAI-compatible server over one engine.
//!
//! ```text
//! HTTP request -> api (parse, validate) -> app (names, limits) -> worker (engine thread) -> generate + assemble -> JSON or SSE
//! ```
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`server`] | `Server`, `ServerConfig` | port, loading, shutdown with drain |
//! | [`routes`] | `router` | paths, `/v1/models`, `/health`, 404, 405 |
//! | [`chat`], [`completions`] | `handle` | the two generating endpoints |
//! | [`api`] | `ChatRequest`, `CompletionRequest`, replies | the wire format and its validation |
//! | [`images`], [`fetch`](mod@fetch) | `ImageLoader`, `AllowedHost` | `image_url` parts to images, within bounds |
//! | [`worker`] | `Worker`, `Generation` | the thread that owns the engine |
//! | [`generate`] | `Choices`, `Step` | n choices of one call, tokens counted |
//! | [`assemble`] | `Assembler` | tokens -> pieces of text |
//! | [`reasoning`], [`stop`] | `ReasoningSplitter`, `StopMatcher` | `<think>` by token id; stop strings |
//! | [`logprobs`], [`sse`], [`access`] | | log-probabilities, event streams, one log line per request |
//! | [`defaults`] | `Defaults` | `generation_config.json` |
//! | [`page`] | | the chat page at `/` |
//! | [`route`] | `Router` | one address in front of several servers |
//! | [`bench`](mod@bench) | `BenchArgs` | throughput and waiting, beside what the memory allows |
//! | [`client`] | `Client`, `Events` | HTTP and event streams from the other side, for those two |
//! | [`error`] | `Error`, `ApiError` | what ends the program, what ends a request |
//!
//! Invariants: only the engine thread touches the model; handlers never see a tensor. A reply is a function of weights,
//! prompt, parameters and seed: it equals what `llm_infer` returns for the same request, whatever else is running. Prompts
//! and replies are never logged.
//!
//! Deliberately absent: authentication and TLS (put a proxy in front), more than one model.

pub mod access;
pub mod api;
pub mod app;
pub mod assemble;
pub mod bench;
pub mod chat;
pub mod client;
pub mod completions;
pub mod defaults;
pub mod error;
pub mod fetch;
pub mod generate;
pub mod images;
pub mod logprobs;
pub mod page;
pub mod reasoning;
pub mod route;
pub mod routes;
pub mod server;
pub mod sse;
pub mod stop;
pub mod worker;

pub use error::{ApiError, Error, Result};
pub use fetch::AllowedHost;
pub use images::ImageLimits;
pub use server::{DEFAULT_BODY_LIMIT, Ready, Server, ServerConfig};

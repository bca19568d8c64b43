//! OpenAI-compatible server over one engine.
//!
//! ```text
//! HTTP request -> api (parse, validate) -> app (names, limits) -> worker (engine thread) -> generate + assemble -> JSON or SSE
//! ```
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`server`], [`settings`] | `Server`, `ServerConfig` | port, loading, shutdown with drain; the flags from a file |
//! | [`accept`], [`tls`], [`stall`] | `Acceptor`, `Tls` | connections, encryption, slow clients |
//! | [`guard`] | | the door: names, keys, scopes, rates, drain |
//! | [`call`], [`house`] | `Call`, `Lease`, `House` | what a call may use and did use; all rules in one place |
//! | [`keys`], [`ledger`] | `KeyStore`, `Ledger` | API keys; usage and quotas in SQLite |
//! | [`limits`], [`admission`] | `Limiter`, `Admission` | token buckets; a queue with a bound |
//! | [`metrics`], [`otlp`], [`cors`], [`clock`] | `Metrics`, `Spans`, `Cors` | Prometheus, traces, web pages of other origins, dates |
//! | [`routes`] | `router` | paths, `/v1/models`, `/health`, `/ready`, `/metrics`, 404, 405 |
//! | [`chat`], [`completions`], [`anthropic`] | `handle` | the generating endpoints |
//! | [`embeddings`], [`tokens`], [`adapters`] | `handle` | vectors; text and ids; LoRA adapters by name |
//! | [`api`] | `ChatRequest`, `CompletionRequest`, replies | the wire format, its validation and its OpenAPI document |
//! | [`prompt`], [`fim`] | `Prompt`, `Marks` | messages to ids; prompts with a gap |
//! | [`tools`], [`turn`] | `ToolParser`, `Turn` | calls in the model's text; thinking, content and calls of one choice |
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
//! and replies are never logged (prompts are, into a file of their own, with `--log-prompts`). A reply is not called complete before its
//! usage is on the disk. Nothing that a client holds on to is without a bound.
//!
//! Deliberately absent: more than one model.

pub mod accept;
pub mod access;
pub mod adapters;
pub mod admission;
pub mod anthropic;
pub mod api;
pub mod app;
pub mod assemble;
pub mod bench;
pub mod call;
pub mod chat;
pub mod client;
pub mod clock;
pub mod completions;
pub mod cors;
pub mod defaults;
pub mod embeddings;
pub mod error;
pub mod fetch;
pub mod fim;
pub mod generate;
pub mod guard;
pub mod house;
pub mod images;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod logprobs;
pub mod metrics;
pub mod otlp;
pub mod page;
pub mod prompt;
pub mod reasoning;
pub mod route;
pub mod routes;
pub mod server;
pub mod settings;
pub mod sse;
pub mod stall;
pub mod stop;
pub mod tls;
pub mod tokens;
pub mod tools;
pub mod turn;
pub mod worker;

pub use error::{ApiError, Error, Result};
pub use fetch::AllowedHost;
pub use house::HouseConfig;
pub use images::ImageLimits;
pub use server::{DEFAULT_BODY_LIMIT, Ready, Server, ServerConfig};

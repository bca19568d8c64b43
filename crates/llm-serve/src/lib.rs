//! OpenAI-compatible server over one engine, and what stands around it: keys, a chat page, a router, a benchmark.
//!
//! ```text
//! connection -> accept -> guard (who, how much) -> api (parse, validate) -> app -> worker (engine thread) -> generate + assemble -> JSON or SSE
//! ```
//!
//! | module | noun | job |
//! |---|---|---|
//! | **the program** | | |
//! | [`server`], [`settings`] | `Server`, `ServerConfig` | port, loading, shutdown with drain; the flags from a file |
//! | [`routes`], [`app`] | `router`, `App` | paths and the small endpoints; what all handlers share |
//! | [`error`] | `Error`, `ApiError` | what ends the program, what ends a request |
//! | **the door** | | |
//! | [`accept`], [`tls`], [`stall`] | `Acceptor`, `Tls` | connections, encryption, slow clients |
//! | [`guard`] | | names, drain, keys, scopes, rates |
//! | [`call`], [`house`] | `Call`, `Lease`, `House` | what a call may use and did use; all rules in one place |
//! | [`keys`], [`ledger`] | `KeyStore`, `Ledger` | API keys; usage and quotas in SQLite |
//! | [`limits`], [`admission`] | `Limiter`, `Admission` | token buckets; a queue with a bound |
//! | [`cors`], [`clock`] | `Cors` | web pages of other origins; dates |
//! | **what is written down** | | |
//! | [`access`], [`metrics`], [`otlp`] | `AccessLog`, `Metrics`, `Spans` | one log line per request, Prometheus, traces |
//! | **endpoints** | | |
//! | [`api`] | `ChatRequest`, `CompletionRequest`, replies | the wire format, its validation and its OpenAPI document |
//! | [`chat`], [`completions`], [`anthropic`] | `handle` | the generating endpoints |
//! | [`embeddings`], [`tokens`], [`adapters`] | `handle` | vectors; text and ids; LoRA adapters by name |
//! | **from a request to the engine** | | |
//! | [`prompt`], [`fim`], [`defaults`] | `Prompt`, `Marks`, `Defaults` | messages to ids; prompts with a gap; `generation_config.json` |
//! | [`images`], [`fetch`](mod@fetch) | `ImageLoader`, `AllowedHost` | `image_url` parts to images, within bounds |
//! | [`worker`] | `Worker`, `Generation` | the thread that owns the engine, also after a step that failed |
//! | **from tokens to a reply** | | |
//! | [`generate`] | `Choices`, `Step` | n choices of one call, tokens counted |
//! | [`assemble`], [`reasoning`], [`stop`] | `Assembler`, `ReasoningSplitter`, `StopMatcher` | tokens to pieces of text; `<think>` by token id; stop strings |
//! | [`turn`], [`tools`] | `Turn`, `ToolParser` | thinking, content and calls of one choice; calls in the model's text |
//! | [`logprobs`], [`sse`] | | log-probabilities, event streams |
//! | **beside the server** | | |
//! | [`page`] | | the chat page at `/` |
//! | [`route`] | `Router` | one address in front of several servers |
//! | [`bench`](mod@bench) | `BenchArgs` | throughput and waiting, beside what the memory allows |
//! | [`client`] | `Client`, `Events` | HTTP and event streams from the other side, for those two |
//!
//! Invariants: only the engine thread touches the model; handlers never see a tensor. A reply is a function of weights,
//! prompt, parameters and seed: it equals what `llm_infer` returns for the same request, whatever else is running. Prompts
//! and replies are never logged (prompts are, into a file of their own, with `--log-prompts`). A reply is not called complete before its
//! usage is on the disk. Nothing that a client holds on to is without a bound.
//!
//! Deliberately absent: more than one base model; users and roles beyond keys and scopes; HTTP/2; compression of replies; in the router keys, TLS and
//! discovery of replicas.

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

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
//! | [`error`] | `Error`, `ApiError` | what ends the program, what ends a request |
//!
//! Invariants: only the engine thread touches the model; handlers never see a tensor. A reply is a function of weights,
//! prompt, parameters and seed: it equals what `llm_infer` returns for the same request, whatever else is running. Prompts
//! and replies are never logged.
//!
//! Deliberately absent: authentication and TLS (put a proxy in front), more than one model.

pub mod access;
pub mod adapters;
pub mod anthropic;
pub mod api;
pub mod app;
pub mod assemble;
pub mod chat;
pub mod completions;
pub mod defaults;
pub mod embeddings;
pub mod error;
pub mod fetch;
pub mod fim;
pub mod generate;
pub mod images;
pub mod logprobs;
pub mod prompt;
pub mod reasoning;
pub mod routes;
pub mod server;
pub mod sse;
pub mod stop;
pub mod tokens;
pub mod tools;
pub mod turn;
pub mod worker;

pub use error::{ApiError, Error, Result};
pub use fetch::AllowedHost;
pub use images::ImageLimits;
pub use server::{DEFAULT_BODY_LIMIT, Ready, Server, ServerConfig};

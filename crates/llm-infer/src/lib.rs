//! Tokens out, many requests at once.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`model`] | `Model` | a model folder or GGUF file in memory: decoder, tokenizer, ends, content hash |
//! | [`sampling`] | `Sampling` | from logits to a token, as Hugging Face `generate` does it |
//! | [`vision`] | `Vision`, `Image` | what a model that sees has besides, and images ready for it |
//! | [`pages`] | `PagedKv` | which page of the cache belongs to whom; prefixes are shared |
//! | [`engine`] | `Engine`, `Request` | requests join and leave the batch at every step; priorities, preemption, guesses |
//! | [`adapters`] | `Adapters` | LoRA adapters of an engine |
//! | [`score`](mod@score) | `score` | log-probabilities of given tokens |
//! | [`likelihood`] | `likelihoods` | how likely are many endings of shared beginnings |
//! | [`beam`] | `beam_search` | the likeliest answers instead of a drawn one |
//! | [`embed`](mod@embed) | `embed` | one vector for a text |
//! | [`grammar`] | `Grammars`, `Grammar` | answers in a language: JSON schemas, regular expressions, grammars, tool calls |
//! | [`speculative`] | `Controller` | guesses out of the text, and when they pay; checked in one pass |
//!
//! Evaluation, rollouts and the server all generate through here: what is scored is what is served.
//!
//! Deliberately absent: HTTP, chat templates, training, a grammar engine of its own.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod adapters;
pub mod beam;
pub mod embed;
pub mod engine;
mod error;
pub mod grammar;
pub mod likelihood;
pub mod model;
pub mod pages;
pub mod score;
pub mod speculative;
pub mod vision;

pub use adapters::{AdapterId, Adapters};
pub use beam::{Beam, BeamSettings, EarlyStopping, beam_search};
pub use embed::{Pooling, embed};
pub use engine::{Completion, Engine, EngineConfig, Event, FinishReason, Preemption, Request, RequestId, Speculation, Stats, Timings};
pub use error::{Error, Result};
pub use grammar::{Constraint, Grammar, Grammars};
pub use likelihood::{Likelihood, Scored, likelihoods};
pub use llm_arch::KvDtype;
pub use llm_tensor::sample as sampling;
pub use model::Model;
pub use sampling::Sampling;
pub use score::{TokenScore, score, score_top};
pub use vision::{Image, ImageReader, Vision};

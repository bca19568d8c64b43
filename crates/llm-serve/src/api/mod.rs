//! The wire: what clients send and what they get.
//!
//! | module | endpoint |
//! |---|---|
//! | [`chat`], [`messages`], [`tools`], [`structured`] | `/v1/chat/completions` |
//! | [`completion`] | `/v1/completions` |
//! | [`embeddings`] | `/v1/embeddings` |
//! | [`anthropic`], [`anthropic_reply`] | `/v1/messages` |
//! | [`tokens`] | `/tokenize`, `/detokenize`, `/apply-template` |
//! | [`adapters`] | `/v1/load_lora_adapter`, `/v1/unload_lora_adapter` |
//! | [`sampling`] | what generating requests share |
//! | [`response`] | OpenAI's replies |
//! | [`describe`], [`openapi`] | schemas of all of it |
//!
//! Source: OpenAI API reference (chat completions, completions, embeddings, models), Anthropic API reference (messages), with vLLM's
//! extensions. Nothing here knows of HTTP or of the model.

pub mod adapters;
pub mod anthropic;
pub mod anthropic_reply;
pub mod chat;
pub mod completion;
pub mod describe;
pub mod embeddings;
mod fields;
pub mod messages;
pub mod openapi;
pub mod response;
pub mod sampling;
pub mod structured;
pub mod tokens;
pub mod tools;

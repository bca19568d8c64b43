//! The wire: what clients send ([`chat`], [`completion`]) and what they get ([`response`]).
//!
//! Source: OpenAI API reference (chat completions, completions, models), with vLLM's extensions `top_k`, `min_p`,
//! `repetition_penalty`, `chat_template_kwargs` and `reasoning_content`. Nothing here knows of HTTP or of the model.

pub mod chat;
pub mod completion;
mod fields;
pub mod response;
pub mod sampling;

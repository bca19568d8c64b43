//! Text to ids and back: byte-level BPE, chat templates, fertility.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`tokenizer`] | `Tokenizer` | encode, decode; the one type other crates use |
//! | `folder` | | load and save a Hugging Face tokenizer folder |
//! | [`decode`] | `DecodeStream` | ids one by one to whole characters |
//! | [`chat`] | `ChatTemplate`, `Message` | conversations to ids and assistant masks |
//! | [`trainer`] | `Trainer`, `train` | learn a vocabulary: byte-level BPE, SentencePiece's BPE, Unigram |
//! | [`sample`] | `Reader` | stream text from JSONL and plain files |
//! | [`fertility`] | `Fertility` | what a language or domain costs in tokens |
//! | [`pretokenize`] | `Pattern` | text to words, the regular expressions by hand |
//! | `bpe`, `cache`, `native`, `added`, `byte_level` | | our encoder, inside out |
//! | `fallback` | | pipelines we do not run: the `tokenizers` crate |
//!
//! Deliberately absent: tensors, documents, models. `Tokenizer::encode` never makes a control token out of text; only
//! `encode_with_special` does, and chat templates in their own words.

mod added;
mod bpe;
mod byte_level;
mod cache;
pub mod chat;
pub mod decode;
mod error;
mod fallback;
pub mod fertility;
mod folder;
mod native;
pub mod pretokenize;
pub mod sample;
pub mod tokenizer;
pub mod trainer;

pub use added::AddedToken;
pub use chat::{ChatTemplate, ChatTokens, ImagePart, Message, Part, RenderOptions};
pub use decode::DecodeStream;
pub use error::{Error, Result};
pub use tokenizer::Tokenizer;

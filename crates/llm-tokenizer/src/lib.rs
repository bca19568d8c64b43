//! Text to ids and back: byte-level BPE, SentencePiece models, chat templates, fertility.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`tokenizer`] | `Tokenizer` | encode, decode; the one type other crates use |
//! | `folder` | | load a tokenizer; save a Hugging Face folder |
//! | [`formats`] | `Format` | files of other programs, in and out |
//! | `offsets` | `Encoding` | where tokens come from |
//! | [`decode`] | `DecodeStream` | ids one by one to whole characters |
//! | [`chat`] | `ChatTemplate`, `Message` | conversations to ids and assistant masks |
//! | [`trainer`] | `Trainer`, `train` | learn a vocabulary: byte-level BPE, SentencePiece's BPE, Unigram |
//! | [`sample`] | `Reader` | stream text from JSONL and plain files |
//! | [`fertility`] | `Measure`, `Report` | what a language or domain costs in tokens, tokenizers side by side |
//! | [`surgery`] | `Grown`, `Pruned` | more or fewer tokens than a model was trained with |
//! | [`pretokenize`] | `Pattern` | text to words, the regular expressions by hand |
//! | `bpe`, `cache`, `scratch`, `native`, `added`, `byte_level` | | our encoder of byte-level BPE, inside out |
//! | `spm` | | our encoder of SentencePiece's models |
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
pub mod formats;
mod native;
mod offsets;
pub mod pretokenize;
pub mod sample;
mod scratch;
mod spm;
pub mod surgery;
pub mod tokenizer;
pub mod trainer;

pub use added::AddedToken;
pub use chat::{ChatTemplate, ChatTokens, ImagePart, Message, Part, RenderOptions};
pub use decode::DecodeStream;
pub use error::{Error, Result};
pub use formats::Format;
pub use offsets::Encoding;
pub use tokenizer::Tokenizer;

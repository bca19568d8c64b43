//! Fertility: what a language or domain costs in tokens, and how much less of a context window it gets than English, for one
//! tokenizer or several side by side on the same text.
//!
//! | module | noun | job |
//! |---|---|---|
//! | `count` | `Candidate`, `Counts` | a tokenizer with a name; raw counts of a text |
//! | `measure` | `Measure` | samples as they come, grouped |
//! | `parallel` | | translations of one text |
//! | `report` | `Report`, `Fertility`, `Group` | what follows from the counts; `fertility.json` |
//! | `sentence` | | the same in words |
//! | `examples` | `Example` | a sentence of each language, cut |
//! | `terminal` | | a table of 80 columns |
//! | `page`, `bars` | | `fertility.html` |
//! | `names` | | names of languages and of tokenizers |
//!
//! Words are Unicode words (UAX 29) that hold a letter or digit. The share of the context is the text, counted in bytes
//! per token, that fits the same number of tokens, relative to English: 0.7 means a window holds 30 % less text. Bytes
//! favour scripts with many bytes a letter; so there are characters as well, and, where samples hold translations, the tokens of
//! the same text (the premium of Petrov et al. 2023, arXiv 2305.15425).
//!
//! The forecast of costs needs no model: training takes the same work for each token (6 FLOPs a parameter, Kaplan et al. 2020,
//! arXiv 2001.08361, in packed sequences of a fixed length), and each token keeps the same bytes in the cache of keys and values.

mod bars;
mod count;
mod examples;
mod measure;
mod names;
mod page;
mod parallel;
mod report;
mod sentence;
mod terminal;

pub use count::{Candidate, Counts};
pub use examples::{Cut, Example, Piece};
pub use measure::Measure;
pub use names::{language, unique_names};
pub use page::page;
pub use report::{Fertility, Group, Report};
pub use terminal::table;

/// The group of samples without a language or domain.
pub const UNKNOWN: &str = "unknown";
/// The language others are compared with, unless another is asked for.
pub const ENGLISH: &str = "en";

//! The three languages as tables: templates per category, countable objects, short words.
//!
//! Placeholders: `{n}` and `{m}` are two different names, `{o}` an object in the plural, `{q}`/`{Q}` "how many" agreeing
//! with it, `{a} {b} {c}` numbers, `{s}` the terms of a sequence, `{w}` a word, `{l}` a list of words. Sentences are built
//! so that no inflection depends on a number or a name (German avoids the dative plural, Spanish avoids `o`/`u` and
//! gendered words other than "cuántos/cuántas").

use super::problem::Problem;
use super::{english, german, spanish};
use serde::{Deserialize, Serialize};

/// A language of the exercises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// English.
    En,
    /// German.
    De,
    /// Spanish.
    Es,
}

/// Number of words in each language's word table.
pub(super) const WORDS: usize = 60;

/// Names that all three languages share.
pub(super) const NAMES: [&str; 16] =
    ["Anna", "Ben", "Carlos", "Clara", "David", "Emma", "Felix", "Laura", "Lena", "Luis", "Maria", "Mia", "Nora", "Paul", "Sofia", "Tom"];

/// A plural noun and its "how many".
pub(super) struct Object {
    pub plural: &'static str,
    pub how_many: &'static str,
}

/// The wording of one language.
pub(super) struct Phrases {
    pub objects: &'static [Object],
    /// Index = meaning, the same in all languages.
    pub words: &'static [&'static str; WORDS],
    pub addition: &'static [&'static str],
    pub subtraction: &'static [&'static str],
    pub two_step: &'static [&'static str],
    pub multiplication: &'static [&'static str],
    pub larger: &'static [&'static str],
    pub smaller: &'static [&'static str],
    pub sequence: &'static [&'static str],
    pub missing_addend: &'static [&'static str],
    pub counting: &'static [&'static str],
    pub uppercase: &'static [&'static str],
    pub reverse: &'static [&'static str],
    pub first_letter: &'static [&'static str],
    pub last_word: &'static [&'static str],
    pub repeat: &'static [&'static str],
}

impl Language {
    /// All languages.
    pub const ALL: [Language; 3] = [Language::En, Language::De, Language::Es];

    /// ISO 639-1 code.
    pub fn code(self) -> &'static str {
        match self {
            Language::En => "en",
            Language::De => "de",
            Language::Es => "es",
        }
    }

    pub(super) fn phrases(self) -> &'static Phrases {
        match self {
            Language::En => &english::PHRASES,
            Language::De => &german::PHRASES,
            Language::Es => &spanish::PHRASES,
        }
    }

    pub(super) fn words(self) -> &'static [&'static str; WORDS] {
        self.phrases().words
    }
}

impl Phrases {
    pub(super) fn templates(&self, problem: &Problem) -> &'static [&'static str] {
        match problem {
            Problem::Add { .. } => self.addition,
            Problem::Subtract { .. } => self.subtraction,
            Problem::AddSubtract { .. } => self.two_step,
            Problem::Multiply { .. } => self.multiplication,
            Problem::Compare { larger: true, .. } => self.larger,
            Problem::Compare { larger: false, .. } => self.smaller,
            Problem::Sequence { .. } => self.sequence,
            Problem::Missing { .. } => self.missing_addend,
            Problem::Count { .. } => self.counting,
            Problem::Uppercase { .. } => self.uppercase,
            Problem::Reverse { .. } => self.reverse,
            Problem::FirstLetter { .. } => self.first_letter,
            Problem::LastWord { .. } => self.last_word,
            Problem::Repeat { .. } => self.repeat,
        }
    }
}

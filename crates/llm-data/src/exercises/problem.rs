//! A problem without words: operation and operands, how they are drawn, the gold answer, and the key that keeps training
//! and held-out problems apart.
//!
//! The key is the same in every language and under every wording, so a problem that is held out in English never appears
//! in the German training data. Operands that commute are sorted in the key, and a missing addend `a + ? = c` shares its
//! key with the subtraction `c - a`, because the solution is the same.

use super::language::Language;
use llm_run::Rng;
use serde::{Deserialize, Serialize};

/// What kind of problem it is; the name in the `category` field of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// `a + b`.
    Addition,
    /// `a - b`.
    Subtraction,
    /// `a + b - c`.
    TwoStep,
    /// One digit times one or two digits.
    Multiplication,
    /// The larger or the smaller of two numbers.
    Comparison,
    /// The next number of an arithmetic sequence.
    Sequence,
    /// `a + ? = c`.
    MissingAddend,
    /// How often a word occurs in a short list.
    Counting,
    /// A short instruction about words: upper case, reverse, first letter, last word, repeat.
    Instruction,
}

impl Category {
    /// All categories, in the order in which they are reported.
    pub const ALL: [Category; 9] = [
        Category::Addition,
        Category::Subtraction,
        Category::TwoStep,
        Category::Multiplication,
        Category::Comparison,
        Category::Sequence,
        Category::MissingAddend,
        Category::Counting,
        Category::Instruction,
    ];

    /// The name used in files.
    pub fn name(self) -> &'static str {
        match self {
            Category::Addition => "addition",
            Category::Subtraction => "subtraction",
            Category::TwoStep => "two_step",
            Category::Multiplication => "multiplication",
            Category::Comparison => "comparison",
            Category::Sequence => "sequence",
            Category::MissingAddend => "missing_addend",
            Category::Counting => "counting",
            Category::Instruction => "instruction",
        }
    }
}

/// An operation with its operands. Words are indices into [`Language::words`], where one index means the same thing in
/// every language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    Add { a: u32, b: u32 },
    Subtract { a: u32, b: u32 },
    AddSubtract { a: u32, b: u32, c: u32 },
    Multiply { digit: u32, b: u32 },
    Compare { a: u32, b: u32, larger: bool },
    Sequence { start: i64, step: i64 },
    Missing { a: u32, total: u32 },
    Count { words: Vec<usize>, target: usize },
    Uppercase { word: usize },
    Reverse { word: usize },
    FirstLetter { word: usize },
    LastWord { words: Vec<usize> },
    Repeat { word: usize, times: usize },
}

/// Terms of a sequence that are shown.
pub(super) const SEQUENCE_SHOWN: i64 = 4;

impl Problem {
    /// Draw a problem of that category; `largest` bounds the operands of additions and subtractions.
    pub(super) fn draw(category: Category, largest: u32, rng: &mut Rng) -> Problem {
        match category {
            Category::Addition => Problem::Add { a: operand(largest, rng), b: operand(largest, rng) },
            Category::Subtraction => {
                let (a, b) = apart(largest, rng);
                Problem::Subtract { a: a.max(b), b: a.min(b) }
            }
            Category::TwoStep => {
                let half = largest / 2;
                let (a, b) = (operand(half, rng), operand(half, rng));
                let c = between(2, (a + b - 1).min(half), rng);
                Problem::AddSubtract { a, b, c }
            }
            Category::Multiplication => {
                let b = if rng.chance(0.5) { between(2, 9, rng) } else { between(10, 99, rng) };
                Problem::Multiply { digit: between(2, 9, rng), b }
            }
            Category::Comparison => {
                let (a, b) = apart(largest, rng);
                Problem::Compare { a, b, larger: rng.chance(0.5) }
            }
            Category::Sequence => {
                let step = rng.range(2, 12);
                if rng.chance(0.6) {
                    Problem::Sequence { start: rng.range(1, 60), step }
                } else {
                    Problem::Sequence { start: SEQUENCE_SHOWN * step + rng.range(1, 40), step: -step }
                }
            }
            Category::MissingAddend => {
                let (a, b) = apart(largest, rng);
                Problem::Missing { a: a.min(b), total: a.max(b) }
            }
            Category::Counting => {
                let kinds = [word(rng), word(rng), word(rng)];
                let words: Vec<usize> = (0..rng.range(4, 6)).map(|_| *rng.pick(&kinds)).collect();
                let target = *rng.pick(&words);
                Problem::Count { words, target }
            }
            Category::Instruction => match rng.below(5) {
                0 => Problem::Uppercase { word: word(rng) },
                1 => Problem::Reverse { word: word(rng) },
                2 => Problem::FirstLetter { word: word(rng) },
                3 => Problem::LastWord { words: (0..3).map(|_| word(rng)).collect() },
                _ => Problem::Repeat { word: word(rng), times: rng.range(2, 4) as usize },
            },
        }
    }

    /// Identity of the problem, independent of language and wording.
    pub(super) fn key(&self) -> String {
        let sorted = |a: u32, b: u32| (a.min(b), a.max(b));
        match self {
            Problem::Add { a, b } => format!("add {:?}", sorted(*a, *b)),
            Problem::Subtract { a, b } => format!("subtract {a} {b}"),
            Problem::Missing { a, total } => format!("subtract {total} {a}"),
            Problem::AddSubtract { a, b, c } => format!("add_subtract {:?} {c}", sorted(*a, *b)),
            Problem::Multiply { digit, b } => format!("multiply {:?}", sorted(*digit, *b)),
            Problem::Compare { a, b, .. } => format!("compare {:?}", sorted(*a, *b)),
            Problem::Sequence { start, step } => format!("sequence {start} {step}"),
            Problem::Count { words, target } => format!("count {words:?} {target}"),
            Problem::Uppercase { word } => format!("uppercase {word}"),
            Problem::Reverse { word } => format!("reverse {word}"),
            Problem::FirstLetter { word } => format!("first_letter {word}"),
            Problem::LastWord { words } => format!("last_word {words:?}"),
            Problem::Repeat { word, times } => format!("repeat {word} {times}"),
        }
    }

    /// The gold answer.
    pub(super) fn answer(&self, language: Language) -> String {
        let words = language.words();
        match self {
            Problem::Add { a, b } => (a + b).to_string(),
            Problem::Subtract { a, b } => (a - b).to_string(),
            Problem::Missing { a, total } => (total - a).to_string(),
            Problem::AddSubtract { a, b, c } => (a + b - c).to_string(),
            Problem::Multiply { digit, b } => (digit * b).to_string(),
            Problem::Compare { a, b, larger } => if *larger { a.max(b) } else { a.min(b) }.to_string(),
            Problem::Sequence { start, step } => (start + SEQUENCE_SHOWN * step).to_string(),
            Problem::Count { words, target } => words.iter().filter(|w| *w == target).count().to_string(),
            Problem::Uppercase { word } => words[*word].to_uppercase(),
            Problem::Reverse { word } => words[*word].chars().rev().collect(),
            Problem::FirstLetter { word } => words[*word].chars().take(1).collect(),
            Problem::LastWord { words: list } => list.last().map(|w| words[*w].to_string()).unwrap_or_default(),
            Problem::Repeat { word, times } => vec![words[*word]; *times].join(" "),
        }
    }
}

fn between(low: u32, high: u32, rng: &mut Rng) -> u32 {
    rng.range(i64::from(low), i64::from(high)) as u32
}

/// One digit in three of ten cases, else anything up to `largest`.
fn operand(largest: u32, rng: &mut Rng) -> u32 {
    if rng.chance(0.3) { between(2, 9, rng) } else { between(10, largest, rng) }
}

/// Two different operands.
fn apart(largest: u32, rng: &mut Rng) -> (u32, u32) {
    let a = between(10, largest, rng);
    let b = operand(largest, rng);
    if a == b { (a, b - 1) } else { (a, b) }
}

fn word(rng: &mut Rng) -> usize {
    rng.below(super::language::WORDS)
}

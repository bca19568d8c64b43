//! Reasoning text in two styles over the same problems: *worked* goes digit by digit, *direct* states the equation.
//!
//! A small model cannot see `47+85=132` in one step but can see each column, so worked solutions are right far more often.
//! Supervised training shows both; reinforcement learning can then find out that working pays. The worked form writes its
//! columns from the right, carries last: `47+85: 7+5=12, 4+8+1=13, 132`. No spaces inside equations: with digits as single
//! tokens a two-digit addition takes 27 tokens.

use super::language::Language;
use super::problem::{Problem, SEQUENCE_SHOWN};

/// Reasoning that reaches the answer step by step.
pub(super) fn worked(problem: &Problem, language: Language) -> String {
    let words = language.words();
    match problem {
        Problem::Add { a, b } => format!("{a}+{b}: {}, {}", add_columns(*a, *b), a + b),
        Problem::Subtract { a, b } | Problem::Missing { a: b, total: a } => format!("{a}-{b}: {}, {}", subtract_columns(*a, *b), a - b),
        Problem::AddSubtract { a, b, c } => {
            let sum = a + b;
            format!("{a}+{b}-{c}: {}, {sum}, {}, {}", add_columns(*a, *b), subtract_columns(sum, *c), sum - c)
        }
        Problem::Multiply { digit, b } => format!("{digit}*{b}: {}, {}", multiply_columns(*digit, *b), digit * b),
        Problem::Compare { a, b, .. } => format!("{a}, {b}: {}, {}", compare_columns(*a, *b), problem.answer(language)),
        Problem::Sequence { start, step } => {
            let last = start + (SEQUENCE_SHOWN - 1) * step;
            let (before, next, size) = (last - step, last + step, step.unsigned_abs() as u32);
            let (high, low) = (last.max(before), last.min(before));
            let last_u32 = last.unsigned_abs() as u32;
            if *step > 0 {
                format!("{high}-{low}={size}, {last}+{size}: {}, {next}", add_columns(last_u32, size))
            } else {
                format!("{high}-{low}={size}, {last}-{size}: {}, {next}", subtract_columns(last_u32, size))
            }
        }
        Problem::Count { words: list, target } => {
            let mut count = 0;
            let steps: Vec<String> = list
                .iter()
                .map(|w| {
                    count += usize::from(w == target);
                    format!("{} {count}", words[*w])
                })
                .collect();
            format!("{}: {}, {count}", words[*target], steps.join(", "))
        }
        Problem::Uppercase { word } => {
            let pairs: Vec<String> = words[*word].chars().map(|c| format!("{c} {}", c.to_uppercase())).collect();
            format!("{}: {}, {}", words[*word], pairs.join(", "), problem.answer(language))
        }
        Problem::Reverse { word } => {
            let backwards: Vec<char> = words[*word].chars().rev().collect();
            format!("{}: {}, {}, {}", words[*word], spell(words[*word].chars()), spell(backwards), problem.answer(language))
        }
        Problem::FirstLetter { word } => format!("{}: {}, {}", words[*word], spell(words[*word].chars()), problem.answer(language)),
        Problem::LastWord { words: list } => {
            let numbered: Vec<String> = list.iter().enumerate().map(|(i, w)| format!("{} {}", i + 1, words[*w])).collect();
            format!("{}, {}", numbered.join(", "), problem.answer(language))
        }
        Problem::Repeat { word, times } => (1..=*times).map(|i| format!("{i} {}", words[*word])).collect::<Vec<_>>().join(", "),
    }
}

/// Reasoning that states the equation at once.
pub(super) fn direct(problem: &Problem, language: Language) -> String {
    let words = language.words();
    let answer = problem.answer(language);
    match problem {
        Problem::Add { a, b } => format!("{a}+{b}={answer}"),
        Problem::Subtract { a, b } | Problem::Missing { a: b, total: a } => format!("{a}-{b}={answer}"),
        Problem::AddSubtract { a, b, c } => format!("{a}+{b}-{c}={answer}"),
        Problem::Multiply { digit, b } => format!("{digit}*{b}={answer}"),
        Problem::Compare { a, b, .. } => format!("{a}{}{b}", if a > b { '>' } else { '<' }),
        Problem::Sequence { start, step } => {
            let last = start + (SEQUENCE_SHOWN - 1) * step;
            format!("{last}{}{}={answer}", if *step > 0 { '+' } else { '-' }, step.abs())
        }
        Problem::Count { target: word, .. } | Problem::Uppercase { word } | Problem::Reverse { word } | Problem::FirstLetter { word } => {
            format!("{} = {answer}", words[*word])
        }
        Problem::LastWord { .. } | Problem::Repeat { .. } => answer,
    }
}

fn digits(n: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| n / 10u32.pow(i) % 10).collect()
}

fn len(n: u32) -> usize {
    n.checked_ilog10().unwrap_or(0) as usize + 1
}

/// `47, 85` -> `7+5=12, 4+8+1=13`.
fn add_columns(a: u32, b: u32) -> String {
    let n = len(a).max(len(b));
    let mut carry = 0;
    let mut steps = Vec::new();
    for (x, y) in digits(a, n).into_iter().zip(digits(b, n)) {
        let sum = x + y + carry;
        steps.push(if carry > 0 { format!("{x}+{y}+{carry}={sum}") } else { format!("{x}+{y}={sum}") });
        carry = sum / 10;
    }
    steps.join(", ")
}

/// `85, 47` -> `15-7=8, 8-4-1=3`; needs `a >= b`.
fn subtract_columns(a: u32, b: u32) -> String {
    let n = len(a);
    let mut borrow = 0;
    let mut steps = Vec::new();
    for (x, y) in digits(a, n).into_iter().zip(digits(b, n)) {
        let lent = if x < y + borrow { 10 } else { 0 };
        let difference = x + lent - y - borrow;
        let top = x + lent;
        steps.push(if borrow > 0 { format!("{top}-{y}-{borrow}={difference}") } else { format!("{top}-{y}={difference}") });
        borrow = lent / 10;
    }
    steps.join(", ")
}

/// `7, 46` -> `7*6=42, 7*4+4=32`.
fn multiply_columns(digit: u32, b: u32) -> String {
    let mut carry = 0;
    let mut steps = Vec::new();
    for y in digits(b, len(b)) {
        let product = digit * y + carry;
        steps.push(if carry > 0 { format!("{digit}*{y}+{carry}={product}") } else { format!("{digit}*{y}={product}") });
        carry = product / 10;
    }
    steps.join(", ")
}

/// From the left up to the first difference: `47, 43` -> `4=4, 7>3`; the shorter number is padded with zeros.
fn compare_columns(a: u32, b: u32) -> String {
    let n = len(a).max(len(b));
    let mut steps = Vec::new();
    for (x, y) in digits(a, n).into_iter().zip(digits(b, n)).rev() {
        steps.push(match x.cmp(&y) {
            std::cmp::Ordering::Less => format!("{x}<{y}"),
            std::cmp::Ordering::Equal => format!("{x}={y}"),
            std::cmp::Ordering::Greater => format!("{x}>{y}"),
        });
        if x != y {
            break;
        }
    }
    steps.join(", ")
}

fn spell(letters: impl IntoIterator<Item = char>) -> String {
    letters.into_iter().map(String::from).collect::<Vec<_>>().join("-")
}

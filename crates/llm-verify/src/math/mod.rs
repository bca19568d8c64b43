//! Is this the right answer? Final answers found in a text, and compared by what they mean.
//!
//! [`grade`] finds the answer of a response by named rules ([`Extract`]), the reference's in its own way, and compares the two
//! ([`same`]): numbers, fractions, per cents, units, thousands, mixed numbers, formulas, equations, sets, tuples, intervals,
//! inequalities, matrices, words. A reference that cannot be read is nobody's fault: the verdict is `None` and the row is left out
//! (as TRL's `accuracy_reward` does), while an answer that cannot be read is wrong.
//!
//! | file | job |
//! |---|---|
//! | `extract` | where in a text the answer stands |
//! | `clean` | one spelling for decoration, signs, units |
//! | `answer` | the shape of an answer (set, interval, matrix, ...), compared part by part |
//! | `parse`, `expr`, `rational` | one expression: read, evaluated exactly, in prime fields or with error bounds |
//!
//! Every call is bounded by the length of what it reads ([`MOST_CHARS`]): no signals, no clocks, so it works the same on
//! any thread.

mod answer;
mod clean;
mod expr;
mod extract;
mod parse;
mod rational;

pub use extract::Extract;

use answer::Answer;
use parse::Dialect;

/// Longest answer that is read.
pub const MOST_CHARS: usize = parse::MOST_CHARS;

/// Is the final answer of `response` (thinking already removed) the one of `gold`? `None`: `gold` cannot be read.
///
/// `rules` are tried in order; the first that finds an answer decides, so a response cannot try several. `tolerance` is a relative
/// difference that plain numbers may have; 0 asks for equality.
///
/// ```
/// use llm_verify::math::{Extract, grade};
/// let rules = Extract::default_order();
/// assert_eq!(grade("So it is \\boxed{\\frac{6}{4}}.", "1.5", &rules, 0.0), Some(true));
/// assert_eq!(grade("The answer is 1,200 dollars.", "... #### 1200", &rules, 0.0), Some(true));
/// assert_eq!(grade("\\boxed{(0,1]}", "(0,1)", &rules, 0.0), Some(false));
/// assert_eq!(grade("\\boxed{1}", "\\frac{", &rules, 0.0), None);
/// ```
pub fn grade(response: &str, gold: &str, rules: &[Extract], tolerance: f64) -> Option<bool> {
    let gold = Answer::readings(extract::reference(gold));
    if gold.is_empty() {
        return None;
    }
    let Some(found) = extract::answer(response, rules) else { return Some(false) };
    let found = Answer::readings(found);
    Some(gold.iter().any(|g| found.iter().any(|f| g.same(f, tolerance))))
}

/// Is the reference a number and the answer of `response` a calculation (`12 \cdot 34` for 408)? Equal it is, but a policy that
/// learns to repeat the question learns nothing else.
pub fn is_calculation(response: &str, gold: &str, rules: &[Extract]) -> bool {
    let number = |readings: Vec<Answer>| readings.iter().find_map(Answer::is_number);
    let found = extract::answer(response, rules).and_then(|found| number(Answer::readings(found)));
    number(Answer::readings(extract::reference(gold))) == Some(true) && found == Some(false)
}

/// The final answer of a response by the first of `rules` that finds one, as it is written there.
pub fn final_answer<'a>(response: &'a str, rules: &[Extract]) -> Option<&'a str> {
    extract::answer(response, rules)
}

/// Do two bare answers say the same? `None`: `gold` cannot be read.
pub fn same(gold: &str, answer: &str) -> Option<bool> {
    let gold = Answer::readings(gold);
    let answer = Answer::readings(answer);
    (!gold.is_empty()).then(|| gold.iter().any(|g| answer.iter().any(|a| g.same(a, 0.0))))
}

/// Are two LaTeX expressions the same number or the same function? Nothing around expressions (sets, units, words) is
/// read here, and what cannot be read is equal to nothing.
pub fn equal_expressions(a: &str, b: &str) -> bool {
    match (parse::parse(a, Dialect::Latex), parse::parse(b, Dialect::Latex)) {
        (Some(a), Some(b)) => expr::same(&a, &b, 0.0),
        _ => false,
    }
}

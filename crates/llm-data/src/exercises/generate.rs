//! Configuration and sampling: languages in turn, categories in proportion to their weights, problems without repetition,
//! training and held-out apart.
//!
//! Which side a problem belongs to is a function of the seed and the problem's key (a fifth of all keys is held out), not
//! of the counts: asking for more training rows never moves a problem to the other side, in any language.

use super::language::{Language, NAMES};
use super::problem::{Category, Problem, SEQUENCE_SHOWN};
use super::{Exercise, solution};
use crate::error::{Error, Result};
use llm_run::{Rng, Seed};
use llm_tokenizer::Message;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Share of problem keys that is never shown in training.
const HELDOUT_KEYS: f64 = 0.2;
/// Draws after which a category counts as used up.
const MAX_DRAWS: usize = 20_000;

/// Settings of the generator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExercisesConfig {
    /// Rows of `train.jsonl`.
    pub count_train: usize,
    /// Rows of `heldout.jsonl`.
    pub count_heldout: usize,
    /// Everything follows from it.
    pub seed: u64,
    /// Languages, taken in turn.
    pub languages: Vec<Language>,
    /// Relative frequency of each category.
    pub weights: Weights,
    /// Share of solutions whose reasoning works digit by digit; the rest states the equation.
    pub worked_share: f64,
    /// The same for single categories. A model fine-tuned on equal shares prefers one form or the other by accident.
    pub worked_shares: BTreeMap<Category, f64>,
    /// Largest operand of additions and subtractions, 20 to 999.
    pub largest: u32,
}

impl Default for ExercisesConfig {
    fn default() -> Self {
        Self {
            count_train: 6000,
            count_heldout: 480,
            seed: 0,
            languages: Language::ALL.to_vec(),
            weights: Weights::default(),
            worked_share: 0.5,
            worked_shares: BTreeMap::new(),
            largest: 99,
        }
    }
}

impl ExercisesConfig {
    /// Refuse settings that cannot work, naming the setting.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Config(message));
        if self.languages.is_empty() {
            return refuse("languages is empty; give at least one of en, de, es".into());
        }
        if !(0.0..=1.0).contains(&self.worked_share) {
            return refuse(format!("worked_share = {} must lie between 0 and 1", self.worked_share));
        }
        if let Some((category, share)) = self.worked_shares.iter().find(|(_, share)| !(0.0..=1.0).contains(*share)) {
            return refuse(format!("worked_shares.{} = {share} must lie between 0 and 1", category.name()));
        }
        if !(20..=999).contains(&self.largest) {
            return refuse(format!("largest = {} must lie between 20 and 999", self.largest));
        }
        let weights = Category::ALL.map(|c| self.weights.of(c));
        if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || weights.iter().sum::<f64>() <= 0.0 {
            return refuse("weights must be 0 or positive, and at least one positive".into());
        }
        Ok(())
    }
}

/// Relative frequency of each category; they need not sum to 1, and 0 leaves a category out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Weights {
    pub addition: f64,
    pub subtraction: f64,
    pub two_step: f64,
    pub multiplication: f64,
    pub comparison: f64,
    pub sequence: f64,
    pub missing_addend: f64,
    pub counting: f64,
    pub instruction: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            addition: 0.24,
            subtraction: 0.20,
            two_step: 0.10,
            multiplication: 0.10,
            comparison: 0.08,
            sequence: 0.08,
            missing_addend: 0.10,
            counting: 0.03,
            instruction: 0.07,
        }
    }
}

impl Weights {
    /// The weight of one category.
    pub fn of(&self, category: Category) -> f64 {
        match category {
            Category::Addition => self.addition,
            Category::Subtraction => self.subtraction,
            Category::TwoStep => self.two_step,
            Category::Multiplication => self.multiplication,
            Category::Comparison => self.comparison,
            Category::Sequence => self.sequence,
            Category::MissingAddend => self.missing_addend,
            Category::Counting => self.counting,
            Category::Instruction => self.instruction,
        }
    }

    /// The category at quantile `u` of `0..1`.
    fn at(&self, u: f64) -> Category {
        let mut left = u * Category::ALL.iter().map(|c| self.of(*c)).sum::<f64>();
        for category in Category::ALL {
            left -= self.of(category);
            if left < 0.0 && self.of(category) > 0.0 {
                return category;
            }
        }
        Category::ALL.into_iter().rev().find(|c| self.of(*c) > 0.0).unwrap_or(Category::Addition)
    }
}

/// What [`generate`] returns.
#[derive(Debug, Clone)]
pub struct Exercises {
    /// Training rows.
    pub train: Vec<Exercise>,
    /// Held-out rows; no two share a problem, and none shares a problem with `train`.
    pub heldout: Vec<Exercise>,
}

/// Generate both sets.
pub fn generate(config: &ExercisesConfig) -> Result<Exercises> {
    config.validate()?;
    Ok(Exercises { train: set(config, false)?, heldout: set(config, true)? })
}

fn set(config: &ExercisesConfig, heldout: bool) -> Result<Vec<Exercise>> {
    let (name, count) = if heldout { ("heldout", config.count_heldout) } else { ("train", config.count_train) };
    let seed = Seed(config.seed).stream(name);
    let mut seen = HashSet::new();
    let mut exercises = Vec::with_capacity(count);
    for i in 0..count {
        let lang = config.languages[i % config.languages.len()];
        // Multiples of the golden ratio fill 0..1 evenly: shares are right to a row or two, at any count.
        let turn = (i / config.languages.len()) as f64 + 0.5;
        let category = config.weights.at((turn * 0.618_033_988_749_894_9).fract());
        let mut rng = seed.at(i as u64).rng();
        let exercise = draw(config, heldout, lang, category, &mut seen, &mut rng).ok_or_else(|| {
            let option = format!("count_{name} = {count}");
            Error::Config(format!("{option} is more than there are different {} problems; lower it or weights.{}", category.name(), category.name()))
        })?;
        exercises.push(exercise);
    }
    seed.stream("order").rng().shuffle(&mut exercises);
    for (i, exercise) in exercises.iter_mut().enumerate() {
        exercise.id = format!("{name}-{i:05}");
    }
    Ok(exercises)
}

/// A new exercise: held-out problems are used once, training prompts may vary a problem but not repeat its wording.
fn draw(config: &ExercisesConfig, heldout: bool, lang: Language, category: Category, seen: &mut HashSet<String>, rng: &mut Rng) -> Option<Exercise> {
    for _ in 0..MAX_DRAWS {
        let problem = Problem::draw(category, config.largest, rng);
        let key = problem.key();
        if is_heldout(config.seed, &key) != heldout {
            continue;
        }
        let prompt = prompt(&problem, lang, rng);
        if !seen.insert(if heldout { key } else { prompt.clone() }) {
            continue;
        }
        let worked = rng.chance(config.worked_shares.get(&category).copied().unwrap_or(config.worked_share));
        let reasoning = if worked { solution::worked(&problem, lang) } else { solution::direct(&problem, lang) };
        let answer = problem.answer(lang);
        let messages = vec![Message::new("user", prompt), Message::new("assistant", answer.clone()).with_reasoning(reasoning)];
        return Some(Exercise { id: String::new(), lang, category, messages, answer });
    }
    None
}

fn is_heldout(seed: u64, key: &str) -> bool {
    Seed(seed).stream("heldout keys").stream(key).rng().chance(HELDOUT_KEYS)
}

fn prompt(problem: &Problem, lang: Language, rng: &mut Rng) -> String {
    let phrases = lang.phrases();
    let words = phrases.words;
    let template = *rng.pick(phrases.templates(problem));
    let object = rng.pick(phrases.objects);
    let first = rng.below(NAMES.len());
    let second = (first + 1 + rng.below(NAMES.len() - 1)) % NAMES.len();
    let swap = rng.chance(0.5);

    let list = |words_of: &[usize]| words_of.iter().map(|w| words[*w]).collect::<Vec<_>>().join(" ");
    let mut fill: Vec<(&str, String)> = match problem {
        Problem::Add { a, b } | Problem::Subtract { a, b } => vec![("{a}", a.to_string()), ("{b}", b.to_string())],
        Problem::AddSubtract { a, b, c } => vec![("{a}", a.to_string()), ("{b}", b.to_string()), ("{c}", c.to_string())],
        // A word problem may name the two-digit factor first.
        Problem::Multiply { digit, b } if swap => vec![("{a}", b.to_string()), ("{b}", digit.to_string())],
        Problem::Multiply { digit, b } => vec![("{a}", digit.to_string()), ("{b}", b.to_string())],
        Problem::Compare { a, b, .. } => vec![("{a}", a.to_string()), ("{b}", b.to_string())],
        Problem::Missing { a, total } => vec![("{a}", a.to_string()), ("{b}", total.to_string())],
        Problem::Sequence { start, step } => {
            let terms: Vec<String> = (0..SEQUENCE_SHOWN).map(|k| (start + k * step).to_string()).collect();
            vec![("{s}", terms.join(", "))]
        }
        Problem::Count { words: l, target } => vec![("{w}", words[*target].to_string()), ("{l}", list(l))],
        Problem::Uppercase { word } | Problem::Reverse { word } | Problem::FirstLetter { word } => vec![("{w}", words[*word].to_string())],
        Problem::LastWord { words: l } => vec![("{l}", list(l))],
        Problem::Repeat { word, times } => vec![("{w}", words[*word].to_string()), ("{a}", times.to_string())],
    };
    let mut capital = object.how_many.to_string();
    capital[..1].make_ascii_uppercase();
    fill.extend([
        ("{n}", NAMES[first].to_string()),
        ("{m}", NAMES[second].to_string()),
        ("{o}", object.plural.to_string()),
        ("{q}", object.how_many.to_string()),
        ("{Q}", capital),
    ]);
    fill.iter().fold(template.to_string(), |text, (placeholder, value)| text.replace(placeholder, value))
}

impl Exercises {
    /// Rows per set, category and language, for the manifest.
    pub fn summary(&self) -> serde_json::Value {
        serde_json::json!({ "train": counts(&self.train), "heldout": counts(&self.heldout) })
    }
}

fn counts(exercises: &[Exercise]) -> serde_json::Value {
    let mut table: BTreeMap<Category, BTreeMap<Language, usize>> = BTreeMap::new();
    let mut by_lang: BTreeMap<Language, usize> = BTreeMap::new();
    for e in exercises {
        *table.entry(e.category).or_default().entry(e.lang).or_default() += 1;
        *by_lang.entry(e.lang).or_default() += 1;
    }
    serde_json::json!({ "rows": exercises.len(), "by_lang": by_lang, "by_category": table })
}

//! Answers to numbers: all rewards of a configuration on all answers of a step.
//!
//! Rewards run in parallel over answers and come back in their order; nothing depends on the number of threads. What cannot be
//! scored (a reference that cannot be read, a row without the column) has no value, and counts for nothing in the total, as in TRL;
//! an answer that nothing can be said about has no total, and should get no advantage.

use crate::code::{CodeTests, Tests};
use crate::command::Judge;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::language::{self, LanguageRule};
use crate::length::LengthRule;
use crate::math;
use crate::response::{Part, Response};
use crate::rule::Conditions;
use crate::sandbox::{Sandbox, SandboxChoice};
use crate::spec::RewardSpec;
use llm_data::exercises::is_correct;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::path::Path;

/// One answer to be graded.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// What was asked, as the model saw it.
    pub prompt: &'a str,
    /// The response, control tokens kept, so that `<think>...</think>` can be seen.
    pub response: &'a str,
    /// The reference, if the row has one.
    pub answer: Option<&'a str>,
    /// The row's other fields.
    pub columns: &'a Map<String, Value>,
}

/// What an answer got.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Sum of weight times value; `None` when no reward has a value.
    pub total: Option<f32>,
    /// The value of each reward, without its weight, in the order of [`Rewards::names`].
    pub parts: Vec<Option<f32>>,
}

/// The rewards of a configuration, ready to grade. May be shared between threads.
#[derive(Debug)]
pub struct Rewards {
    rewards: Vec<Reward>,
}

#[derive(Debug)]
struct Reward {
    name: String,
    weight: f32,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Exercise,
    Math { extract: Vec<math::Extract>, tolerance: f64, evaluated: bool },
    Code { code: Box<CodeTests>, tests: String, entry_point: String, setup: String },
    Format(Format),
    Language { rule: LanguageRule, part: Part },
    Length(LengthRule),
    Rule { conditions: Box<Conditions>, part: Part },
    Command(Judge),
}

impl Rewards {
    /// Check the settings, build sandboxes. Programs whose configuration may hold `kind = "code"` begin their `main` with
    /// [`crate::sandbox::cell_main`].
    ///
    /// # Errors
    /// The first reward that cannot work, and why.
    pub fn open(specs: &[RewardSpec]) -> Result<Self> {
        Self::with_runner(specs, None)
    }

    /// As [`Rewards::open`], with another program than the running one as the sandbox's cell.
    ///
    /// # Errors
    /// As [`Rewards::open`].
    pub fn with_runner(specs: &[RewardSpec], runner: Option<&Path>) -> Result<Self> {
        if specs.is_empty() {
            return Err(Error::Config { name: "[]".into(), message: "no reward; expected at least one, such as { kind = \"exercise\" }".into() });
        }
        let mut rewards: Vec<Reward> = Vec::with_capacity(specs.len());
        for spec in specs {
            let same = rewards.iter().filter(|r| r.name.split('#').next() == Some(spec.kind())).count();
            let name = if same == 0 { spec.kind().to_string() } else { format!("{}#{}", spec.kind(), same + 1) };
            let weight = spec.weight();
            let config = |message: String| Error::Config { name: name.clone(), message };
            if !weight.is_finite() {
                return Err(config(format!("weight = {weight}; expected a finite number")));
            }
            let kind = Kind::new(spec, runner).map_err(config)?;
            rewards.push(Reward { name, weight, kind });
        }
        Ok(Self { rewards })
    }

    /// One name per reward: its kind, numbered (`rule#2`) where a kind occurs again.
    pub fn names(&self) -> Vec<String> {
        self.rewards.iter().map(|r| r.name.clone()).collect()
    }

    /// Grade all of `tasks`.
    ///
    /// # Errors
    /// [`Error::Row`] for the first row with a column that is not what its reward expects, or where a program of the user's gave no
    /// proper number. An answer that is wrong, empty or hostile is never an error.
    pub fn grade(&self, tasks: &[Task]) -> Result<Vec<Scored>> {
        let responses: Vec<Response> = tasks.par_iter().map(|task| Response::new(task.response)).collect();
        let mut scored = vec![Scored { total: None, parts: Vec::with_capacity(self.rewards.len()) }; tasks.len()];
        for reward in &self.rewards {
            let row = |at: usize, message: String| Error::Row { row: at + 1, name: reward.name.clone(), message };
            let values: Vec<Option<f32>> = match &reward.kind {
                Kind::Command(judge) => {
                    let questions: Vec<String> = tasks.iter().map(question).collect();
                    judge.ask(&questions).map_err(|failure| row(failure.at, failure.message))?
                }
                kind => {
                    let graded: Vec<_> = tasks.par_iter().zip(&responses).map(|(task, response)| kind.grade(task, response)).collect();
                    let named = graded.into_iter().enumerate().map(|(at, value)| value.map_err(|message| row(at, message)));
                    named.collect::<Result<_>>()?
                }
            };
            for (scored, value) in scored.iter_mut().zip(values) {
                if let Some(value) = value {
                    scored.total = Some(scored.total.unwrap_or(0.0) + reward.weight * value);
                }
                scored.parts.push(value);
            }
        }
        if let Some(at) = scored.iter().position(|s| s.total.is_some_and(|t| !t.is_finite())) {
            return Err(Error::Row { row: at + 1, name: "total".into(), message: format!("{:?} is no number to learn from", scored[at].parts) });
        }
        Ok(scored)
    }
}

/// A line for [`Judge`].
fn question(task: &Task) -> String {
    json!({"prompt": task.prompt, "response": task.response, "answer": task.answer, "columns": task.columns}).to_string()
}

impl Kind {
    fn new(spec: &RewardSpec, runner: Option<&Path>) -> Result<Self, String> {
        Ok(match spec.clone() {
            RewardSpec::Exercise { .. } => Kind::Exercise,
            RewardSpec::Math { extract, tolerance, evaluated, .. } => {
                if extract.is_empty() {
                    return Err("extract is empty; expected rules such as [\"boxed\", \"last_number\"]".into());
                }
                if !(0.0..1.0).contains(&tolerance) {
                    return Err(format!("tolerance = {tolerance}; expected 0 or a relative difference below 1"));
                }
                Kind::Math { extract, tolerance, evaluated }
            }
            RewardSpec::Code { credit, tests, entry_point, setup, limits, sandbox: kind, python_wasm, .. } => {
                let sandbox = Sandbox::open(&SandboxChoice { kind, python_wasm }, runner, limits)?;
                Kind::Code { code: Box::new(CodeTests { sandbox, credit }), tests, entry_point, setup }
            }
            RewardSpec::Format { pattern, .. } => Kind::Format(Format::new(pattern.as_deref())?),
            RewardSpec::Language { language, column, part, .. } => {
                let rule = match (language, column) {
                    (Some(_), Some(_)) => return Err("language and column exclude each other".into()),
                    (Some(language), None) => LanguageRule::Fixed(language),
                    (None, Some(column)) => LanguageRule::Column(column),
                    (None, None) => LanguageRule::Prompt,
                };
                Kind::Language { rule, part }
            }
            RewardSpec::Length { target, tolerance, max, min, buffer, unit, part, .. } => {
                if target.is_none() && max.is_none() && min.is_none() {
                    return Err("none of target, max and min is given".into());
                }
                if matches!((min, max), (Some(min), Some(max)) if min > max) {
                    return Err("min is greater than max".into());
                }
                Kind::Length(LengthRule { target, tolerance, max, min, buffer, unit, part })
            }
            RewardSpec::Rule { contains, starts_with, ends_with, regex, max_words, min_words, ignore_case, part, .. } => {
                let regex = regex.map(|text| Conditions::pattern(&text, ignore_case)).transpose()?;
                let conditions = Conditions { contains, starts_with, ends_with, regex, max_words, min_words, ignore_case };
                if conditions.is_empty() {
                    return Err("no condition; expected one of contains, starts_with, ends_with, regex, max_words, min_words".into());
                }
                Kind::Rule { conditions: Box::new(conditions), part }
            }
            RewardSpec::Command { command, timeout_seconds, restarts, .. } => Kind::Command(Judge::new(&command, timeout_seconds, restarts)?),
        })
    }

    fn grade(&self, task: &Task, response: &Response) -> Result<Option<f32>, String> {
        let truth = |holds: bool| Some(f32::from(u8::from(holds)));
        Ok(match self {
            Kind::Exercise => task.answer.and_then(|answer| truth(is_correct(task.response, answer))),
            Kind::Math { extract, tolerance, evaluated } => task.answer.and_then(|gold| {
                let answer = response.answer.as_deref().unwrap_or_default();
                let right = math::grade(answer, gold, extract, *tolerance)?;
                truth(right && !(*evaluated && math::is_calculation(answer, gold, extract)))
            }),
            Kind::Code { code, tests, entry_point, setup } => {
                let Some(column) = task.columns.get(tests).filter(|v| !v.is_null()) else { return Ok(None) };
                let tests = Tests::new(column, text(task, entry_point)?).map_err(|e| format!("field `{tests}`: {e}"))?;
                match &response.answer {
                    Some(answer) => Some(code.grade(answer, text(task, setup)?.unwrap_or_default(), &tests)?),
                    None => Some(0.0),
                }
            }
            Kind::Format(format) => truth(format.holds(task.prompt, task.response)),
            Kind::Language { rule, part } => {
                let expected = match rule {
                    LanguageRule::Fixed(language) => Some(language.as_str()),
                    LanguageRule::Column(column) => text(task, column)?,
                    LanguageRule::Prompt => language::of_prompt(task.prompt),
                };
                expected.map(|language| language::share(&response.part(*part), language))
            }
            Kind::Length(rule) => Some(rule.reward(response)),
            Kind::Rule { conditions, part } => truth(conditions.hold(&response.part(*part))),
            // Asked with all others at once.
            Kind::Command(_) => None,
        })
    }
}

/// A field that holds a text, or nothing.
fn text<'a>(task: &Task<'a>, field: &str) -> Result<Option<&'a str>, String> {
    match task.columns.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("field `{field}` is {other}; expected a string")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(value: Value) -> Vec<RewardSpec> {
        serde_json::from_value(value).unwrap()
    }

    fn grade(rewards: &Rewards, response: &str, answer: Option<&str>, columns: Value) -> Result<Scored> {
        let columns = columns.as_object().cloned().unwrap_or_default();
        let task = Task { prompt: "Wie viel ist das zusammen, bitte?", response, answer, columns: &columns };
        Ok(rewards.grade(&[task])?.remove(0))
    }

    #[test]
    fn weights_parts_and_what_cannot_be_scored() {
        let list = specs(json!([
            {"kind": "math", "weight": 2.0},
            {"kind": "format", "weight": 0.5},
            {"kind": "rule", "contains": "so", "part": "thinking"},
            {"kind": "rule", "max_words": 2}
        ]));
        let rewards = Rewards::open(&list).unwrap();
        assert_eq!(rewards.names(), ["math", "format", "rule", "rule#2"]);
        let scored = grade(&rewards, "<think>so it is</think>\\boxed{\\frac12}", Some("0.5"), json!({})).unwrap();
        assert_eq!(scored, Scored { total: Some(4.5), parts: [1.0, 1.0, 1.0, 1.0].map(Some).to_vec() });
        // Unreadable reference: left out, not wrong.
        let scored = grade(&rewards, "<think>so it is</think>\\boxed{1}", Some("\\frac{"), json!({})).unwrap();
        assert_eq!(scored, Scored { total: Some(2.5), parts: vec![None, Some(1.0), Some(1.0), Some(1.0)] });
        // The right number inside thinking that never ends.
        let scored = grade(&rewards, "<think>so \\boxed{0.5}", Some("0.5"), json!({})).unwrap();
        assert_eq!(scored.parts, [Some(0.0), Some(0.0), Some(1.0), Some(1.0)]);
        let only = Rewards::open(&RewardSpec::default_list()).unwrap();
        assert_eq!(grade(&only, "7", None, json!({})).unwrap(), Scored { total: None, parts: vec![None] });
        assert_eq!(grade(&only, "<think>6</think>7<|eot_id|>", Some("7"), json!({})).unwrap().total, Some(1.0));
    }

    #[test]
    fn a_judge_that_computes_nan_is_an_error_with_the_row() {
        let list = specs(json!([{"kind": "command", "command": ["sh", "-c", "read a; echo 0.5; read b; echo NaN; read c"]}]));
        let columns = Map::new();
        let task = Task { prompt: "p", response: "r", answer: None, columns: &columns };
        let message = Rewards::open(&list).unwrap().grade(&[task; 3]).unwrap_err().to_string();
        assert!(message.contains("row 2") && message.contains("command") && message.contains("NaN"), "{message}");
        let echo = specs(json!([{"kind": "command", "command": ["sh", "-c", "while read a; do echo null; done"]}]));
        assert_eq!(Rewards::open(&echo).unwrap().grade(&[task]).unwrap()[0].total, None);
    }

    #[test]
    fn settings_that_cannot_work() {
        for (bad, says) in [
            (json!([]), "at least one"),
            (json!([{"kind": "exercise", "weight": 1e39}]), "finite"),
            (json!([{"kind": "rule"}]), "no condition"),
            (json!([{"kind": "rule", "regex": "("}]), "regex"),
            (json!([{"kind": "format", "pattern": "["}]), "pattern"),
            (json!([{"kind": "length"}]), "target"),
            (json!([{"kind": "length", "min": 3, "max": 2}]), "greater"),
            (json!([{"kind": "math", "extract": []}]), "extract"),
            (json!([{"kind": "math", "tolerance": 1.5}]), "tolerance"),
            (json!([{"kind": "language", "language": "de", "column": "lang"}]), "exclude"),
            (json!([{"kind": "command", "command": []}]), "empty"),
        ] {
            let message = Rewards::open(&specs(bad.clone())).unwrap_err().to_string();
            assert!(message.contains(says), "{bad}: {message}");
        }
    }

    #[test]
    fn languages_by_column_and_by_prompt() {
        let german = "Zuerst zählen wir alle Äpfel in den drei Körben zusammen und ziehen die verfaulten davon ab.";
        let by_column = Rewards::open(&specs(json!([{"kind": "language", "column": "lang"}]))).unwrap();
        assert_eq!(grade(&by_column, german, None, json!({"lang": "de"})).unwrap().total, Some(1.0));
        assert_eq!(grade(&by_column, german, None, json!({"lang": "en"})).unwrap().total, Some(0.0));
        assert_eq!(grade(&by_column, german, None, json!({})).unwrap().total, None);
        assert!(grade(&by_column, german, None, json!({"lang": 3})).unwrap_err().to_string().contains("row 1"));
        let by_prompt = Rewards::open(&specs(json!([{"kind": "language"}]))).unwrap();
        assert_eq!(grade(&by_prompt, german, None, json!({})).unwrap().total, Some(1.0));
    }
}

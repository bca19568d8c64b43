//! What `rewards = [...]` of a configuration can say.

use crate::code::Credit;
use crate::length::Unit;
use crate::math::Extract;
use crate::response::Part;
use crate::sandbox::{Limits, SandboxKind};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One reward: `{ kind = "math", weight = 1.0 }`. The weight multiplies its value in the total.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardSpec {
    /// 1 for the right final answer of a generated exercise (`llm_data::exercises`).
    Exercise {
        /// In the total.
        #[serde(default = "one")]
        weight: f32,
    },
    /// 1 for a final answer that is equal to the row's `answer` ([`crate::math`]).
    Math {
        /// In the total.
        #[serde(default = "one")]
        weight: f32,
        /// Where answers are looked for, in this order.
        #[serde(default = "Extract::default_order")]
        extract: Vec<Extract>,
        /// Relative difference that numbers may have; 0 asks for equality.
        #[serde(default)]
        tolerance: f64,
        /// Where the reference is a number, the answer has to be one too, not a calculation that comes to it.
        #[serde(default)]
        evaluated: bool,
    },
    /// The row's tests, run on the program of the answer ([`crate::code`]).
    Code {
        /// In the total.
        #[serde(default = "one")]
        weight: f32,
        /// All tests or their share.
        #[serde(default)]
        credit: Credit,
        /// Column with the tests.
        #[serde(default = "tests")]
        tests: String,
        /// Column with the name of the function, if there is one.
        #[serde(default = "entry_point")]
        entry_point: String,
        /// Column with Python that comes first, if there is one.
        #[serde(default = "setup")]
        setup: String,
        /// What one program may use.
        #[serde(default)]
        limits: Limits,
        /// Where programs run: the machine's Python in a cell of processes, or CPython in WebAssembly.
        #[serde(default)]
        sandbox: SandboxKind,
        /// CPython compiled to WASI, for `sandbox = "wasi"`; if not given, what the variable `LLM_PYTHON_WASM` names.
        #[serde(default)]
        python_wasm: Option<PathBuf>,
    },
    /// 1 for the `<think>...</think>answer` template, or for a pattern ([`crate::format`](mod@crate::format)).
    Format {
        /// In the total.
        #[serde(default = "one")]
        weight: f32,
        /// A regular expression for the whole response; the template without it.
        #[serde(default)]
        pattern: Option<String>,
    },
    /// Share of the response in the expected language ([`crate::language`]).
    Language {
        /// In the total.
        #[serde(default = "one")]
        weight: f32,
        /// ISO 639-1; neither this nor a column: the language of the prompt.
        #[serde(default)]
        language: Option<String>,
        /// Column with the language.
        #[serde(default)]
        column: Option<String>,
        /// Where.
        #[serde(default = "everywhere")]
        part: Part,
    },
    /// A target or limits ([`crate::length`]).
    Length {
        /// In the total.
        #[serde(default = "one")]
        weight: f32,
        /// Length with the greatest reward.
        #[serde(default)]
        target: Option<u64>,
        /// How far from the target the reward reaches 0.
        #[serde(default)]
        tolerance: u64,
        /// Length from which on there is a penalty.
        #[serde(default)]
        max: Option<u64>,
        /// Length below which there is a penalty.
        #[serde(default)]
        min: Option<u64>,
        /// How far beyond a limit the penalty is full.
        #[serde(default)]
        buffer: u64,
        /// Words or characters.
        #[serde(default)]
        unit: Unit,
        /// Where.
        #[serde(default = "everywhere")]
        part: Part,
    },
    /// 1 where all conditions hold ([`crate::rule`]).
    Rule {
        /// In the total.
        #[serde(default = "one")]
        weight: f32,
        /// Somewhere in the text.
        #[serde(default)]
        contains: Option<String>,
        /// At its beginning.
        #[serde(default)]
        starts_with: Option<String>,
        /// At its end.
        #[serde(default)]
        ends_with: Option<String>,
        /// A regular expression that is found in it.
        #[serde(default)]
        regex: Option<String>,
        /// At most so many words.
        #[serde(default)]
        max_words: Option<usize>,
        /// At least so many words.
        #[serde(default)]
        min_words: Option<usize>,
        /// Upper and lower case are the same.
        #[serde(default)]
        ignore_case: bool,
        /// Where.
        #[serde(default)]
        part: Part,
    },
    /// A program of the user's ([`crate::command`]).
    Command {
        /// In the total.
        #[serde(default = "one")]
        weight: f32,
        /// The program and its arguments.
        command: Vec<String>,
        /// For one answer.
        #[serde(default = "minute")]
        timeout_seconds: f64,
        /// How often it is started again for one row.
        #[serde(default = "once")]
        restarts: u32,
    },
}

fn one() -> f32 {
    1.0
}

fn once() -> u32 {
    1
}

fn minute() -> f64 {
    60.0
}

fn tests() -> String {
    "tests".into()
}

fn entry_point() -> String {
    "entry_point".into()
}

fn setup() -> String {
    "setup".into()
}

fn everywhere() -> Part {
    Part::All
}

impl RewardSpec {
    /// The rewards of a configuration that says nothing.
    pub fn default_list() -> Vec<RewardSpec> {
        vec![RewardSpec::Exercise { weight: 1.0 }]
    }

    /// The word in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            RewardSpec::Exercise { .. } => "exercise",
            RewardSpec::Math { .. } => "math",
            RewardSpec::Code { .. } => "code",
            RewardSpec::Format { .. } => "format",
            RewardSpec::Language { .. } => "language",
            RewardSpec::Length { .. } => "length",
            RewardSpec::Rule { .. } => "rule",
            RewardSpec::Command { .. } => "command",
        }
    }

    /// Its weight in the total.
    pub fn weight(&self) -> f32 {
        match self {
            RewardSpec::Exercise { weight }
            | RewardSpec::Math { weight, .. }
            | RewardSpec::Code { weight, .. }
            | RewardSpec::Format { weight, .. }
            | RewardSpec::Language { weight, .. }
            | RewardSpec::Length { weight, .. }
            | RewardSpec::Rule { weight, .. }
            | RewardSpec::Command { weight, .. } => *weight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_typos() {
        let spec: RewardSpec = serde_json::from_value(json!({"kind": "math"})).unwrap();
        assert_eq!(spec, RewardSpec::Math { weight: 1.0, extract: Extract::default_order(), tolerance: 0.0, evaluated: false });
        for spec in RewardSpec::default_list() {
            assert_eq!(serde_json::from_value::<RewardSpec>(serde_json::to_value(&spec).unwrap()).unwrap(), spec);
        }
        for (bad, says) in [
            (json!({"kind": "math", "weigth": 1}), "weigth"),
            (json!({"kind": "maths"}), "maths"),
            (json!({"weight": 1}), "kind"),
            (json!({"kind": "command"}), "command"),
            (json!({"kind": "code", "limits": {"memory": 1}}), "memory"),
            (json!({"kind": "code", "sandbox": "wasm"}), "wasi"),
        ] {
            let message = serde_json::from_value::<RewardSpec>(bad.clone()).unwrap_err().to_string();
            assert!(message.contains(says), "{bad}: {message}");
        }
    }
}

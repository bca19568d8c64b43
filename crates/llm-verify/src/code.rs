//! Programs graded by their tests, each in a cell of the [`crate::sandbox`].
//!
//! The program is the last fenced block of the answer, or the whole answer without one. Its tests are a column of the row:
//!
//! - a string: Python that follows the program. With a function `check` in it (HumanEval) and a column `entry_point`,
//!   `check(entry_point)` is called;
//! - a list of strings: one test each, such as the assertions of MBPP;
//! - a list of `{"input": ..., "output": ...}`: the program reads the one and has to print the other; white space between words
//!   is all the same.
//!
//! Python only. Tests and program share an interpreter, so a program that wants to cheat can: look at what is rewarded.

use crate::sandbox::{Outcome, Sandbox};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most tests of a row: each may be a process.
const MOST_TESTS: usize = 64;

/// What is given for some of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credit {
    /// 1 for all, 0 otherwise.
    #[default]
    All,
    /// Their share.
    Fraction,
}

/// The sandbox and how results count.
#[derive(Debug)]
pub struct CodeTests {
    /// Where programs run.
    pub sandbox: Sandbox,
    /// All or the share.
    pub credit: Credit,
}

/// What one row's tests are.
#[derive(Debug, PartialEq)]
pub enum Tests {
    /// Python after the program, one piece for each test.
    Python(Vec<String>),
    /// Standard input and what is to be printed.
    Printed(Vec<(String, String)>),
}

impl Tests {
    /// Read a row's column.
    ///
    /// # Errors
    /// What the column should hold.
    pub fn new(value: &Value, entry_point: Option<&str>) -> Result<Self, String> {
        let expected = "expected Python as a string, a list of such strings, or a list of {\"input\": ..., \"output\": ...}";
        let tests = match value {
            Value::String(text) => {
                let mut text = text.clone();
                if let Some(name) = entry_point.filter(|_| text.contains("def check(")) {
                    let identifier = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
                    if !identifier {
                        return Err(format!("entry_point {name:?} is not a Python name"));
                    }
                    text.push_str(&format!("\ncheck({name})\n"));
                }
                Tests::Python(vec![text])
            }
            Value::Array(items) if items.iter().all(Value::is_string) => {
                Tests::Python(items.iter().filter_map(Value::as_str).map(str::to_string).collect())
            }
            Value::Array(items) => {
                let pair = |item: &Value| Some((item.get("input")?.as_str()?.to_string(), item.get("output")?.as_str()?.to_string()));
                Tests::Printed(items.iter().map(pair).collect::<Option<_>>().ok_or(expected)?)
            }
            _ => return Err(expected.to_string()),
        };
        match tests.len() {
            0 => Err(format!("no tests; {expected}")),
            n if n > MOST_TESTS => Err(format!("{n} tests; at most {MOST_TESTS} are run for a row")),
            _ => Ok(tests),
        }
    }

    fn len(&self) -> usize {
        match self {
            Tests::Python(tests) => tests.len(),
            Tests::Printed(tests) => tests.len(),
        }
    }

    /// Programs that pass exactly when their tests do: one for each test, or as few as there can be.
    fn programs(&self, program: &str, each: bool) -> Vec<String> {
        match self {
            Tests::Python(tests) if each => tests.iter().map(|test| format!("{program}\n\n{test}\n")).collect(),
            Tests::Python(tests) => vec![format!("{program}\n\n{}\n", tests.join("\n"))],
            Tests::Printed(tests) => tests.iter().map(|(input, output)| printing(program, input, output)).collect(),
        }
    }
}

/// A program that runs `program` with `input` and looks at what it prints.
fn printing(program: &str, input: &str, output: &str) -> String {
    // Strings of JSON are strings of Python.
    let literal = |text: &str| Value::from(text).to_string();
    format!(
        "import io, sys\n\
         sys.stdin = io.TextIOWrapper(io.BytesIO({}.encode()), encoding='utf-8')\n\
         shown, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO(), encoding='utf-8', write_through=True)\n\
         printed = sys.stdout.buffer\n\
         try:\n    exec(compile({}, 'answer.py', 'exec'), {{'__name__': '__main__'}})\n\
         except SystemExit as end:\n    assert end.code in (None, 0), end.code\n\
         text, sys.stdout = printed.getvalue().decode(), shown\n\
         assert text.split() == {}.split(), 'printed ' + text[:200]\n",
        literal(input),
        literal(program),
        literal(output)
    )
}

/// The program of an answer: its last fenced block, or all of it.
pub fn program(answer: &str) -> &str {
    let Some(fence) = answer.rfind("\n```").map(|at| at + 1).or_else(|| answer.starts_with("```").then_some(0)) else { return answer };
    // An odd number of fences before it: it closes a block.
    if answer[..fence].matches("```").count().is_multiple_of(2) {
        // A block that is not closed reaches to the end.
        return after_language(&answer[fence + 3..]);
    }
    match answer[..fence].rfind("```") {
        Some(open) => after_language(&answer[open + 3..fence]),
        None => answer,
    }
}

/// What follows the first line, which names the language.
fn after_language(block: &str) -> &str {
    block.split_once('\n').map_or("", |(_, rest)| rest)
}

impl CodeTests {
    /// 0 to 1 for `answer`; `setup` (imports, helper functions) comes before the program.
    ///
    /// # Errors
    /// The sandbox could not run it.
    pub fn grade(&self, answer: &str, setup: &str, tests: &Tests) -> Result<f32, String> {
        let program = format!("{setup}\n{}", program(answer));
        let programs = tests.programs(&program, self.credit == Credit::Fraction);
        let mut passed = 0usize;
        for one in &programs {
            match self.sandbox.run(one) {
                Outcome::Passed => passed += 1,
                Outcome::Refused { reason } => return Err(reason),
                _ if self.credit == Credit::All => return Ok(0.0),
                _ => {}
            }
        }
        Ok(passed as f32 / programs.len() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_program_is_the_last_block() {
        for (answer, expected) in [
            ("x = 1", "x = 1"),
            ("So:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
            ("```py\na\n```\nbetter:\n```\nb\n```", "b\n"),
            ("```python\nx = 1", "x = 1"),
            ("Text\n```python\ny = 2\n", "y = 2\n"),
            ("```", ""),
        ] {
            assert_eq!(program(answer), expected, "{answer}");
        }
    }

    #[test]
    fn tests_of_three_forms() {
        let check = Tests::new(&json!("def check(f):\n    assert f(1) == 2\n"), Some("add_one")).unwrap();
        assert!(matches!(&check, Tests::Python(t) if t[0].ends_with("check(add_one)\n")));
        assert_eq!(Tests::new(&json!(["assert a", "assert b"]), None).unwrap().programs("p", true).len(), 2);
        assert_eq!(Tests::new(&json!(["assert a", "assert b"]), None).unwrap().programs("p", false).len(), 1);
        let printed = Tests::new(&json!([{"input": "1\n", "output": "2"}]), None).unwrap();
        assert!(printed.programs("print(\"ü\")", false)[0].contains("exec(compile(\"print(\\\"ü\\\")\""));
        for bad in [json!(1), json!([]), json!([1]), json!([{"input": 1}]), json!(null)] {
            assert!(Tests::new(&bad, None).is_err(), "{bad}");
        }
        assert!(Tests::new(&json!("def check(f): pass"), Some("x); import os; (")).is_err());
    }
}

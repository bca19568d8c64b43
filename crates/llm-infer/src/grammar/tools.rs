//! Tool calls as a grammar, in the form of Hermes and Qwen:
//!
//! ```text
//! <tool_call>
//! {"name": "get_weather", "arguments": {"city": "Paris"}}
//! </tool_call>
//! ```
//!
//! The marks are control tokens in some vocabularies and plain text in others; the grammar takes what the tokenizer has. Each tool's
//! arguments are a schema of their own, so `#/$defs/...` in it means what it says.

use super::{Constraint, quoted, with_space};
use crate::{Error, Result};
use llm_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::fmt::Write;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A function that a model may call.
#[derive(Debug, Clone, Copy)]
pub struct Tool<'a> {
    /// What it is called.
    pub name: &'a str,
    /// JSON schema of its arguments, an object; null if it has none.
    pub parameters: &'a Value,
}

/// Which calls there must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolRules {
    /// Free text may stand before, between and after the calls. It has no control tokens in it.
    pub text: bool,
    /// Fewest calls. Without text at least one.
    pub least: usize,
    /// Most calls.
    pub most: Option<usize>,
}

impl ToolRules {
    /// Text, calls, or both.
    pub fn auto() -> Self {
        Self { text: true, least: 0, most: None }
    }

    /// Calls and nothing else.
    pub fn required() -> Self {
        Self { text: false, least: 1, most: None }
    }

    /// At most one call.
    pub fn single(self) -> Self {
        Self { most: Some(1), ..self }
    }
}

/// The grammar of answers that call `tools`. For one certain tool give that one and [`ToolRules::required`].
pub fn lark_tools(tokenizer: &Tokenizer, tools: &[Tool<'_>], rules: ToolRules) -> Result<Constraint> {
    if tools.is_empty() {
        return Err(Error::Grammar("tools: none given".into()));
    }
    let least = if rules.text { rules.least } else { rules.least.max(1) };
    if rules.most.is_some_and(|most| most < least.max(1)) {
        return Err(Error::Grammar(format!("tools: at most {} calls but at least {least}", rules.most.unwrap_or(0))));
    }
    let control = |mark: &str| tokenizer.special_id(mark).is_some_and(|id| tokenizer.is_special(id));
    let mark = |mark: &str| if control(mark) { mark.to_string() } else { quoted(mark) };
    let range = |least: usize, most: Option<usize>| format!("{{{least},{}}}", most.map_or(String::new(), |n| n.to_string()));
    let close = if control(CLOSE) { format!("\"\\n\" {CLOSE}") } else { quoted(&format!("\n{CLOSE}")) };

    let mut lark = match (rules.text, control(OPEN)) {
        (true, true) => format!("start: (text? {OPEN} call){} text?\ntext: /(?s:.+)/\n", range(least, rules.most)),
        // Text ends at the first mark, wherever it is: what looks like a call is one.
        (true, false) => format!(
            "start: (before call){} after?\nbefore[lazy]: /(?s:.*)/ {open}\nafter: AFTER\nAFTER: /(?s:.+)/ & ~/(?s:.*{OPEN}.*)/\n",
            range(least, rules.most),
            open = quoted(OPEN)
        ),
        (false, _) if rules.most == Some(1) => format!("start: {} call\n", mark(OPEN)),
        (false, _) => format!("start: {open} call (\"\\n\" {open} call){}\n", range(least - 1, rules.most.map(|n| n - 1)), open = mark(OPEN)),
    };
    let names: Vec<String> = (0..tools.len()).map(|i| format!("tool_{i}")).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(lark, "call: \"\\n\" ({}) {close}", names.join(" | "));
    for (i, Tool { name, parameters }) in tools.iter().enumerate() {
        let schema = match parameters {
            Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
            Value::Object(_) => (*parameters).clone(),
            _ => return Err(Error::Grammar(format!("tools: the parameters of `{name}` must be a JSON schema, an object"))),
        };
        let head = quoted(&format!("{{\"name\": {}, \"arguments\": ", quoted(name)));
        let _ = writeln!(lark, "tool_{i}: {head} arguments_{i} \"}}\"\narguments_{i}: %json {}", with_space(schema));
    }
    Ok(Constraint::Lark(lark))
}

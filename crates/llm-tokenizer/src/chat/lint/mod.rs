//! What is wrong with a chat template: canned conversations are rendered and looked at.
//!
//! An error is what makes ordinary training or use go wrong, a warning what does so for some conversations or some programs, a
//! note what one should know. Templates are judged by what they render, not by their source, so any style of writing them will do.

mod content;
mod conversations;
mod speech;
mod tokens;

use super::template::{ChatTemplate, RenderOptions};
use crate::tokenizer::Tokenizer;
use conversations::Conversation;
use serde::Serialize;

/// How bad a finding is; the worst is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Ordinary training or use goes wrong.
    Error,
    /// Some conversations or some programs go wrong.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something about a chat template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it, e.g. `prefix-unstable`.
    pub rule: &'static str,
    /// The canned conversation in which it was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<&'static str>,
    /// What is wrong, what follows from it and what to do.
    pub message: String,
    /// Texts that show it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shown: Vec<Shown>,
}

/// A text that shows a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// What it is.
    pub label: String,
    /// An excerpt, `…` where something is left out.
    pub text: String,
}

const BEFORE: usize = 16;
const LENGTH: usize = 56;

impl Shown {
    fn new(label: impl Into<String>, text: &str) -> Self {
        Self::at(label, text, 0)
    }

    /// The text around byte `at`.
    fn at(label: impl Into<String>, text: &str, at: usize) -> Self {
        let at = text.floor_char_boundary(at);
        let from = text[..at].char_indices().rev().take(BEFORE).last().map_or(at, |(i, _)| i);
        let to = text[from..].char_indices().nth(LENGTH).map_or(text.len(), |(i, _)| from + i);
        let (left, right) = (if from > 0 { "…" } else { "" }, if to < text.len() { "…" } else { "" });
        Self { label: label.into(), text: format!("{left}{}{right}", &text[from..to]) }
    }
}

/// Render canned conversations with the tokenizer's chat template and report what is wrong with it, the worst first.
pub fn lint(tokenizer: &Tokenizer) -> Vec<Finding> {
    lint_with(tokenizer, &[])
}

/// [`lint`] knowing more ids that end a reply than the tokenizer's own, such as those of `generation_config.json`.
pub fn lint_with(tokenizer: &Tokenizer, eos_ids: &[u32]) -> Vec<Finding> {
    let Some(template) = tokenizer.chat_template() else {
        let message = "There is no chat template: put a chat_template.jinja beside tokenizer.json.".to_string();
        return vec![Finding { severity: Severity::Error, rule: "no-template", conversation: None, message, shown: Vec::new() }];
    };
    let mut linter = Linter { tokenizer, template, eos_ids, rendered: Vec::new(), findings: Vec::new() };
    for conversation in conversations::all(tokenizer) {
        let text = linter.render(&conversation, conversation.messages.len(), false);
        linter.rendered.push((conversation, text));
    }
    let rendered = std::mem::take(&mut linter.rendered);
    content::check(&mut linter, &rendered);
    speech::check(&mut linter, &rendered);
    tokens::check(&mut linter, &rendered);
    linter.findings.sort_by_key(|finding| finding.severity);
    linter.findings
}

/// A conversation and what the template made of it.
type Rendered = (Conversation, Result<String, String>);

struct Linter<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    eos_ids: &'a [u32],
    rendered: Vec<Rendered>,
    findings: Vec<Finding>,
}

impl Linter<'_> {
    /// The first `n` messages as text.
    fn render(&self, conversation: &Conversation, n: usize, add_generation_prompt: bool) -> Result<String, String> {
        let options = RenderOptions { add_generation_prompt, ..conversation.options() };
        let text = self.tokenizer.render_chat(&conversation.messages[..n], &options);
        text.map_err(|e| match e {
            crate::Error::Template(message) => message,
            other => other.to_string(),
        })
    }

    fn report(
        &mut self,
        severity: Severity,
        rule: &'static str,
        conversation: Option<&'static str>,
        message: impl Into<String>,
        shown: impl Into<Vec<Shown>>,
    ) {
        self.findings.push(Finding { severity, rule, conversation, message: message.into(), shown: shown.into() });
    }
}

/// A conversation by its name, if the template renders it.
fn find<'r>(rendered: &'r [Rendered], name: &str) -> Option<(&'r Conversation, &'r str)> {
    let (conversation, text) = rendered.iter().find(|(conversation, _)| conversation.name == name)?;
    Some((conversation, text.as_deref().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_cut_at_characters_and_say_so() {
        let text = "é".repeat(100);
        let shown = Shown::at("x", &text, 101);
        assert_eq!(shown.text, format!("…{}…", "é".repeat(LENGTH)));
        assert_eq!(Shown::new("x", "short").text, "short");
        assert_eq!(Shown::at("x", "short", 99).text, "short", "a place behind the end is the end");
    }
}

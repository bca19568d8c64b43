//! `lint`: what is wrong with a chat template.

use anyhow::{Context, Result, bail};
use clap::Args;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::chat::{Finding, Severity, lint_with};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const WIDTH: usize = 80;
const INDENT: &str = "    ";
/// Files that may name more ids that end a reply.
const CONFIGS: [&str; 2] = ["generation_config.json", "config.json"];

/// Arguments of `lint`.
#[derive(Debug, Args)]
pub struct Lint {
    /// Tokenizer or model folder, or tokenizer.json.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Lint {
    /// Print the findings; fails if one of them is an error.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let findings = lint_with(&tokenizer, &eos_ids(&self.tokenizer)?);
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
        if self.json {
            let report = json!({"errors": errors, "warnings": warnings, "notes": notes, "findings": findings});
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            for finding in &findings {
                println!("{}\n", describe(finding));
            }
            println!("{}, {}, {}", counted(errors, "error"), counted(warnings, "warning"), counted(notes, "note"));
        }
        if errors > 0 {
            bail!("{}: {} in the chat template", self.tokenizer.display(), counted(errors, "error"));
        }
        Ok(())
    }
}

/// `eos_token_id` of the files beside the tokenizer.
fn eos_ids(path: &Path) -> Result<Vec<u32>> {
    let dir = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let mut ids = Vec::new();
    for file in CONFIGS.map(|name| dir.join(name)).into_iter().filter(|file| file.exists()) {
        let text = std::fs::read_to_string(&file).with_context(|| format!("{}: cannot read", file.display()))?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{}: not JSON", file.display()))?;
        match &value["eos_token_id"] {
            Value::Array(list) => ids.extend(list.iter().filter_map(Value::as_u64)),
            one => ids.extend(one.as_u64()),
        }
    }
    Ok(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn describe(finding: &Finding) -> String {
    let place = finding.conversation.map_or_else(String::new, |name| format!(" ({name})"));
    let mut text = format!("{}: {}{place}", finding.severity.name(), finding.rule);
    for line in wrap(&finding.message) {
        text.extend(["\n", INDENT, &line]);
    }
    for shown in &finding.shown {
        for line in wrap(&format!("{}: {:?}", shown.label, shown.text)) {
            text.extend(["\n", INDENT, INDENT, &line]);
        }
    }
    text
}

/// Lines that fit behind two indents; a long word is broken.
fn wrap(text: &str) -> Vec<String> {
    let room = WIDTH - 2 * INDENT.len();
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let width: usize = word.chars().map(columns).sum();
        if used > 0 && used + 1 + width > room {
            lines.push(String::new());
            used = 0;
        }
        for c in (used > 0).then_some(' ').into_iter().chain(word.chars()) {
            if used + columns(c) > room {
                lines.push(String::new());
                used = 0;
            }
            used += columns(c);
            lines.last_mut().into_iter().for_each(|line| line.push(c));
        }
    }
    lines
}

/// Most characters beyond Latin may take two columns.
fn columns(c: char) -> usize {
    if c < '\u{1100}' || c == '…' { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tokenizer::chat::Shown;

    #[test]
    fn no_line_is_wider_than_a_terminal_and_nothing_is_lost() {
        let message = format!("{} {} end", "word ".repeat(40).trim(), "<｜Assistant｜>".repeat(30));
        let shown = vec![Shown { label: "rendered".into(), text: "x\n".repeat(80) }];
        let finding =
            Finding { severity: Severity::Error, rule: "prefix-unstable", conversation: Some("two exchanges"), message: message.clone(), shown };
        let text = describe(&finding);
        assert!(text.lines().all(|line| line.chars().map(columns).sum::<usize>() <= WIDTH), "{text}");
        let squeezed = |text: &str| text.replace([' ', '\n'], "");
        assert!(squeezed(&text).contains(&squeezed(&message)));
    }
}

//! Control tokens: does the vocabulary know those that the template writes, and is there one begin-of-text token?

use super::conversations as canned;
use super::{Linter, Rendered, Severity, Shown, find};
use regex::Regex;
use std::collections::BTreeSet;

/// Spellings of control tokens. Tags such as `<think>` and `<tools>` are left alone: many templates mean them as text.
const SPELLINGS: &str = r"<\|[^\s|<>]{1,40}\|>|<｜[^\s｜<>]{1,40}｜>|</?s>|<(?:bos|eos)>|<(?:start|end)_of_turn>";
const COMMENTS: &str = r"(?s)\{#.*?#\}";

pub fn check(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    unknown(linter, rendered);
    begin_of_text(linter, rendered);
}

fn unknown(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let tokenizer = linter.tokenizer;
    let is_known = |token: &str| tokenizer.encode_with_special(token).len() == 1;
    for (name, known) in [("bos_token", tokenizer.bos_id()), ("eos_token", tokenizer.eos_id())] {
        let named = tokenizer.0.config.get(name).and_then(|value| value.as_str().or_else(|| value["content"].as_str()));
        if let Some(token) = named.filter(|_| known.is_none()) {
            let message = format!("tokenizer_config.json says {name} = `{token}`, which the vocabulary does not have.");
            linter.report(Severity::Error, "unknown-token", None, message, []);
        }
    }
    let (Ok(spellings), Ok(comments)) = (Regex::new(SPELLINGS), Regex::new(COMMENTS)) else {
        return;
    };
    let unknown_in = |text: &str| -> BTreeSet<String> {
        spellings.find_iter(text).map(|found| found.as_str().to_string()).filter(|token| !is_known(token)).collect()
    };
    let mut written = BTreeSet::new();
    for (conversation, text) in rendered.iter().filter(|(c, _)| c.name != canned::CONTROL) {
        let prompt = linter.render(conversation, conversation.messages.len(), true);
        for text in [text, &prompt].into_iter().flatten() {
            written.extend(unknown_in(text));
        }
    }
    let source = comments.replace_all(linter.template.source(), "");
    let latent: BTreeSet<String> = unknown_in(&source).difference(&written).cloned().collect();
    for (tokens, severity, what) in [
        (written, Severity::Error, "The template writes control tokens that the vocabulary does not have; they are encoded as ordinary text:"),
        (latent, Severity::Warning, "Branches that no canned conversation takes name control tokens that the vocabulary does not have:"),
    ] {
        if !tokens.is_empty() {
            let list: Vec<String> = tokens.iter().map(|token| format!("`{token}`")).collect();
            linter.report(severity, "unknown-token", None, format!("{what} {}.", list.join(", ")), []);
        }
    }
}

fn begin_of_text(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let (Some(bos), Some((conversation, text))) = (linter.tokenizer.bos_id(), find(rendered, canned::USER)) else {
        return;
    };
    let Ok(ids) = linter.tokenizer.chat_ids(&conversation.messages, false) else {
        return;
    };
    let times = ids.iter().take_while(|&&id| id == bos).count();
    let adds = linter.tokenizer.adds_bos();
    let (severity, rule, message) = match times {
        0 if adds => {
            let message =
                "The tokenizer begins every text with its begin-of-text token, but the template does not write it, so conversations begin without.";
            (Severity::Warning, "no-bos", message)
        }
        1 if adds => {
            let message = "The template writes the begin-of-text token and the tokenizer's post-processor adds one too. The programs here and \
                           apply_chat_template of transformers do not double it; others that render to text and then encode it do.";
            (Severity::Warning, "double-bos", message)
        }
        0 | 1 => return,
        _ => (Severity::Error, "double-bos", "The template writes the begin-of-text token more than once at the beginning."),
    };
    linter.report(severity, rule, Some(conversation.name), message, [Shown::new("rendered", text)]);
}

//! Does everything that is put into a template come out, as it was and once?

use super::conversations::{self as canned, Conversation};
use super::{Linter, Rendered, Severity, Shown, find};

pub fn check(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    refusals(linter, rendered);
    system(linter, rendered);
    texts(linter, rendered);
    layout(linter, rendered);
    reasoning(linter, rendered);
    tools(linter, rendered);
}

fn refusals(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    for plain in [true, false] {
        let refused = rendered.iter().filter(|(conversation, _)| conversation.plain == plain);
        let shown: Vec<Shown> = refused.filter_map(|(c, text)| Some(Shown::new(c.name, text.as_ref().err()?))).collect();
        if shown.is_empty() {
            continue;
        }
        let (severity, message) = match plain {
            true => (Severity::Error, "The template fails on ordinary conversations:"),
            false => (Severity::Warning, "The template fails on conversations that many templates take:"),
        };
        linter.report(severity, "raises", None, message, shown);
    }
}

fn system(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let Some((conversation, text)) = find(rendered, canned::SYSTEM) else {
        return;
    };
    if !mentions(text, &conversation.messages[0].content) {
        let message = "The system message is dropped without a word: whoever gives one believes that the model sees it. Show it, or call \
                       raise_exception.";
        linter.report(Severity::Error, "system-dropped", Some(conversation.name), message, [Shown::new("rendered", text)]);
    }
}

/// User and assistant text, and the system's if it is not dropped.
fn texts(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let looked_at = [canned::EXCHANGE, canned::MULTI_TURN, canned::SYSTEM];
    let (mut dropped, mut changed, mut twice) = (false, false, false);
    for (conversation, text) in looked_at.into_iter().filter_map(|name| find(rendered, name)) {
        for (i, message) in conversation.messages.iter().enumerate() {
            let said = format!("messages[{i}]");
            let shown = [Shown::new(&said, &message.content), Shown::new("rendered", text)];
            let times = text.matches(&message.content).count();
            if times > 1 && !std::mem::replace(&mut twice, true) {
                let message = format!("The text of messages[{i}] ({}) is shown {times} times.", message.role);
                linter.report(Severity::Warning, "content-duplicated", Some(conversation.name), message, shown);
            } else if times == 0 && mentions(text, &message.content) && !std::mem::replace(&mut changed, true) {
                let message = format!("The text of messages[{i}] ({}) does not come out as it was given.", message.role);
                linter.report(Severity::Warning, "content-changed", Some(conversation.name), message, shown);
            } else if times == 0 && !mentions(text, &message.content) && message.role != "system" && !std::mem::replace(&mut dropped, true) {
                let message = format!("The text of messages[{i}] ({}) is not shown.", message.role);
                linter.report(Severity::Error, "content-dropped", Some(conversation.name), message, shown);
            }
        }
    }
}

fn layout(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    if let Some((conversation, text)) = find(rendered, canned::BLANKS) {
        let stripped: Vec<&str> =
            conversation.messages.iter().filter(|m| !text.contains(&m.content) && text.contains(m.content.trim())).map(|m| m.role.as_str()).collect();
        if !stripped.is_empty() {
            let message = format!("Blanks around the text are stripped (role {}), as Llama 3's template does it.", stripped.join(", "));
            linter.report(Severity::Note, "content-stripped", Some(conversation.name), message, []);
        }
    }
    for (name, rule, what) in [
        (canned::LAYOUT, "layout-changed", "Blanks or line breaks inside the text are changed: code and tables lose their form."),
        (canned::CONTROL, "control-text-changed", "Text that looks like a control token is changed or cut: the template looks for it in messages."),
    ] {
        let Some((conversation, text)) = find(rendered, name) else {
            continue;
        };
        if let Some(message) = conversation.messages.iter().find(|m| !text.contains(&m.content) && mentions(text, &m.content)) {
            let shown = [Shown::new(&message.role, &message.content), Shown::new("rendered", text)];
            linter.report(Severity::Warning, rule, Some(conversation.name), what, shown);
        }
    }
}

fn reasoning(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    for name in [canned::REASONING, canned::THOUGHT] {
        let Some((conversation, text)) = find(rendered, name) else {
            continue;
        };
        let thoughts = if name == canned::REASONING { "`reasoning_content`" } else { "A thought in <think> tags in the text" };
        let message = match canned::THOUGHT_WORDS.map(|word| text.contains(word)) {
            [true, true] => continue,
            [false, true] => format!("{thoughts} is left out of earlier turns and kept in the last, as Qwen3's template does it."),
            _ => format!("{thoughts} is not shown, so a model cannot be trained on it through this template."),
        };
        linter.report(Severity::Note, "reasoning-dropped", Some(conversation.name), message, []);
    }
}

fn tools(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let Some((conversation, text)) = find(rendered, canned::TOOLS) else {
        return;
    };
    let untold = Conversation { tools: None, messages: conversation.messages.clone(), ..*conversation };
    let shows_tools = linter.render(&untold, untold.messages.len(), false).map_or(text.contains("Look up a city"), |without| without != text);
    for (there, rule, what) in [
        (shows_tools, "tools-ignored", "Tools are ignored: the model does not learn which functions it may call."),
        (text.contains(canned::CALL_WORD), "tool-calls-dropped", "`tool_calls` of the assistant are not shown."),
        (text.contains(canned::RESULT_WORD), "tool-result-dropped", "The answer of a tool (role `tool`) is not shown."),
    ] {
        if !there {
            linter.report(Severity::Warning, rule, Some(conversation.name), what, []);
        }
    }
}

/// Whether the name in a text (its words with a capital letter inside the sentence) is to be seen, in whatever case.
fn mentions(rendered: &str, text: &str) -> bool {
    let rendered = rendered.to_lowercase();
    let names = text.split(|c: char| !c.is_alphanumeric()).skip(1).filter(|word| word.starts_with(char::is_uppercase));
    names.map(str::to_lowercase).any(|name| name.len() > 4 && rendered.contains(&name))
}

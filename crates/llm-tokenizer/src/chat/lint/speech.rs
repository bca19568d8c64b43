//! Turns: does the conversation grow at its end, does the generation prompt lead into a turn, is the assistant's text found?

use super::conversations::{self as canned, Conversation};
use super::{Linter, Rendered, Severity, Shown, find};
use crate::chat::RenderOptions;
use crate::chat::template::Trial;
use crate::chat::turns::{Turns, added_tokens, tried};

/// Programs of this workspace end a reply at these whatever the folder says.
const KNOWN_ENDINGS: [&str; 2] = ["<|eot_id|>", "<|im_end|>"];

pub fn check(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    prefixes(linter, rendered);
    generation_prompt(linter, rendered);
    if linter.template.marks_generation() {
        coverage(linter, rendered);
    } else {
        differences(linter, rendered);
    }
    end_of_turn(linter, rendered);
}

/// The first conversation that does not grow at its end, plain ones first.
fn prefixes(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let names = [canned::EXCHANGE, canned::MULTI_TURN, canned::SYSTEM, canned::SYSTEM_MULTI_TURN, canned::REASONING, canned::THOUGHT, canned::TOOLS];
    for (conversation, _) in names.into_iter().filter_map(|name| find(rendered, name)) {
        for n in 1..conversation.messages.len() {
            let (Ok(shorter), Ok(longer)) = (linter.render(conversation, n, false), linter.render(conversation, n + 1, false)) else {
                continue;
            };
            if longer.starts_with(&shorter) {
                continue;
            }
            let at: usize = shorter.chars().zip(longer.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
            let (severity, effect) = match conversation.plain {
                true => {
                    (Severity::Error, "training on whole conversations differs from use turn by turn, and servers cannot keep what they computed")
                }
                false => (Severity::Warning, "in such conversations training on the whole differs from use turn by turn"),
            };
            let message = format!("The rendering of messages[..{n}] is not the beginning of that of messages[..{}]: {effect}.", n + 1);
            let shown = [Shown::at(format!("messages[..{n}]"), &shorter, at), Shown::at(format!("messages[..{}]", n + 1), &longer, at)];
            linter.report(severity, "prefix-unstable", Some(conversation.name), message, shown);
            return;
        }
    }
}

fn generation_prompt(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let Some((conversation, _)) = find(rendered, canned::MULTI_TURN) else {
        return;
    };
    for i in [1, 3] {
        let (Ok(before), Ok(prompt)) = (linter.render(conversation, i, false), linter.render(conversation, i, true)) else {
            continue;
        };
        let Ok(turn) = tried(linter.tokenizer, &conversation.messages[..=i], &conversation.options(), Trial::Replace(i)) else {
            continue;
        };
        let Some(header) = turn.before.strip_prefix(&before) else {
            continue;
        };
        let shown = |prompt: &str| [Shown::new("prompt", prompt), Shown::new("turn", header)];
        let (severity, message, shown) = match prompt.strip_prefix(&before) {
            Some("") if header.trim().is_empty() => continue,
            Some("") => (
                Severity::Error,
                "add_generation_prompt adds nothing, but turns of the assistant begin with a header: the model would have to write it.",
                shown(""),
            ),
            Some(prompt) if header == prompt => continue,
            Some(prompt) if header.starts_with(prompt) => (
                Severity::Note,
                "Turns of the assistant go on after the generation prompt with text that the model has to write itself.",
                shown(prompt),
            ),
            Some(prompt) if prompt.starts_with(header) => {
                let message = "The generation prompt goes further than what turns of the assistant begin with: no turn teaches what follows it.";
                (Severity::Warning, message, shown(prompt))
            }
            Some(prompt) => (Severity::Error, "The generation prompt is not what turns of the assistant begin with.", shown(prompt)),
            None => {
                let message = "add_generation_prompt changes more than the end of the text.";
                (Severity::Error, message, [Shown::new("with", &prompt), Shown::new("without", &before)])
            }
        };
        linter.report(severity, "generation-prompt", Some(conversation.name), message, shown);
        return;
    }
}

/// Without generation blocks: can the turns be found?
fn differences(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let message = "There are no {% generation %} blocks: assistant masks are made by comparing renderings.";
    linter.report(Severity::Note, "no-generation-blocks", None, message, []);
    for (conversation, text) in rendered.iter().filter(|(c, _)| c.has_assistant()) {
        if text.is_err() {
            continue;
        }
        if let Err(error) = linter.tokenizer.apply_chat_template_with(&conversation.messages, &conversation.options()) {
            let severity = if conversation.plain { Severity::Error } else { Severity::Warning };
            linter.report(severity, "masks-unclear", Some(conversation.name), format!("No assistant mask can be made: {error}."), []);
            return;
        }
    }
}

/// Generation blocks against the turns as renderings show them.
fn coverage(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let Some((conversation, _)) = find(rendered, canned::MULTI_TURN) else {
        return;
    };
    let (tokenizer, options) = (linter.tokenizer, conversation.options());
    let Ok(marked) = tokenizer.render_marked(&conversation.messages, &options) else {
        return;
    };
    let Ok(blocks) = tokenizer.encode_chat(&conversation.messages, &marked) else {
        return;
    };
    let name = Some(conversation.name);
    if !blocks.assistant_mask.contains(&true) {
        let message = "The {% generation %} blocks enclose nothing, so there is nothing to train on.";
        return linter.report(Severity::Error, "generation-empty", name, message, []);
    }
    let turns = Turns::new(tokenizer, &conversation.messages, &options, &marked).marked();
    let turns = match turns.and_then(|turns| tokenizer.encode_chat(&conversation.messages, &turns)) {
        Ok(turns) if turns.ids == blocks.ids => turns,
        Ok(_) => return,
        Err(error) => {
            let message = format!("The {{% generation %}} blocks cannot be checked: {error}.");
            return linter.report(Severity::Note, "generation-unchecked", name, message, []);
        }
    };
    let pick = |wanted: &dyn Fn(bool, bool) -> bool| -> Vec<u32> {
        let masks = blocks.assistant_mask.iter().zip(&turns.assistant_mask);
        blocks.ids.iter().zip(masks).filter(|(_, (b, t))| wanted(**b, **t)).map(|(id, _)| *id).collect()
    };
    let (missed, extra) = (pick(&|block, turn| turn && !block), pick(&|block, turn| block && !turn));
    let shown = |ids: &[u32]| [Shown::new("tokens", &tokenizer.decode(ids, false))];
    if missed.iter().any(|&id| tokenizer.is_special(id)) {
        let message = "The {% generation %} block leaves out the end-of-turn token: a model trained with it does not learn to stop.";
        linter.report(Severity::Error, "generation-without-end", name, message, shown(&missed));
    } else if !tokenizer.decode(&missed, false).trim().is_empty() {
        let message = "The {% generation %} block leaves out text that the model has to write.";
        linter.report(Severity::Warning, "generation-misses-text", name, message, shown(&missed));
    }
    let text = tokenizer.decode(&extra, false);
    let others = conversation.messages.iter().filter(|m| m.role != "assistant");
    if others.clone().any(|m| text.contains(m.content.trim())) {
        let message = "The {% generation %} block encloses what others say: the model would be trained to say it.";
        linter.report(Severity::Error, "generation-too-wide", name, message, shown(&extra));
    } else if !extra.is_empty() {
        let (severity, what) = match text.trim().is_empty() {
            true => (Severity::Note, "blanks behind the end-of-turn token, which a model never has to write"),
            false => (Severity::Warning, "text that the model never has to write, such as the header of its turn"),
        };
        linter.report(severity, "generation-too-wide", name, format!("The {{% generation %}} block encloses {what}."), shown(&extra));
    }
}

fn end_of_turn(linter: &mut Linter<'_>, rendered: &[Rendered]) {
    let Some((conversation, _)) = find(rendered, canned::EXCHANGE) else {
        return;
    };
    let name = Some(conversation.name);
    let Some(turn) = last_turn(linter, conversation) else {
        return;
    };
    let Some(last) = added_tokens(linter.tokenizer, &turn).pop().filter(|found| turn[found.range.end..].trim().is_empty()) else {
        let message = "A turn of the assistant ends without a control token: a model can learn to stop only by the text that follows.";
        return linter.report(Severity::Warning, "no-end-of-turn", name, message, [Shown::at("turn", &turn, turn.len())]);
    };
    if linter.tokenizer.eos_id() == Some(last.id) || linter.eos_ids.contains(&last.id) {
        return;
    }
    let token = &turn[last.range];
    let advice = "Name it in eos_token_id of generation_config.json, or make it the tokenizer's eos_token.";
    if KNOWN_ENDINGS.contains(&token) {
        let message =
            format!("`{token}` ends a turn but is not among the eos ids. The programs here stop at it by its name, others do not. {advice}");
        return linter.report(Severity::Note, "end-of-turn-not-eos", name, message, []);
    }
    let message = format!("`{token}` ends a turn but is not among the eos ids: generation goes on behind the turn. {advice}");
    linter.report(Severity::Error, "end-of-turn-not-eos", name, message, []);
}

/// What the last message adds: by differences, or what the generation block encloses.
fn last_turn(linter: &Linter<'_>, conversation: &Conversation) -> Option<String> {
    let options: RenderOptions = conversation.options();
    let marked = linter.tokenizer.render_marked(&conversation.messages, &options).ok()?;
    let turns = Turns::new(linter.tokenizer, &conversation.messages, &options, &marked);
    match turns.turn(conversation.messages.len() - 1) {
        Ok(turn) => Some(turns.text()[turn].to_string()),
        Err(_) => {
            let whole = marked.unmark();
            Some(whole.text[whole.spans.last()?.clone()].to_string())
        }
    }
}

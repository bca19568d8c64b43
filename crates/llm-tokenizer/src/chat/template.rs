//! [`ChatTemplate`]: the Jinja dialect of Hugging Face's chat templates, on minijinja.
//!
//! What Python adds to Jinja there is added here: `trim_blocks` and `lstrip_blocks`, loop controls, Python's string and
//! dict methods, `tojson` in Python's spelling, `raise_exception`, `strftime_now`, and the `{% generation %}` block,
//! which minijinja does not know and which is rewritten to a `{% call %}` block (the same scoping in both engines).

use crate::added::AddedToken;
use crate::chat::guard::{BEGIN, END, Guard, MARK, Marked, RESERVED};
use crate::chat::python;
use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, State, Value as Jinja};
use regex::Regex;
use serde_json::{Map, Value, json};
use std::sync::{Arc, OnceLock};

/// The template of the tokenizers we train: Llama 3's headers, reasoning between `<think>` and `</think>`.
///
/// Message text is trimmed as Llama 3 does it. That keeps it prefix-stable in ids, not only in text: a reply that began
/// with a newline would fuse with the header's own two. What follows `</think>` is kept as it is. An image is `<|image|>`.
pub const DEFAULT_TEMPLATE: &str = include_str!("default_template.jinja");

const NAME: &str = "chat_template";
const CALL: &str = "__generation";

/// What a rendering takes besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// End with the header of an assistant turn.
    pub add_generation_prompt: bool,
    /// End inside the final message, right after its text, so that the model goes on with it. Excludes a generation prompt.
    pub continue_final_message: bool,
    /// Tool definitions in the OpenAI form; absent and empty are different things to a template.
    pub tools: Option<Value>,
    /// More variables, e.g. `enable_thinking`. `bos_token` and the like come from the tokenizer unless given here.
    pub variables: Map<String, Value>,
}

/// A parsed chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: Arc<str>,
    environment: Arc<Environment<'static>>,
    marks_generation: bool,
    forms: Arc<OnceLock<Forms>>,
}

/// What a template can do with a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forms {
    pub text: bool,
    pub parts: bool,
}

/// A change to one message that shows where its text comes out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trial {
    /// `MARK` after the content of this message.
    Append(usize),
    /// `MARK` as the content of this message, without reasoning and calls.
    Replace(usize),
    /// `MARK` after the content of every message but this.
    Others(usize),
}

const PROBE: &str = "probe";
const PROBE_KEY: &str = "unread";

impl ChatTemplate {
    /// Parse a template.
    pub fn new(source: impl Into<String>) -> Result<Self> {
        let source = source.into();
        if source.contains(RESERVED) {
            return Err(Error::Template("contains one of the noncharacters U+FDD0..U+FDD4, which are reserved here".to_string()));
        }
        let (rewritten, marks_generation) = rewrite_generation(&source);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(describe)?;
        let mut environment = Environment::new();
        environment.set_debug(false);
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python::write_value);
        environment.add_filter("tojson", python::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", python::strftime_now);
        environment.add_function(CALL, generation);
        environment.add_template_owned(NAME, rewritten).map_err(describe)?;
        Ok(Self { source: source.into(), environment: Arc::new(environment), marks_generation, forms: Arc::default() })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if the template says itself where the assistant speaks. If not, masks are made by comparing renderings.
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// Render messages (a JSON list of objects) to text, as they are.
    pub fn render(&self, messages: &Value, options: &RenderOptions) -> Result<String> {
        Ok(self.render_guarded(messages.clone(), options, &[], None, None)?.unmark().text)
    }

    /// Whether the template can show content that is a string, and content that is a list of parts.
    pub(crate) fn forms(&self) -> Forms {
        *self.forms.get_or_init(|| {
            let shows = |content: Value| {
                let messages = json!([{"role": "user", "content": content}]);
                // A template that knows only text prints the list as it is, or fails.
                self.render(&messages, &RenderOptions::default()).is_ok_and(|text| text.contains(PROBE) && !text.contains(PROBE_KEY))
            };
            let list = json!([{"type": "text", "text": PROBE, PROBE_KEY: true}]);
            Forms { text: shows(PROBE.into()), parts: shows(list) }
        })
    }

    /// Render with every string of the messages and tools guarded against becoming one of the `added` control tokens.
    pub(crate) fn render_guarded(
        &self,
        messages: Value,
        options: &RenderOptions,
        added: &[AddedToken],
        image: Option<&str>,
        trial: Option<Trial>,
    ) -> Result<Marked> {
        if options.continue_final_message && options.add_generation_prompt {
            return Err(Error::Template("continue_final_message and add_generation_prompt exclude each other: ask for one of them".into()));
        }
        let (assistant, others) = (Guard::new(added, image, true), Guard::new(added, image, false));
        let messages = match messages {
            Value::Array(messages) => messages,
            other => {
                return Err(Error::Template(format!("messages: expected a list, found {other}")));
            }
        };
        let mut guarded: Vec<Value> =
            messages.into_iter().map(|m| if m["role"] == "assistant" { assistant.message(m) } else { others.message(m) }).collect();
        match trial {
            Some(Trial::Append(i)) => guarded.get_mut(i).into_iter().for_each(|m| append(m, MARK.to_string())),
            Some(Trial::Replace(i)) => guarded.get_mut(i).into_iter().for_each(replace),
            Some(Trial::Others(i)) => guarded.iter_mut().enumerate().filter(|(j, _)| *j != i).for_each(|(_, m)| append(m, MARK.to_string())),
            None => {}
        }
        if options.continue_final_message {
            // The blank shows whether the template strips the text.
            guarded.last_mut().into_iter().for_each(|m| append(m, format!("{MARK} ")));
        }
        let mut context = options.variables.clone();
        context.insert("messages".to_string(), Value::Array(guarded));
        context.insert("tools".to_string(), options.tools.clone().map_or(Value::Null, |t| others.value(t)));
        context.insert("add_generation_prompt".to_string(), Value::Bool(options.add_generation_prompt));
        let template = self.environment.get_template(NAME).map_err(describe)?;
        let mut text = template.render(Jinja::from(Serde(&context))).map_err(describe)?;
        if options.continue_final_message {
            cut_at_mark(&mut text)?;
        }
        Ok(Marked(text))
    }
}

/// Text after the content of a message, in its last text part if it is a list.
fn append(message: &mut Value, text: String) {
    let Some(fields) = message.as_object_mut() else {
        return;
    };
    let content = fields.entry("content").or_insert(Value::Null);
    match content {
        Value::String(content) => content.push_str(&text),
        Value::Array(parts) => match parts.iter_mut().rev().find_map(|part| part.get_mut("text")) {
            Some(Value::String(last)) => last.push_str(&text),
            _ => parts.push(json!({"type": "text", "text": text})),
        },
        other => *other = Value::String(text),
    }
}

fn replace(message: &mut Value) {
    let Some(fields) = message.as_object_mut() else {
        return;
    };
    fields.remove("reasoning_content");
    fields.remove("tool_calls");
    let as_list = fields.get("content").is_some_and(Value::is_array);
    let content = if as_list { json!([{"type": "text", "text": MARK}]) } else { json!(MARK) };
    fields.insert("content".to_string(), content);
}

/// As transformers does it: what follows the final message's text goes, and so do blanks at its end if the template strips them.
fn cut_at_mark(text: &mut String) -> Result<()> {
    let Some(at) = text.rfind(MARK) else {
        let message =
            "does not show the text of the final message, so nothing can be continued; give a message with text, or no continue_final_message";
        return Err(Error::Template(message.to_string()));
    };
    let stripped = !text[at + MARK.len_utf8()..].starts_with(' ');
    text.truncate(at);
    if stripped {
        text.truncate(text.trim_end().len());
    }
    Ok(())
}

fn describe(error: minijinja::Error) -> Error {
    let detail = error.detail().map_or_else(
        || error.kind().to_string(),
        |d| {
            if error.kind() == ErrorKind::InvalidOperation { d.to_string() } else { format!("{}: {d}", error.kind()) }
        },
    );
    let place = error.line().map_or_else(String::new, |line| format!(" (line {line} of the template)"));
    Error::Template(detail + &place)
}

/// `{%- generation -%}` .. `{%- endgeneration -%}` to a call block, whitespace control kept.
fn rewrite_generation(source: &str) -> (String, bool) {
    static TAGS: OnceLock<Option<Regex>> = OnceLock::new();
    let Some(tags) = TAGS.get_or_init(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok()) else {
        return (source.to_string(), false);
    };
    let rewritten = tags.replace_all(source, |tag: &regex::Captures<'_>| {
        let body = if tag.get(2).is_some() { "endcall".to_string() } else { format!("call {CALL}()") };
        format!("{{%{} {body} {}%}}", &tag[1], &tag[3])
    });
    (rewritten.into_owned(), tags.is_match(source))
}

fn generation(state: &mut State, arguments: Kwargs) -> Result<Jinja, minijinja::Error> {
    let caller: Jinja = arguments.get("caller")?;
    let inner = caller.call(state, &[])?;
    Ok(Jinja::from_safe_string(format!("{BEGIN}{inner}{END}")))
}

fn raise_exception(message: String) -> Result<Jinja, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_line_or_the_templates_own_words() {
        let error = ChatTemplate::new("a\n{% if %}").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        let template = ChatTemplate::new("{{ raise_exception('roles must alternate') }}").unwrap();
        let error = template.render(&json!([]), &RenderOptions::default()).unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }
}

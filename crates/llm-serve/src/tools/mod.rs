//! Tool calls in a model's text: found while it is written, in the form that the model was trained on.
//!
//! The form is read off the chat template ([`Format::of`]):
//!
//! | format | looks like | seen in |
//! |---|---|---|
//! | [`Format::Hermes`] | `<tool_call>{"name": .., "arguments": {..}}</tool_call>` | Hermes 2 Pro, Qwen 2.5 and 3 |
//! | [`Format::Mistral`] | `[TOOL_CALLS][{"name": .., "arguments": {..}}]`, `[TOOL_CALLS]name[ARGS]{..}` | Mistral v3 and later |
//! | [`Format::Llama`] | `{"name": .., "parameters": {..}}`, perhaps after `<\|python_tag\|>` | Llama 3.1 and 3.2 |
//! | [`Format::Json`] | `{"name": .., "arguments": {..}}` as the whole reply | any model, told so by [`prompt`] |
//!
//! Two decisions. A call is handed out when its JSON is complete and valid, not letter by letter: text that turns out to be
//! no call can then still be delivered as what it is, content. And what comes out depends on the text alone, never on how
//! it was cut into pieces.

mod body;
pub mod prompt;
pub mod schema;

use crate::stop::overlap;
use body::Body;

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON between `<tool_call>` and `</tool_call>`.
    Hermes,
    /// `[TOOL_CALLS]` and a list, or a name and its arguments.
    Mistral,
    /// The reply is an object with `parameters`.
    Llama,
    /// The reply is an object with `arguments`.
    Json,
}

impl Format {
    /// The form that a chat template teaches; [`Format::Json`] where it teaches none.
    pub fn of(template: &str) -> Self {
        if template.contains("<tool_call>") && !template.contains("<function=") {
            Self::Hermes
        } else if template.contains("[TOOL_CALLS]") {
            Self::Mistral
        } else if template.contains("<|python_tag|>") || (template.contains("\"parameters\": ") && template.contains("tools")) {
            Self::Llama
        } else {
            Self::Json
        }
    }

    /// Text that stands before a call. Where it is a control token it must not be dropped on decoding.
    pub fn marker(self) -> Option<&'static str> {
        match self {
            Self::Hermes => Some(body::OPEN),
            Self::Mistral => Some("[TOOL_CALLS]"),
            Self::Llama => Some("<|python_tag|>"),
            Self::Json => None,
        }
    }

    /// Every text of the format that may be a control token of the vocabulary.
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[body::OPEN, body::CLOSE],
            Self::Mistral => &["[TOOL_CALLS]", body::ARGS],
            Self::Llama => &["<|python_tag|>"],
            Self::Json => &[],
        }
    }

    /// The name of the field with the arguments.
    pub fn arguments_key(self) -> &'static str {
        if self == Self::Llama { "parameters" } else { "arguments" }
    }
}

/// A call that the model makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Of the function.
    pub name: String,
    /// JSON text of an object.
    pub arguments: String,
}

/// What the model's text turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Content, never empty.
    Text(String),
    /// A complete call.
    Call(Call),
}

/// Finds calls in the text of one reply.
#[derive(Debug)]
pub struct ToolParser {
    format: Format,
    names: Vec<String>,
    /// A call without a marker may stand at the beginning of `buffer`.
    bare: bool,
    buffer: String,
    /// Blanks that are content if more of it follows, and nothing around calls.
    blanks: String,
    called: bool,
}

impl ToolParser {
    /// `names` are the tools of the request. `forced`: a grammar makes the reply bare JSON, whatever the model's own form is.
    pub fn new(format: Format, names: Vec<String>, forced: bool) -> Self {
        let bare = forced || matches!(format, Format::Llama | Format::Json);
        Self { format, names, bare, buffer: String::new(), blanks: String::new(), called: false }
    }

    /// Take in the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.buffer.push_str(text);
        let mut parts = Vec::new();
        self.advance(false, &mut parts);
        parts
    }

    /// The text ended: what was held back is content after all.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        self.advance(true, &mut parts);
        let rest = std::mem::take(&mut self.buffer);
        self.text(&rest, &mut parts);
        let blanks = std::mem::take(&mut self.blanks);
        if !self.called && !blanks.is_empty() {
            parts.push(Part::Text(blanks));
        }
        parts
    }

    /// A call was found.
    pub fn called(&self) -> bool {
        self.called
    }

    fn advance(&mut self, end: bool, parts: &mut Vec<Part>) {
        loop {
            if self.bare {
                match body::bare(&self.buffer, self.format.marker(), &self.names, end) {
                    Body::More => return,
                    Body::Not => self.bare = false,
                    Body::Calls(calls, length) => {
                        self.calls(calls, length, parts);
                        continue;
                    }
                }
            }
            let Some(marker) = self.format.marker() else {
                let text = std::mem::take(&mut self.buffer);
                return self.text(&text, parts);
            };
            let Some(at) = self.buffer.find(marker) else {
                let keep = if end { 0 } else { overlap(&self.buffer, marker) };
                let text: String = self.buffer.drain(..self.buffer.len() - keep).collect();
                return self.text(&text, parts);
            };
            let before: String = self.buffer.drain(..at).collect();
            self.text(&before, parts);
            let behind = &self.buffer[marker.len()..];
            let body = match self.format {
                Format::Hermes => body::hermes(behind, end),
                Format::Mistral => body::mistral(behind, end),
                Format::Llama | Format::Json => body::json(behind, end),
            };
            match body {
                Body::More => return,
                Body::Calls(calls, length) => self.calls(calls, marker.len() + length, parts),
                Body::Not => {
                    // Not a call: the marker is text, and what follows is looked at again.
                    let text: String = self.buffer.drain(..marker.len()).collect();
                    self.text(&text, parts);
                }
            }
        }
    }

    fn calls(&mut self, calls: Vec<Call>, length: usize, parts: &mut Vec<Part>) {
        self.buffer.drain(..length);
        self.blanks.clear();
        self.called = true;
        // Llama separates further calls by semicolons, without the marker.
        self.bare |= self.format == Format::Llama;
        parts.extend(calls.into_iter().map(Part::Call));
    }

    fn text(&mut self, text: &str, parts: &mut Vec<Part>) {
        let solid = text.trim_end().len();
        if solid > 0 {
            let mut out = std::mem::take(&mut self.blanks);
            out.push_str(&text[..solid]);
            parts.push(Part::Text(out));
        }
        self.blanks.push_str(&text[solid..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<'a>(format: Format, forced: bool, pieces: impl IntoIterator<Item = &'a str>) -> (String, Vec<(String, String)>) {
        let mut parser = ToolParser::new(format, vec!["add".into(), "now".into()], forced);
        let (mut text, mut calls) = (String::new(), Vec::new());
        let mut parts: Vec<Part> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
        parts.extend(parser.finish());
        for part in parts {
            match part {
                Part::Text(more) => text.push_str(&more),
                Part::Call(call) => calls.push((call.name, call.arguments)),
            }
        }
        (text, calls)
    }

    fn calls(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, arguments)| (name.to_string(), arguments.to_string())).collect()
    }

    type Calls = Vec<(String, String)>;

    /// Text, its content and its calls, for each format.
    fn examples() -> Vec<(Format, bool, &'static str, &'static str, Calls)> {
        let add = calls(&[("add", r#"{"a":1}"#)]);
        let both = calls(&[("add", r#"{"a":1}"#), ("now", "{}")]);
        vec![
            (Format::Hermes, false, "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>", "", add.clone()),
            (
                Format::Hermes,
                false,
                "I add.\n<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1}}</tool_call>\n<tool_call>{\"name\":\"now\"}</tool_call>\n",
                "I add.",
                both.clone(),
            ),
            // Without the closing tag, and with the tag inside of a string.
            (Format::Hermes, false, "<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1}}", "", add.clone()),
            (
                Format::Hermes,
                false,
                r#"<tool_call>{"name":"say","arguments":{"x":"</tool_call> \" }"}}</tool_call>"#,
                "",
                calls(&[("say", r#"{"x":"</tool_call> \" }"}"#)]),
            ),
            // Arguments as text, as some models write them.
            (Format::Hermes, false, r#"<tool_call>{"name":"add","arguments":"{\"a\": 1}"}</tool_call>"#, "", add.clone()),
            (
                Format::Mistral,
                false,
                "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"now\", \"arguments\": {}}]",
                "",
                both.clone(),
            ),
            (Format::Mistral, false, "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]now[ARGS]{}", "", both.clone()),
            (Format::Llama, false, r#"{"name": "add", "parameters": {"a": 1}}"#, "", add.clone()),
            (Format::Llama, false, r#"<|python_tag|>{"name": "add", "parameters": {"a": 1}}; {"name": "now", "parameters": {}}"#, "", both.clone()),
            (Format::Llama, false, r#"{"type": "function", "name": "add", "parameters": {"a": 1}}"#, "", add.clone()),
            (Format::Json, false, " {\"name\": \"add\", \"arguments\": {\"a\": 1}}\n{\"name\": \"now\"}", "", both.clone()),
            (Format::Hermes, true, r#"[{"name": "add", "arguments": {"a": 1}}, {"name": "now", "arguments": {}}]"#, "", both),
            (Format::Mistral, true, r#"{"name": "add", "arguments": {"a": 1}}"#, "", add),
        ]
    }

    #[test]
    fn every_format_gives_its_calls() {
        for (format, forced, text, content, expected) in examples() {
            assert_eq!(run(format, forced, [text]), (content.to_string(), expected), "{format:?}: {text}");
        }
    }

    /// If this fails, a client sees an error or nothing at all where the model wrote something.
    #[test]
    fn what_is_no_call_is_content() {
        for (format, text) in [
            (Format::Hermes, "<tool_call>add(1)</tool_call>"),
            (Format::Hermes, "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1,}}</tool_call> and more"),
            (Format::Hermes, "<tool_call>{\"nome\": \"add\"}</tool_call>"),
            (Format::Hermes, "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": "),
            (Format::Hermes, "<tool_call>"),
            (Format::Hermes, "a < b, <tool"),
            (Format::Mistral, "[TOOL_CALLS] none"),
            (Format::Mistral, "[TOOL_CALLS]add[ARGS]{"),
            (Format::Mistral, "a[0] [TOOL"),
            (Format::Llama, "{\"name\": \"Ada\", \"age\": 36}"),
            (Format::Llama, "{\"name\": \"unknown\", \"parameters\": {}}"),
            (Format::Llama, "<|python_tag|>print(1)"),
            (Format::Json, "{\"a\": {\"name\": \"add\"}} text"),
            (Format::Json, "[1, 2]"),
            (Format::Json, "  Hello {\"name\": \"add\", \"arguments\": {}}\n"),
            (Format::Json, ""),
        ] {
            assert_eq!(run(format, false, [text]), (text.to_string(), vec![]), "{format:?}");
        }
    }

    #[test]
    fn text_is_not_held_back_longer_than_it_must() {
        let mut parser = ToolParser::new(Format::Hermes, vec![], false);
        assert_eq!(parser.push("Hello <to"), [Part::Text("Hello".into())]);
        assert_eq!(parser.push("day>"), [Part::Text(" <today>".into())]);
        let mut parser = ToolParser::new(Format::Json, vec!["add".into()], false);
        assert_eq!(parser.push("{\"answer"), [Part::Text("{\"answer".into())]);
    }

    #[test]
    fn the_format_is_read_off_the_template() {
        for (template, format) in [
            ("..<tool_call>\n{\"name\": <function-name>..", Format::Hermes),
            ("{{ '[TOOL_CALLS] [' }}", Format::Mistral),
            ("{{- '{\"name\": \"' + tool_call.name + '\", ' }}{{- '\"parameters\": ' }}{% for t in tools %}", Format::Llama),
            ("{{ messages }}", Format::Json),
            ("<tool_call>\n<function=name>", Format::Json),
        ] {
            assert_eq!(Format::of(template), format, "{template}");
        }
    }

    fn pieces<'t>(text: &'t str, cuts: &[usize]) -> Vec<&'t str> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        for cut in cuts.iter().cycle() {
            let at = rest.char_indices().nth(*cut).map_or(rest.len(), |(at, _)| at);
            let (piece, more) = rest.split_at(at);
            pieces.push(piece);
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        pieces
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_calls(which in 0usize..13, before in "[a <\\[{]{0,6}", after in "[a <\\[{\\n]{0,6}", cuts in prop::collection::vec(1usize..9, 1..9)) {
            let all = examples();
            let (format, forced, text, ..) = &all[which];
            let text = format!("{before}{text}{after}");
            prop_assert_eq!(run(*format, *forced, pieces(&text, &cuts)), run(*format, *forced, [text.as_str()]));
        }

        #[test]
        fn no_text_panics_or_gets_lost(text in "(<tool_call>|</tool_call>|\\[TOOL_CALLS\\]|\\[ARGS\\]|<\\|python_tag\\|>|\\{\"name\":\"add\"|[ a{}\\[\\]\",:é\\\\]){0,20}", cuts in prop::collection::vec(1usize..5, 1..9)) {
            for format in [Format::Hermes, Format::Mistral, Format::Llama, Format::Json] {
                let whole = run(format, false, [text.as_str()]);
                prop_assert_eq!(&run(format, false, pieces(&text, &cuts)), &whole);
                if whole.1.is_empty() {
                    prop_assert_eq!(&whole.0, &text);
                }
            }
        }
    }
}

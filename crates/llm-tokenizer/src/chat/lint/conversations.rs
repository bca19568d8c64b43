//! The canned conversations. Every message has a word of its own, by which it is found again.

use crate::chat::{Message, RenderOptions};
use crate::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// Messages to render.
#[derive(Debug)]
pub struct Conversation {
    pub name: &'static str,
    pub messages: Vec<Message>,
    pub tools: Option<Value>,
    /// Every template has to manage it.
    pub plain: bool,
}

pub const USER: &str = "a question";
pub const EXCHANGE: &str = "question and answer";
pub const MULTI_TURN: &str = "two exchanges";
pub const SYSTEM: &str = "system message";
pub const SYSTEM_MULTI_TURN: &str = "system message, two exchanges";
pub const REASONING: &str = "reasoning_content";
pub const THOUGHT: &str = "<think> in the text";
pub const TOOLS: &str = "tool call";
pub const EMPTY: &str = "empty messages";
pub const BLANKS: &str = "blanks around the text";
pub const LAYOUT: &str = "blanks inside the text";
pub const CONTROL: &str = "control tokens in the text";

pub const TOOL_NAME: &str = "look_up_vexil";
pub const CALL_WORD: &str = "quarnby";
pub const RESULT_WORD: &str = "zephol";
/// What the assistant thinks in its first and second turn.
pub const THOUGHT_WORDS: [&str; 2] = ["mulvane", "pondrick"];

impl Conversation {
    /// Tools, nothing else.
    pub fn options(&self) -> RenderOptions {
        RenderOptions { tools: self.tools.clone(), ..RenderOptions::default() }
    }

    pub fn has_assistant(&self) -> bool {
        self.messages.iter().any(|m| m.role == "assistant")
    }
}

fn turns() -> Vec<Message> {
    vec![
        Message::new("user", "Where is Ostrava, friend?"),
        Message::new("assistant", "East of Brmlov, not far."),
        Message::new("user", "And what about Tarnow?"),
        Message::new("assistant", "North of Kelmsk, further away."),
    ]
}

fn with_system(messages: Vec<Message>) -> Vec<Message> {
    [vec![Message::new("system", "You know about Velgrad.")], messages].concat()
}

/// All of them; those every template has to manage first.
pub fn all(tokenizer: &Tokenizer) -> Vec<Conversation> {
    let plain = |name, messages| Conversation { name, messages, tools: None, plain: true };
    let other = |name, messages| Conversation { name, messages, tools: None, plain: false };
    let [first, second] = THOUGHT_WORDS;
    let mut reasoning = turns();
    reasoning[1].reasoning_content = Some(format!("It is {first}."));
    reasoning[3].reasoning_content = Some(format!("It is {second}."));
    let mut thought = turns();
    thought[1].content = format!("<think>\nIt is {first}.\n</think>\n\n{}", thought[1].content);
    thought[3].content = format!("<think>\nIt is {second}.\n</think>\n\n{}", thought[3].content);
    vec![
        plain(USER, turns()[..1].to_vec()),
        plain(EXCHANGE, turns()[..2].to_vec()),
        plain(MULTI_TURN, turns()),
        other(SYSTEM, with_system(turns()[..1].to_vec())),
        other(SYSTEM_MULTI_TURN, with_system(turns())),
        other(REASONING, reasoning),
        other(THOUGHT, thought),
        Conversation { name: TOOLS, messages: tool_call(), tools: Some(tools()), plain: false },
        other(EMPTY, vec![Message::new("user", ""), Message::new("assistant", "")]),
        other(BLANKS, vec![Message::new("user", " \n Ostrava? \n "), Message::new("assistant", " \n Brmlov. \n ")]),
        other(LAYOUT, vec![Message::new("user", "Is it\n\n  Ostrava\tor  so?"), Message::new("assistant", "It is\n\n  Brmlov\tor  so.")]),
        other(CONTROL, control(tokenizer)),
    ]
}

fn tool_call() -> Vec<Message> {
    let call = json!([{"id": "call00001", "type": "function", "function": {"name": TOOL_NAME, "arguments": {"city": CALL_WORD}}}]);
    let mut result = Message::new("tool", RESULT_WORD);
    result.tool_call_id = Some("call00001".to_string());
    result.name = Some(TOOL_NAME.to_string());
    let asks = Message { tool_calls: Some(call), ..Message::new("assistant", "") };
    vec![turns()[0].clone(), asks, result, turns()[1].clone()]
}

fn tools() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string", "description": "A city"}}, "required": ["city"]});
    json!([{"type": "function", "function": {"name": TOOL_NAME, "description": "Look up a city", "parameters": city}}])
}

/// The tokens that begin and end documents, and a few more: a vocabulary may have hundreds.
fn control(tokenizer: &Tokenizer) -> Vec<Message> {
    let named = [tokenizer.bos_id(), tokenizer.eos_id()].into_iter().flatten();
    let special = tokenizer.added_tokens().iter().filter(|t| t.special).map(|t| t.id).take(32);
    let mut ids: Vec<u32> = named.chain(special).collect();
    ids.dedup();
    let texts = ids.iter().filter_map(|&id| std::str::from_utf8(tokenizer.token_bytes(id)?).ok());
    let text = format!("Ostrava {} Brmlov.", texts.collect::<Vec<_>>().join(" "));
    vec![Message::new("user", text.clone()), Message::new("assistant", text)]
}

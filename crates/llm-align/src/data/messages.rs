//! Messages out of the columns of a row: OpenAI's `{role, content}`, ShareGPT's `{from, value}`, plain texts, Alpaca's columns and
//! Anthropic's `\n\nHuman: .. \n\nAssistant: ..`; and what is wrong with a conversation.
//!
//! Names of roles are those of LLaMA-Factory's `data/README.md` and TRL's `dataset_formats`. Alpaca's `instruction` and `input` are joined by
//! a line break, as LLaMA-Factory does it; the frame of the Alpaca paper ("Below is an instruction ..") is a template of a base model's, and
//! here the tokenizer has one.

use llm_data::read::objects::kind;
use llm_tokenizer::Message;
use serde_json::{Map, Value, json};

/// The columns of a row.
pub type Columns = Map<String, Value>;

/// A column that is there and not null.
pub fn column<'a>(row: &'a Columns, name: &str) -> Option<&'a Value> {
    row.get(name).filter(|value| !value.is_null())
}

/// The first of these columns that is there.
pub fn first<'a>(row: &'a Columns, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| column(row, name))
}

/// A text that is there and has more than blanks.
pub fn filled<'a>(row: &'a Columns, name: &str) -> Option<&'a str> {
    column(row, name).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
}

/// Our name of a role.
fn role(name: &str) -> Option<&'static str> {
    Some(match name {
        "system" | "developer" => "system",
        "user" | "human" => "user",
        "assistant" | "gpt" | "chatgpt" | "model" | "function_call" => "assistant",
        "tool" | "observation" | "function" => "tool",
        _ => return None,
    })
}

/// LLaMA-Factory's `function_call`: JSON of one call or a list of them, in the OpenAI form.
fn calls(text: &str) -> Result<Value, String> {
    let wrong = || format!("a function_call needs JSON with `name` and `arguments`, found {:?}", crate::data::short(text));
    let parsed: Value = serde_json::from_str(text).map_err(|_| wrong())?;
    let list = match parsed {
        Value::Array(list) => list,
        one => vec![one],
    };
    if list.is_empty() || list.iter().any(|call| call.get("name").and_then(Value::as_str).is_none()) {
        return Err(wrong());
    }
    Ok(list.into_iter().map(|call| json!({"type": "function", "function": call})).collect())
}

/// One message.
pub fn message(value: &Value) -> Result<Message, String> {
    let Value::Object(fields) = value else {
        return Err(format!("expected a message {{role, content}} or {{from, value}}, found {}", kind(value)));
    };
    let (role_key, text_key) = match (fields.contains_key("role"), fields.contains_key("from")) {
        (true, _) => ("role", "content"),
        (false, true) => ("from", "value"),
        (false, false) => {
            let names: Vec<&str> = fields.keys().map(String::as_str).take(8).collect();
            return Err(format!("a message needs `role` and `content`, or `from` and `value`; it has {}", crate::data::list(&names)));
        }
    };
    let said = fields[role_key].as_str().ok_or_else(|| format!("`{role_key}`: expected a text, found {}", kind(&fields[role_key])))?;
    let Some(role) = role(said) else {
        let known = "system, user, assistant, tool, or human, gpt, function_call, observation";
        return Err(format!("unknown role {:?}; expected {known}", crate::data::short(said)));
    };
    let text = column(fields, text_key).cloned().unwrap_or(Value::Null);
    if said == "function_call" {
        let text = text.as_str().ok_or_else(|| format!("`{text_key}`: expected a text, found {}", kind(&text)))?;
        return Ok(Message { tool_calls: Some(calls(text)?), ..Message::new(role, "") });
    }
    let mut wire = json!({"role": role, "content": text});
    for key in ["reasoning_content", "tool_calls", "tool_call_id", "name"] {
        if let Some(value) = column(fields, key).filter(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            wire[key] = value.clone();
        }
    }
    let message: Message = serde_json::from_value(wire).map_err(|e| e.to_string())?;
    if !message.images.is_empty() {
        return Err("pictures are not trained here; `llm-train instruct` does that".into());
    }
    Ok(message)
}

/// A list of messages, or one.
pub fn messages(value: &Value) -> Result<Vec<Message>, String> {
    match value {
        Value::Array(list) => list.iter().enumerate().map(|(i, one)| message(one).map_err(|e| format!("messages[{i}]: {e}"))).collect(),
        Value::Object(_) => Ok(vec![message(value)?]),
        other => Err(format!("expected a list of messages, found {}", kind(other))),
    }
}

/// Messages, or a text that is one message of this role.
pub fn said(value: &Value, role: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::String(text) => Ok(vec![Message::new(role, text.as_str())]),
        other => messages(other),
    }
}

/// A prompt: messages, a text of the user's, or a text in Anthropic's form whose last turn is still to be said.
pub fn prompt(value: &Value) -> Result<Vec<Message>, String> {
    let Some(mut turns) = value.as_str().and_then(anthropic) else { return said(value, "user") };
    turns.pop_if(|last| last.role == "assistant" && last.content.is_empty());
    Ok(turns)
}

/// The turns of a text `\n\nHuman: ..\n\nAssistant: ..`; none if it does not begin like that.
pub fn anthropic(text: &str) -> Option<Vec<Message>> {
    const MARKS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];
    let next = |text: &str| MARKS.iter().filter_map(|&(mark, role)| Some((text.find(mark)?, mark, role))).min();
    let (0, ..) = next(text)? else { return None };
    let (mut turns, mut rest) = (Vec::new(), text);
    while let Some((at, mark, role)) = next(rest) {
        let after = &rest[at + mark.len()..];
        let end = next(after).map_or(after.len(), |(end, ..)| end);
        turns.push(Message::new(role, after[..end].trim()));
        rest = &after[end..];
    }
    Some(turns)
}

/// The messages with the text of the column `system` before them, unless they have their own.
pub fn with_system(row: &Columns, mut messages: Vec<Message>) -> Vec<Message> {
    if let Some(system) = filled(row, "system")
        && messages.first().is_none_or(|first| first.role != "system")
    {
        messages.insert(0, Message::new("system", system));
    }
    messages
}

/// Alpaca's `instruction`, `input`, `history` and `system`, as messages that end with the user.
pub fn instruction(row: &Columns) -> Result<Vec<Message>, String> {
    let instruction = filled(row, "instruction").ok_or("`instruction` is empty or no text")?;
    let mut out = Vec::new();
    for (i, turn) in first(row, &["history"]).and_then(Value::as_array).into_iter().flatten().enumerate() {
        let both = turn.as_array().map(Vec::as_slice).unwrap_or_default();
        let [Value::String(question), Value::String(answer)] = both else {
            return Err(format!("history[{i}]: expected a question and its answer, two texts"));
        };
        out.extend([Message::new("user", question.as_str()), Message::new("assistant", answer.as_str())]);
    }
    let text = match filled(row, "input") {
        Some(input) => format!("{instruction}\n{input}"),
        None => instruction.to_string(),
    };
    out.push(Message::new("user", text));
    Ok(with_system(row, out))
}

/// What is wrong with a conversation: nobody speaks, roles are out of order, a turn is empty, or another role than one of `last` ends it.
pub fn check(messages: &[Message], last: &[&str]) -> Result<(), String> {
    let Some(end) = messages.last() else { return Err("no messages".into()) };
    let mut before = "the beginning";
    for (i, message) in messages.iter().enumerate() {
        let role = message.role.as_str();
        let follows = match role {
            "system" => i == 0,
            "user" => matches!(before, "the beginning" | "system" | "assistant"),
            "assistant" => matches!(before, "user" | "tool"),
            _ => matches!(before, "assistant" | "tool"),
        };
        if !follows {
            let order = "expected perhaps a system message, then user and assistant in turn";
            return Err(format!("roles out of order: messages[{i}] ({role}) after {before}; {order}"));
        }
        if message.content.trim().is_empty() && message.tool_calls.is_none() && matches!(role, "user" | "assistant") {
            let what = if role == "assistant" { "empty answer" } else { "empty message" };
            return Err(format!("{what}: messages[{i}] ({role}) has no text"));
        }
        before = role;
    }
    if last.contains(&end.role.as_str()) {
        return Ok(());
    }
    if last == ["assistant"] && !messages.iter().any(|m| m.role == "assistant") {
        return Err("no assistant message to train on; expected a message with role \"assistant\"".into());
    }
    Err(format!("ends with a message of role `{}`, expected {}", end.role, last.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|m| m.role.as_str()).collect()
    }

    #[test]
    fn roles_of_all_formats_are_ours() {
        let list = json!([
            {"from": "system", "value": "s"}, {"from": "human", "value": "q"},
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"}, {"from": "observation", "value": "r"},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}], "name": null, "tool_calls": []},
        ]);
        let found = messages(&list).unwrap();
        assert_eq!(roles(&found), ["system", "user", "assistant", "tool", "assistant"]);
        assert_eq!(found[2].tool_calls, Some(json!([{"type": "function", "function": {"name": "f", "arguments": {}}}])));
        assert_eq!((found[4].content.as_str(), &found[4].tool_calls), ("a", &None));
        check(&found, &["assistant"]).unwrap();
    }

    #[test]
    fn wrong_messages_say_where_and_what() {
        for (value, expected) in [
            (json!([{"role": "narrator", "content": "x"}]), "messages[0]: unknown role \"narrator\""),
            (json!([{"role": "user", "content": "x"}, 3]), "messages[1]: expected a message"),
            (json!([{"text": "x"}]), "it has text"),
            (json!([{"role": 3, "content": "x"}]), "expected a text"),
            (json!([{"role": "user", "content": 3}]), "content"),
            (json!([{"role": "user", "content": [{"type": "image"}]}]), "pictures"),
            (json!([{"from": "function_call", "value": "f()"}]), "`name` and `arguments`"),
            (json!(7), "found a number"),
        ] {
            let message = messages(&value).unwrap_err();
            assert!(message.contains(expected), "{value}: {message}");
        }
    }

    #[test]
    fn conversations_that_are_none_are_told() {
        let turn = |role: &str, content: &str| Message::new(role, content);
        for (messages, expected) in [
            (vec![], "no messages"),
            (vec![turn("assistant", "a")], "messages[0] (assistant) after the beginning"),
            (vec![turn("user", "q"), turn("user", "q")], "messages[1] (user) after user"),
            (vec![turn("user", "q"), turn("assistant", "a"), turn("system", "s")], "messages[2] (system)"),
            (vec![turn("user", "q"), turn("assistant", " \n")], "empty answer: messages[1]"),
            (vec![turn("user", ""), turn("assistant", "a")], "empty message: messages[0]"),
            (vec![turn("user", "q")], "no assistant"),
            (vec![turn("user", "q"), turn("assistant", "a"), turn("user", "q")], "ends with a message of role `user`"),
        ] {
            let message = check(&messages, &["assistant"]).unwrap_err();
            assert!(message.contains(expected), "{messages:?}: {message}");
        }
    }

    #[test]
    fn anthropics_texts_are_turns() {
        let turns = anthropic("\n\nHuman: a\n\nb\n\nAssistant: c\n\nHuman: d\n\nAssistant:").unwrap();
        assert_eq!(roles(&turns), ["user", "assistant", "user", "assistant"]);
        assert_eq!((turns[0].content.as_str(), turns[3].content.as_str()), ("a\n\nb", ""));
        assert_eq!(anthropic("A Human: and so on"), None);
        assert_eq!(prompt(&json!("\n\nHuman: a\n\nAssistant:")).unwrap().len(), 1);
        assert_eq!(prompt(&json!("\n\nAssistant:")).unwrap(), []);
    }
}

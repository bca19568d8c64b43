//! Tools for a model whose chat template does not know them: the words that tell it, and its own calls as text.
//!
//! A template that reads `tools` gets them as they are, and none of this is used.

use llm_tokenizer::Message;
use serde_json::{Value, json};

/// True if the template shows tools itself.
pub fn reads_tools(template: &str) -> bool {
    template.contains("tools")
}

/// The system's words about these tools.
pub fn instructions(tools: &[Value]) -> String {
    let mut text = String::from(
        "You can call functions. To call one, answer with nothing but a JSON object: \
         {\"name\": \"<function>\", \"arguments\": {<arguments>}}. For several calls write one object per line. \
         The result comes in the next message. If no function helps, answer in plain text. The functions:\n",
    );
    for tool in tools {
        text.push_str(&tool.get("function").unwrap_or(tool).to_string());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// Say it all in plain messages: instructions in front, calls as the JSON they were, results as what the user says.
pub fn flatten(messages: Vec<Message>, tools: &[Value]) -> Vec<Message> {
    let mut flat: Vec<Message> = messages.into_iter().map(flatten_one).collect();
    if !tools.is_empty() {
        let words = instructions(tools);
        match flat.first_mut().filter(|m| m.role == "system") {
            Some(system) => {
                let length = words.len() + 2;
                system.content = format!("{words}\n\n{}", system.content);
                system.images.iter_mut().for_each(|image| image.at += length);
            }
            None => flat.insert(0, Message::new("system", words)),
        }
    }
    flat
}

fn flatten_one(mut message: Message) -> Message {
    if let Some(Value::Array(calls)) = message.tool_calls.take() {
        for call in calls {
            let function = &call["function"];
            if !message.content.is_empty() {
                message.content.push('\n');
            }
            message.content.push_str(&json!({"name": function["name"], "arguments": function["arguments"]}).to_string());
        }
    }
    if message.role == "tool" {
        let of = message.name.take().map(|name| format!(" of {name}")).unwrap_or_default();
        message.content = format!("Result{of}:\n{}", message.content);
        message.role = "user".into();
        message.tool_call_id = None;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_with_calls_becomes_plain_text() {
        let call = json!([{"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]);
        let messages = vec![
            Message::new("system", "Be short."),
            Message { tool_calls: Some(call), ..Message::new("assistant", "") },
            Message { tool_call_id: Some("1".into()), name: Some("add".into()), ..Message::new("tool", "3") },
        ];
        let long = "x".repeat(50_000);
        let tools = [json!({"type": "function", "function": {"name": "add", "description": long}})];
        let flat = flatten(messages, &tools);
        assert!(flat[0].content.contains(&long), "a long description arrives whole");
        assert!(flat[0].content.ends_with("\n\nBe short."));
        assert_eq!((flat[1].content.as_str(), &flat[1].tool_calls), (r#"{"name":"add","arguments":{"a":1}}"#, &None));
        assert_eq!((flat[2].role.as_str(), flat[2].content.as_str()), ("user", "Result of add:\n3"));
    }
}

//! From messages to the ids that the model sees. Chat, Anthropic's messages, `/tokenize` and `/apply-template` share it.

use crate::api::chat::Conversation;
use crate::api::messages::{ChatMessage, ImageSource};
use crate::app::Served;
use crate::error::ApiError;
use crate::tools::prompt::{flatten, reads_tools};
use llm_tokenizer::{ChatTemplate, ImagePart, Message, RenderOptions, Tokenizer};
use serde_json::{Map, Value, json};

/// Ids, and where the images behind their placeholders come from.
#[derive(Debug)]
pub struct Prompt {
    /// One placeholder for each image.
    pub ids: Vec<u32>,
    /// In order.
    pub images: Vec<ImageSource>,
}

struct Prepared {
    messages: Vec<Message>,
    options: RenderOptions,
    images: Vec<ImageSource>,
    empty_thought: bool,
}

/// Messages -> prompt ids, off the network threads: long conversations take a while.
pub async fn render(served: &Served, conversation: Conversation) -> Result<Prompt, ApiError> {
    let tokenizer = served.tokenizer.clone();
    let rendered = tokio::task::spawn_blocking(move || {
        let Prepared { messages, options, images, empty_thought } = prepare(&tokenizer, conversation)?;
        let mut ids = tokenizer.chat_ids_with(&messages, &options).map_err(refused)?;
        if empty_thought && let (Some(open), Some(close)) = (tokenizer.special_id("<think>"), tokenizer.special_id("</think>")) {
            ids.extend((!crate::assemble::starts_thinking(&tokenizer, &ids)).then_some(open));
            ids.push(close);
        }
        Ok(Prompt { ids, images })
    });
    rendered.await.map_err(|_| ApiError::internal("the chat template panicked"))?
}

/// The same as text, before the tokenizer.
pub async fn render_text(served: &Served, conversation: Conversation) -> Result<String, ApiError> {
    let tokenizer = served.tokenizer.clone();
    let rendered = tokio::task::spawn_blocking(move || {
        let Prepared { messages, options, empty_thought, .. } = prepare(&tokenizer, conversation)?;
        let mut text = tokenizer.render_chat(&messages, &options).map_err(refused)?;
        if empty_thought && tokenizer.special_id("</think>").is_some() {
            text.push_str("<think></think>");
        }
        Ok(text)
    });
    rendered.await.map_err(|_| ApiError::internal("the chat template panicked"))?
}

fn refused(error: llm_tokenizer::Error) -> ApiError {
    ApiError::invalid("messages", error.to_string())
}

fn prepare(tokenizer: &Tokenizer, conversation: Conversation) -> Result<Prepared, ApiError> {
    let template = tokenizer.chat_template().map_or("", ChatTemplate::source);
    let tools: Vec<Value> = if conversation.shows_tools() { conversation.tools.iter().map(|t| t.value()).collect() } else { Vec::new() };
    let mut variables = conversation.template_kwargs;
    if let Some(effort) = conversation.reasoning_effort {
        think(effort, template, &mut variables);
    }
    let empty_thought = check_variables(&variables, template)?;
    let (mut messages, images) = split_images(conversation.messages);
    let knows_tools = reads_tools(template);
    if !knows_tools {
        messages = flatten(messages, &tools);
    }
    let tools = Some(Value::Array(tools)).filter(|t| knows_tools && t.as_array().is_some_and(|t| !t.is_empty()));
    let options = RenderOptions { add_generation_prompt: true, tools, variables, ..RenderOptions::default() };
    Ok(Prepared { messages, options, images, empty_thought })
}

/// OpenAI's `reasoning_effort` where the template has something like it; elsewhere the model thinks as it does.
fn think(effort: &str, template: &str, variables: &mut Map<String, Value>) {
    let (name, value) = match effort {
        "none" => ("enable_thinking", Value::Bool(false)),
        _ if template.contains("reasoning_effort") => ("reasoning_effort", effort.into()),
        _ if template.contains("enable_thinking") => ("enable_thinking", Value::Bool(true)),
        _ => return,
    };
    variables.entry(name).or_insert(value);
}

/// What the template sees, and where its images come from.
fn split_images(messages: Vec<ChatMessage>) -> (Vec<Message>, Vec<ImageSource>) {
    let mut sources = Vec::new();
    let mut names: Vec<(String, String)> = Vec::new();
    let message = |ChatMessage { role, content, images, reasoning_content, tool_calls, tool_call_id }: ChatMessage| {
        let places = images.iter().map(|image| ImagePart { url: None, at: image.at }).collect();
        sources.extend(images);
        names.extend(tool_calls.iter().map(|call| (call.id.clone(), call.name.clone())));
        // Some templates show a result under the name of its function, which OpenAI's messages do not repeat.
        let name = tool_call_id.as_ref().and_then(|id| names.iter().rfind(|(known, _)| known == id)).map(|(_, name)| name.clone());
        let calls = tool_calls
            .into_iter()
            .map(|call| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}))
            .collect::<Vec<_>>();
        let tool_calls = (!calls.is_empty()).then_some(Value::Array(calls));
        Message { role, content, images: places, reasoning_content, tool_calls, tool_call_id, name }
    };
    let messages = messages.into_iter().map(message).collect();
    (messages, sources)
}

/// Template variables must be ones that the template reads, and harmless: their text is not guarded against control tokens
/// as messages are, so only plain words, numbers and booleans pass.
///
/// True if thinking was turned off and the template does not know how: then the reply starts behind an empty, closed
/// thought, which is what Qwen3's template writes.
fn check_variables(kwargs: &Map<String, Value>, template: &str) -> Result<bool, ApiError> {
    let mut empty_thought = false;
    for (name, value) in kwargs {
        let param = format!("chat_template_kwargs.{name}");
        let plain = match value {
            Value::Bool(_) | Value::Number(_) | Value::Null => true,
            Value::String(text) => text.chars().all(|c| c.is_alphanumeric() || "_- ".contains(c)),
            _ => false,
        };
        if !plain {
            return Err(ApiError::unsupported(param, format!("template variable '{name}' must be a boolean, a number or a plain word")));
        }
        let reserved = ["messages", "tools", "add_generation_prompt"].contains(&name.as_str()) || name.ends_with("_token");
        let known = !reserved && template.contains(name.as_str());
        match (name.as_str(), value) {
            _ if known => {}
            ("enable_thinking", Value::Bool(on)) => empty_thought = !on,
            ("enable_thinking", _) => return Err(ApiError::invalid(param, "'enable_thinking' must be true or false")),
            _ => return Err(ApiError::unsupported(param, format!("the chat template of this model does not use a variable '{name}'"))),
        }
    }
    Ok(empty_thought)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kwargs: Value, template: &str) -> Result<bool, String> {
        check_variables(kwargs.as_object().unwrap(), template).map_err(|e| e.param.unwrap())
    }

    #[test]
    fn variables_go_to_templates_that_read_them() {
        let qwen = "{% if enable_thinking is false %}...{% endif %}{{ effort }}";
        assert_eq!(check(json!({"enable_thinking": false, "effort": "low"}), qwen), Ok(false));
        assert_eq!(check(json!({"enable_thinking": false}), "{{ messages }}"), Ok(true));
        assert_eq!(check(json!({"enable_thinking": true}), "{{ messages }}"), Ok(false));
    }

    #[test]
    fn variables_cannot_smuggle_control_tokens_or_replace_the_conversation() {
        let template = "{{ bos_token }}{{ messages }}{{ effort }}";
        for (kwargs, name) in [
            (json!({"effort": "<|eot_id|>"}), "effort"),
            (json!({"effort": ["a"]}), "effort"),
            (json!({"messages": 1}), "messages"),
            (json!({"bos_token": "x"}), "bos_token"),
            (json!({"unknown": 1}), "unknown"),
            (json!({"enable_thinking": 1}), "enable_thinking"),
        ] {
            assert_eq!(check(kwargs, template), Err(format!("chat_template_kwargs.{name}")));
        }
    }
}

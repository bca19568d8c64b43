//! `POST /v1/chat/completions`.

use crate::access::Tally;
use crate::api::chat::{ChatMessage, ChatRequest, ImageSource};
use crate::api::response::{ChatChoice, ChatDelta, ChatLogprobs, ChatReply, Delta, Head, Reply};
use crate::app::{App, Served};
use crate::assemble::Assembler;
use crate::error::ApiError;
use crate::generate::{Choices, Step};
use crate::logprobs::chat_entry;
use crate::reasoning::Segment;
use crate::sse;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use llm_tokenizer::{ChatTemplate, ImagePart, Message, RenderOptions, Tokenizer};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The handler.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tally): Extension<Arc<Tally>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let request = ChatRequest::parse(&body)?;
    served.check_name(request.model.as_deref())?;

    app.images.check(served.eyes.as_ref(), &request.messages.iter().flat_map(|m| &m.images).collect::<Vec<_>>())?;
    let (messages, sources) = split_images(request.messages);
    let prompt = render(served, messages, request.template_kwargs).await?;
    let mut requests = served.requests(&prompt, &request.sampling, "max_completion_tokens")?;
    // Last, because it is the dearest: the prompt fits by now.
    let images = app.images.load(served.eyes.as_ref(), sources).await?;
    for request in &mut requests {
        request.images.clone_from(&images);
    }
    let assemblers = requests.iter().map(|_| Assembler::chat(&served.tokenizer, &prompt, &request.sampling.stop)).collect();
    let choices = Choices::start(&served.worker, requests, assemblers, served.prompt_len(&prompt)).await?;

    let tokenizer = request.sampling.logprobs.map(|_| served.tokenizer.clone());
    if request.delivery.stream {
        let head = served.head("chatcmpl", "chat.completion.chunk");
        let renderer = Chunks { head, tokenizer, pending: vec![ChatLogprobs::default(); request.sampling.n] };
        Ok(sse::respond(choices, renderer, request.delivery.include_usage, tally))
    } else {
        let head = served.head("chatcmpl", "chat.completion");
        whole(choices, head, tokenizer, request.sampling.n, &tally).await
    }
}

/// Messages -> prompt ids, off the network threads: long conversations take a while.
async fn render(served: &Served, messages: Vec<Message>, kwargs: Map<String, Value>) -> Result<Vec<u32>, ApiError> {
    let tokenizer = served.tokenizer.clone();
    let template = tokenizer.chat_template().map_or("", ChatTemplate::source);
    let empty_thought = check_variables(&kwargs, template)?;
    let options = RenderOptions { add_generation_prompt: true, variables: kwargs, ..RenderOptions::default() };
    let rendered = tokio::task::spawn_blocking(move || {
        let mut ids = tokenizer.chat_ids_with(&messages, &options).map_err(|e| ApiError::invalid("messages", e.to_string()))?;
        if empty_thought && let (Some(open), Some(close)) = (tokenizer.special_id("<think>"), tokenizer.special_id("</think>")) {
            ids.extend([open, close]);
        }
        Ok(ids)
    });
    rendered.await.map_err(|_| ApiError::internal("the chat template panicked"))?
}

/// What the template sees, and where its images come from.
fn split_images(messages: Vec<ChatMessage>) -> (Vec<Message>, Vec<ImageSource>) {
    let mut sources = Vec::new();
    let message = |ChatMessage { role, content, images, reasoning_content }: ChatMessage| {
        let places = images.iter().map(|image| ImagePart { url: None, at: image.at }).collect();
        sources.extend(images);
        Message { role, content, images: places, reasoning_content, ..Message::default() }
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

#[derive(Default)]
struct Growing {
    content: String,
    reasoning: String,
    logprobs: ChatLogprobs,
    finish_reason: &'static str,
}

async fn whole(mut choices: Choices, head: Head, tokenizer: Option<Tokenizer>, n: usize, tally: &Tally) -> Result<Response, ApiError> {
    let mut growing: Vec<Growing> = std::iter::repeat_with(Growing::default).take(n).collect();
    tally.set(choices.usage().prompt_tokens, 0);
    while let Some(step) = choices.next().await? {
        tally.set(choices.usage().prompt_tokens, choices.usage().completion_tokens);
        let Some(choice) = growing.get_mut(step.index) else { continue };
        for piece in &step.pieces {
            match piece.segment {
                Segment::Reasoning => choice.reasoning.push_str(&piece.text),
                Segment::Content => choice.content.push_str(&piece.text),
            }
        }
        if let Some(tokenizer) = &tokenizer {
            note(&mut choice.logprobs, tokenizer, &step);
        }
        if let Some(reason) = step.finish_reason {
            choice.finish_reason = reason;
        }
    }
    let choices_out = growing.into_iter().enumerate().map(|(index, choice)| ChatChoice {
        index,
        message: ChatReply {
            role: "assistant",
            content: choice.content,
            reasoning_content: Some(choice.reasoning).filter(|r| !r.is_empty()),
            refusal: None,
        },
        logprobs: tokenizer.as_ref().map(|_| choice.logprobs),
        finish_reason: choice.finish_reason,
    });
    Ok(Json(Reply { head, choices: choices_out.collect(), usage: Some(choices.usage()) }).into_response())
}

fn note(logprobs: &mut ChatLogprobs, tokenizer: &Tokenizer, step: &Step) {
    let Some(scored) = &step.scored else { return };
    let list = match scored.segment {
        Segment::Reasoning => &mut logprobs.reasoning_content,
        Segment::Content => &mut logprobs.content,
    };
    list.push(chat_entry(tokenizer, scored.token, scored.logprob, &scored.top));
}

/// Renders stream chunks.
struct Chunks {
    head: Head,
    tokenizer: Option<Tokenizer>,
    /// Log-probabilities of tokens whose text is still held back.
    pending: Vec<ChatLogprobs>,
}

impl Chunks {
    fn chunk(&mut self, index: usize, delta: Delta, finish_reason: Option<&'static str>) -> Reply<ChatDelta> {
        let logprobs = self.tokenizer.as_ref().and_then(|_| self.pending.get_mut(index)).map(std::mem::take);
        let logprobs = logprobs.filter(|l| !l.content.is_empty() || !l.reasoning_content.is_empty());
        Reply { head: self.head.clone(), choices: vec![ChatDelta { index, delta, logprobs, finish_reason }], usage: None }
    }
}

impl sse::Render for Chunks {
    type Choice = ChatDelta;

    fn first(&mut self) -> Vec<Reply<ChatDelta>> {
        (0..self.pending.len())
            .map(|index| self.chunk(index, Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() }, None))
            .collect()
    }

    fn step(&mut self, step: Step) -> Vec<Reply<ChatDelta>> {
        if let (Some(tokenizer), Some(pending)) = (&self.tokenizer, self.pending.get_mut(step.index)) {
            note(pending, tokenizer, &step);
        }
        let mut chunks = Vec::new();
        for piece in step.pieces {
            let delta = match piece.segment {
                Segment::Reasoning => Delta { reasoning_content: Some(piece.text), ..Delta::default() },
                Segment::Content => Delta { content: Some(piece.text), ..Delta::default() },
            };
            chunks.push(self.chunk(step.index, delta, None));
        }
        if step.finish_reason.is_some() {
            chunks.push(self.chunk(step.index, Delta::default(), step.finish_reason));
        }
        chunks
    }

    fn head(&self) -> &Head {
        &self.head
    }
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

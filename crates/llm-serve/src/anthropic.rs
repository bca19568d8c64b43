//! `POST /v1/messages` and `/v1/messages/count_tokens`: a chat in Anthropic's wording.
//!
//! The turn is the same as in [`crate::chat`]; here it becomes blocks. In a stream a block is opened when its first part comes and
//! closed when something else begins. Errors of these paths are worded by the guard, whoever makes them.

use crate::access::Tally;
use crate::api::anthropic::{parse, parse_count};
use crate::api::anthropic_reply::{Block, CountReply, MessageReply, MessageUsage};
use crate::api::response::Usage;
use crate::app::{App, Limits};
use crate::chat::{Begun, begin};
use crate::error::ApiError;
use crate::generate::{Choices, Step};
use crate::prompt;
use crate::sse::{self, Frame};
use crate::turn::Part;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// The handler of `/v1/messages`.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tally): Extension<Arc<Tally>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let request = parse(&body)?;
    let stream = request.delivery.stream;
    let Begun { choices, model } = begin(&app, served, request, Limits { tokens: "max_tokens", prompt: "messages" }).await?;
    let id = served.reply_id("msg_");
    let message = MessageReply {
        id,
        kind: "message",
        role: "assistant",
        model,
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage: MessageUsage::default(),
    };
    if stream { Ok(sse::respond(choices, Events { message, open: None, blocks: 0 }, tally)) } else { whole(choices, message, &tally).await }
}

/// The handler of `/v1/messages/count_tokens`.
pub async fn count(State(app): State<Arc<App>>, body: Result<Bytes, BytesRejection>) -> Result<Json<CountReply>, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let (model, conversation) = parse_count(&body)?;
    served.target(model.as_deref())?;
    app.images.check(served.eyes.as_ref(), &conversation.messages.iter().flat_map(|m| &m.images).collect::<Vec<_>>())?;
    let prompt = prompt::render(served, conversation).await?;
    Ok(Json(CountReply { input_tokens: served.prompt_len(&prompt.ids) }))
}

fn counts(usage: &Usage) -> MessageUsage {
    let cached = usage.prompt_tokens_details.cached_tokens.min(usage.prompt_tokens);
    MessageUsage {
        input_tokens: usage.prompt_tokens - cached,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: cached,
        output_tokens: usage.completion_tokens,
    }
}

/// Anthropic's word for why a turn ended.
fn stop_reason(step: &Step) -> Option<&'static str> {
    step.finish_reason.map(|reason| match reason {
        "tool_calls" => "tool_use",
        "length" => "max_tokens",
        _ if step.stop.is_some() => "stop_sequence",
        _ => "end_turn",
    })
}

fn input(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({}))
}

/// Another prefix than OpenAI's for the same id.
fn tool_id(id: &str) -> String {
    format!("toolu_{}", id.trim_start_matches("call_"))
}

async fn whole(mut choices: Choices, mut message: MessageReply, tally: &Tally) -> Result<Response, ApiError> {
    tally.set(choices.usage().prompt_tokens, 0);
    while let Some(step) = choices.next().await? {
        tally.set(choices.usage().prompt_tokens, choices.usage().completion_tokens);
        message.stop_reason = stop_reason(&step).or(message.stop_reason);
        message.stop_sequence = step.stop.filter(|_| message.stop_reason == Some("stop_sequence")).or(message.stop_sequence);
        step.parts.into_iter().for_each(|part| add(&mut message.content, part));
    }
    message.usage = counts(&choices.usage());
    Ok(Json(message).into_response())
}

fn add(blocks: &mut Vec<Block>, part: Part) {
    let last = blocks.last_mut();
    match part {
        Part::Content(text) => match last.and_then(|block| block.text.as_mut()) {
            Some(so_far) => so_far.push_str(&text),
            None => blocks.push(Block::text(text)),
        },
        Part::Reasoning(text) => match last.and_then(|block| block.thinking.as_mut()) {
            Some(so_far) => so_far.push_str(&text),
            None => blocks.push(Block::thinking(text)),
        },
        Part::Call { id, call, .. } => blocks.push(Block::call(tool_id(&id), call.name, input(&call.arguments))),
    }
}

/// Renders stream events.
struct Events {
    message: MessageReply,
    /// The kind of the open block.
    open: Option<&'static str>,
    /// Blocks that were opened so far.
    blocks: usize,
}

impl Events {
    /// Open a block of this kind, unless it is open; close another.
    fn enter(&mut self, block: Block, frames: &mut Vec<Frame>) {
        if self.open != Some(block.kind) {
            self.leave(frames);
            self.open = Some(block.kind);
            frames.push(Frame::named("content_block_start", &json!({"type": "content_block_start", "index": self.blocks, "content_block": block})));
            self.blocks += 1;
        }
    }

    fn leave(&mut self, frames: &mut Vec<Frame>) {
        if self.open.take().is_some() {
            frames.push(Frame::named("content_block_stop", &json!({"type": "content_block_stop", "index": self.blocks - 1})));
        }
    }

    fn delta(&self, delta: &Value, frames: &mut Vec<Frame>) {
        frames.push(Frame::named(
            "content_block_delta",
            &json!({"type": "content_block_delta", "index": self.blocks.saturating_sub(1), "delta": delta}),
        ));
    }

    fn part(&mut self, part: Part, frames: &mut Vec<Frame>) {
        match part {
            Part::Content(text) => {
                self.enter(Block::text(String::new()), frames);
                self.delta(&json!({"type": "text_delta", "text": text}), frames);
            }
            Part::Reasoning(text) => {
                self.enter(Block::thinking(String::new()), frames);
                self.delta(&json!({"type": "thinking_delta", "thinking": text}), frames);
            }
            Part::Call { id, call, .. } => {
                self.leave(frames);
                self.enter(Block::call(tool_id(&id), call.name, json!({})), frames);
                self.delta(&json!({"type": "input_json_delta", "partial_json": call.arguments}), frames);
                self.leave(frames);
            }
        }
    }
}

impl sse::Render for Events {
    fn first(&mut self, usage: &Usage) -> Vec<Frame> {
        self.message.usage = counts(usage);
        vec![
            Frame::named("message_start", &json!({"type": "message_start", "message": self.message})),
            Frame::named("ping", &json!({"type": "ping"})),
        ]
    }

    fn step(&mut self, step: Step, usage: &Usage) -> Vec<Frame> {
        let mut frames = Vec::new();
        let (reason, stop) = (stop_reason(&step), step.stop);
        step.parts.into_iter().for_each(|part| self.part(part, &mut frames));
        if let Some(reason) = reason {
            self.leave(&mut frames);
            let delta = json!({"stop_reason": reason, "stop_sequence": stop.filter(|_| reason == "stop_sequence")});
            frames.push(Frame::named("message_delta", &json!({"type": "message_delta", "delta": delta, "usage": counts(usage)})));
        }
        frames
    }

    fn last(&mut self, _: &Usage) -> Vec<Frame> {
        vec![Frame::named("message_stop", &json!({"type": "message_stop"}))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Frame::named("error", &crate::api::anthropic_reply::error_body(error))]
    }

    fn keep_alive(&self) -> KeepAlive {
        KeepAlive::new().event(Event::default().event("ping").data(r#"{"type":"ping"}"#))
    }
}

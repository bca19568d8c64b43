//! `POST /v1/chat/completions`.

use crate::access::Tally;
use crate::api::chat::{ChatRequest, Conversation};
use crate::api::response::{
    ChatChoice, ChatDelta, ChatLogprobs, ChatReply, Delta, FunctionCall, FunctionDelta, Head, Reply, ToolCall, ToolCallDelta, Usage,
};
use crate::api::tools::ToolChoice;
use crate::app::{App, Limits, Served};
use crate::assemble::{Assembler, starts_thinking};
use crate::error::ApiError;
use crate::generate::{Choices, Step};
use crate::logprobs::chat_entry;
use crate::prompt::{self, Prompt};
use crate::reasoning::Segment;
use crate::sse::{self, Frame};
use crate::tools::{Format, schema};
use crate::turn::{Part, ToolRules, Turn};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use llm_infer::Constraint;
use llm_infer::grammar::{self, Grammar};
use llm_tokenizer::{ChatTemplate, Tokenizer};
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
    let (n, delivery, logprobs) = (request.sampling.n, request.delivery, request.sampling.logprobs);
    let Begun { choices, model } = begin(&app, served, request, Limits { tokens: "max_completion_tokens", prompt: "messages" }).await?;

    let tokenizer = logprobs.map(|_| served.tokenizer.clone());
    if delivery.stream {
        let head = served.head("chatcmpl", "chat.completion.chunk", model);
        let pending = vec![ChatLogprobs::default(); n];
        Ok(sse::respond(choices, Chunks { head, tokenizer, pending, include_usage: delivery.include_usage }, tally))
    } else {
        let head = served.head("chatcmpl", "chat.completion", model);
        whole(choices, head, tokenizer, n, &tally).await
    }
}

/// A chat that the engine has taken.
pub struct Begun {
    /// Its choices.
    pub choices: Choices,
    /// The name it is answered under.
    pub model: String,
}

/// From a valid request to choices that grow; every wording of chat begins here.
pub async fn begin(app: &App, served: &Served, request: ChatRequest, limits: Limits) -> Result<Begun, ApiError> {
    let ChatRequest { model, sampling, conversation, shape, .. } = request;
    let target = served.target(model.as_deref())?;
    app.images.check(served.eyes.as_ref(), &conversation.messages.iter().flat_map(|m| &m.images).collect::<Vec<_>>())?;

    let format = Format::of(served.tokenizer.chat_template().map_or("", ChatTemplate::source));
    let forced = forced_calls(served, &conversation, format)?;
    let bare = forced.as_ref().is_some_and(|forced| forced.bare);
    let salt = served.salt();
    let names = conversation.tools.iter().map(|t| t.name.clone()).collect();
    let rules = conversation.shows_tools().then_some(ToolRules { format, names, bare, single: conversation.single_call, salt });
    let grammar = match (&forced, &shape) {
        (Some(forced), _) => Some(served.grammar("tools", forced.constraint.clone()).await?),
        (None, Some(shape)) => Some(served.grammar(&shape.param, shape.constraint.clone()).await?),
        (None, None) => None,
    };
    let Prompt { mut ids, images } = prompt::render(served, conversation).await?;
    close_thought(&served.tokenizer, &mut ids, grammar.as_ref());
    let mut requests = served.requests(&ids, &sampling, limits)?;
    // Last, because it is the dearest: the prompt fits by now.
    let images = app.images.load(served.eyes.as_ref(), images).await?;
    for request in &mut requests {
        request.images.clone_from(&images);
        request.grammar.clone_from(&grammar);
        request.adapter = target.adapter;
    }
    let turn = |choice: usize| {
        let assembler = Assembler::chat(&served.tokenizer, &ids, &sampling.stop);
        match &rules {
            Some(rules) => Turn::with_tools(assembler, rules.clone(), choice),
            None => Turn::new(assembler),
        }
    };
    let turns = (0..requests.len()).map(turn).collect();
    let choices = Choices::start(&served.worker, requests, turns, &[served.prompt_len(&ids)]).await?;
    Ok(Begun { choices, model: target.name })
}

/// A grammar knows nothing of thinking: it begins with the answer, so an open thought is closed.
fn close_thought(tokenizer: &Tokenizer, ids: &mut Vec<u32>, grammar: Option<&Grammar>) {
    if grammar.is_some() && starts_thinking(tokenizer, ids) {
        ids.extend(tokenizer.special_id("</think>"));
    }
}

struct Forced {
    constraint: Constraint,
    /// JSON alone, not the model's own form.
    bare: bool,
}

/// The grammar of `tool_choice` `required` or a named function: the model's own form where it has marks, else JSON.
fn forced_calls(served: &Served, conversation: &Conversation, format: Format) -> Result<Option<Forced>, ApiError> {
    let chosen = |name: &str| match &conversation.tool_choice {
        ToolChoice::Named(wanted) => name == wanted,
        _ => true,
    };
    if !conversation.tool_choice.is_forced() {
        return Ok(None);
    }
    let tools: Vec<_> = conversation.tools.iter().filter(|t| chosen(&t.name)).collect();
    // A named function is called once, as OpenAI has it.
    let single = conversation.single_call || matches!(conversation.tool_choice, ToolChoice::Named(_));
    if format == Format::Hermes {
        let tools: Vec<_> = tools.iter().map(|t| grammar::Tool { name: &t.name, parameters: &t.parameters }).collect();
        let rules = if single { grammar::ToolRules::required().single() } else { grammar::ToolRules::required() };
        let constraint = grammar::lark_tools(&served.tokenizer, &tools, rules).map_err(|e| ApiError::invalid("tools", e.to_string()))?;
        return Ok(Some(Forced { constraint, bare: false }));
    }
    let tools: Vec<_> = tools.iter().map(|t| (t.name.as_str(), &t.parameters)).collect();
    let constraint = Constraint::JsonSchema(schema::forced(&tools, format.arguments_key(), !single));
    Ok(Some(Forced { constraint, bare: true }))
}

#[derive(Default)]
struct Growing {
    content: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    logprobs: ChatLogprobs,
    finish_reason: &'static str,
}

impl Growing {
    fn take_in(&mut self, part: Part) {
        match part {
            Part::Reasoning(text) => self.reasoning.push_str(&text),
            Part::Content(text) => self.content.push_str(&text),
            Part::Call { id, call, .. } => {
                self.calls.push(ToolCall { id, kind: "function", function: FunctionCall { name: call.name, arguments: call.arguments } });
            }
        }
    }

    fn choice(self, index: usize, with_logprobs: bool) -> ChatChoice {
        let silent = self.content.is_empty() && !self.calls.is_empty();
        let message = ChatReply {
            role: "assistant",
            content: (!silent).then_some(self.content),
            reasoning_content: Some(self.reasoning).filter(|r| !r.is_empty()),
            tool_calls: Some(self.calls).filter(|c| !c.is_empty()),
            refusal: None,
        };
        ChatChoice { index, message, logprobs: with_logprobs.then_some(self.logprobs), finish_reason: self.finish_reason }
    }
}

async fn whole(mut choices: Choices, head: Head, tokenizer: Option<Tokenizer>, n: usize, tally: &Tally) -> Result<Response, ApiError> {
    let mut growing: Vec<Growing> = std::iter::repeat_with(Growing::default).take(n).collect();
    tally.set(choices.usage().prompt_tokens, 0);
    while let Some(step) = choices.next().await? {
        tally.set(choices.usage().prompt_tokens, choices.usage().completion_tokens);
        let Some(choice) = growing.get_mut(step.index) else { continue };
        if let Some(tokenizer) = &tokenizer {
            note(&mut choice.logprobs, tokenizer, &step);
        }
        if let Some(reason) = step.finish_reason {
            choice.finish_reason = reason;
        }
        step.parts.into_iter().for_each(|part| choice.take_in(part));
    }
    let choices_out = growing.into_iter().enumerate().map(|(index, choice)| choice.choice(index, tokenizer.is_some()));
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
    include_usage: bool,
}

impl Chunks {
    fn chunk(&mut self, index: usize, delta: Delta, finish_reason: Option<&'static str>) -> Frame {
        let logprobs = self.tokenizer.as_ref().and_then(|_| self.pending.get_mut(index)).map(std::mem::take);
        let logprobs = logprobs.filter(|l| !l.content.is_empty() || !l.reasoning_content.is_empty());
        Frame::new(&Reply { head: self.head.clone(), choices: vec![ChatDelta { index, delta, logprobs, finish_reason }], usage: None })
    }
}

/// A call is two chunks: who is called, then with what.
fn deltas(part: Part) -> Vec<Delta> {
    match part {
        Part::Reasoning(text) => vec![Delta { reasoning_content: Some(text), ..Delta::default() }],
        Part::Content(text) => vec![Delta { content: Some(text), ..Delta::default() }],
        Part::Call { index, id, call } => {
            let name = FunctionDelta { name: Some(call.name), arguments: String::new() };
            let head = ToolCallDelta { index, id: Some(id), kind: Some("function"), function: name };
            let rest = ToolCallDelta { index, id: None, kind: None, function: FunctionDelta { name: None, arguments: call.arguments } };
            [head, rest].map(|call| Delta { tool_calls: Some(vec![call]), ..Delta::default() }).into()
        }
    }
}

impl sse::Render for Chunks {
    fn first(&mut self, _: &Usage) -> Vec<Frame> {
        (0..self.pending.len())
            .map(|index| self.chunk(index, Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() }, None))
            .collect()
    }

    fn step(&mut self, step: Step, _: &Usage) -> Vec<Frame> {
        if let (Some(tokenizer), Some(pending)) = (&self.tokenizer, self.pending.get_mut(step.index)) {
            note(pending, tokenizer, &step);
        }
        let mut frames: Vec<Frame> = step.parts.into_iter().flat_map(deltas).map(|delta| self.chunk(step.index, delta, None)).collect();
        if step.finish_reason.is_some() {
            frames.push(self.chunk(step.index, Delta::default(), step.finish_reason));
        }
        frames
    }

    fn last(&mut self, usage: &Usage) -> Vec<Frame> {
        sse::end::<ChatDelta>(&self.head, self.include_usage.then_some(usage))
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        sse::failed(error)
    }
}

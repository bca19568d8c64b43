//! Server-sent events: the same transport for every endpoint.
//!
//! A task reads the engine and writes events into a bounded channel that is the response body. When the client goes away,
//! the body is dropped, the channel closes, the task ends and with it the [`Choices`], which cancels them in the engine.

use crate::access::Tally;
use crate::api::response::{Head, Reply, Usage};
use crate::error::ApiError;
use crate::generate::{Choices, Step};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Events that a slow reader may lag behind before the task waits for it.
const BUFFERED_EVENTS: usize = 64;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its name; OpenAI's have none.
    pub event: Option<&'static str>,
    /// One line.
    pub data: String,
}

impl Frame {
    /// An event without a name.
    pub fn new(value: &impl Serialize) -> Self {
        Self { event: None, data: json(value) }
    }

    /// An event with one.
    pub fn named(event: &'static str, value: &impl Serialize) -> Self {
        Self { event: Some(event), data: json(value) }
    }

    /// The end of OpenAI's streams.
    pub fn done() -> Self {
        Self { event: None, data: "[DONE]".into() }
    }
}

/// How an endpoint words its events.
pub trait Render: Send + 'static {
    /// Events before the first token.
    fn first(&mut self, usage: &Usage) -> Vec<Frame>;
    /// Events for one step, possibly none.
    fn step(&mut self, step: Step, usage: &Usage) -> Vec<Frame>;
    /// Events at the end of a complete reply.
    fn last(&mut self, usage: &Usage) -> Vec<Frame>;
    /// Events instead of the rest.
    fn failed(&mut self, error: &ApiError) -> Vec<Frame>;
    /// What keeps a silent connection open.
    fn keep_alive(&self) -> KeepAlive {
        KeepAlive::default()
    }
}

/// The end of OpenAI's streams: token counts if they were asked for, and the mark.
pub fn end<C: Serialize>(head: &Head, usage: Option<&Usage>) -> Vec<Frame> {
    let counts = usage.map(|usage| Frame::new(&Reply::<C> { head: head.clone(), choices: Vec::new(), usage: Some(*usage) }));
    counts.into_iter().chain([Frame::done()]).collect()
}

/// OpenAI's streams that fail: the error object, and the mark.
pub fn failed(error: &ApiError) -> Vec<Frame> {
    vec![Frame::new(&error.body()), Frame::done()]
}

type Sender = mpsc::Sender<Result<Event, Infallible>>;

/// The response that streams `choices`.
pub fn respond(choices: Choices, render: impl Render, tally: Arc<Tally>) -> Response {
    let (sender, receiver) = mpsc::channel(BUFFERED_EVENTS);
    tally.begin();
    let keep_alive = render.keep_alive();
    tokio::spawn(async move {
        // `Err` means that nobody reads any more: nothing is left to say.
        let _ = drive(choices, render, &tally, &sender).await;
    });
    Sse::new(ReceiverStream::new(receiver)).keep_alive(keep_alive).into_response()
}

struct Gone;

async fn drive(mut choices: Choices, mut render: impl Render, tally: &Tally, sender: &Sender) -> Result<(), Gone> {
    send(sender, render.first(&choices.usage())).await?;
    loop {
        let step = tokio::select! {
            biased;
            () = sender.closed() => return Err(Gone),
            step = choices.next() => step,
        };
        let usage = choices.usage();
        tally.set(usage.prompt_tokens, usage.completion_tokens);
        match step {
            Ok(Some(step)) => send(sender, render.step(step, &usage)).await?,
            Ok(None) => break,
            Err(error) => return send(sender, render.failed(&error)).await,
        }
    }
    tally.complete();
    send(sender, render.last(&choices.usage())).await
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|e| ApiError::internal(format!("cannot write the reply: {e}")).body().to_string())
}

async fn send(sender: &Sender, frames: Vec<Frame>) -> Result<(), Gone> {
    for Frame { event, data } in frames {
        let plain = Event::default().data(data);
        let event = match event {
            Some(name) => plain.event(name),
            None => plain,
        };
        sender.send(Ok(event)).await.map_err(|_| Gone)?;
    }
    Ok(())
}

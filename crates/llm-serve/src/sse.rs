//! Server-sent events: the same frame for both endpoints.
//!
//! A task reads the engine and writes events into a bounded channel that is the response body. When the client goes away,
//! the body is dropped, the channel closes, the task ends and with it the [`Choices`], which cancels them in the engine.

use crate::access::Tally;
use crate::api::response::{Head, Reply};
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

/// How an endpoint words its chunks.
pub trait Render: Send + 'static {
    /// Choice type of the chunks.
    type Choice: Serialize + Send;
    /// Chunks before the first token.
    fn first(&mut self) -> Vec<Reply<Self::Choice>>;
    /// Chunks for one step, possibly none.
    fn step(&mut self, step: Step) -> Vec<Reply<Self::Choice>>;
    /// For the usage chunk.
    fn head(&self) -> &Head;
}

type Sender = mpsc::Sender<Result<Event, Infallible>>;

/// The response that streams `choices`.
pub fn respond(choices: Choices, render: impl Render, include_usage: bool, tally: Arc<Tally>) -> Response {
    let (sender, receiver) = mpsc::channel(BUFFERED_EVENTS);
    tally.begin();
    tokio::spawn(async move {
        // `Err` means that nobody reads any more: nothing is left to say.
        let _ = drive(choices, render, include_usage, &tally, &sender).await;
    });
    Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()).into_response()
}

struct Gone;

async fn drive<R: Render>(mut choices: Choices, mut render: R, include_usage: bool, tally: &Tally, sender: &Sender) -> Result<(), Gone> {
    for chunk in render.first() {
        send(sender, json(&chunk)).await?;
    }
    loop {
        let step = tokio::select! {
            biased;
            () = sender.closed() => return Err(Gone),
            step = choices.next() => step,
        };
        tally.set(choices.usage().prompt_tokens, choices.usage().completion_tokens);
        match step {
            Ok(Some(step)) => {
                for chunk in render.step(step) {
                    send(sender, json(&chunk)).await?;
                }
            }
            Ok(None) => break,
            Err(error) => {
                send(sender, error.body().to_string()).await?;
                return send(sender, "[DONE]".into()).await;
            }
        }
    }
    if include_usage {
        let usage: Reply<R::Choice> = Reply { head: render.head().clone(), choices: Vec::new(), usage: Some(choices.usage()) };
        send(sender, json(&usage)).await?;
    }
    tally.complete();
    send(sender, "[DONE]".into()).await
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|e| ApiError::internal(format!("cannot write the reply: {e}")).body().to_string())
}

async fn send(sender: &Sender, data: String) -> Result<(), Gone> {
    sender.send(Ok(Event::default().data(data))).await.map_err(|_| Gone)
}

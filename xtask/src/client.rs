//! The chat side of the OpenAI API: one question, the answer streamed as server-sent events (WHATWG HTML, 9.2).

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::time::Duration;

/// A piece of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Thinking.
    Reasoning(String),
    /// The answer.
    Content(String),
}

/// What a finished answer consists of.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Thinking.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// `stop`, `length`, ...
    pub finish_reason: String,
    /// Tokens of the answer, thinking included, if the server counts them.
    pub tokens: Option<u64>,
}

/// Settings of a request; `None` leaves the server's default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// 0 = always the likeliest token.
    pub temperature: Option<f64>,
    /// Longest answer.
    pub max_tokens: Option<u32>,
}

/// A server's address.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    agent: ureq::Agent,
    authorization: Option<String>,
}

impl Client {
    /// `http://host:port`, with or without `/v1`.
    pub fn new(url: &str) -> Result<Self> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches('/').to_string();
        if !base.starts_with("http://") {
            bail!("{url}: expected an address such as http://127.0.0.1:8080 (https is not supported here)");
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_connect(Some(Duration::from_secs(5))).proxy(None).build();
        Ok(Self { base, agent: config.into(), authorization: None })
    }

    /// Send this API key with every request.
    pub fn with_key(self, key: Option<&str>) -> Self {
        Self { authorization: key.map(|key| format!("Bearer {key}")), ..self }
    }

    fn get(&self, url: &str) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let request = self.agent.get(url);
        match &self.authorization {
            Some(authorization) => request.header("Authorization", authorization).call(),
            None => request.call(),
        }
    }

    /// An error unless the server is ready.
    pub fn ready(&self) -> Result<()> {
        let response = self.agent.get(format!("{}/ready", self.base)).call()?;
        if response.status().is_success() { Ok(()) } else { bail!("{}: /ready says {}", self.base, response.status()) }
    }

    /// The names of the models that the server has, adapters among them; at least one.
    pub fn models(&self) -> Result<Vec<String>> {
        let url = format!("{}/v1/models", self.base);
        let mut response = self.get(&url).map_err(|e| anyhow!("{}: no server answers ({e})", self.base))?;
        let status = response.status();
        if matches!(status.as_u16(), 401 | 403) {
            bail!("{}: the server wants an API key; put it into the environment as LLM_API_KEY", self.base);
        }
        let body: Value = response.body_mut().read_json().with_context(|| format!("{url}: no OpenAI-style answer"))?;
        let names = body["data"].as_array().into_iter().flatten().filter_map(|card| card["id"].as_str().map(str::to_string));
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            bail!("{url}: no model in the list");
        }
        Ok(names)
    }

    /// Ask; `on_piece` gets the answer as it comes and says whether to go on. What came before it said no is the answer then, with
    /// `stopped` for a reason; the connection is closed, which ends the work at the server.
    pub fn chat(&self, model: &str, messages: &[Value], settings: Settings, mut on_piece: impl FnMut(Piece) -> bool) -> Result<Answer> {
        let mut body = json!({"model": model, "messages": messages, "stream": true, "stream_options": {"include_usage": true}});
        if let Some(temperature) = settings.temperature {
            body["temperature"] = json!(temperature);
        }
        if let Some(max_tokens) = settings.max_tokens {
            body["max_tokens"] = json!(max_tokens);
        }
        let url = format!("{}/v1/chat/completions", self.base);
        let mut request = self.agent.post(&url);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.send_json(&body).map_err(|e| anyhow!("{url}: {e}"))?;
        if !response.status().is_success() {
            let status = response.status();
            let text = response.body_mut().read_to_string().unwrap_or_default();
            let message =
                serde_json::from_str::<Value>(&text).ok().and_then(|v| v.pointer("/error/message").and_then(Value::as_str).map(str::to_string));
            bail!("the server says {status}: {}", message.unwrap_or_else(|| crate::term::clip(&text, 200)));
        }
        read_events(BufReader::new(response.body_mut().as_reader()), &mut on_piece)
    }
}

/// Read `data:` lines until `[DONE]`.
fn read_events(reader: impl BufRead, on_piece: &mut impl FnMut(Piece) -> bool) -> Result<Answer> {
    let mut answer = Answer::default();
    for line in reader.lines() {
        let line = line.context("the connection to the server broke off")?;
        let Some(data) = line.strip_prefix("data:").map(str::trim) else {
            continue;
        };
        if data == "[DONE]" {
            return Ok(answer);
        }
        let event: Value =
            serde_json::from_str(data).with_context(|| format!("the server sent an event that is not JSON: {}", crate::term::clip(data, 120)))?;
        if let Some(message) = event.pointer("/error/message").and_then(Value::as_str) {
            bail!("the server says: {message}");
        }
        if let Some(tokens) = event.pointer("/usage/completion_tokens").and_then(Value::as_u64) {
            answer.tokens = Some(tokens);
        }
        let Some(choice) = event.pointer("/choices/0") else {
            continue;
        };
        let delta = |name: &str| choice.pointer(&format!("/delta/{name}")).and_then(Value::as_str).filter(|t| !t.is_empty());
        let mut go_on = true;
        if let Some(text) = delta("reasoning_content") {
            answer.reasoning.push_str(text);
            go_on &= on_piece(Piece::Reasoning(text.to_string()));
        }
        if let Some(text) = delta("content") {
            answer.content.push_str(text);
            go_on &= on_piece(Piece::Content(text.to_string()));
        }
        if !go_on {
            answer.finish_reason = "stopped".into();
            return Ok(answer);
        }
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            answer.finish_reason = reason.to_string();
        }
    }
    bail!("the server ended the answer early (no [DONE])")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn events(text: &str) -> (Result<Answer>, Vec<Piece>) {
        let mut pieces = Vec::new();
        let answer = read_events(text.as_bytes(), &mut |p| {
            pieces.push(p);
            true
        });
        (answer, pieces)
    }

    #[test]
    fn reasoning_and_content_are_kept_apart() {
        let text = ": comment\n\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"2+2\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"4\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"completion_tokens\":7}}\n\n\
            data: [DONE]\n\n";
        let (answer, pieces) = events(text);
        assert_eq!(answer.unwrap(), Answer { reasoning: "2+2".into(), content: "4".into(), finish_reason: "stop".into(), tokens: Some(7) });
        assert_eq!(pieces, [Piece::Reasoning("2+2".into()), Piece::Content("4".into())]);
    }

    #[test]
    fn an_answer_that_nobody_wants_any_more_ends_where_it_is() {
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n";
        let answer = read_events(text.as_bytes(), &mut |_| false).unwrap();
        assert_eq!((answer.content.as_str(), answer.finish_reason.as_str()), ("a", "stopped"));
    }

    #[test]
    fn a_broken_stream_is_an_error() {
        assert!(events("data: {\"choices\":[]}\n\n").0.unwrap_err().to_string().contains("early"));
        assert!(events("data: {oops\n\n").0.unwrap_err().to_string().contains("not JSON"));
        assert!(events("data: {\"error\":{\"message\":\"full\"}}\n\n").0.unwrap_err().to_string().contains("full"));
    }

    #[test]
    fn a_refusal_shows_the_servers_message() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).unwrap();
            let body = r#"{"error":{"message":"the prompt is too long"}}"#;
            write!(stream, "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
        });
        let client = Client::new(&url).unwrap();
        let error = client.chat("m", &[json!({"role": "user", "content": "hi"})], Settings::default(), |_| true).unwrap_err();
        assert!(error.to_string().contains("the prompt is too long"), "{error}");
        thread.join().unwrap();
        assert!(Client::new("ftp://x").is_err());
    }
}

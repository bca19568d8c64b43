//! The server that is measured: one that runs somewhere, or one started for this measurement.

use super::workload::{Source, Workload};
use crate::client::Client;
use anyhow::{Context, Result, anyhow, bail, ensure};
use axum::body::Bytes;
use axum::http::{HeaderValue, Request, header};
use llm_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Words of the question by which words are counted in tokens.
const PROBE: usize = 200;
/// Longest answer of the small endpoints.
const ANSWER: usize = 1 << 20;

/// A server of our own, a process as any other server is one; it ends with this value.
#[derive(Debug)]
pub struct Started {
    child: Child,
    /// Its address.
    pub url: String,
}

impl Started {
    /// Serve `model` on a free port; returns when it is loaded.
    pub fn new(model: &Path, device: &str, extra: &[String]) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["serve", "--host", "127.0.0.1", "--port", "0", "--device", device, "--model"]).arg(model).args(extra);
        // Its log would stand between the lines of the table, but why it does not start must be seen.
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start the server")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let log = std::thread::spawn(move || {
            let mut last = String::new();
            for line in BufReader::new(stderr.context("no stderr")?).lines().map_while(Result::ok) {
                last = line;
            }
            anyhow::Ok(last)
        });
        let mut lines = BufReader::new(stdout.context("no stdout")?).lines();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("listening on ").map(str::to_string));
        let Some(url) = url else {
            let _ = child.wait();
            let why = log.join().ok().and_then(Result::ok).unwrap_or_default();
            bail!("the server did not start: {}", why.trim_start_matches("error: "));
        };
        // It may write more; nobody needs it, but the pipe must not fill.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, url })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server seen from the client.
#[derive(Debug)]
pub struct Target {
    /// How to reach it.
    pub client: Client,
    /// `Bearer KEY`.
    pub authorization: Option<HeaderValue>,
}

impl Target {
    /// `key` without `Bearer`.
    pub fn new(url: &str, key: Option<&str>) -> Result<Self> {
        let authorization =
            key.map(|key| HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| anyhow!("the API key has characters that no header can hold")));
        let authorization = authorization.transpose()?.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Ok(Self { client: Client::new(url).map_err(|e| anyhow!("--url {e}"))?, authorization })
    }

    async fn ask(&self, request: axum::http::request::Builder, body: Bytes) -> Result<Value> {
        let request = match &self.authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization),
            None => request,
        };
        let request: Request<Bytes> = request.header(header::CONTENT_TYPE, "application/json").body(body)?;
        let place = || format!("{}{}", self.client.base(), request.uri());
        let reply = self.client.send(&request).await.with_context(place)?;
        let status = reply.head.status;
        let body = reply.body.all(ANSWER).await.map_err(|e| anyhow!("{}: {e}", place()))?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = value["error"]["message"].as_str().unwrap_or("no message");
        ensure!(status.is_success(), "{} says {status}: {message}", place());
        Ok(value)
    }

    /// The name of the model: the one asked for, or the first that the server has.
    pub async fn model(&self, asked: Option<String>) -> Result<String> {
        let list = self.ask(Request::get("/v1/models"), Bytes::new()).await?;
        let names: Vec<&str> = list["data"].as_array().into_iter().flatten().filter_map(|m| m["id"].as_str()).collect();
        match asked {
            Some(asked) if names.contains(&asked.as_str()) => Ok(asked),
            Some(asked) => bail!("{} has no model {asked}; it has {}", self.client.base(), names.join(", ")),
            None => names.first().map(|n| n.to_string()).with_context(|| format!("{} lists no model", self.client.base())),
        }
    }

    /// How many words make a token here, by one question; words stand for tokens where the vocabulary is not known.
    pub async fn words_per_token(&self, model: &str) -> Result<f64> {
        let source = Source::Words { per_token: 1.0 };
        let probe = Workload { model: Some(model.into()), source, prompt_tokens: PROBE, output_tokens: 1, shared_prefix: 0.0, seed: u64::MAX };
        let mut body = probe.body(0);
        body["stream"] = json!(false);
        if let Some(body) = body.as_object_mut() {
            body.remove("stream_options");
        }
        let reply = self.ask(Request::post(probe.path()), Bytes::from(body.to_string())).await?;
        let tokens = reply["usage"]["prompt_tokens"].as_f64().filter(|&n| n > 0.0).context("the server does not count prompt tokens")?;
        Ok(PROBE as f64 / tokens)
    }
}

/// Ids that ordinary text may hold.
pub fn plain_ids(tokenizer: &Tokenizer) -> Vec<u32> {
    (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_special(id)).collect()
}

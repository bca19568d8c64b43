//! Any OpenAI-compatible server as a [`Backend`]: `model = "http://host:port/v1"`.
//!
//! Generation needs `/completions`, or `/chat/completions` where the prompt is a chat or shows pictures. Likelihoods need
//! `/completions` with `echo` and `logprobs`: the server returns the log-probabilities of the prompt's own tokens, and those that
//! begin after the context (its last blanks excepted) are the continuation's. A server without `echo` is told so once, by name.
//! The tokenizer is on the other side, so rows of such a run have no token ids, and what does not fit its context is its error.
//!
//! Requests run side by side; failures that may pass (no connection, 429, 5xx) are tried again after growing pauses.

use crate::backend::{Backend, Identity, Prepared};
use crate::error::{Error, Result, check_interrupt};
use crate::prompt::{Instance, Prompt};
use crate::python::rstrip;
use crate::task::{Answer, Generate};
use crate::tokens::cut;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Stops a server must accept; the others are cut here.
const MAX_STOPS: usize = 4;
/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(600);

/// True for what is a server and not a folder.
pub fn is_url(model: &Path) -> bool {
    model.to_str().is_some_and(|m| m.starts_with("http://") || m.starts_with("https://"))
}

/// A model behind a URL.
#[derive(Debug)]
pub struct Remote {
    url: String,
    name: String,
    agent: ureq::Agent,
    concurrency: usize,
    retries: u32,
    key: Option<String>,
}

enum Failure {
    /// May pass.
    Passing(String),
    /// Will not.
    Final(String),
}

impl Remote {
    /// Connect. Without a `name` the first model that the server lists is taken. `OPENAI_API_KEY` is sent if it is set.
    pub fn open(url: &Path, name: Option<&str>, concurrency: usize, retries: u32) -> Result<Self> {
        let url = url.to_string_lossy().trim_end_matches('/').to_string();
        if url.starts_with("https://") {
            let message = "this program is built without TLS; put a local proxy in front, or give an http:// URL".to_string();
            return Err(Error::Model { model: url, message });
        }
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).proxy(None).build();
        let key = std::env::var("OPENAI_API_KEY").ok().filter(|k| !k.is_empty());
        let mut remote = Self { url, name: String::new(), agent: config.into(), concurrency, retries, key };
        remote.name = match name {
            Some(name) => name.to_string(),
            None => {
                let listed = remote.call("models", None)?;
                let first = listed["data"][0]["id"].as_str().map(str::to_string);
                first.ok_or_else(|| remote.error("its /models lists none; set `model_name`"))?
            }
        };
        Ok(remote)
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::Model { model: self.url.clone(), message: message.into() }
    }

    fn call_once(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let url = format!("{}/{path}", self.url);
        let authorised = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let sent = match body {
            Some(body) => {
                let mut request = self.agent.post(&url);
                if let Some(value) = &authorised {
                    request = request.header("Authorization", value);
                }
                request.send_json(body)
            }
            None => {
                let mut request = self.agent.get(&url);
                if let Some(value) = &authorised {
                    request = request.header("Authorization", value);
                }
                request.call()
            }
        };
        let mut response = sent.map_err(|e| Failure::Passing(format!("/{path}: {e}")))?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().map_err(|e| Failure::Passing(format!("/{path}: {e}")))?;
        if status == 429 || status >= 500 {
            return Err(Failure::Passing(format!("/{path} answered {status}: {}", shortened(&text))));
        }
        if status != 200 {
            return Err(Failure::Final(format!("/{path} answered {status}: {}", shortened(&text))));
        }
        serde_json::from_str(&text).map_err(|e| Failure::Final(format!("/{path} answered something that is not JSON ({e}): {}", shortened(&text))))
    }

    fn call(&self, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut pause = Duration::from_millis(250);
        for attempt in 0.. {
            check_interrupt()?;
            match self.call_once(path, body) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(message)) => return Err(self.error(message)),
                Err(Failure::Passing(message)) if attempt >= self.retries => {
                    return Err(self.error(format!("{message} (tried {} times)", attempt + 1)));
                }
                Err(Failure::Passing(_)) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_secs(20));
        }
        Err(self.error("no attempt was made"))
    }

    fn one(&self, instance: &Instance) -> Result<Answer> {
        match instance {
            Instance::Likelihood { prompt: Prompt::Text(context), continuation } => self.likelihood(context, continuation),
            Instance::Likelihood { .. } => {
                Err(self.error("log-likelihoods after a chat template need the template; give the model folder, or leave out `apply_chat_template`"))
            }
            Instance::Rolling { .. } => Err(self.error("perplexity in windows needs the tokenizer; give the model folder")),
            Instance::Generate { prompt, images, settings, repeat } => self.generate(prompt, images, settings, *repeat),
        }
    }

    fn likelihood(&self, context: &str, continuation: &str) -> Result<Answer> {
        let whole = format!("{context}{continuation}");
        let body = json!({"model": self.name, "prompt": whole, "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 1});
        let answer = self.call("completions", Some(&body)).map_err(|error| match error {
            Error::Model { message, .. } if message.contains("echo") => self.error(format!(
                "it does not give log-probabilities of the prompt (`echo`), so only generation tasks can be measured on it: {message}"
            )),
            other => other,
        })?;
        echoed(&answer["choices"][0], context, &whole).map_err(|message| self.error(message))
    }

    fn generate(&self, prompt: &Prompt, images: &[PathBuf], settings: &Generate, repeat: usize) -> Result<Answer> {
        let stops: Vec<&String> = settings.until.iter().filter(|s| !s.is_empty()).take(MAX_STOPS).collect();
        let mut body = json!({"model": self.name, "max_tokens": settings.max_gen_toks, "temperature": settings.temperature, "top_p": settings.top_p});
        if !stops.is_empty() {
            body["stop"] = json!(stops);
        }
        if settings.temperature > 0.0 {
            body["seed"] = json!(repeat);
        }
        let choice = match prompt {
            Prompt::Text(text) if images.is_empty() => {
                body["prompt"] = json!(text);
                self.call("completions", Some(&body))?["choices"][0].take()
            }
            prompt => {
                body["messages"] = self.messages(prompt, images)?;
                self.call("chat/completions", Some(&body))?["choices"][0].take()
            }
        };
        let text = choice["text"].as_str().or_else(|| choice["message"]["content"].as_str());
        let text = text.ok_or_else(|| self.error(format!("an answer has no text: {}", shortened(&choice.to_string()))))?;
        let finish = choice["finish_reason"].as_str().unwrap_or("stop").to_string();
        Ok(Answer::Text { text: cut(text.to_string(), &settings.until), tokens: 0, finish })
    }

    fn messages(&self, prompt: &Prompt, images: &[PathBuf]) -> Result<Value> {
        let mut messages: Vec<Value> = match prompt {
            Prompt::Text(text) => vec![json!({"role": "user", "content": text})],
            Prompt::Chat { messages, prefix } => {
                let turns = messages.iter().map(|m| json!({"role": m.role, "content": m.content}));
                turns.chain(prefix.as_ref().map(|p| json!({"role": "assistant", "content": p}))).collect()
            }
        };
        if !images.is_empty()
            && let Some(last) = messages.iter_mut().rfind(|m| m["role"] == "user")
        {
            let mut parts = Vec::new();
            for path in images {
                let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?;
                let kind = match path.extension().and_then(|e| e.to_str()) {
                    Some("jpg" | "jpeg") => "jpeg",
                    Some("webp") => "webp",
                    _ => "png",
                };
                parts.push(json!({"type": "image_url", "image_url": {"url": format!("data:image/{kind};base64,{}", base64(&bytes))}}));
            }
            parts.push(json!({"type": "text", "text": last["content"]}));
            last["content"] = json!(parts);
        }
        Ok(Value::Array(messages))
    }
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(300)]
}

/// The continuation's part of a prompt that was returned with log-probabilities.
fn echoed(choice: &Value, context: &str, whole: &str) -> Result<Answer, String> {
    let missing = "it does not give log-probabilities of the prompt (`echo` with `logprobs`), so only generation tasks can be measured on it";
    let lists = &choice["logprobs"];
    let list = |name: &str| lists[name].as_array().ok_or(missing);
    let (tokens, logs, offsets) = (list("tokens")?, list("token_logprobs")?, list("text_offset")?);
    let text = choice["text"].as_str().unwrap_or_default();
    // A server may show its begin-of-text token in front.
    let before = text.find(whole).ok_or(missing)?;
    let skew = text[..before].chars().count();
    let (start, end) = (skew + rstrip(context).chars().count(), skew + whole.chars().count());
    let (mut sum, mut greedy, mut scored) = (0.0, true, 0);
    for (i, offset) in offsets.iter().enumerate() {
        let offset = offset.as_u64().ok_or("`text_offset` is not a list of numbers")? as usize;
        if offset < start || offset >= end {
            continue;
        }
        let log_p = logs.get(i).and_then(Value::as_f64);
        let log_p = log_p
            .ok_or("the first token of a continuation has no log-probability; the context is empty or the server adds no begin-of-text token")?;
        let best = lists["top_logprobs"][i].as_object().ok_or("`top_logprobs` is missing")?;
        let larger = best.iter().any(|(token, value)| value.as_f64().is_some_and(|v| v > log_p) && Some(token.as_str()) != tokens[i].as_str());
        sum += log_p;
        greedy &= !larger;
        scored += 1;
    }
    if scored == 0 {
        return Err(missing.to_string());
    }
    Ok(Answer::Likelihood { sum, greedy })
}

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            out.push(if i <= chunk.len() { LETTERS[(word >> (18 - 6 * i)) as usize & 63] as char } else { '=' });
        }
    }
    out
}

impl Backend for Remote {
    fn identity(&self) -> Identity {
        let key = llm_run::hash::bytes(format!("{} {}", self.url, self.name).as_bytes());
        Identity { path: PathBuf::from(&self.url), id: self.name.clone(), hash: String::new(), key }
    }

    fn prepare(&self, instances: &[Instance]) -> Result<Vec<Prepared>> {
        let text = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Chat { messages, .. } => messages.iter().map(|m| format!("{}: {}\n", m.role, m.content)).collect(),
        };
        let prepared = |instance: &Instance| match instance {
            Instance::Likelihood { prompt, .. } | Instance::Generate { prompt, .. } => Prepared { text: text(prompt), ..Prepared::default() },
            Instance::Rolling { .. } => Prepared::default(),
        };
        Ok(instances.iter().map(prepared).collect())
    }

    fn answer(&self, instances: &[Instance], _: &[Prepared], known: &[bool], done: &mut dyn FnMut(usize, Answer) -> Result<()>) -> Result<()> {
        let open: Vec<usize> = (0..instances.len()).filter(|&i| !known[i]).collect();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, answers) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.concurrency.clamp(1, open.len().max(1)) {
                let (sender, open, next, stop) = (sender.clone(), &open, &next, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed)
                        && let Some(&place) = open.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if sender.send((place, self.one(&instances[place]))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            // The first error ends the run; what was answered before it is in the journal.
            let result = answers.iter().try_for_each(|(place, answer)| done(place, answer?));
            stop.store(true, Ordering::Relaxed);
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, section 10.
    #[test]
    fn base64_of_the_standard() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn the_continuation_is_what_begins_after_the_context() {
        let choice = json!({"text": "<s>Ä: yes no", "logprobs": {
            "tokens": ["<s>", "Ä", ":", " yes", " no"],
            "token_logprobs": [null, -5.0, -4.0, -1.5, -0.5],
            "top_logprobs": [null, {"x": -1.0}, {":": -4.0}, {" yes": -1.5}, {" on": -0.25, " no": -0.5}],
            "text_offset": [0, 3, 4, 5, 9]}});
        // The blank at the end of the context belongs to the continuation's first token; " no" is generated.
        assert_eq!(echoed(&choice, "Ä: ", "Ä: yes"), Ok(Answer::Likelihood { sum: -1.5, greedy: true }));
        assert_eq!(echoed(&choice, "Ä:", "Ä: yes no"), Ok(Answer::Likelihood { sum: -2.0, greedy: false }));
        assert!(echoed(&choice, "", "<s>Ä:").unwrap_err().contains("no log-probability"));
        let without = json!({"text": " no", "logprobs": {"tokens": [" no"], "token_logprobs": [-0.5], "top_logprobs": [{}], "text_offset": [0]}});
        assert!(echoed(&without, "Ä:", "Ä: yes").unwrap_err().contains("only generation tasks"));
    }
}

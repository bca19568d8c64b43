//! A server in this process on a free port, a client, and the library's own answer to compare with.
#![allow(dead_code, missing_docs)]

pub mod house;
pub mod schema;
pub mod scripted;
pub mod seeing;
mod tiny;

use llm_infer::{Completion, Engine, EngineConfig, Model, Request, Sampling};
use llm_serve::server::Matrices;
use llm_serve::{HouseConfig, ImageLimits, Server, ServerConfig};
use llm_tensor::DeviceSpec;
use llm_tokenizer::Message;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub const BODY_LIMIT: usize = 64 << 10;

/// A folder with a small random model and its tokenizer.
pub fn tiny_model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path());
    dir
}

pub struct TestServer {
    pub url: String,
    pub dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    shutdown: Option<oneshot::Sender<()>>,
    ended: Option<tokio::task::JoinHandle<llm_serve::Result<()>>>,
}

impl TestServer {
    pub fn start() -> Self {
        Self::start_with(8, Duration::from_secs(30))
    }

    pub fn start_with(max_batch: usize, drain: Duration) -> Self {
        Self::start_model(tiny_model(), max_batch, drain, BODY_LIMIT, ImageLimits::default())
    }

    /// With rules of the house.
    pub fn start_house(max_batch: usize, house: HouseConfig) -> Self {
        let change = |config: &mut ServerConfig| config.house = house;
        Self::start_changed(tiny_model(), max_batch, Duration::from_secs(30), BODY_LIMIT, ImageLimits::default(), change)
    }

    /// A model that says `pieces`, see [`scripted`].
    pub fn scripted(template: &str, pieces: &[&str], special: &[&str]) -> Self {
        Self::start_model(scripted::model(template, pieces, special), 8, Duration::from_secs(30), BODY_LIMIT, ImageLimits::default())
    }

    pub fn start_model(dir: tempfile::TempDir, max_batch: usize, drain: Duration, body_limit: usize, images: ImageLimits) -> Self {
        Self::start_changed(dir, max_batch, drain, body_limit, images, |_| {})
    }

    /// The same with a last word on the configuration.
    pub fn start_changed(
        dir: tempfile::TempDir,
        max_batch: usize,
        drain: Duration,
        body_limit: usize,
        images: ImageLimits,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let engine = EngineConfig { max_batch, ..EngineConfig::default() };
        let mut config = ServerConfig {
            model: dir.path().to_path_buf(),
            served_model_name: Some("tiny".into()),
            host: "127.0.0.1".into(),
            port: 0,
            device: DeviceSpec::Cpu,
            engine,
            drain,
            body_limit,
            images,
            adapters: None,
            draft: None,
            matrices: Matrices::default(),
            house: HouseConfig::default(),
        };
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = runtime.block_on(Server::bind(config)).unwrap();
        let url = format!("http://{}", server.address());
        let (shutdown, asked) = oneshot::channel();
        let (loaded, ready) = oneshot::channel();
        let run = server.run(
            move |_| {
                let _ = loaded.send(());
            },
            async {
                let _ = asked.await;
            },
        );
        let ended = runtime.spawn(run);
        runtime.block_on(ready).expect("the model must load");
        Self { url, dir, runtime, shutdown: Some(shutdown), ended: Some(ended) }
    }

    pub fn model(&self) -> Model {
        Model::load(self.dir.path(), &DeviceSpec::Cpu).unwrap()
    }

    /// Ask for shutdown without waiting.
    pub fn ask_shutdown(&mut self) {
        drop(self.shutdown.take());
    }

    /// Wait until the server has ended.
    pub fn wait_end(&mut self) -> llm_serve::Result<()> {
        self.runtime.block_on(self.ended.take().unwrap()).unwrap()
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, body.to_string().into_bytes())
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, Vec::new())
    }

    pub fn send(&self, method: &str, path: &str, body: Vec<u8>) -> (u16, Value) {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        let mut response = if body.is_empty() { agent().run(request.body(()).unwrap()) } else { agent().run(request.body(body).unwrap()) }.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap())
    }

    /// Open a stream; `body` gets `"stream": true`.
    pub fn stream(&self, path: &str, body: &Value) -> Events {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let response = agent().post(format!("{}{path}", self.url)).send(body.to_string()).unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { lines: BufReader::new(response.into_body().into_reader()), done: false }
    }

    /// Wait until the engine holds nothing.
    pub fn wait_idle(&self, limit: Duration) {
        let start = Instant::now();
        while self.get("/health").1["active_requests"] != 0 {
            assert!(start.elapsed() < limit, "the engine still holds requests after {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true).build().into()
}

/// The JSON of each event; ends at `[DONE]`.
pub struct Events {
    lines: BufReader<ureq::BodyReader<'static>>,
    pub done: bool,
}

impl Iterator for Events {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            // Anthropic's events have names as well; the data repeat them.
            match line.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => {
                    self.done = true;
                    return None;
                }
                Some(data) => return Some(serde_json::from_str(data).unwrap()),
                None => {}
            }
        }
    }
}

pub fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// What the server is expected to send to the engine for a user message.
pub fn chat_request(model: &Model, text: &str, sampling: &Sampling) -> Request {
    let message = Message { role: "user".into(), content: text.into(), ..Message::default() };
    let prompt = model.tokenizer.apply_chat_template(&[message], true).unwrap().ids;
    Request::new(prompt, Sampling { stop_ids: stop_ids(model), ..sampling.clone() })
}

pub fn stop_ids(model: &Model) -> Vec<u32> {
    model.tokenizer.eos_id().into_iter().chain(model.tokenizer.special_id("<|eot_id|>")).collect()
}

pub fn library(model: &Model, requests: Vec<Request>) -> Vec<Completion> {
    Engine::new(model, EngineConfig::default()).unwrap().generate(requests).unwrap()
}

/// `(reasoning, content)` of generated tokens, written independently of the server: cut at the marker ids.
pub fn split_reply(model: &Model, tokens: &[u32]) -> (String, String) {
    let (open, close) = (model.tokenizer.special_id("<think>"), model.tokenizer.special_id("</think>"));
    let (mut reasoning, mut content) = (String::new(), String::new());
    let mut thinking = false;
    for run in tokens.chunk_by(|&a, &b| [a, b].iter().all(|&t| Some(t) != open && Some(t) != close)) {
        if Some(run[0]) == open || Some(run[0]) == close {
            thinking = Some(run[0]) == open;
        } else {
            let target = if thinking { &mut reasoning } else { &mut content };
            target.push_str(&model.tokenizer.decode(run, true));
        }
    }
    (reasoning, content)
}

/// A port number that is taken for as long as the listener lives.
pub fn taken_port() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Run the binary to its end.
pub fn run_binary(model: &Path, extra: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_llm-serve"))
        .args(["serve", "--device", "cpu", "--model"])
        .arg(model)
        .args(extra)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

//! Keys, raw connections and the program as a process of its own.

use llm_serve::keys::store::{self, NewKey};
use llm_serve::keys::{Limits, Scope};
use llm_serve::ledger::database;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A file of keys.
pub struct Keys {
    pub dir: tempfile::TempDir,
    pub file: PathBuf,
}

impl Keys {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.db");
        database::create(&file).unwrap();
        Self { dir, file }
    }

    /// The secret of a new key.
    pub fn add(&self, name: &str, scopes: &[Scope], limits: Limits) -> String {
        self.add_until(name, scopes, limits, None)
    }

    pub fn add_until(&self, name: &str, scopes: &[Scope], limits: Limits, expires: Option<u64>) -> String {
        let new = NewKey { name: name.into(), scopes: scopes.to_vec(), limits, priority: 0, expires };
        let connection = database::open(&self.file).unwrap();
        store::create(&connection, &self.file, new).unwrap().1.reveal().to_string()
    }

    /// A number out of the file.
    pub fn number(&self, sql: &str) -> i64 {
        database::open(&self.file).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }

    pub fn number(&self, name: &str) -> f64 {
        self.header(name).unwrap_or_else(|| panic!("no header {name}")).trim_end_matches('s').parse().unwrap()
    }

    pub fn code(&self) -> Option<&str> {
        self.body["error"]["code"].as_str()
    }
}

/// A call with headers; the connection is not reused.
pub fn call(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    try_call(url, method, path, headers, body).unwrap()
}

pub fn try_call(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Reply, ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(Duration::from_secs(120)))
        .max_idle_connections(0)
        .build()
        .into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = match body {
        "" => agent.run(request.body(()).unwrap())?,
        body => agent.run(request.body(body.to_string()).unwrap())?,
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.body_mut().with_config().limit(1 << 30).read_to_string()?;
    Ok(Reply { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text })
}

pub fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

/// Bytes sent as they are; what comes back until the server closes, and whether it did so within the limit.
pub fn raw(url: &str, bytes: &[u8], limit: Duration) -> (String, bool) {
    let mut stream = connect(url);
    // The server may close before everything is sent.
    let _ = stream.write_all(bytes);
    read_to_end(&mut stream, limit)
}

pub fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://")).unwrap()
}

pub fn read_to_end(stream: &mut TcpStream, limit: Duration) -> (String, bool) {
    let (mut got, mut buffer, end) = (Vec::new(), [0; 4096], Instant::now() + limit);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (String::from_utf8_lossy(&got).into_owned(), false);
        }
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
        match stream.read(&mut buffer) {
            Ok(0) => return (String::from_utf8_lossy(&got).into_owned(), true),
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            // A reset closes as well.
            Err(_) => return (String::from_utf8_lossy(&got).into_owned(), true),
        }
    }
}

/// The program as a process; killed when dropped.
pub struct Process {
    pub child: Child,
    pub url: String,
    pub stderr: PathBuf,
    /// Kept open: a program that is told that nobody reads ends.
    _stdout: std::io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub fn start(model: &Path, stderr: PathBuf, flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_llm-serve"))
            .args(["serve", "--device", "cpu", "--port", "0", "--served-model-name", "tiny", "--model"])
            .arg(model)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.find_map(|line| line.unwrap().strip_prefix("listening on ").map(str::to_string));
        let url = url.unwrap_or_else(|| panic!("{}", std::fs::read_to_string(&stderr).unwrap()));
        Self { child, url, stderr, _stdout: lines }
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a sample of `/metrics`; the labels must be a part of the sample's.
pub fn metric(text: &str, name: &str, labels: &str) -> f64 {
    let mut found = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| (rest.starts_with('{') || rest.starts_with(' ')) && rest.contains(labels)));
    let line = found.next().unwrap_or_else(|| panic!("no sample {name} {labels} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Wait until something holds.
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

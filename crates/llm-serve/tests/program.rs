//! The binary: what it says and how it ends when something is wrong, and when it is told to stop.
#![cfg(unix)]

mod common;

use common::{run_binary, taken_port, tiny_model};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn one_line(stderr: &str) -> &str {
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(lines[0].starts_with("error: "), "{stderr}");
    lines[0]
}

#[test]
fn a_port_in_use() {
    let (_held, port) = taken_port();
    let model = tiny_model();
    let (code, stderr) = run_binary(model.path(), &["--port", &port.to_string()]);
    assert_eq!(code, Some(1));
    let line = one_line(&stderr);
    assert!(line.contains(&format!("127.0.0.1:{port}")) && line.contains("--port 0"), "{line}");
}

#[test]
fn a_missing_model() {
    let (code, stderr) = run_binary("no/such/folder".as_ref(), &["--port", "0"]);
    assert_eq!(code, Some(1));
    assert!(one_line(&stderr).contains("no/such/folder"), "{stderr}");
}

#[test]
fn a_truncated_model() {
    let model = tiny_model();
    let weights = model.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let (code, stderr) = run_binary(model.path(), &["--port", "0"]);
    assert_eq!(code, Some(1));
    assert!(one_line(&stderr).contains("model.safetensors"), "{stderr}");
}

#[test]
fn it_announces_itself_and_ends_on_sigterm() {
    let model = tiny_model();
    let mut child = Command::new(env!("CARGO_BIN_EXE_llm-serve"))
        .args(["serve", "--device", "cpu", "--port", "0", "--served-model-name", "tiny", "--model"])
        .arg(model.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("model tiny "));
    let url = lines.next().unwrap().strip_prefix("listening on ").unwrap().to_string();
    let curl = lines.next().unwrap();
    assert!(curl.starts_with(&format!("curl -s {url}/v1/chat/completions ")), "{curl}");
    // What the line posts is accepted.
    let body = curl.split("-d '").nth(1).unwrap().trim_end_matches('\'');
    let status = ureq::post(format!("{url}/v1/chat/completions")).send(body).unwrap().status();
    assert_eq!(status.as_u16(), 200);

    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

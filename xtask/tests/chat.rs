//! `cargo xtask chat` through a pipe, against a stand-in for the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;

fn respond(stream: &mut impl Write, kind: &str, body: &str) {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
}

/// Answers every chat request with the number of messages it was given; sends the request bodies to `seen`.
fn serve(listener: TcpListener, seen: mpsc::Sender<serde_json::Value>) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        if first.starts_with("GET /v1/models") {
            respond(&mut stream, "application/json", r#"{"object":"list","data":[{"id":"tiny"}]}"#);
            continue;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let count = body["messages"].as_array().unwrap().len();
        seen.send(body).unwrap();
        let events = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"reasoning_content\":\"hm\"}}}}]}}\n\ndata: {{\"choices\":[{{\"delta\":{{\"content\":\"{count} messages\"}},\"finish_reason\":\"stop\"}}]}}\n\ndata: [DONE]\n\n"
        );
        respond(&mut stream, "text/event-stream", &events);
    }
}

#[test]
fn a_piped_conversation_keeps_its_history_until_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, seen) = mpsc::channel();
    std::thread::spawn(move || serve(listener, sender));
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["chat", "--url", &url, "--system", "Be brief."])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("first\nsecond\n\n/rest\n/reset\nthird\n/quit\nnever\n".as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "think: hm\n2 messages\nthink: hm\n4 messages\nno command /rest; did you mean /reset?\nforgotten\nthink: hm\n2 messages\n");
    let requests: Vec<_> = seen.try_iter().collect();
    assert_eq!(requests.len(), 3, "/quit ends the conversation");
    assert_eq!(requests[1]["messages"][0]["content"], "Be brief.");
    assert_eq!(requests[1]["messages"][2]["content"], "2 messages", "history holds the answer without its reasoning");
    assert_eq!((requests[0]["model"].as_str(), requests[0]["temperature"].as_f64()), (Some("tiny"), Some(0.0)));
}

#[test]
fn commands_work_through_a_pipe() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, seen) = mpsc::channel();
    std::thread::spawn(move || serve(listener, sender));
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("talk.json");
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["chat", "--url", &url])
        .env("LLM_API_KEY", "k")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let typed = format!("/temp 0.5\n/system Be kind.\nfirst \\\nand more\n/retry\n/save {}\n/model\n", saved.display());
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("temperature 0.5\n") && text.ends_with("* tiny\n"), "{text}");
    let requests: Vec<_> = seen.try_iter().collect();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1], "the question asked again is the same question");
    assert_eq!(requests[0]["messages"][0]["content"], "Be kind.");
    assert_eq!(requests[0]["messages"][1]["content"], "first \nand more");
    assert_eq!(requests[0]["temperature"], 0.5);
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(saved).unwrap()).unwrap();
    assert_eq!(saved["messages"].as_array().unwrap().len(), 3);
}

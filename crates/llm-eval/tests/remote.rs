//! A server as a backend, against a small one of our own: echoed likelihoods, generation, retries, and a server without `echo`.

use llm_eval::backend::Backend;
use llm_eval::prompt::{Instance, Prompt};
use llm_eval::remote::Remote;
use llm_eval::task::{Answer, Generate};
use llm_eval::{Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Serves `answer(path, body)`; returns the address.
fn serve(answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut length) = (String::new(), 0);
                reader.read_line(&mut first).unwrap();
                loop {
                    let mut header = String::new();
                    reader.read_line(&mut header).unwrap();
                    if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if header.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let path = first.split(' ').nth(1).unwrap_or_default().to_string();
                let (status, reply) = answer(&path, &serde_json::from_slice(&body).unwrap_or_default());
                let reply = reply.to_string();
                write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{reply}", reply.len()).unwrap();
            });
        }
    });
    url
}

/// One token per character, each as likely as its place says.
fn echo(prompt: &str) -> Value {
    let chars: Vec<String> = prompt.chars().map(String::from).collect();
    let log = |i: usize| if i == 0 { Value::Null } else { json!(-(i as f64)) };
    let logs: Vec<Value> = (0..chars.len()).map(log).collect();
    let top: Vec<Value> = (0..chars.len()).map(|i| if i == 0 { Value::Null } else { json!({chars[i].clone(): log(i)}) }).collect();
    let offsets: Vec<usize> = (0..chars.len()).collect();
    json!({"choices": [{"text": prompt, "logprobs": {"tokens": chars, "token_logprobs": logs, "top_logprobs": top, "text_offset": offsets}}]})
}

fn likelihood(context: &str, continuation: &str) -> Instance {
    Instance::Likelihood { prompt: Prompt::Text(context.into()), continuation: continuation.into() }
}

fn generation(prompt: &str) -> Instance {
    let settings = Generate { until: ["\n", "b", "c", "d", "STOP"].map(String::from).to_vec(), ..Generate::default() };
    Instance::Generate { prompt: Prompt::Text(prompt.into()), images: Vec::new(), settings, repeat: 0 }
}

fn ask(remote: &Remote, instances: &[Instance]) -> Result<Vec<Option<Answer>>> {
    let prepared = remote.prepare(instances)?;
    let mut answers = vec![None; instances.len()];
    remote.answer(instances, &prepared, &vec![false; instances.len()], &mut |i, answer| {
        answers[i] = Some(answer);
        Ok(())
    })?;
    Ok(answers)
}

fn open(url: &str) -> Remote {
    Remote::open(Path::new(url), None, 4, 3).unwrap()
}

#[test]
fn likelihoods_and_texts_come_back_in_order() {
    let failures = AtomicUsize::new(0);
    let url = serve(move |path, body| match path {
        "/v1/models" => (200, json!({"data": [{"id": "m"}]})),
        // Every third request fails once in a way that passes.
        _ if failures.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) => (503, json!({"error": "busy"})),
        _ if body["echo"] == true => (200, echo(body["prompt"].as_str().unwrap())),
        _ => {
            assert_eq!((body["model"].as_str(), body["stop"].as_array().map(Vec::len)), (Some("m"), Some(4)));
            (200, json!({"choices": [{"text": format!("answer to {} STOP more", body["prompt"].as_str().unwrap()), "finish_reason": "stop"}]}))
        }
    });
    let remote = open(&url);
    assert_eq!(remote.identity().id, "m");
    let instances: Vec<Instance> = (0..12).flat_map(|i| [likelihood(&"x".repeat(i + 1), " yz"), generation(&format!("{i}"))]).collect();
    let answers = ask(&remote, &instances).unwrap();
    for i in 0..12 {
        let n = (i + 1) as f64;
        assert_eq!(answers[2 * i], Some(Answer::Likelihood { sum: -(n + n + 1.0 + n + 2.0), greedy: true }));
        // The fifth stop is more than a server must take, so it is cut here.
        assert_eq!(answers[2 * i + 1], Some(Answer::Text { text: format!("answer to {i} "), tokens: 0, finish: "stop".into() }));
    }
}

#[test]
fn what_a_server_cannot_do_is_said() {
    let url = serve(|path, body| match path {
        "/v1/models" => (200, json!({"data": [{"id": "m"}]})),
        _ if body["echo"] == true => (400, json!({"error": {"message": "'echo' is not supported"}})),
        _ => (500, json!({"error": "always"})),
    });
    let message = |instance: Instance| match ask(&open(&url), &[instance]).unwrap_err() {
        Error::Model { message, .. } => message,
        other => panic!("{other}"),
    };
    let echo = message(likelihood("a", " b"));
    assert!(echo.contains("only generation tasks can be measured on it"), "{echo}");
    let failed = message(generation("a"));
    assert!(failed.contains("500") && failed.contains("tried 4 times"), "{failed}");
    assert!(message(Instance::Rolling { text: "a".into() }).contains("give the model folder"));
    let nobody = Remote::open(Path::new("http://127.0.0.1:1/v1"), None, 1, 0).unwrap_err().to_string();
    assert!(nobody.contains("http://127.0.0.1:1/v1") && nobody.contains("tried 1 times"), "{nobody}");
    assert!(Remote::open(Path::new("https://x/v1"), None, 1, 0).unwrap_err().to_string().contains("without TLS"));
}

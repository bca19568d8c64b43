//! What a hostile client may try, and what must not be written down.

mod common;

use common::house::{Keys, Process, bearer, call, connect, eventually, metric, raw, read_to_end};
use common::{TestServer, tiny_model};
use llm_serve::HouseConfig;
use llm_serve::keys::{Limits, Scope};
use llm_serve::tls::TlsFiles;
use serde_json::json;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";

/// If this fails, a proxy and this server may disagree on where a request ends, and one user's bytes become another one's request.
#[test]
fn requests_that_could_be_read_in_two_ways() {
    let server = TestServer::start();
    let wait = Duration::from_secs(5);
    let post = |headers: &str, body: &str| format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}");
    let smuggled = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";
    for (what, bytes) in [
        ("two lengths", post("content-length: 2\r\ncontent-length: 3\r\n", "{}")),
        ("a list of lengths", post("content-length: 2, 3\r\n", "{}")),
        ("a length with a sign", post("content-length: +2\r\n", "{}")),
        ("a length that is no number", post("content-length: 0x2\r\n", "{}")),
        ("a negative length", post("content-length: -1\r\n", "{}")),
        ("an unknown coding", post("transfer-encoding: xchunked\r\n", "{}")),
        ("chunked is not the last", post("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n")),
        ("a space before the colon", post("content-length : 2\r\n", "{}")),
        ("a folded line", post("x-a: 1\r\n content-length: 5\r\n", "")),
        ("a zero byte in a value", "GET /health HTTP/1.1\r\nhost: x\r\nx-a: a\0b\r\n\r\n".into()),
        ("a control byte in a name", "GET /health HTTP/1.1\r\nhost: x\r\nx\x01a: b\r\n\r\n".into()),
        ("no version", "GET /health\r\n\r\n".into()),
        ("another protocol", "SSH-2.0-OpenSSH_9.9\r\n".into()),
        ("TLS to a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n".into()),
    ] {
        let (reply, closed) = raw(&server.url, (bytes + smuggled).as_bytes(), wait);
        assert!(closed, "{what}: {reply}");
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400 "), "{what}: {reply}");
        assert!(!reply.contains("max_model_len"), "{what}: the second request was answered: {reply}");
    }
    // Both a length and chunks: the chunks count, and the connection ends behind the reply.
    for headers in ["content-length: 4\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 4\r\n"] {
        let (reply, closed) = raw(&server.url, (post(headers, "2\r\n{}\r\n0\r\n\r\n") + smuggled).as_bytes(), wait);
        assert!(closed && reply.matches("HTTP/1.1 ").count() == 1 && reply.starts_with("HTTP/1.1 400 "), "{reply}");
    }
    let many = "x-a: b\r\n".repeat(500);
    let (reply, closed) = raw(&server.url, format!("GET /health HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes(), wait);
    assert!(closed && reply.starts_with("HTTP/1.1 431 "), "{reply}");
    assert_eq!(server.get("/health").0, 200);
}

/// If this fails, a client that sends its whole body before it reads meets a broken pipe and never learns that the body was too large.
#[test]
fn whoever_sends_too_much_and_then_reads_is_told() {
    let server = TestServer::start();
    let body = vec![b' '; llm_serve::DEFAULT_BODY_LIMIT + 1];
    for round in 0..10 {
        let mut stream = connect(&server.url);
        stream
            .write_all(format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes())
            .unwrap();
        // By now the answer is on its way, and the server has nothing more to do.
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(&body).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let (reply, _) = read_to_end(&mut stream, Duration::from_secs(5));
        assert!(reply.starts_with("HTTP/1.1 413 "), "round {round}: {reply}");
    }
}

#[test]
fn a_body_of_100_megabytes_and_json_of_great_depth() {
    let server = TestServer::start();
    let mut stream = connect(&server.url);
    let mut reader = stream.try_clone().unwrap();
    let answer = std::thread::spawn(move || read_to_end(&mut reader, Duration::from_secs(20)));
    stream
        .write_all(format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", 100 << 20).as_bytes())
        .unwrap();
    for _ in 0..100 {
        if stream.write_all(&[b' '; 1 << 20]).is_err() {
            break;
        }
    }
    let (reply, _) = answer.join().unwrap();
    assert!(reply.starts_with("HTTP/1.1 413 ") && reply.contains("request_too_large"), "{reply}");
    // The same without saying how long it will be.
    let mut stream = connect(&server.url);
    stream.write_all(format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    for _ in 0..100 {
        if stream.write_all(format!("10000\r\n{}\r\n", " ".repeat(0x10000)).as_bytes()).is_err() {
            break;
        }
    }
    let (reply, _) = read_to_end(&mut stream, Duration::from_secs(3));
    assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"prompt\":{}1{}}}", open.repeat(8_000), close.repeat(8_000));
        let (status, body) = server.send("POST", COMPLETIONS, deep.into_bytes());
        assert_eq!((status, body["error"]["code"].as_str()), (400, Some("invalid_json")), "{body}");
    }
    assert_eq!(server.post(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 1})).0, 200);
}

/// If this fails, prompts or keys can be read by whoever reads the logs.
#[test]
fn nothing_secret_is_written_down() {
    let (keys, model) = (Keys::new(), tiny_model());
    let secret = keys.add("alice", &[Scope::Completions, Scope::Chat], Limits { tokens_per_minute: Some(100_000), ..Limits::default() });
    let key = bearer(&secret);
    let path = |name: &str| keys.dir.path().join(name);
    let (access, prompts, stderr) = (path("access.jsonl"), path("prompts.jsonl"), path("stderr"));
    const PROMPT: &str = "xyzzy plugh";
    let ask = |process: &Process| {
        for (headers, body) in [
            (vec![("authorization", key.as_str())], json!({"prompt": PROMPT, "max_tokens": 3}).to_string()),
            (vec![("authorization", key.as_str())], json!({"prompt": PROMPT, "temperature": PROMPT}).to_string()),
            (vec![("authorization", key.as_str())], format!("{{\"prompt\": \"{PROMPT}\", ")),
            (vec![("authorization", "Bearer sk-llm-wrong-but-close")], json!({"prompt": PROMPT}).to_string()),
            (vec![("x-api-key", secret.as_str())], json!({"prompt": PROMPT, "stream": true, "max_tokens": 2}).to_string()),
        ] {
            call(&process.url, "POST", COMPLETIONS, &headers, &body);
        }
        call(&process.url, "GET", &format!("/v1/models?api_key={secret}"), &[("authorization", &key)], "");
    };
    let flags = ["--keys", keys.file.to_str().unwrap(), "--log-format", "json", "--log-file", access.to_str().unwrap()];
    let process = Process::start(model.path(), stderr.clone(), &flags);
    ask(&process);
    process.signal("TERM");
    eventually("lines of all requests", Duration::from_secs(10), || std::fs::read_to_string(&access).unwrap().lines().count() == 6);
    drop(process);
    let mut written = Vec::new();
    for entry in std::fs::read_dir(keys.dir.path()).unwrap() {
        written.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    for needle in [PROMPT, &secret[7..], "wrong-but-close"] {
        assert!(!written.windows(needle.len()).any(|w| w == needle.as_bytes()), "`{needle}` was written down");
    }
    // Prompts only where the operator asked for them, and keys not even there.
    let flags = ["--keys", keys.file.to_str().unwrap(), "--log-prompts", prompts.to_str().unwrap()];
    let process = Process::start(model.path(), stderr.clone(), &flags);
    ask(&process);
    let text = std::fs::read_to_string(&prompts).unwrap();
    assert!(text.contains(PROMPT) && !text.contains(&secret[7..]), "{text}");
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((first["key"].as_str(), first["body"]["prompt"].as_str()), (Some("alice"), Some(PROMPT)));
    let stderr = std::fs::read_to_string(&stderr).unwrap();
    assert!(!stderr.contains(PROMPT) && !stderr.contains(&secret[7..]), "{stderr}");
    assert!(stderr.contains("key=alice"), "{stderr}");
}

/// If this fails, a few clients that do not read fill the memory.
#[test]
fn a_client_that_does_not_read_is_cut() {
    let server = TestServer::start_house(8, HouseConfig { write_timeout: Duration::from_millis(500), ..HouseConfig::default() });
    // 16 choices with 20 alternatives each: some 30 MB, more than the buffers of the network take.
    let body = json!({"messages": common::user("a"), "max_tokens": 900, "n": 16, "logprobs": true, "top_logprobs": 20, "stream": true}).to_string();
    let mut stream = connect(&server.url);
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).unwrap();
    eventually("the engine is free", Duration::from_secs(60), || server.get("/health").1["active_requests"] == 0);
    let text = call(&server.url, "GET", "/metrics", &[], "").text;
    assert!(metric(&text, "vllm:request_success_total", "finished_reason=\"abort\"") >= 1.0, "it was cut before its end\n{text}");
    assert_eq!(metric(&text, "llm_serve_kv_pages_used", ""), 0.0);
}

#[test]
fn web_pages_of_other_origins() {
    let house = HouseConfig { cors: vec!["https://chat.example.org".parse().unwrap()], ..HouseConfig::default() };
    let server = TestServer::start_house(4, house);
    let good = ("origin", "https://chat.example.org");
    let preflight = [good, ("access-control-request-method", "POST"), ("access-control-request-headers", "authorization,content-type")];
    let reply = call(&server.url, "OPTIONS", COMPLETIONS, &preflight, "");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, Some(good.1)));
    assert_eq!(reply.header("access-control-allow-headers"), Some("authorization,content-type"));
    let body = json!({"prompt": "a", "max_tokens": 1}).to_string();
    let reply = call(&server.url, "POST", COMPLETIONS, &[good], &body);
    assert_eq!((reply.status, reply.header("access-control-allow-origin"), reply.header("vary")), (200, Some(good.1), Some("origin")));
    let reply = call(&server.url, "POST", COMPLETIONS, &[("origin", "https://evil.example.org")], &body);
    assert_eq!(reply.header("access-control-allow-origin"), None);
    // Without --cors-origin nothing is said, and OPTIONS is a method like any other.
    let plain = TestServer::start();
    let reply = call(&plain.url, "OPTIONS", COMPLETIONS, &preflight, "");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (405, None));
}

#[test]
fn tls_with_the_certificate_of_the_files() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let files = TlsFiles { certificate: data.join("localhost.crt"), key: data.join("localhost.key") };
    let server = TestServer::start_house(4, HouseConfig { tls: Some(files.clone()), ..HouseConfig::default() });
    let address = server.url.trim_start_matches("http://").to_string();
    let get = |trusted: &Path| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio_rustls::rustls::pki_types::pem::PemObject;
        use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
        use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&std::fs::read(trusted).unwrap()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
            let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            // The server may close without TLS' own farewell.
            let _ = stream.read_to_string(&mut text).await;
            text
        })
    };
    let text = get(&files.certificate);
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("\"ok\""), "{text}");
    let (reply, _) = raw(&server.url, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", Duration::from_secs(5));
    assert!(!reply.contains("200"), "plain HTTP is not answered: {reply}");
    // Files that are none are known before the port is served.
    let model = tiny_model();
    let flags = ["--port", "0", "--tls-cert", files.key.to_str().unwrap(), "--tls-key", files.key.to_str().unwrap()];
    let (code, stderr) = common::run_binary(model.path(), &flags);
    assert!(code == Some(1) && stderr.contains("CERTIFICATE") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn settings_from_a_file() {
    let (model, dir) = (tiny_model(), tempfile::tempdir().unwrap());
    let file = dir.path().join("serve.toml");
    std::fs::write(&file, "max_batch = 2\nlog_format = \"json\"\ncors_origin = [\"*\"]\n").unwrap();
    let process = Process::start(model.path(), dir.path().join("stderr"), &["--config", file.to_str().unwrap(), "--log-format", "text"]);
    assert_eq!(call(&process.url, "GET", "/health", &[("origin", "http://a")], "").header("access-control-allow-origin"), Some("http://a"));
    eventually("a line", Duration::from_secs(5), || std::fs::read_to_string(&process.stderr).unwrap().contains("GET /health 200"));
    std::fs::write(&file, "max_bach = 2\n").unwrap();
    let (code, stderr) = common::run_binary(model.path(), &["--config", file.to_str().unwrap()]);
    assert!(code != Some(0) && stderr.contains("--max-bach") && stderr.contains("--max-batch"), "{stderr}");
}

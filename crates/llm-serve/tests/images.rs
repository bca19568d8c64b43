//! Images over real connections: the served answer is the library's, and nothing that a client sends as an image hurts anybody else.

mod common;

use common::seeing::{ask, data_url, file, image, png, text};
use common::{BODY_LIMIT, TestServer, library, seeing, split_reply};
use llm_infer::{Model, Request, Sampling};
use llm_serve::{AllowedHost, ImageLimits};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";

fn start(images: ImageLimits) -> TestServer {
    TestServer::start_model(seeing::model(), 8, Duration::from_secs(30), BODY_LIMIT, images)
}

/// What the library says to `before`, images, `after`.
fn answer(model: &Model, before: &str, files: &[&str], after: &str) -> (String, usize) {
    let image = model.vision.as_ref().unwrap().image_token_id();
    let mut prompt = model.tokenizer.encode(before);
    prompt.extend(files.iter().map(|_| image));
    prompt.extend(model.tokenizer.encode(after));
    let tokens = model.prompt_len(&prompt);
    let images = files.iter().map(|name| model.image(&file(name)).unwrap()).collect();
    let request = Request::new(prompt, Sampling { max_tokens: 12, ..Sampling::default() }).with_images(images);
    (split_reply(model, &library(model, vec![request])[0].tokens).1, tokens)
}

fn content(body: &Value) -> &Value {
    &body["choices"][0]["message"]["content"]
}

#[test]
fn the_served_answer_is_the_librarys() {
    let server = start(ImageLimits::default());
    let model = server.model();
    let mut answers = Vec::new();
    for (kind, name) in [("png", "image0.png"), ("png", "image1.png"), ("jpeg", "files/orientation6.jpg"), ("webp", "files/lossy.webp")] {
        let (expected, tokens) = answer(&model, "w5 w6", &[name], "w7");
        let request = ask(json!([text("w5 w6"), image(&data_url(kind, &file(name))), text("w7")]));
        let (status, body) = server.post(CHAT, &request);
        assert_eq!((status, content(&body)), (200, &json!(expected)), "{body}");
        // 3 words and the image's 16 tokens.
        assert_eq!((body["usage"]["prompt_tokens"].as_u64(), tokens), (Some(19), 19));
        let streamed: String =
            server.stream(CHAT, &request).filter_map(|e| e["choices"][0]["delta"]["content"].as_str().map(str::to_string)).collect();
        assert_eq!(streamed, expected);
        answers.push(expected);
    }
    assert!((1..4).all(|i| answers[i] != answers[0]), "the image makes no difference: {answers:?}");

    // Two images in their order, and the other way round; and text alone, on the same server.
    for files in [["image0.png", "image1.png"], ["image1.png", "image0.png"]] {
        let parts = json!([image(&data_url("png", &file(files[0]))), image(&data_url("png", &file(files[1]))), text("w9")]);
        let (_, body) = server.post(CHAT, &ask(parts));
        let (expected, tokens) = answer(&model, "", &files, "w9");
        assert_eq!((content(&body), &body["usage"]["prompt_tokens"]), (&json!(expected), &json!(tokens)));
    }
    let (_, body) = server.post(CHAT, &ask(json!("w5 <image> w7")));
    assert_eq!(body["usage"]["prompt_tokens"], 3, "text is no image: {body}");
    assert_eq!(server.get("/v1/models").1["data"][0]["input_modalities"], json!(["text", "image"]));
}

/// Status, code, param and words of a refusal.
fn refused(server: &TestServer, parts: Value) -> (u16, String, String, String) {
    let start = Instant::now();
    let (status, body) = server.post(CHAT, &ask(parts));
    assert!(start.elapsed() < Duration::from_secs(5), "{body} took {:?}", start.elapsed());
    let word = |name: &str| body["error"][name].as_str().unwrap_or_default().to_string();
    (status, word("code"), word("param"), word("message"))
}

#[test]
fn refusals_name_the_part() {
    let server = start(ImageLimits { max_bytes: 3000, max_images: 2, ..ImageLimits::default() });
    let good = file("files/rgb.png");
    let encoded = data_url("png", &good);
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    for (url, code, says) in [
        (data_url("png", &cut), "invalid_image", "damaged"),
        (data_url("png", &png(60_000, 60_000, 1000)), "invalid_image", "60000 x 60000"),
        (data_url("png", b"GIF89a......"), "invalid_image", "PNG, JPEG or WebP"),
        (data_url("png", b""), "invalid_image", "PNG, JPEG or WebP"),
        (data_url("jpeg", &good), "invalid_image", "PNG file"),
        (data_url("gif", &good), "invalid_image_url", "image/gif"),
        (encoded.replace("image/png", "text/html"), "invalid_image_url", "text/html"),
        (encoded.replace("base64,", "base64,*"), "invalid_base64_image", "base64"),
        (data_url("png", &[0; 3001]), "image_too_large", "3000"),
        (data_url("png", &[0; 30_000]), "image_too_large", "3000"),
        ("http://127.0.0.1/x.png".into(), "invalid_image_url", "--allow-image-host"),
        ("https://example.org/x.png".into(), "invalid_image_url", "TLS"),
        ("file:///etc/passwd".into(), "invalid_image_url", "data: URL"),
        ("x".repeat(40_000), "invalid_image_url", "URL"),
    ] {
        let (status, found, param, message) = refused(&server, json!([text("w1"), image(&url)]));
        let shown: String = url.chars().take(60).collect();
        assert_eq!((status, found.as_str(), param.as_str()), (400, code, "messages[0].content[1]"), "{shown}: {message}");
        assert!(message.contains(says) && message.len() < 400, "{shown}: {message}");
    }
    let (status, _, param, message) = refused(&server, json!([image(&encoded), text("w1"), image(&encoded), image(&encoded)]));
    assert_eq!((status, param.as_str()), (400, "messages[0].content[3]"), "{message}");
    let (status, code, ..) = refused(&server, json!([text(&"w1 ".repeat(100)), image(&encoded), image(&encoded)]));
    assert_eq!((status, code.as_str()), (400, "context_length_exceeded"), "100 words and two images of 16");
    // An id in a raw prompt stands for no image.
    let (status, body) = server.post("/v1/completions", &json!({"prompt": [5, 120, 6], "max_tokens": 2}));
    assert_eq!(status, 400, "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("1 image tokens"), "{body}");
    assert_eq!(server.post(CHAT, &ask(json!([image(&encoded), image(&encoded)]))).0, 200);
}

#[test]
fn a_model_without_eyes_says_so() {
    let server = TestServer::start();
    let (status, code, param, message) = refused(&server, json!([text("x"), image(&data_url("png", &file("files/rgb.png")))]));
    assert_eq!((status, code.as_str(), param.as_str()), (400, "unsupported_parameter", "messages[0].content[1]"));
    assert!(message.contains("text only"), "{message}");
    assert_eq!(server.get("/v1/models").1["data"][0]["input_modalities"], json!(["text"]));
}

/// A host that answers each path in its own way; counts nothing, and ends with the test.
fn image_host() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_string();
                let host = lines.by_ref().take_while(|l| !l.is_empty()).find_map(|l| l.to_lowercase().strip_prefix("host: ").map(str::to_string));
                let png = file("image0.png");
                let redirect =
                    |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes();
                let file = |bytes: &[u8]| {
                    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len()).as_bytes(), bytes].concat()
                };
                let answer = match path.as_str() {
                    "/ok.png?size=1" if host == Some(format!("127.0.0.1:{port}")) => file(&png),
                    "/moved" => redirect("/ok.png?size=1"),
                    "/moved-absolute" => redirect(&format!("http://127.0.0.1:{port}/ok.png?size=1")),
                    "/away" => redirect("http://127.0.0.1:1/ok.png"),
                    "/loop" => redirect("/loop"),
                    "/page" => file(b"<html>"),
                    "/large" => file(&vec![0; 100_000]),
                    "/endless" => {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                        while stream.write_all(&[0; 4096]).is_ok() {}
                        return;
                    }
                    "/silent" => {
                        let _ = stream.read(&mut [0; 1]);
                        return;
                    }
                    _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
                };
                let _ = stream.write_all(&answer);
            });
        }
    });
    port
}

#[test]
fn images_of_allowed_hosts_are_fetched_and_no_others() {
    let port = image_host();
    let allowed_hosts: Vec<AllowedHost> = vec![format!("127.0.0.1:{port}").parse().unwrap(), "localhost:1".parse().unwrap()];
    let server = start(ImageLimits { max_bytes: 50_000, allowed_hosts, fetch_timeout: Duration::from_secs(1), ..ImageLimits::default() });
    let expected = answer(&server.model(), "w5", &["image0.png"], "").0;
    for path in ["ok.png?size=1", "moved", "moved-absolute"] {
        let (status, body) = server.post(CHAT, &ask(json!([text("w5"), image(&format!("http://127.0.0.1:{port}/{path}"))])));
        assert_eq!((status, content(&body)), (200, &json!(expected)), "{path}: {body}");
    }
    for (path, says) in [
        ("away", "another place"),
        ("loop", "redirects more than"),
        ("page", "PNG, JPEG or WebP"),
        ("large", "larger than 50000"),
        ("endless", "larger than 50000"),
        ("silent", "too long"),
        ("nothing", "404"),
    ] {
        let (status, _, param, message) = refused(&server, json!([image(&format!("http://127.0.0.1:{port}/{path}"))]));
        assert_eq!((status, param.as_str()), (400, "messages[0].content[0]"), "{path}: {message}");
        assert!(message.contains(says), "{path}: {message}");
    }
    for (url, says) in [
        (format!("http://localhost:{port}/ok.png?size=1"), "not on this server's list"),
        (format!("http://127.0.0.1:{port}@127.0.0.1:1/"), "user name"),
        ("http://127.0.0.1:1/".into(), "not on this server's list"),
        ("http://localhost:1/".into(), "private network"),
    ] {
        let message = refused(&server, json!([image(&url)])).3;
        assert!(message.contains(says), "{url}: {message}");
    }
}

/// The program itself, so that its memory can be read.
#[cfg(target_os = "linux")]
#[test]
fn bombs_cost_neither_time_nor_memory() {
    let dir = seeing::model();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_llm-serve"))
        .args(["serve", "--device", "cpu", "--port", "0", "--model"])
        .arg(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.find_map(|l| l.strip_prefix("listening on ").map(str::to_string)).unwrap() + CHAT;
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
    };
    let post = |body: String| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.post(&url).send(body).map(|mut r| (r.status().as_u16(), r.body_mut().read_to_string().unwrap()))
    };
    let good = ask(json!([image(&data_url("png", &file("image0.png")))])).to_string();
    assert_eq!(post(good.clone()).unwrap().0, 200);
    let before = peak();
    let start = Instant::now();
    for (what, bytes) in [
        ("60k x 60k", png(60_000, 60_000, 1 << 20)),
        ("one line of 2^31", png(u32::MAX / 2, 1, 1 << 20)),
        ("28 x 28 that inflates to 1 GiB", png(28, 28, 1 << 30)),
        ("100 x 100 with nothing in it", png(100, 100, 0)),
    ] {
        for _ in 0..3 {
            let (status, body) = post(ask(json!([image(&data_url("png", &bytes))])).to_string()).unwrap();
            // Data behind the last row may be ignored, as other decoders do.
            assert!(status == 400 || what.starts_with("28"), "{what}: {status} {body}");
        }
        println!("{what}: {} kB, peak {} MB after {} MB", bytes.len() >> 10, peak(), before);
        assert!(peak() < before + 150, "{what}: {} MB, {before} before", peak());
    }
    // 12 MB of base64, more than an image may have; 100 MB, more than a request may have.
    let (status, body) = post(ask(json!([image(&format!("data:image/png;base64,{}", "A".repeat(12_000_000)))])).to_string()).unwrap();
    assert!(status == 400 && body.contains("image_too_large"), "{status} {body}");
    if let Ok((status, body)) = post(ask(json!([image(&format!("data:image/png;base64,{}", "A".repeat(100_000_000)))])).to_string()) {
        assert_eq!(status, 413, "{body}");
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(post(good).unwrap().0, 200, "the server is alive");
    println!("peak {} MB after {before} MB, {:?}", peak(), start.elapsed());
    assert!(peak() < before + 300, "{} MB, {before} before", peak());
    child.kill().unwrap();
    child.wait().unwrap();
}

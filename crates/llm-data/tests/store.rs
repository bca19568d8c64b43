//! Object stores: reading and writing through one that fails on purpose, and through a server that speaks S3.

mod common;

use common::Faulty;
use llm_data::read::format::RandomAccess;
use llm_data::store::{self, Location, Object, ObjectAccess, Outcome, Writer};
use object_store::memory::InMemory;
use std::io::{Read, Write};
use std::sync::Arc;

fn location(address: &str) -> Location {
    Location::parse(address).unwrap()
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn object(location: &Location) -> Object {
    store::stat(location).unwrap().unwrap()
}

/// The same behaviour from every kind of store.
fn contract(root: &str) {
    let at = |name: &str| location(&format!("{root}/{name}"));
    // Small objects: there or not, overwritten or not.
    assert!(store::get(&at("none")).unwrap().is_none() && store::stat(&at("none")).unwrap().is_none());
    store::put(&at("a/small"), "one").unwrap();
    store::put(&at("a/small"), "two").unwrap();
    assert_eq!(store::get(&at("a/small")).unwrap().unwrap(), "two");
    assert_eq!(store::create(&at("a/claim"), "first").unwrap(), Outcome::Created);
    assert_eq!(store::create(&at("a/claim"), "second").unwrap(), Outcome::Exists);
    assert_eq!(store::get(&at("a/claim")).unwrap().unwrap(), "first");
    let version = object(&at("a/small")).version;
    store::put(&at("a/small"), "three").unwrap();
    assert_ne!(object(&at("a/small")).version, version, "the version must change with the content");
    // A large one: several parts, read as a stream, in ranges, and by Parquet's interface.
    let bytes = pattern(20 << 20);
    let mut writer = Writer::create(&at("b/large")).unwrap();
    for piece in bytes.chunks(777_777) {
        writer.write_all(piece).unwrap();
        assert!(store::stat(&at("b/large")).unwrap().is_none(), "a part of the object is visible");
    }
    let written = writer.finish().unwrap();
    assert_eq!((written.bytes, written.blake3.as_str()), (bytes.len() as u64, llm_run::hash::bytes(&bytes).as_str()));
    let large = object(&at("b/large"));
    for range in [0..large.size, 5..6, 8 << 20..8 << 20, 1..9 << 20] {
        let mut read = Vec::new();
        store::open(&large, range.clone()).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    assert_eq!(store::get_range(&large.location, 100..300).unwrap(), bytes[100..300]);
    let access = ObjectAccess::new(large.clone());
    for (at, length) in [(2100, 50), (9 << 20, 50), ((8 << 20) - 10, 20), (0, 20 << 20), ((20 << 20) - 1, 1), (5, 0)] {
        assert!(access.read_at(at as u64, length).unwrap() == bytes[at..at + length], "{length} bytes at {at}");
    }
    assert!(access.read_at(large.size - 1, 2).is_err() && access.read_at(u64::MAX, 1).is_err());
    // An abandoned one leaves nothing.
    let mut writer = Writer::create(&at("b/abandoned")).unwrap();
    writer.write_all(&bytes[..9 << 20]).unwrap();
    drop(writer);
    assert!(store::stat(&at("b/abandoned")).unwrap().is_none());
    // Lists are sorted and leave hidden names out.
    store::put(&at("b/.hidden"), "x").unwrap();
    store::put(&at("b/deep/z"), "x").unwrap();
    let names = |list: Vec<Object>| list.into_iter().map(|o| o.relative).collect::<Vec<_>>();
    assert_eq!(names(store::list(&location(root)).unwrap()), ["a/claim", "a/small", "b/deep/z", "b/large"]);
    assert_eq!(names(store::list(&at("b")).unwrap()), ["deep/z", "large"]);
    assert_eq!(names(store::list(&at("b/large")).unwrap()), ["large"], "an object is its own list");
    assert!(store::list(&at("nowhere")).unwrap().is_empty());
    store::delete(&at("b/large")).unwrap();
    store::delete(&at("b/large")).unwrap();
    assert!(store::stat(&at("b/large")).unwrap().is_none());
}

#[test]
fn a_folder_and_memory_behave_the_same() {
    let dir = tempfile::tempdir().unwrap();
    contract(&dir.path().join("store").display().to_string());
    contract("memory://contract");
    let leftovers =
        std::fs::read_dir(dir.path().join("store/b")).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp-"));
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn a_store_that_fails_a_third_of_the_time_behaves_the_same() {
    let faulty = Arc::new(Faulty::new(Arc::new(InMemory::new()), 0.33));
    store::register("memory://faulty", Arc::clone(&faulty) as _);
    contract("memory://faulty");
    for (kind, name) in ["429", "500", "timeout", "half of the bytes"].iter().enumerate() {
        assert!(faulty.failures[kind].load(std::sync::atomic::Ordering::SeqCst) > 0, "no {name} was tried; the test says nothing about it");
    }
}

#[test]
fn streams_read_in_large_requests_whatever_their_user_does() {
    let watched = Arc::new(Faulty::new(Arc::new(InMemory::new()), 0.0));
    store::register("memory://watched", Arc::clone(&watched) as _);
    let at = location("memory://watched/x");
    store::put(&at, pattern(40 << 20)).unwrap();
    let large = object(&at);
    let before = watched.reads[1].load(std::sync::atomic::Ordering::SeqCst);
    let mut reader = store::open(&large, 0..large.size).unwrap();
    let mut small = [0; 340];
    while reader.read(&mut small).unwrap() > 0 {}
    let requests = watched.reads[1].load(std::sync::atomic::Ordering::SeqCst) - before;
    assert_eq!(requests, 5, "40 MiB in blocks of 8 MiB");
}

#[test]
fn what_does_not_pass_is_an_error_that_names_the_object_and_says_what_to_do() {
    let inner = Arc::new(InMemory::new());
    store::register("memory://up", Arc::clone(&inner) as _);
    store::put(&location("memory://up/x/y"), "there").unwrap();
    store::register("memory://down", Arc::new(Faulty::new(inner, 2.0)));
    let error = store::get(&location("memory://down/x/y")).unwrap_err().to_string();
    assert!(error.contains("memory://down/x/y: cannot read") && error.contains("after 7 attempts"), "{error}");
    let missing = Object { location: location("memory://gone/x/y"), relative: "y".into(), size: 10, version: String::new() };
    let error = store::open(&missing, 0..10).unwrap().read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("memory://gone/x/y") && error.contains("no such object"), "{error}");
    let error = store::put(&Location::local("/proc/nowhere/x"), "x").unwrap_err().to_string();
    assert!(error.contains("/proc/nowhere"), "{error}");
}

/// A server that speaks S3 (moto, from PyPI: `pip install 'moto[server]'`), if there is one on the path.
struct Server {
    process: std::process::Child,
    port: u16,
}

impl Server {
    fn start() -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let quiet = std::process::Stdio::null;
        let process = std::process::Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .inspect_err(|e| println!("skipped: no moto_server on the path ({e}); pip install 'moto[server]'"))
            .ok()?;
        let server = Self { process, port };
        for _ in 0..600 {
            if server.request("GET", "/moto-api/").is_some() {
                return Some(server);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("moto_server does not answer");
    }

    fn request(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", self.port).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn s3_from_store_to_the_finished_stage() {
    let Some(server) = Server::start() else { return };
    assert!(server.request("PUT", "/bucket").unwrap().starts_with("HTTP/1.1 200"), "the bucket must be made");
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    // The library does so before it makes a client; this test makes its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let s3 = object_store::aws::AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_region("us-east-1")
        .with_endpoint(&endpoint)
        .with_allow_http(true)
        .with_access_key_id("test")
        .with_secret_access_key("test");
    store::register("s3://bucket", Arc::new(s3.build().unwrap()));
    contract("s3://bucket/contract");

    // The program itself, with the environment that users set; four ranks, against the same work on a disk.
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("crawl");
    std::fs::create_dir(&input).unwrap();
    for (name, range) in [("a.jsonl", 0..1500), ("b.jsonl", 1500..1700)] {
        let text = common::json_lines(range);
        std::fs::write(input.join(name), &text).unwrap();
        store::put(&location(&format!("s3://bucket/crawl/{name}")), text).unwrap();
    }
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "unit_bytes = 200000\n[[step]]\nkind = \"language\"\nlanguages = [\"de\", \"en\"]\n").unwrap();
    let run = |input: &str, out: &str, rank: &str, size: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_llm-data"))
            .args([
                "process",
                "--config",
                config.to_str().unwrap(),
                "--set",
                &format!("input=[\"{input}\"]"),
                "--out",
                out,
                "--rank",
                rank,
                "--world-size",
                size,
            ])
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT", &endpoint)
            .env("AWS_ALLOW_HTTP", "true")
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let local = dir.path().join("out");
    assert!(run(input.to_str().unwrap(), local.to_str().unwrap(), "0", "1").0);
    for rank in ["2", "0", "3", "1"] {
        let (success, errors) = run("s3://bucket/crawl", "s3://bucket/out", rank, "4");
        assert!(success, "{errors}");
    }
    let of = |kind: &str| {
        let objects = store::list(&location(&format!("s3://bucket/out/{kind}"))).unwrap();
        objects.into_iter().map(|o| (o.relative.clone(), store::get(&o.location).unwrap().unwrap().to_vec())).collect::<Vec<_>>()
    };
    for kind in ["documents", "dropped", "funnel.json", "dropped.jsonl"] {
        let remote: std::collections::BTreeMap<String, Vec<u8>> = of(kind).into_iter().collect();
        let here = local.join(kind);
        let here = if here.is_dir() { common::snapshot(&here) } else { [(kind.to_string(), std::fs::read(&here).unwrap())].into() };
        assert!(!here.is_empty() && common::difference(&remote, &here).is_empty(), "{kind} differs between S3 and the disk");
    }
    let (success, errors) = run("s3://nowhere/x", "s3://bucket/out2", "0", "1");
    assert!(!success && errors.contains("s3://nowhere") && errors.contains("no bucket"), "{errors}");
}

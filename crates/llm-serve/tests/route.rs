//! The router in front of stand-ins for servers: where requests go, and what happens when a server is full, dead or dies.

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use llm_serve::client::{Client, Events, Failure};
use llm_serve::route::balance::Bound;
use llm_serve::route::{Router, RouterConfig, health, service};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// How a stand-in answers `POST /v1/chat/completions`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Five events at once.
    Well,
    /// One event, then it waits for [`Fake::go_on`], then the rest.
    Slowly,
    /// One event and a half, then the connection ends.
    DiesInTheMiddle,
    /// Reads the request, then the connection ends.
    DiesBefore,
    /// A JSON reply that is cut.
    DiesInJson,
    /// 503.
    Full,
    /// 429 about the server.
    Overloaded,
    /// 429 about the caller.
    OverQuota,
}

/// Path, headers and body of a request.
type Seen = (String, Vec<(String, String)>, Bytes);

struct Fake {
    url: String,
    manner: Mutex<Manner>,
    asked: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    ready: AtomicBool,
    go_on: Notify,
    gone: Arc<Notify>,
}

impl Fake {
    async fn start(manner: Manner) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            manner: Mutex::new(manner),
            asked: AtomicUsize::new(0),
            seen: Mutex::default(),
            ready: AtomicBool::new(true),
            go_on: Notify::new(),
            gone: Arc::default(),
        });
        let is_ready = |State(fake): State<Arc<Fake>>| async move {
            if fake.ready.load(Ordering::SeqCst) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
        };
        let paths = axum::Router::new().route("/ready", get(is_ready)).fallback(answer).with_state(Arc::clone(&fake));
        tokio::spawn(axum::serve(listener, paths).into_future());
        fake
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn event(text: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}}]}))
}

/// Dropped when the client of the stand-in is gone.
struct Alarm(Arc<Notify>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

async fn answer(State(fake): State<Arc<Fake>>, request: Request) -> Response {
    fake.asked.fetch_add(1, Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect();
    fake.seen.lock().await.push((parts.uri.to_string(), headers, body));
    let manner = *fake.manner.lock().await;
    let refuse =
        |status, code: &str| (status, [(header::RETRY_AFTER, "7")], axum::Json(json!({"error": {"message": "no", "code": code}}))).into_response();
    match manner {
        Manner::Full => return refuse(StatusCode::SERVICE_UNAVAILABLE, "loading"),
        Manner::Overloaded => return refuse(StatusCode::TOO_MANY_REQUESTS, "overloaded"),
        Manner::OverQuota => return refuse(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota"),
        Manner::DiesBefore => panic!("a stand-in that dies before it answers"),
        _ => {}
    }
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(8);
    tokio::spawn(async move {
        let _alarm = Alarm(Arc::clone(&fake.gone));
        let die = || Err(std::io::Error::other("dead"));
        let first = if manner == Manner::DiesInJson { "{\"object\":".to_string() } else { event("one ") };
        let _ = sender.send(Ok(first.into())).await;
        match manner {
            Manner::Slowly => tokio::select! {
                () = fake.go_on.notified() => {}
                () = sender.closed() => return,
            },
            Manner::DiesInTheMiddle => {
                let _ = sender.send(Ok("data: {\"cho".into())).await;
                tokio::time::sleep(Duration::from_millis(30)).await;
                let _ = sender.send(die()).await;
                return;
            }
            Manner::DiesInJson => {
                tokio::time::sleep(Duration::from_millis(30)).await;
                let _ = sender.send(die()).await;
                return;
            }
            _ => {}
        }
        for text in ["two ", "three ", "four ", "five"] {
            let _ = sender.send(Ok(event(text).into())).await;
        }
        let _ = sender.send(Ok("data: [DONE]\n\n".into())).await;
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    match manner {
        Manner::DiesInJson => ([(header::CONTENT_TYPE, "application/json"), (header::CONTENT_LENGTH, "100")], body).into_response(),
        _ => ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response(),
    }
}

struct Front {
    client: Client,
    router: Arc<Router>,
}

async fn front(fakes: &[&Arc<Fake>], spill_after: usize) -> Front {
    let config = RouterConfig {
        upstreams: fakes.iter().map(|f| f.url.clone()).collect(),
        bound: Bound { factor: 1.25, spill_after },
        affinity_characters: 256,
        body_limit: 1 << 20,
    };
    let router = Arc::new(Router::new(config).unwrap());
    for upstream in &router.upstreams {
        upstream.set(health::ready(upstream).await);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(axum::serve(listener, service(Arc::clone(&router)).into_make_service_with_connect_info::<SocketAddr>()).into_future());
    Front { client, router }
}

fn question(text: &str) -> axum::http::Request<Bytes> {
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": text}]});
    axum::http::Request::post("/v1/chat/completions?x=1").header("Authorization", "Bearer key").body(Bytes::from(body.to_string())).unwrap()
}

#[derive(Debug)]
struct Got {
    status: u16,
    by: String,
    text: String,
    errors: Vec<Value>,
    done: bool,
    retry_after: Option<String>,
}

impl Front {
    async fn ask(&self, text: &str) -> Got {
        let mut reply = self.client.send(&question(text)).await.unwrap();
        let header = |name: &str| reply.head.headers.get(name).map(|v| v.to_str().unwrap().to_string());
        let (by, retry_after) = (header("x-served-by").unwrap_or_default(), header("retry-after"));
        let mut got = Got { status: reply.head.status.as_u16(), by, text: String::new(), errors: vec![], done: false, retry_after };
        let mut events = Events::default();
        while let Some(bytes) = reply.body.next().await {
            events.push(&bytes.unwrap(), |data| {
                if data == b"[DONE]" {
                    got.done = true;
                    return;
                }
                let value: Value = serde_json::from_slice(data).expect("only whole events are passed on");
                got.text.push_str(value["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
                got.errors.extend(value.get("error").cloned());
            });
        }
        got
    }

    async fn metric(&self, line: &str) -> bool {
        let page = self.client.send(&axum::http::Request::get("/metrics").body(Bytes::new()).unwrap()).await.unwrap();
        String::from_utf8(page.body.all(1 << 20).await.unwrap()).unwrap().lines().any(|l| l == line)
    }
}

const ALL: &str = "one two three four five";

#[tokio::test]
async fn a_conversation_stays_where_it_began_and_others_spread() {
    let (a, b, c) = (Fake::start(Manner::Well).await, Fake::start(Manner::Well).await, Fake::start(Manner::Well).await);
    let front = front(&[&a, &b, &c], 8).await;
    let mut used = HashSet::new();
    for conversation in 0..24 {
        let text = format!("conversation {conversation}");
        let first = front.ask(&text).await;
        assert_eq!((first.status, first.text.as_str(), first.done), (200, ALL, true));
        for _ in 0..2 {
            assert_eq!(front.ask(&text).await.by, first.by);
        }
        used.insert(first.by);
    }
    assert_eq!(used.len(), 3, "24 conversations and one server without any");
    assert!(front.metric("llm_route_choices_total{how=\"home\"} 72").await);
    // What the client sent arrives as it is, and who it is with it.
    let seen = a.seen.lock().await;
    let (path, headers, body) = &seen[0];
    assert_eq!(path, "/v1/chat/completions?x=1");
    assert!(headers.contains(&("authorization".into(), "Bearer key".into())) && headers.contains(&("x-forwarded-for".into(), "127.0.0.1".into())));
    assert!(headers.iter().any(|(name, value)| name == "host" && a.url.ends_with(value.as_str())));
    assert!(serde_json::from_slice::<Value>(body).unwrap()["stream"] == true);
}

#[tokio::test]
async fn a_hot_prefix_spills_over_and_streams_are_not_held_back() {
    let (a, b) = (Fake::start(Manner::Slowly).await, Fake::start(Manner::Slowly).await);
    let front = Arc::new(front(&[&a, &b], 2).await);
    let mut replies = Vec::new();
    for _ in 0..4 {
        let mut reply = front.client.send(&question("the same for everybody")).await.unwrap();
        // The first event is here although the server has not gone on.
        let first = reply.body.next().await.unwrap().unwrap();
        assert_eq!(first, event("one ").as_bytes());
        replies.push(reply);
    }
    let loads: Vec<_> = front.router.upstreams.iter().map(|u| u.load()).collect();
    assert_eq!(loads.iter().sum::<usize>(), 4);
    assert!(loads.iter().all(|&load| (1..=3).contains(&load)), "{loads:?}");
    assert!(front.metric("llm_route_choices_total{how=\"spilled\"} 2").await || front.metric("llm_route_choices_total{how=\"spilled\"} 1").await);
    for _ in 0..4 {
        a.go_on.notify_one();
        b.go_on.notify_one();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for reply in replies {
        let rest = String::from_utf8(reply.body.all(1 << 20).await.unwrap()).unwrap();
        assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    }
    assert!(front.router.upstreams.iter().all(|u| u.load() == 0), "a finished stream still counts");
}

#[tokio::test]
async fn what_dies_before_it_answers_is_asked_elsewhere_and_left_alone() {
    for manner in [Manner::DiesBefore, Manner::DiesInJson] {
        let (dead, well) = (Fake::start(manner).await, Fake::start(Manner::Well).await);
        let front = front(&[&dead, &well], 8).await;
        for i in 0..8 {
            let got = front.ask(&format!("question {i}")).await;
            assert_eq!((got.status, got.text.as_str(), got.errors.len()), (200, ALL, 0), "{manner:?}");
            assert!(well.url.ends_with(&got.by));
        }
        assert_eq!((dead.asked(), well.asked()), (1, 8), "{manner:?}: a server that died is asked again before it is found to be well");
    }
}

#[tokio::test]
async fn nobody_listening_is_no_error_for_the_client_while_another_serves() {
    let well = Fake::start(Manner::Well).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = Arc::new(Fake {
        url: format!("http://{}", taken.local_addr().unwrap()),
        manner: Mutex::new(Manner::Well),
        asked: AtomicUsize::new(0),
        seen: Mutex::default(),
        ready: AtomicBool::new(true),
        go_on: Notify::new(),
        gone: Arc::default(),
    });
    drop(taken);
    let front = front(&[&gone, &well], 8).await;
    // Even one that was ready a moment ago.
    front.router.upstreams[0].set(true);
    for i in 0..6 {
        front.router.upstreams[0].set(true);
        let got = front.ask(&format!("question {i}")).await;
        assert_eq!((got.status, got.text.as_str()), (200, ALL));
    }
    assert_eq!(well.asked(), 6);
    well.ready.store(false, Ordering::SeqCst);
    front.router.upstreams.iter().for_each(|u| u.set(false));
    let got = front.ask("anybody?").await;
    assert_eq!((got.status, got.retry_after.as_deref()), (503, Some("1")));
    assert!(front.metric("llm_route_unserved_total 1").await);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_and_is_never_begun_again() {
    let (a, b) = (Fake::start(Manner::DiesInTheMiddle).await, Fake::start(Manner::DiesInTheMiddle).await);
    let front = front(&[&a, &b], 8).await;
    let got = front.ask("question").await;
    assert_eq!((got.status, got.text.as_str()), (200, "one "), "what came before the break came once");
    assert_eq!(got.errors.len(), 1);
    assert_eq!(got.errors[0]["code"], "upstream_lost");
    assert!(!got.done);
    assert_eq!(a.asked() + b.asked(), 1, "a request whose answer had begun was sent again");
}

#[tokio::test]
async fn a_full_server_sends_the_request_on_but_not_a_caller_without_allowance() {
    for (manner, others, status) in [(Manner::Full, 4, 200), (Manner::Overloaded, 4, 200)] {
        let (full, well) = (Fake::start(manner).await, Fake::start(Manner::Well).await);
        let front = front(&[&full, &well], 8).await;
        for i in 0..4 {
            let got = front.ask(&format!("question {i}")).await;
            assert_eq!((got.status, got.text.as_str()), (status, ALL));
        }
        assert_eq!(well.asked(), others);
        assert!(full.asked() <= 1, "{manner:?}: asked again before its Retry-After");
    }
    let (a, b) = (Fake::start(Manner::OverQuota).await, Fake::start(Manner::OverQuota).await);
    let front = front(&[&a, &b], 8).await;
    let got = front.ask("question").await;
    assert_eq!((got.status, got.retry_after.as_deref()), (429, Some("7")));
    assert_eq!(a.asked() + b.asked(), 1, "a caller over its quota was helped to another server's");
}

#[tokio::test]
async fn when_all_are_full_the_client_gets_their_answer() {
    let (a, b) = (Fake::start(Manner::Overloaded).await, Fake::start(Manner::Overloaded).await);
    let front = front(&[&a, &b], 8).await;
    for _ in 0..2 {
        let got = front.ask("question").await;
        assert_eq!((got.status, got.retry_after.as_deref()), (429, Some("7")));
    }
    assert_eq!((a.asked(), b.asked()), (2, 2), "each is asked once for a request");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_at_the_server() {
    let fake = Fake::start(Manner::Slowly).await;
    let front = front(&[&fake], 8).await;
    let mut reply = front.client.send(&question("long")).await.unwrap();
    assert!(reply.body.next().await.is_some());
    assert_eq!(front.router.upstreams[0].load(), 1);
    drop(reply);
    tokio::time::timeout(Duration::from_secs(5), fake.gone.notified()).await.expect("the server still works for a client that has left");
    while front.router.upstreams[0].load() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_ready_gets_nothing_and_is_found_again() {
    let (a, b) = (Fake::start(Manner::Well).await, Fake::start(Manner::Well).await);
    let front = front(&[&a, &b], 8).await;
    front.router.upstreams.iter().for_each(|u| drop(tokio::spawn(health::watch(Arc::clone(u), Duration::from_millis(20)))));
    let until = |up: bool| {
        let upstream = Arc::clone(&front.router.upstreams[0]);
        async move {
            let waiting = async {
                while upstream.up() != up {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the check does not see the change");
        }
    };
    a.ready.store(false, Ordering::SeqCst);
    until(false).await;
    for i in 0..6 {
        assert_eq!(front.ask(&format!("question {i}")).await.status, 200);
    }
    assert_eq!((a.asked(), b.asked()), (0, 6));
    a.ready.store(true, Ordering::SeqCst);
    until(true).await;
    for i in 0..12 {
        assert_eq!(front.ask(&format!("question {i}")).await.status, 200);
    }
    assert!(a.asked() > 0);
}

#[tokio::test]
async fn adapters_are_not_loaded_at_random() {
    let fake = Fake::start(Manner::Well).await;
    let front = front(&[&fake], 8).await;
    let request = axum::http::Request::post("/v1/load_lora_adapter").body(Bytes::from("{}")).unwrap();
    let reply: Result<_, Failure> = front.client.send(&request).await;
    assert_eq!((reply.unwrap().head.status.as_u16(), fake.asked()), (501, 0));
}

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    route: llm_serve::route::RouteArgs,
}

#[tokio::test]
async fn a_router_that_is_told_to_stop_finishes_what_it_has_begun() {
    let fake = Fake::start(Manner::Slowly).await;
    let flags = <Flags as clap::Parser>::try_parse_from(["route", "--port", "0", "--upstream", &fake.url]).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (up, address) = tokio::sync::oneshot::channel();
    let ready = move |address, ready, all| {
        let _ = up.send((address, ready, all));
    };
    let running = tokio::spawn(flags.route.run(ready, async {
        let _ = stopped.await;
    }));
    let (address, ready, all): (SocketAddr, usize, usize) = address.await.unwrap();
    assert_eq!((ready, all), (1, 1));
    let client = Client::new(&format!("http://{address}")).unwrap();
    let mut reply = client.send(&question("last")).await.unwrap();
    assert!(reply.body.next().await.is_some());
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!running.is_finished(), "it ended in the middle of an answer");
    assert!(Client::new(&format!("http://{address}")).unwrap().send(&question("too late")).await.is_err());
    fake.go_on.notify_one();
    let rest = String::from_utf8(reply.body.all(1 << 20).await.unwrap()).unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("it must end with its last answer").unwrap().unwrap();
}

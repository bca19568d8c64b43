//! Connections: from the listening port to the router, with a bound on everything that a client can hold on to.
//!
//! hyper refuses what could be understood in two ways (RFC 9112, section 6.3): differing lengths, lengths that are no numbers, transfer
//! codings other than chunked. A request with both a length and chunks is read as chunks and its connection is closed behind the reply, so
//! nothing that follows is taken for a second request.

use crate::house::House;
use crate::metrics::catalogue::Reason;
use crate::stall::Stalling;
use crate::tls::Tls;
use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// The answer when there are too many connections.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// After an error of the port that waiting may cure, such as no free file descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Bounds of connections.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// For the head of a request, and between two requests.
    pub header_timeout: Duration,
    /// For a client that does not read.
    pub write_timeout: Duration,
    /// Open at the same time.
    pub connections: usize,
}

/// What serves a port.
pub struct Acceptor {
    /// What answers.
    pub router: Router,
    /// The rules.
    pub house: Arc<House>,
    /// Encryption.
    pub tls: Option<Tls>,
    /// Bounds.
    pub bounds: Bounds,
}

impl Acceptor {
    /// Serve until `closing` is true; then let every connection end the request it is in.
    pub async fn run(self, listener: TcpListener, mut closing: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.bounds.connections.max(1)));
        let shared = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = closed(&mut closing) => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !of_one_connection(&error) {
                        eprintln!("accept: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                shared.house.metrics.refused(Reason::Connections);
                let _ = stream.try_write(FULL);
                continue;
            };
            let (shared, closing) = (Arc::clone(&shared), closing.clone());
            connections.spawn(async move {
                let _place = place;
                shared.house.metrics.connections.add(1.0);
                shared.connection(stream, peer, closing).await;
                shared.house.metrics.connections.add(-1.0);
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, closing: watch::Receiver<bool>) {
        // Tokens are small; without this the network holds them back for a while to send several.
        let _ = stream.set_nodelay(true);
        let stream = Stalling::new(stream, self.bounds.write_timeout);
        match &self.tls {
            None => self.http(stream, peer, closing).await,
            Some(tls) => {
                // Who speaks no TLS, or not in time, gets no answer: there is none that it would understand.
                if let Ok(Ok(stream)) = tokio::time::timeout(self.bounds.header_timeout, tls.acceptor().accept(stream)).await {
                    self.http(stream, peer, closing).await;
                }
            }
        }
    }

    async fn http(&self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr, mut closing: watch::Receiver<bool>) {
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.call(request)
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.bounds.header_timeout);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        // Errors are those of the client: it left, it was too slow, or it spoke no HTTP (and was told so).
        tokio::select! {
            _ = connection.as_mut() => {}
            () = closed(&mut closing) => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

/// Resolves when the server ends.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the server.
    let _ = closing.wait_for(|&closing| closing).await;
}

/// The error belongs to a client that is gone already.
fn of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

//! The flags of `route`, and how the program runs: listen, watch the replicas, drain.

use super::balance::Bound;
use super::health;
use super::proxy::{Router, RouterConfig, service};
use crate::error::Error;
use anyhow::{Context, anyhow, ensure};
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Flags of `route`.
#[derive(Debug, Clone, clap::Args)]
pub struct RouteArgs {
    /// A server to send requests to, for example http://10.0.0.7:8080 (repeatable).
    #[arg(long = "upstream", value_name = "URL", required = true)]
    upstreams: Vec<String>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 picks a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Characters at the start of a prompt that decide which server it goes to; 0: always the least loaded.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    affinity_chars: usize,
    /// A server takes at most this many times the mean of requests under way; what is beyond goes elsewhere.
    #[arg(long, value_name = "X", default_value_t = 1.25)]
    load_factor: f64,
    /// Requests that a server may have before that bound counts: what it answers in one batch without anybody noticing.
    #[arg(long, value_name = "N", default_value_t = 8)]
    spill_after: usize,
    /// Seconds between two questions whether a server is ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    health_seconds: f64,
    /// Largest request body, in bytes.
    #[arg(long, value_name = "N", default_value_t = 64 << 20)]
    max_body_bytes: usize,
    /// After Ctrl-C or SIGTERM, running replies have this long to finish.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    drain_seconds: u64,
}

impl RouteArgs {
    /// Serve until `shutdown`, then drain. `ready` gets the address, and how many of how many replicas are ready.
    pub async fn run(self, ready: impl FnOnce(SocketAddr, usize, usize), shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        ensure!(self.load_factor >= 1.0 && self.load_factor.is_finite(), "--load-factor {}: must be at least 1", self.load_factor);
        ensure!(self.health_seconds >= 0.01 && self.health_seconds < 1e6, "--health-seconds {}: must be at least 0.01", self.health_seconds);
        let config = RouterConfig {
            upstreams: self.upstreams,
            bound: Bound { factor: self.load_factor, spill_after: self.spill_after },
            affinity_characters: self.affinity_chars,
            body_limit: self.max_body_bytes,
        };
        let router = Arc::new(Router::new(config).map_err(|e| anyhow!("--upstream {e}"))?);
        let listener =
            TcpListener::bind((self.host.as_str(), self.port)).await.with_context(|| format!("cannot listen on {}:{}", self.host, self.port))?;
        let address = listener.local_addr().context("cannot read the address")?;
        let interval = Duration::from_secs_f64(self.health_seconds);
        // The first round is waited for: a request that comes right after the start finds its replica.
        let first: Vec<_> = router.upstreams.iter().cloned().map(|u| tokio::spawn(async move { u.set(health::ready(&u).await) })).collect();
        for check in first {
            check.await.context("a health check panicked")?;
        }
        let watchers: Vec<_> = router.upstreams.iter().cloned().map(|u| tokio::spawn(health::watch(u, interval))).collect();

        let (drain, draining) = oneshot::channel::<()>();
        let paths = service(Arc::clone(&router)).into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(listener, paths).with_graceful_shutdown(async {
            let _ = draining.await;
        });
        let mut server = pin!(server.into_future());
        ready(address, router.upstreams.iter().filter(|u| u.up()).count(), router.upstreams.len());
        let ended = tokio::select! {
            ended = &mut server => ended,
            () = shutdown => {
                router.draining.store(true, Ordering::Relaxed);
                let _ = drain.send(());
                match tokio::time::timeout(Duration::from_secs(self.drain_seconds), &mut server).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        let cut: usize = router.upstreams.iter().map(|u| u.load()).sum();
                        eprintln!("drain: {cut} request(s) were still running after {} s and were cut", self.drain_seconds);
                        Ok(())
                    }
                }
            }
        };
        watchers.iter().for_each(tokio::task::JoinHandle::abort);
        ended.map_err(|e| Error::Io(e).into())
    }
}

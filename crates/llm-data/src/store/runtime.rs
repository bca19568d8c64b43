//! The small asynchronous runtime under the blocking interface: two threads that wait for the network.

use crate::error::{Error, Result};
use std::future::Future;
use std::sync::LazyLock;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

static RUNTIME: LazyLock<Result<Runtime, String>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).thread_name("store").enable_all().build().map_err(|e| e.to_string()));

fn runtime() -> Result<&'static Runtime> {
    RUNTIME.as_ref().map_err(|e| Error::Config(format!("cannot start the threads that read object stores ({e}); raise the limit of threads")))
}

/// Wait for a future on the calling thread.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output> {
    Ok(runtime()?.block_on(future))
}

/// Start a future and go on.
pub(super) fn spawn<F>(future: F) -> Result<JoinHandle<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Ok(runtime()?.spawn(future))
}

/// The cryptography of TLS connections, once per process; one that was installed before stays.
#[cfg(feature = "cloud")]
pub(super) fn install_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

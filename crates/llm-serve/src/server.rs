//! From a configuration to a server that runs, and ends, in order.
//!
//! The port is taken first (a port in use is known at once), `/health` answers 503 while the model loads, and on shutdown
//! no new connection is accepted while replies under way run to their end, for at most `drain`.

use crate::adapters::Adapters;
use crate::app::{App, Served, now};
use crate::defaults::Defaults;
use crate::error::{Error, Result};
use crate::images::{Eyes, ImageLimits, ImageLoader};
use crate::routes::router;
use crate::worker::Worker;
use llm_infer::grammar::Grammars;
use llm_infer::{Engine, EngineConfig, Model};
use llm_tensor::DeviceSpec;
use llm_tokenizer::Tokenizer;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long replies that were cut at the deadline have to be told so.
const CUT_GRACE: Duration = Duration::from_secs(2);

/// What to serve, and where.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Model folder in Hugging Face layout.
    pub model: PathBuf,
    /// Name in the API; `None` = the model's own.
    pub served_model_name: Option<String>,
    /// Host name or address to listen on.
    pub host: String,
    /// 0 = any free port.
    pub port: u16,
    /// Where the model runs.
    pub device: DeviceSpec,
    /// Engine limits.
    pub engine: EngineConfig,
    /// How long running replies may take after a shutdown was asked for.
    pub drain: Duration,
    /// Largest request body in bytes, images not counted.
    pub body_limit: usize,
    /// Bounds of images, for a model that sees.
    pub images: ImageLimits,
    /// The directory that LoRA adapters may be loaded from at run time; `None`: from nowhere.
    pub adapters: Option<PathBuf>,
}

/// 8 MiB: a prompt of two million tokens. Images come on top.
pub const DEFAULT_BODY_LIMIT: usize = 8 << 20;

/// A server that holds its port.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ServerConfig,
}

/// What is known once the model is loaded.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name in the API.
    pub model: String,
    /// Prompt and reply together, in tokens.
    pub context: usize,
}

impl Server {
    /// Take the port.
    pub async fn bind(config: ServerConfig) -> Result<Self> {
        let resolve = |cause| Error::Resolve { host: config.host.clone(), port: config.port, cause };
        let address = tokio::net::lookup_host((config.host.as_str(), config.port)).await.map_err(resolve)?.next();
        let address = address.ok_or_else(|| resolve(std::io::Error::other("no address found")))?;
        let bind = |cause| Error::Bind { address, cause };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address, config })
    }

    /// Where it listens; with port 0, the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Load the model and serve until `shutdown`, then drain. `ready` is called once the model is loaded.
    pub async fn run(self, ready: impl FnOnce(&Ready), shutdown: impl Future<Output = ()>) -> Result<()> {
        let images = if Model::sees(&self.config.model) { self.config.images.body_bytes() } else { 0 };
        let app = Arc::new(App {
            body_limit: self.config.body_limit.saturating_add(images),
            images: ImageLoader::new(self.config.images.clone()),
            ..App::default()
        });
        let (drain, draining) = oneshot::channel::<()>();
        let service = router(Arc::clone(&app)).into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(self.listener, service).with_graceful_shutdown(async {
            // A dropped sender means that this function is returning: that is a reason to stop as well.
            let _ = draining.await;
        });
        let mut server = pin!(server.into_future());
        let mut shutdown = pin!(shutdown);

        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = &mut shutdown => return Ok(()),
            served = load(&self.config) => {
                let served = served?;
                let info = Ready { address: self.address, model: served.name.clone(), context: served.context };
                let _ = app.served.set(served);
                ready(&info);
            }
        }
        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = &mut shutdown => {}
        }
        let _ = drain.send(());
        let worker = app.served.get().map(|served| &served.worker);
        let outcome = tokio::time::timeout(self.config.drain, &mut server).await;
        let cut = worker.map_or(0, Worker::active);
        if let Some(worker) = worker {
            worker.stop();
        }
        match outcome {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                eprintln!("drain: {cut} request(s) were still running after {} s and were cut", self.config.drain.as_secs());
                let _ = tokio::time::timeout(CUT_GRACE, &mut server).await;
                Ok(())
            }
        }
    }
}

async fn load(config: &ServerConfig) -> Result<Served> {
    let defaults = Defaults::load(&config.model)?;
    let (dir, device) = (config.model.clone(), config.device);
    let describe = |model: &Model, engine: &Engine| {
        let eyes = model.vision.as_ref().map(Eyes::of);
        let (ends, hidden_size) = (model.eos_token_ids.clone(), model.decoder.config().hidden_size);
        (model.id.clone(), model.hash.clone(), model.tokenizer.clone(), eyes, engine.context_length(), ends, hidden_size)
    };
    let adapters = Adapters::new(config.adapters.as_deref())?;
    let (worker, (id, hash, tokenizer, eyes, context, ends, hidden_size)) =
        Worker::start(move || Ok(Model::load(&dir, &device)?), config.engine, describe).await?;
    let turn_ends = turn_ends(&tokenizer, &ends);
    Ok(Served {
        name: config.served_model_name.clone().unwrap_or(id),
        defaults,
        grammars: Grammars::new(&tokenizer, &turn_ends),
        turn_ends,
        adapters,
        hidden_size,
        tokenizer,
        eyes,
        context,
        fingerprint: format!("fp_{}", hash.chars().take(12).collect::<String>()),
        created: now(),
        worker,
        sequence: AtomicU64::new(0),
    })
}

/// What ends a turn in the families we read, and `ends`, which the model's own files name.
fn turn_ends(tokenizer: &Tokenizer, ends: &[u32]) -> Vec<u32> {
    let named = ["<|eot_id|>", "<|im_end|>", "<|eom_id|>"].iter().filter_map(|name| tokenizer.special_id(name));
    let mut all: Vec<u32> = tokenizer.eos_id().into_iter().chain(named).chain(ends.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

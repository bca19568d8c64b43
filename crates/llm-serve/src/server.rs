//! From a configuration to a server that runs, and ends, in order.
//!
//! The port is taken first (a port in use is known at once), `/ready` answers 503 while the model loads, and on shutdown replies under way
//! run to their end, for at most `drain`, while new requests get 503. Last, the ledger is written.

use crate::accept::{Acceptor, Bounds};
use crate::adapters::Adapters;
use crate::app::{App, Served, now};
use crate::defaults::Defaults;
use crate::error::{Error, Result};
use crate::house::{House, HouseConfig};
use crate::images::{Eyes, ImageLimits, ImageLoader};
use crate::routes::router;
use crate::tls::Tls;
use crate::worker::{Watch, Worker};
use llm_infer::grammar::Grammars;
use llm_infer::{Engine, EngineConfig, Model};
use llm_tensor::quant::Activations;
use llm_tensor::{DeviceSpec, device};
use llm_tokenizer::Tokenizer;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long replies that were cut at the deadline have to be told so.
const CUT_GRACE: Duration = Duration::from_secs(2);
/// How long the last rows of usage may take.
const LEDGER_GRACE: Duration = Duration::from_secs(10);

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
    /// Keys, limits, logs, TLS.
    pub house: HouseConfig,
    /// The directory that LoRA adapters may be loaded from at run time; `None`: from nowhere.
    pub adapters: Option<PathBuf>,
    /// Folder of a smaller model that guesses for the engine.
    pub draft: Option<PathBuf>,
    /// How matrices are kept and multiplied on the processor.
    pub matrices: Matrices,
}

/// How matrices are kept and multiplied on the processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Matrices {
    /// Dense ones in bfloat16: half the memory to hold and to read.
    pub keep_bf16: bool,
    /// Inputs of quantised ones; `None`: as their format has it, which is 8 bits for GGUF and floats for all others.
    pub activations: Option<Activations>,
}

impl Matrices {
    fn apply(self, model: &mut Model) {
        if self.keep_bf16 && device::is_cpu(&model.decoder.device()) {
            model.decoder.keep_bf16();
        }
        if let Some(activations) = self.activations {
            model.decoder.set_activations(activations);
        }
    }
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
    /// It speaks HTTPS.
    pub tls: bool,
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
        let Self { listener, address, config } = self;
        let images = if Model::sees(&config.model) { config.images.body_bytes() } else { 0 };
        let house = Arc::new(House::open(&config.house, config.engine.max_batch)?);
        let app = Arc::new(App {
            body_limit: config.body_limit.saturating_add(images),
            images: ImageLoader::new(config.images.clone()),
            house: Arc::clone(&house),
            ..App::default()
        });
        let tls = config.house.tls.clone().map(Tls::open).transpose()?;
        let reload = tls.clone().map(|tls| Abort(tokio::spawn(reload_on_hangup(tls))));
        if house.keys.is_none() && !address.ip().is_loopback() {
            eprintln!("warning: {address} can be reached from other machines and no key is asked for; see --keys");
        }
        let bounds = Bounds {
            header_timeout: config.house.header_timeout,
            write_timeout: config.house.write_timeout,
            connections: config.house.max_connections,
        };
        let acceptor = Acceptor { router: router(Arc::clone(&app)), house: Arc::clone(&house), tls, bounds };
        let (close, closing) = watch::channel(false);
        let mut serving = Abort(tokio::spawn(acceptor.run(listener, closing)));
        let mut shutdown = pin!(shutdown);

        tokio::select! {
            () = &mut shutdown => return Ok(()),
            served = load(&config, &house) => {
                let served = served?;
                let info = Ready { address, model: served.name.clone(), context: served.context, tls: reload.is_some() };
                let _ = house.model.set(served.name.clone());
                let _ = app.served.set(served);
                ready(&info);
            }
        }
        shutdown.await;
        house.drain();
        let worker = app.served.get().map(|served| &served.worker);
        let drained = tokio::time::timeout(config.drain, house.idle()).await.is_ok();
        let cut = worker.map_or(0, Worker::active);
        if let Some(worker) = worker {
            worker.stop();
        }
        if !drained {
            eprintln!("drain: {cut} request(s) were still running after {} s and were cut", config.drain.as_secs());
            let _ = tokio::time::timeout(CUT_GRACE, house.idle()).await;
        }
        // Connections write out what they hold; those that wait for a request end at once.
        let _ = close.send(true);
        let _ = tokio::time::timeout(CUT_GRACE, &mut serving.0).await;
        if let Some(ledger) = house.ledger.clone() {
            let _ = tokio::task::spawn_blocking(move || ledger.close(LEDGER_GRACE)).await;
        }
        Ok(())
    }
}

/// A task that ends with its owner.
struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// SIGHUP: the certificate was renewed.
async fn reload_on_hangup(tls: Tls) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => return eprintln!("tls: SIGHUP cannot be caught: {error}"),
        };
        while hangups.recv().await.is_some() {
            match tls.reload() {
                Ok(()) => eprintln!("tls: the certificate was read again"),
                Err(error) => eprintln!("tls: the old certificate stays: {error}"),
            }
        }
    }
    #[cfg(not(unix))]
    drop(tls);
}

async fn load(config: &ServerConfig, house: &House) -> Result<Served> {
    let defaults = Defaults::load(&config.model)?;
    let (dir, device, draft, matrices) = (config.model.clone(), config.device, config.draft.clone(), config.matrices);
    let open = move |dir: &Path| -> Result<Model> {
        let mut model = Model::load(dir, &device)?;
        matrices.apply(&mut model);
        Ok(model)
    };
    let model = move || {
        let model = open(&dir)?;
        Ok(match draft {
            Some(dir) => model.with_draft(open(&dir)?),
            None => model,
        })
    };
    let describe = |model: &Model, engine: &Engine| {
        let eyes = model.vision.as_ref().map(Eyes::of);
        let (ends, hidden_size) = (model.eos_token_ids.clone(), model.decoder.config().hidden_size);
        (model.id.clone(), model.hash.clone(), model.tokenizer.clone(), eyes, engine.context_length(), ends, hidden_size)
    };
    let adapters = Adapters::new(config.adapters.as_deref())?;
    let watch = Watch { metrics: Arc::clone(&house.metrics), hook: config.house.step_hook.clone() };
    let (worker, (id, hash, tokenizer, eyes, context, ends, hidden_size)) = Worker::start(model, config.engine, watch, describe).await?;
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

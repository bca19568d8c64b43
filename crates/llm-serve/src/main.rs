//! `llm-serve serve --model DIR`: serve a model folder over the OpenAI API.

use anyhow::Context;
use clap::{Parser, Subcommand};
use llm_infer::EngineConfig;
use llm_serve::bench::BenchArgs;
use llm_serve::route::RouteArgs;
use llm_serve::{AllowedHost, DEFAULT_BODY_LIMIT, ImageLimits, Ready, Server, ServerConfig};
use llm_tensor::DeviceSpec;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// OpenAI-compatible server.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model: POST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /health.
    Serve(ServeArgs),
    /// One address in front of several servers: conversations stay where their prefix is cached.
    Route(RouteArgs),
    /// Measure a server: throughput, time to first token, time between tokens, beside what the memory allows.
    Bench(BenchArgs),
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// Model folder: config.json, model.safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Name of the model in the API [default: the folder's name].
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Address to listen on; 0.0.0.0 is every interface, and there is no authentication.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 picks a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// auto, cpu, cuda[:N], vulkan[:N] or webgpu[:N].
    #[arg(long, default_value = "auto")]
    device: DeviceSpec,
    /// Requests that generate at the same time; more wait.
    #[arg(long, value_name = "N")]
    max_batch: Option<usize>,
    /// After Ctrl-C or SIGTERM, running replies have this long to finish.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_seconds: u64,
    /// Largest image file, in bytes.
    #[arg(long, value_name = "N", default_value_t = ImageLimits::default().max_bytes)]
    max_image_bytes: usize,
    /// Images in one request.
    #[arg(long, value_name = "N", default_value_t = ImageLimits::default().max_images)]
    max_images: usize,
    /// Fetch http images from this host (name or address, with :PORT if it is not 80); may be repeated. Without it, only data: URLs are taken.
    #[arg(long, value_name = "HOST")]
    allow_image_host: Vec<AllowedHost>,
}

fn main() -> ExitCode {
    llm_run::program::main(|| match Cli::parse().command {
        Command::Serve(args) => serve(args),
        Command::Route(args) => route(args),
        Command::Bench(args) => args.run(),
    })
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let mut engine = EngineConfig::default();
    if let Some(max_batch) = args.max_batch {
        anyhow::ensure!(max_batch > 0, "--max-batch must be at least 1");
        engine.max_batch = max_batch;
        engine.max_step_tokens = engine.max_step_tokens.max(max_batch);
    }
    let images =
        ImageLimits { max_bytes: args.max_image_bytes, max_images: args.max_images, allowed_hosts: args.allow_image_host, ..ImageLimits::default() };
    let config = ServerConfig {
        model: args.model,
        served_model_name: args.served_model_name,
        host: args.host,
        port: args.port,
        device: args.device,
        engine,
        drain: Duration::from_secs(args.drain_seconds),
        body_limit: DEFAULT_BODY_LIMIT,
        images,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let server = Server::bind(config).await?;
        let interrupts = Interrupts::catch().context("cannot catch Ctrl-C")?;
        server.run(announce, interrupts.first()).await?;
        Ok(())
    })
}

fn route(args: RouteArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let interrupts = Interrupts::catch().context("cannot catch Ctrl-C")?;
        let announce = |address, up, all| println!("{up} of {all} upstreams are ready\nlistening on http://{}", reachable(address));
        args.run(announce, interrupts.first()).await
    })
}

fn announce(ready: &Ready) {
    let url = format!("http://{}", reachable(ready.address));
    let body = serde_json::json!({"model": ready.model, "messages": [{"role": "user", "content": "What is 2 + 3?"}]}).to_string();
    println!("model {} (context {} tokens)", ready.model, ready.context);
    println!("listening on {url}");
    println!("curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{}'", body.replace('\'', r"'\''"));
}

/// "Every interface" is not an address one can connect to everywhere.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Ctrl-C and SIGTERM.
struct Interrupts {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Interrupts {
    #[cfg(unix)]
    fn catch() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(not(unix))]
    fn catch() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves at the first signal; a second one ends the process at once.
    async fn first(mut self) {
        self.next().await;
        eprintln!("shutting down: running replies may finish (again to stop at once)");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(i32::from(llm_run::program::EXIT_INTERRUPTED));
        });
    }
}

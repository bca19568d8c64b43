//! `llm-serve serve --model DIR`: serve a model folder over the OpenAI API. `llm-serve keys` and `llm-serve usage`: who may call, and who did.

mod flags;

mod engine_args;

use anyhow::Context;
use clap::{Parser, Subcommand};
use llm_serve::bench::BenchArgs;
use llm_serve::keys::command::KeysCommand;
use llm_serve::ledger::report::By;
use llm_serve::ledger::{database, report};
use llm_serve::route::RouteArgs;
use llm_serve::{AllowedHost, DEFAULT_BODY_LIMIT, ImageLimits, Ready, Server, ServerConfig, clock, keys, settings};
use llm_tensor::DeviceSpec;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Threads of work that would hold the network's threads up.
const BLOCKING_THREADS: usize = 32;

/// OpenAI-compatible server.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model over the OpenAI and Anthropic APIs.
    #[command(args_override_self = true)]
    Serve(Box<ServeArgs>),
    /// One address in front of several servers: conversations stay where their prefix is cached.
    Route(RouteArgs),
    /// Measure a server: throughput, time to first token, time between tokens, beside what the memory allows.
    Bench(Box<BenchArgs>),
    /// Print the OpenAPI document of everything served.
    Openapi,
    /// API keys: make, list, end and renew them.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Who used how many tokens.
    Usage(UsageArgs),
}

#[derive(Debug, clap::Args)]
struct UsageArgs {
    /// The file that `serve --keys` takes.
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// What the rows are.
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// From this day on (UTC), e.g. 2026-11-01 [default: all].
    #[arg(long, value_name = "DATE")]
    since: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// TOML file with these flags: max_queue = 64 is --max-queue 64. Flags of the command line win.
    // Read by `settings::expand`, before clap sees the flags.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model folder (config.json, model.safetensors, tokenizer.json) or GGUF file.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Name of the model in the API [default: the folder's name].
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Address to listen on; 0.0.0.0 is every interface (see --keys and --tls-cert).
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 picks a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// auto, cpu, cuda[:N], vulkan[:N] or webgpu[:N].
    #[arg(long, default_value = "auto")]
    device: DeviceSpec,
    #[command(flatten)]
    engine: engine_args::EngineArgs,
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
    /// LoRA adapters in this directory may be loaded and unloaded at run time (POST /v1/load_lora_adapter).
    #[arg(long, value_name = "DIR")]
    adapters: Option<PathBuf>,
    #[command(flatten)]
    rules: flags::Rules,
    #[command(flatten)]
    connections: flags::Connections,
    #[command(flatten)]
    logs: flags::Logs,
}

fn main() -> ExitCode {
    llm_run::program::main(run)
}

fn run() -> anyhow::Result<()> {
    let arguments = settings::expand(std::env::args_os().collect())?;
    match Cli::parse_from(arguments).command {
        Command::Serve(args) => serve(*args),
        Command::Route(args) => route(args),
        Command::Bench(args) => args.run(),
        Command::Openapi => {
            println!("{:#}", llm_serve::api::openapi::document());
            Ok(())
        }
        Command::Keys(command) => {
            print!("{}", keys::command::run(command)?);
            Ok(())
        }
        Command::Usage(args) => usage(&args),
    }
}

fn usage(args: &UsageArgs) -> anyhow::Result<()> {
    let since = match &args.since {
        Some(text) => clock::parse_date(text).with_context(|| format!("--since {text}: expected a date such as 2026-11-01"))?,
        None => i64::MIN,
    };
    let connection = database::open(&args.db)?;
    print!("{}", report::table(args.by, &report::usage(&connection, &args.db, args.by, since)?));
    Ok(())
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let images =
        ImageLimits { max_bytes: args.max_image_bytes, max_images: args.max_images, allowed_hosts: args.allow_image_host, ..ImageLimits::default() };
    let config = ServerConfig {
        model: args.model,
        served_model_name: args.served_model_name,
        host: args.host,
        port: args.port,
        device: args.device,
        engine: args.engine.config()?,
        drain: Duration::from_secs(args.drain_seconds),
        body_limit: DEFAULT_BODY_LIMIT,
        images,
        adapters: args.adapters,
        matrices: args.engine.matrices()?,
        draft: args.engine.draft_model,
        house: flags::house(args.rules, args.connections, args.logs),
    };
    // Threads for templates, tokenizers and grammars; more than the processors can use would only hold memory.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = connection_threads() {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.max_blocking_threads(BLOCKING_THREADS).enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let server = Server::bind(config).await?;
        let interrupts = Interrupts::catch().context("cannot catch Ctrl-C")?;
        server.run(announce, interrupts.first()).await?;
        Ok(())
    })
}

/// Threads that speak with clients: half of the processors. Two that take turns at every token cost a small machine a tenth of its throughput. None
/// is named where the environment names one for tokio.
fn connection_threads() -> Option<usize> {
    if std::env::var_os("TOKIO_WORKER_THREADS").is_some() {
        return None;
    }
    std::thread::available_parallelism().ok().map(|n| n.get().div_ceil(2))
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
    let url = format!("{}://{}", if ready.tls { "https" } else { "http" }, reachable(ready.address));
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

//! The flags of `serve` that are about who may call, how much, and what is written down.

use llm_serve::HouseConfig;
use llm_serve::access::{LogConfig, LogFormat};
use llm_serve::cors::Origin;
use llm_serve::tls::TlsFiles;
use std::path::PathBuf;
use std::time::Duration;

/// Who may call, and how much.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Keys and limits")]
pub struct Rules {
    /// File of keys and usage (`llm-serve keys create`); without it everybody may call and nothing is counted.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Requests that may wait; more are answered with 429 and Retry-After.
    #[arg(long, value_name = "N", default_value_t = HouseConfig::default().max_queue)]
    max_queue: usize,
    /// Turn requests away that would wait longer, by the measured speed [default: no limit].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    max_wait: Option<Duration>,
    /// From a request's arrival to the end of its reply [default: no limit].
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    request_timeout: Option<Duration>,
}

/// Bounds of what a client can hold on to.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connections")]
pub struct Connections {
    /// For the head of a request, and between two requests.
    #[arg(long, value_name = "SECONDS", value_parser = positive, default_value = "30")]
    header_timeout: Duration,
    /// For the body of a request.
    #[arg(long, value_name = "SECONDS", value_parser = positive, default_value = "60")]
    body_timeout: Duration,
    /// A client that reads nothing for so long is cut.
    #[arg(long, value_name = "SECONDS", value_parser = positive, default_value = "60")]
    write_timeout: Duration,
    /// Open connections; more get 503.
    #[arg(long, value_name = "N", default_value_t = HouseConfig::default().max_connections)]
    max_connections: usize,
    /// Certificate chain (PEM); SIGHUP reads it again.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Origin whose web pages may call, e.g. https://chat.example.org, or * (repeatable).
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<Origin>,
}

/// What is written down.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logs and traces")]
pub struct Logs {
    /// Form of the access log.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// File of the access log [default: stderr].
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Write the bodies of requests into this file. Without it, prompts are written nowhere.
    #[arg(long, value_name = "FILE")]
    log_prompts: Option<PathBuf>,
    /// OpenTelemetry collector for traces (OTLP over HTTP), e.g. http://127.0.0.1:4318.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// All of them.
pub fn house(rules: Rules, connections: Connections, logs: Logs) -> HouseConfig {
    let tls = connections.tls_cert.zip(connections.tls_key).map(|(certificate, key)| TlsFiles { certificate, key });
    HouseConfig {
        keys: rules.keys,
        max_queue: rules.max_queue,
        max_wait: rules.max_wait,
        request_timeout: rules.request_timeout,
        header_timeout: connections.header_timeout,
        body_timeout: connections.body_timeout,
        write_timeout: connections.write_timeout,
        max_connections: connections.max_connections,
        tls,
        cors: connections.cors_origin,
        log: LogConfig { format: logs.log_format, file: logs.log_file },
        log_prompts: logs.log_prompts,
        otlp_endpoint: logs.otlp_endpoint,
        ..HouseConfig::default()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}`: expected a number of seconds");
    text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()).filter(|d| *d < Duration::from_secs(1 << 32)).ok_or_else(expected)
}

fn positive(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|d| if d.is_zero() { Err("must be more than 0".into()) } else { Ok(d) })
}

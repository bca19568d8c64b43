//! The flags of `bench`, and the order of things.

use super::ceiling::{Ceiling, Compute};
use super::load::{Bench, Load};
use super::report::{self, About};
use super::stats::{Limits, Point, Slo};
use super::target::{Started, Target, plain_ids};
use super::workload::{Source, Workload, read_dataset};
use anyhow::{Context, Result, ensure};
use llm_tokenizer::Tokenizer;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// A server that runs, for example http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", required_unless_present = "model", conflicts_with = "model")]
    url: Option<String>,
    /// A model folder: a server is started for the measurement, on a free port.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Device of the server that is started.
    #[arg(long, default_value = "auto", requires = "model")]
    device: String,
    /// With --url: the folder of the model that is served on this machine, for the ceiling and the vocabulary.
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    weights: Option<PathBuf>,
    /// Name of the model in requests [default: the first that the server lists].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// API key of the server; safer in the environment as LLM_API_KEY, because other users of the machine see flags.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Closed loop: so many streams at a time, one measurement for each [default: 1,4,16 if there is no --rate].
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    concurrency: Vec<usize>,
    /// Open loop: Poisson arrivals at so many requests a second, one measurement for each.
    #[arg(long, value_name = "X,X", value_delimiter = ',')]
    rate: Vec<f64>,
    /// Requests of a measurement [default: four for each stream and at least 8; for a rate, what comes in 30 seconds].
    #[arg(long, value_name = "N")]
    requests: Option<usize>,
    /// Tokens of a prompt.
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt_tokens: usize,
    /// Tokens of an answer; end tokens are ignored, so each has this length.
    #[arg(long, value_name = "N", default_value_t = 64)]
    output_tokens: usize,
    /// Conversations in place of random prompts: lines of JSON with "messages" and, if its own, "max_tokens".
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_tokens", "shared_prefix"])]
    dataset: Option<PathBuf>,
    /// Share of each prompt that all have in common, 0 to 1.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    shared_prefix: f64,
    /// Requests before the first measurement that do not count.
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: usize,
    /// Promise: milliseconds to the first token. Answers that keep all promises are goodput.
    #[arg(long, value_name = "MS")]
    slo_ttft: Option<u64>,
    /// Promise: milliseconds from token to token, the mean of an answer.
    #[arg(long, value_name = "MS")]
    slo_itl: Option<u64>,
    /// A request that takes longer has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Same seed, same prompts and arrivals.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write everything as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// More flags for the server that is started, behind `--`.
    #[arg(last = true, requires = "model", value_name = "FLAGS")]
    serve: Vec<String>,
}

/// Long enough that the rate is steady.
const PROMPTS_ALONE_SECONDS: f64 = 2.0;

impl BenchArgs {
    fn loads(&self) -> Result<Vec<Load>> {
        ensure!(self.concurrency.iter().all(|&n| (1..=4096).contains(&n)), "--concurrency: expected numbers from 1 to 4096");
        ensure!(self.rate.iter().all(|&r| r > 0.0 && r.is_finite()), "--rate: expected numbers above 0");
        ensure!(self.output_tokens > 0 && self.prompt_tokens > 0, "--prompt-tokens and --output-tokens must be at least 1");
        ensure!((0.0..=1.0).contains(&self.shared_prefix), "--shared-prefix {}: expected 0 to 1", self.shared_prefix);
        ensure!(self.requests != Some(0), "--requests must be at least 1");
        let default: &[usize] = if self.rate.is_empty() && self.concurrency.is_empty() { &[1, 4, 16] } else { &[] };
        let closed = self.concurrency.iter().chain(default).map(|&streams| Load::Closed { streams });
        Ok(closed.chain(self.rate.iter().map(|&rate| Load::Open { rate })).collect())
    }

    fn count(&self, load: Load) -> usize {
        self.requests.unwrap_or(match load {
            Load::Closed { streams } => (streams * 4).max(8),
            Load::Open { rate } => (rate * 30.0).ceil() as usize,
        })
    }

    /// Measure and report.
    pub fn run(self) -> Result<()> {
        let loads = self.loads()?;
        let folder = self.model.as_ref().or(self.weights.as_ref());
        // Before the server starts: its threads would share the bandwidth.
        let ceiling = folder.map(|dir| Ceiling::of(dir)).transpose()?;
        let started = match &self.model {
            Some(model) => {
                eprintln!("loading {} ...", model.display());
                Some(Started::new(model, &self.device, &self.serve)?)
            }
            None => None,
        };
        let url = started.as_ref().map(|s| s.url.clone()).or_else(|| self.url.clone()).context("neither --url nor --model")?;
        let key = self.api_key.clone().or_else(|| std::env::var("LLM_API_KEY").ok()).filter(|key| !key.is_empty());
        let target = Target::new(&url, key.as_deref())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")?;
        runtime.block_on(self.measure(&target, &loads, ceiling))
    }

    async fn measure(&self, target: &Target, loads: &[Load], ceiling: Option<Ceiling>) -> Result<()> {
        let model = target.model(self.name.clone()).await?;
        let folder = self.model.as_ref().or(self.weights.as_ref());
        let (source, asked) = match (&self.dataset, folder.filter(|dir| dir.is_dir())) {
            (Some(file), _) => {
                let rows = read_dataset(file)?;
                let asked = format!("{} conversations of {}, answers of {} tokens", rows.len(), file.display(), self.output_tokens);
                (Source::Messages(rows), asked)
            }
            (None, dir) => {
                let source = match dir {
                    Some(dir) => Source::Ids(plain_ids(&Tokenizer::load(dir).with_context(|| format!("{}: no tokenizer", dir.display()))?)),
                    None => Source::Words { per_token: target.words_per_token(&model).await? },
                };
                let shared = if self.shared_prefix > 0.0 { format!(", {:.0} % of them shared", self.shared_prefix * 100.0) } else { String::new() };
                (source, format!("prompts of {} random tokens{shared}, answers of {} tokens", self.prompt_tokens, self.output_tokens))
            }
        };
        let workload = Workload {
            model: Some(model.clone()),
            source,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            shared_prefix: self.shared_prefix,
            seed: self.seed,
        };
        let slo = Slo { ttft: self.slo_ttft.map(Duration::from_millis), itl: self.slo_itl.map(Duration::from_millis) };
        let mut about = About { model, url: target.client.base().to_string(), workload: asked, slo, ceiling, compute: None };
        print!("{}", report::head(&about));
        let bench = Bench {
            client: target.client.clone(),
            authorization: target.authorization.clone(),
            workload,
            timeout: Duration::from_secs(self.timeout),
        };
        let mut number = 0;
        if self.warmup > 0 {
            bench.run(Load::Closed { streams: self.warmup.min(4) }, self.warmup, number).await?;
            number += self.warmup as u64;
        }
        let compute = self.prompts_alone(&bench, loads, &mut number).await?;
        if let Some(compute) = compute {
            print!("{}", report::prompts_alone(compute));
        }
        about.compute = compute;
        let limits = Limits { steps_per_second: ceiling.map(|c| c.steps_per_second()), tokens_per_second: compute.map(|c| c.tokens_per_second) };
        let mut points = Vec::new();
        for &load in loads {
            let count = self.count(load);
            eprintln!("{} ({count} requests) ...", load.label());
            let records = bench.run(load, count, number).await?;
            number += count as u64;
            points.push(Point::of(load.label(), &records, slo, limits));
        }
        print!("{}", report::table(&points, slo));
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&report::json(&about, &points)).context("cannot write the report")?;
            std::fs::write(path, text + "\n").with_context(|| format!("{}: cannot write", path.display()))?;
        }
        ensure!(points.iter().any(|p| p.complete > 0), "no request was answered");
        Ok(())
    }

    /// Prompts as they will come, as many at a time as in the largest closed loop, with answers of one token: how much is computed at best.
    /// Not where prompts are not computed whole, or have no length of their own.
    async fn prompts_alone(&self, bench: &Bench, loads: &[Load], number: &mut u64) -> Result<Option<Compute>> {
        let streams = loads.iter().filter_map(|load| if let Load::Closed { streams } = load { Some(*streams) } else { None }).max();
        let Some(streams) = streams.filter(|_| self.dataset.is_none() && self.shared_prefix == 0.0) else { return Ok(None) };
        let mut bench = bench.clone();
        bench.workload.output_tokens = 1;
        let count = 4 * streams.max(2);
        let (mut tokens, mut seconds) = (0.0, 0.0);
        eprintln!("prompts alone ...");
        while seconds < PROMPTS_ALONE_SECONDS {
            let records = bench.run(Load::Closed { streams }, count, *number).await?;
            *number += count as u64;
            let point = Point::of(String::new(), &records, Slo::default(), Limits::default());
            tokens += point.prompt_tokens_per_second * point.seconds;
            seconds += point.seconds;
            if point.complete < count {
                return Ok(None);
            }
        }
        Ok(Some(Compute { tokens_per_second: tokens / seconds, streams }))
    }
}

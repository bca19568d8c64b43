//! `llm-train dial`: what `--depth N` or `--params 50M` would train, without training it.

use anyhow::{Context, Result, anyhow, bail};
use llm_arch::budget::{DEVICES, Device, Flops};
use llm_train::dial::{self, Data, Dial, Rate};
use llm_train::pretrain::PretrainConfig;
use llm_train::quantity::parse_count;
use serde_json::json;
use std::path::PathBuf;

/// Vocabulary and rows when nothing says otherwise.
const VOCABULARY: usize = 32_768;
const ROW: usize = 1024;

/// Arguments of `dial`.
#[derive(Debug, clap::Args)]
pub struct DialArgs {
    #[command(flatten)]
    dial: Dial,
    /// TOML configuration of `pretrain`; its tokenizer and shards are looked at.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override a configuration value (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Rows of the embedding table [default: the configuration's tokenizer, or 32768].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vocab_size: Option<u32>,
    /// Tokens of a row [default: the configuration's shards, or 1024].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sequence_length: Option<u32>,
    /// A known speed, for the time it takes (`llm-train bench` measures it).
    #[arg(long, value_name = "X", value_parser = parse_count, conflicts_with = "gpu")]
    tokens_per_second: Option<f64>,
    /// Or a device, e.g. H100.
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// How many of it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    gpus: u32,
    /// Share of its peak that training reaches.
    #[arg(long, default_value_t = 0.4)]
    mfu: f64,
    /// Print JSON.
    #[arg(long, conflicts_with = "toml")]
    json: bool,
    /// Print the settings as TOML for a configuration.
    #[arg(long)]
    toml: bool,
}

impl DialArgs {
    pub fn run(&self) -> Result<()> {
        let data = data(self.config.as_deref(), &self.sets, self.vocab_size, self.sequence_length)?;
        let (config, choice) = dial::load(self.config.as_deref(), &self.sets, self.dial, Some(data))?;
        let choice = choice.ok_or_else(|| anyhow!("give --depth N or --params N, for example --depth 12"))?;
        let rate = self.rate(&config, choice.sequence_length)?;
        if self.toml {
            print!("{}", choice.toml()?);
        } else if self.json {
            let seconds = rate.as_ref().map(|r| choice.recipe.tokens / r.tokens_per_second);
            println!("{}", serde_json::to_string_pretty(&json!({"choice": choice, "rate": rate, "seconds": seconds}))?);
        } else {
            print!("{}", choice.table(rate.as_ref()));
        }
        Ok(())
    }

    fn rate(&self, config: &PretrainConfig, length: usize) -> Result<Option<Rate>> {
        if let Some(tokens_per_second) = self.tokens_per_second {
            return Ok(Some(Rate { tokens_per_second, source: "as given".into() }));
        }
        let Some(name) = &self.gpu else { return Ok(None) };
        let device = Device::find(name).filter(|d| d.peak_flops.is_some()).ok_or_else(|| {
            let known: Vec<&str> = DEVICES.iter().filter(|d| d.peak_flops.is_some()).map(|d| d.name).collect();
            anyhow!("--gpu {name}: unknown; known are {}", known.join(", "))
        })?;
        if !(self.mfu > 0.0 && self.mfu <= 1.0) {
            bail!("--mfu {}: expected a share above 0, at most 1 (good training code reaches 0.3 to 0.5)", self.mfu);
        }
        let flops = device.peak_flops.unwrap_or(0.0) * self.mfu * f64::from(self.gpus);
        let source = format!("{} {} at {:.0} %", self.gpus, device.name, 100.0 * self.mfu);
        Ok(Some(Rate { tokens_per_second: flops / Flops::of(&config.model, length).training, source }))
    }
}

/// Vocabulary and rows from flags, from the configuration's files, or the usual ones.
pub fn data(file: Option<&std::path::Path>, sets: &[String], vocab_size: Option<u32>, sequence_length: Option<u32>) -> Result<Data> {
    let mut table = llm_run::config::table(file, sets)?;
    Dial::default().take(&mut table)?;
    let named = |key: &str| table.get(key).and_then(|v| v.as_str()).is_some_and(|path| !path.is_empty());
    let found = if named("tokenizer") && named("train") {
        let (config, _) = dial::choice::configure(table.clone(), "configuration", Dial::default(), None)?;
        Some(Data::of(&config).context("the configuration's data")?)
    } else {
        None
    };
    Ok(Data {
        vocab_size: vocab_size.map_or_else(|| found.as_ref().map_or(VOCABULARY, |d| d.vocab_size), |n| n as usize),
        sequence_length: sequence_length.map_or_else(|| found.as_ref().map_or(ROW, |d| d.sequence_length), |n| n as usize),
        tokens: found.and_then(|d| d.tokens),
    })
}

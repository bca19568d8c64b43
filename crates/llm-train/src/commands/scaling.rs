//! `llm-train scaling`: plan isoFLOP runs, fit scaling laws to runs.

use super::dial::data;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use llm_run::{Run, atomic, config};
use llm_train::dial::shape::Count;
use llm_train::dial::{Dial, choice};
use llm_train::quantity::{count, parse_count, power};
use llm_train::scaling::plan::sweep_toml;
use llm_train::scaling::points::{self, Reading};
use llm_train::scaling::{Fit, FitOptions, IsoFlops, report};
use serde_json::json;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum ScalingTask {
    /// Fit scaling laws (approaches 2 and 3 of Hoffmann et al. 2022) with intervals; writes fit.json, scaling.svg, scaling.html
    ///
    /// Example: llm-train scaling fit runs/study --out runs/fit --flops 1e18
    #[command(verbatim_doc_comment)]
    Fit(FitArgs),
    /// Write a sweep of isoFLOP runs: for each budget models of several sizes, each trained until it is spent
    ///
    /// Example: llm-train scaling plan --config base.toml --flops 1e15,3e15,1e16 --out sweep.toml
    #[command(verbatim_doc_comment)]
    Plan(PlanArgs),
}

/// What N counts.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Parameters {
    /// Those that multiply: all but table lookups.
    Matmul,
    /// All.
    All,
}

/// Arguments of `scaling fit`.
#[derive(Debug, Args)]
pub struct FitArgs {
    /// CSV or JSON lines with parameters, tokens, loss and optionally flops; run folders; a sweep's folder.
    #[arg(required = true, value_name = "POINTS")]
    points: Vec<PathBuf>,
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Budgets to divide, e.g. 1e20,1e21.
    #[arg(long, value_name = "C,..", value_delimiter = ',', value_parser = parse_count)]
    flops: Vec<f64>,
    /// Bootstrap replicas for the intervals; 0 is none.
    #[arg(long, value_name = "N", default_value_t = 400)]
    bootstrap: usize,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Loss of a run.
    #[arg(long, default_value = "val_loss")]
    metric: String,
    /// Which parameters of a run are N.
    #[arg(long, value_enum, default_value = "matmul")]
    parameters: Parameters,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `scaling plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Budgets, e.g. 1e15,3e15,1e16.
    #[arg(long, required = true, value_name = "C,..", value_delimiter = ',', value_parser = parse_count)]
    flops: Vec<f64>,
    /// Models for each budget.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..=100))]
    sizes: u32,
    /// The largest is so many times the middle, the smallest so many times below it.
    #[arg(long, value_name = "X", default_value_t = 4.0)]
    spread: f64,
    /// Tokens for each parameter in the middle.
    #[arg(long, value_name = "R", default_value = "20", value_parser = parse_count)]
    tokens_per_parameter: f64,
    /// Configuration that all runs start from.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override a value of it (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Rows of the embedding table [default: the configuration's tokenizer, or 32768].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vocab_size: Option<u32>,
    /// Tokens of a row [default: the configuration's shards, or 1024].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sequence_length: Option<u32>,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl ScalingTask {
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Fit(args) => args.run(),
            Self::Plan(args) => args.run(),
        }
    }
}

impl FitArgs {
    fn run(&self) -> Result<()> {
        let count = match self.parameters {
            Parameters::Matmul => Count::Matmul,
            Parameters::All => Count::All,
        };
        let points = points::read(&self.points, &Reading { metric: self.metric.clone(), count })?;
        let settings = json!({"points": self.points, "flops": self.flops, "bootstrap": self.bootstrap, "metric": self.metric});
        let mut run = Run::start(&self.out, "llm-train", "scaling fit", &settings)?;
        run.manifest.seed = Some(self.seed);
        for path in self.points.iter().filter(|path| path.is_file()) {
            run.input(path)?;
        }
        let fit = Fit::of(points, &FitOptions { bootstrap: self.bootstrap, seed: self.seed, targets: self.flops.clone() });
        let text = serde_json::to_string_pretty(&fit)?;
        atomic::write(run.path("fit.json"), &text)?;
        atomic::write(run.path("scaling.svg"), report::svg(&fit))?;
        atomic::write(run.path("scaling.html"), report::html(&fit))?;
        if self.json {
            println!("{text}");
        } else {
            print!("{}", report::text(&fit));
        }
        if fit.parametric.is_none() && fit.parabolas.is_none() {
            bail!("neither approach can be fitted to these points");
        }
        let exponent = |e: Option<f64>| e.map_or(serde_json::Value::Null, Into::into);
        run.finish(json!({
            "points": fit.points.len(),
            "surface": fit.parametric.as_ref().map(|p| p.surface),
            "size_exponent_3": exponent(fit.parametric.as_ref().map(|p| p.size_exponent.value)),
            "size_exponent_2": exponent(fit.parabolas.as_ref().map(|p| p.size_exponent.value)),
            "predictions": fit.predictions,
        }))?;
        Ok(())
    }
}

impl PlanArgs {
    fn run(&self) -> Result<()> {
        let data = data(self.config.as_deref(), &self.sets, self.vocab_size, self.sequence_length)?;
        let table = config::table(self.config.as_deref(), &self.sets)?;
        let (base, _) = choice::configure(table.clone(), "configuration", Dial::default(), Some(data.clone()))?;
        let given = |field: &str| table.get("model").and_then(|m| m.get(field)).is_some();
        let plan = IsoFlops {
            budgets: self.flops.clone(),
            sizes: self.sizes as usize,
            spread: self.spread,
            tokens_per_parameter: self.tokens_per_parameter,
            micro_batch_size: base.micro_batch_size,
        };
        let (runs, notes) = plan.runs(&base.model, &given, &data)?;
        println!("  {:<22}{:>12}{:>12}{:>10}{:>10}{:>12}", "run", "parameters", "tokens", "per par.", "steps", "FLOPs");
        for run in &runs {
            let ratio = format!("{:.1}", run.tokens / run.parameters);
            let steps = run.set.get("trainer.max_steps").map_or(String::new(), |v| v.to_string());
            println!("  {:<22}{:>12}{:>12}{ratio:>10}{steps:>10}{:>12}", run.name, count(run.parameters), count(run.tokens), power(run.flops));
        }
        notes.iter().for_each(|note| println!("  left out: {note}"));
        if runs.len() < 3 {
            bail!("fewer than three models can be built; choose larger budgets or a smaller vocabulary");
        }
        let total: f64 = runs.iter().map(|r| r.flops).sum();
        println!("  {} runs, {} FLOPs together", runs.len(), power(total));
        if let Some(tokens) = data.tokens {
            let most = runs.iter().map(|r| r.tokens).fold(0.0, f64::max) / tokens.max(1) as f64;
            if most > 4.0 {
                println!("  warning: the longest run passes {most:.1} times over the data; scaling laws are for fresh text");
            }
        }
        let file = self.config.as_deref().map(std::path::absolute).transpose().context("--config")?;
        let base = config::table(None, &self.sets)?;
        atomic::write(&self.out, sweep_toml(&runs, file.as_deref(), &base)?)?;
        Ok(())
    }
}

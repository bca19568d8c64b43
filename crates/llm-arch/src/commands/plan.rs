//! `llm-arch plan`: from a budget, a size, a text collection or a model to a training run.

use super::format::{count, days, flops, money, parse_count};
use anyhow::{Result, anyhow, bail};
use clap::{ArgGroup, Args};
use llm_arch::DecoderConfig;
use llm_arch::budget::chinchilla::{DEFAULT_CONTEXT, Run};
use llm_arch::budget::{Assumptions, DEVICES, Device, Goal, Plan};
use serde_json::json;

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("goal").required(true).args(["hours", "budget", "params", "tokens", "preset"])))]
pub struct PlanArgs {
    /// Given: hours on the GPUs; wanted: size and tokens.
    #[arg(long, value_parser = parse_count)]
    hours: Option<f64>,
    /// Given: money; wanted: size and tokens.
    #[arg(long, value_name = "DOLLARS", value_parser = parse_count)]
    budget: Option<f64>,
    /// Given: a size such as 124M; wanted: tokens, time, cost.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    params: Option<f64>,
    /// Given: so many tokens of text; wanted: size, time, cost.
    #[arg(long, value_name = "D", value_parser = parse_count)]
    tokens: Option<f64>,
    /// Given: a known model (its own FLOPs, attention included); wanted: tokens, time, cost.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// How many GPUs.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    gpus: u32,
    /// Which.
    #[arg(long, value_name = "NAME", default_value = "H100")]
    gpu: String,
    /// Dollars per GPU and hour.
    #[arg(long, default_value_t = 2.5)]
    price: f64,
    /// Share of the peak that training reaches.
    #[arg(long, default_value_t = 0.4)]
    mfu: f64,
    /// 20 is compute-optimal; more makes a smaller model that is cheaper to use.
    #[arg(long, value_name = "R", default_value_t = 20.0)]
    tokens_per_parameter: f64,
    /// Tokens of an optimiser step.
    #[arg(long, value_name = "TOKENS", default_value = "524288", value_parser = parse_count)]
    batch_tokens: f64,
    /// Tokens per row, for the attention of --preset [default: what it was made for, at most 4096].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl PlanArgs {
    pub fn run(&self) -> Result<()> {
        let a = self.assumptions()?;
        let ratio = self.tokens_per_parameter;
        let mut model = None;
        let plan = match (self.hours, self.budget, self.params, self.tokens, &self.preset) {
            (Some(hours), ..) => Plan::of(Goal::Compute(a.flops_in(hours)), ratio, &a),
            (_, Some(dollars), ..) => Plan::of(Goal::Compute(a.flops_for(dollars)), ratio, &a),
            (_, _, Some(n), ..) => Plan::of(Goal::Size(n), ratio, &a),
            (_, _, _, Some(d), _) => Plan::of(Goal::Tokens(d), ratio, &a),
            (.., Some(name)) => {
                let preset = super::preset(name)?;
                let config = preset.config();
                let context = self.context.map_or_else(|| config.max_position_embeddings.min(DEFAULT_CONTEXT), |c| c as usize);
                let plan = Plan::for_model(&config, context, ratio, &a);
                model = Some((preset.name, config, context));
                plan
            }
            _ => bail!("give one of --hours, --budget, --params, --tokens, --preset"),
        };
        if self.json {
            let model = model.as_ref().map(|(name, _, context)| json!({"preset": name, "context": context}));
            println!("{}", serde_json::to_string_pretty(&json!({"assumptions": a, "model": model, "plan": plan}))?);
        } else {
            self.print(&plan, &a, model.as_ref());
        }
        Ok(())
    }

    fn assumptions(&self) -> Result<Assumptions> {
        let device = *Device::find(&self.gpu).ok_or_else(|| {
            let known: Vec<&str> = DEVICES.iter().filter(|d| d.peak_flops.is_some()).map(|d| d.name).collect();
            anyhow!("--gpu {}: unknown; known are {}", self.gpu, known.join(", "))
        })?;
        if device.peak_flops.is_none() {
            bail!(
                "--gpu {}: its peak FLOP/s are not published, so there is nothing to take a share of; choose a device with a stated peak",
                device.name
            );
        }
        if !(self.mfu > 0.0 && self.mfu <= 1.0) {
            bail!("--mfu {}: expected a share above 0, at most 1 (good training code reaches 0.3 to 0.5)", self.mfu);
        }
        for (flag, value) in [("--price", self.price), ("--tokens-per-parameter", self.tokens_per_parameter)] {
            if !(value.is_finite() && value > 0.0) {
                bail!("{flag} {value}: expected a positive number");
            }
        }
        Ok(Assumptions { device, devices: self.gpus as usize, mfu: self.mfu, price: self.price, batch_tokens: self.batch_tokens })
    }

    fn print(&self, plan: &Plan, a: &Assumptions, model: Option<&(&str, DecoderConfig, usize)>) {
        let run = &plan.chosen;
        let peak = a.device.peak_flops.unwrap_or(0.0) / 1e12;
        let what = match (self.hours, self.budget, self.params, self.tokens) {
            (Some(h), ..) => format!("{} of training", days(h / 24.0)),
            (_, Some(d), ..) => format!("a budget of {}", money(d)),
            (_, _, Some(n), _) => format!("a model of {} parameters", count(n)),
            (_, _, _, Some(d)) => format!("{} tokens of text", count(d)),
            _ => model.map_or(String::new(), |m| m.0.to_string()),
        };
        println!("Plan for {what}");
        println!(
            "  {} x {} at {:.0} % of {peak:.0} TFLOP/s, {} per GPU-hour, {} tokens a step\n",
            a.devices,
            a.device.name,
            100.0 * a.mfu,
            money(a.price),
            count(a.batch_tokens)
        );
        println!("  {:<12} {:>14}   {}", "parameters", count(run.parameters), self.note(model));
        println!("  {:<12} {:>14}   {} per parameter", "tokens", count(run.tokens), short(run.tokens_per_parameter));
        println!("  {:<12} {:>14}", "steps", super::format::thousands(run.steps as usize));
        println!("  {:<12} {:>14}", "compute", flops(run.flops));
        println!("  {:<12} {:>14}   {} GPU-hours", "time", days(run.days), count(run.device_hours));
        println!("  {:<12} {:>14}\n", "cost", money(run.cost));
        println!("Over-trained alternatives{}", if run.loss.is_some() { " (loss: Chinchilla fit, nats; compare rows only)" } else { "" });
        println!("  {:>9} {:>9} {:>9} {:>10} {:>12} {:>11} {:>6}", "tok/param", "params", "tokens", "steps", "time", "cost", "loss");
        for r in &plan.alternatives {
            let mark = if (r.tokens_per_parameter / run.tokens_per_parameter - 1.0).abs() < 1e-9 { "*" } else { " " };
            println!("{mark} {}", row(r));
        }
        println!("\nNearest presets{}", if matches!(plan.goal, Goal::Compute(_)) { " for the same compute" } else { " on the same tokens" });
        println!("  {:<18} {:>9} {:>9} {:>10} {:>12}", "name", "active", "tokens", "tok/param", "time");
        for n in &plan.near {
            println!("  {:<18} {:>9} {:>9} {:>10} {:>12}", n.name, count(n.active), count(n.tokens), short(n.tokens_per_parameter), days(n.days));
        }
    }

    fn note(&self, model: Option<&(&str, DecoderConfig, usize)>) -> String {
        match model {
            Some((_, config, context)) if config.moe.is_some() => {
                format!("active; {} in all; rows of {context}", count(config.num_parameters() as f64))
            }
            Some((_, _, context)) => format!("rows of {context} tokens, attention counted"),
            None => "6 N D; attention is not counted".into(),
        }
    }
}

fn row(r: &Run) -> String {
    let loss = r.loss.map_or("-".to_string(), |l| format!("{l:.3}"));
    let steps = count(r.steps);
    format!(
        "{:>9} {:>9} {:>9} {steps:>10} {:>12} {:>11} {loss:>6}",
        short(r.tokens_per_parameter),
        count(r.parameters),
        count(r.tokens),
        days(r.days),
        money(r.cost)
    )
}

/// Whole numbers without decimals.
fn short(x: f64) -> String {
    if x >= 9.95 { super::format::thousands(x.round() as usize) } else { format!("{x:.1}") }
}

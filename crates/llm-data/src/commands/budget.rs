//! `llm-data budget --params 1.3B`: tokens, compute and disk of a training run, before it is started.

use anyhow::Result;
use llm_data::budget::{Quantity, budget};

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct BudgetArgs {
    /// Parameters of the model: 125M, 1.3B
    #[arg(long)]
    params: Quantity,
    /// Tokens to train on; without it 20 a parameter
    #[arg(long)]
    tokens: Option<Quantity>,
    /// Different tokens there are; more are taken by repetition
    #[arg(long)]
    unique: Option<Quantity>,
    /// Targets per row, for the size of the shards
    #[arg(long, default_value_t = 2048)]
    sequence_length: usize,
    /// Floating-point operations a second that the machines reach together, for the time: 4e14
    #[arg(long)]
    flops_per_second: Option<Quantity>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn human(value: f64) -> String {
    for (factor, unit) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")] {
        if value >= factor {
            return format!("{:.2} {unit}", value / factor);
        }
    }
    format!("{value:.0}")
}

/// Print the answer.
pub fn run(args: &BudgetArgs) -> Result<()> {
    if args.sequence_length == 0 {
        anyhow::bail!("--sequence-length must be at least 1");
    }
    let b = budget(args.params.0, args.tokens.map(|q| q.0), args.unique.map(|q| q.0), args.sequence_length);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&b)?);
        return Ok(());
    }
    println!("parameters           {:>12}", human(b.params));
    println!(
        "tokens               {:>12}   {:.1} a parameter; 20 a parameter are {}",
        human(b.tokens),
        b.tokens_per_param,
        human(b.chinchilla_tokens)
    );
    println!("compute              {:>12}   6 N D floating-point operations", format!("{:.2e}", b.flops));
    if let Some(speed) = args.flops_per_second {
        println!("time                 {:>12}   at {:.2e} operations a second", llm_run::progress::human_seconds(b.flops / speed.0), speed.0);
    }
    if let Some(unique) = b.unique_tokens {
        println!("different tokens     {:>12}   {:.2} passes", human(unique), b.epochs);
        println!(
            "worth                {:>12}   fresh tokens; at most {} by repetition",
            human(b.effective_tokens),
            human(b.most_effective_tokens.unwrap_or(unique))
        );
        if b.epochs > 4.0 {
            println!("                                   beyond four passes repetition is worth markedly less than fresh text");
        }
    }
    for fit in &b.fits {
        println!(
            "{:<17}   {:>12}   best for this compute: {} parameters on {} tokens, {:.3}",
            format!("loss ({})", fit.name),
            format!("{:.3}", fit.loss),
            human(fit.best_params),
            human(fit.best_tokens),
            fit.best_loss
        );
    }
    println!("shards on disk       {:>12}   {:.1} GB with two bytes a token (`export`)", format!("{:.1} GB", b.shard_bytes / 1e9), b.u16_bytes / 1e9);
    Ok(())
}

//! The training step on the processor: ours and, with `--python`, PyTorch's, one after the other in every round, because
//! a machine is rarely equally fast for long.

use super::{json, median, programs as find_programs, save};
use crate::machine::Machine;
use crate::programs;
use crate::term::thousands;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// Arguments of `bench train`.
#[derive(clap::Args)]
pub struct Args {
    /// A Python with torch; without it ours alone is measured
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Rounds; the result is the median
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Steps to measure in a round
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Threads of both
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Rows
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Tokens of a row
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    length: u32,
    /// Folder of the result, train-cpu.json
    #[arg(long, value_name = "DIR", default_value = "benches/results")]
    out: PathBuf,
    /// Use this folder's llm-train instead of building it
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Measure, save, print.
pub fn run(args: &Args) -> Result<()> {
    let program = find_programs(args.programs.as_deref(), &["llm-train"], "cpu", &[])?.remove(0);
    let sizes = ["--batch".to_string(), args.batch.to_string(), "--length".into(), args.length.to_string(), "--steps".into(), args.steps.to_string()];
    let threads = args.threads.to_string();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        let mut command = Command::new(&program);
        command.args(["bench", "--json"]).args(&sizes).env("RAYON_NUM_THREADS", &threads);
        ours.push(measure(command).context("llm-train bench")?);
        eprintln!("round {round} of {}: llm-train {}", args.rounds, rate(ours.last()));
        if let Some(python) = &args.python {
            let mut command = Command::new(python);
            command.arg(programs::root().join("benches/peers/train_step.py")).args(&sizes).args(["--threads", &threads]);
            theirs.push(measure(command).context("benches/peers/train_step.py")?);
            eprintln!("round {round} of {}: PyTorch {}", args.rounds, rate(theirs.last()));
        }
    }
    let middle = |records: &[Value]| median(records.iter().filter_map(speed).collect());
    let (our_rate, their_rate) = (middle(&ours), middle(&theirs));
    let ratio = our_rate.zip(their_rate).map(|(a, b)| a / b);
    let result = json!({
        "bench": "train",
        "machine": Machine::here(),
        "threads": args.threads,
        "tokens_per_second": {"llm-train": our_rate, "pytorch": their_rate},
        "ratio": ratio,
        "rounds": {"llm-train": ours, "pytorch": theirs},
    });
    let path = save(&args.out, "train-cpu", &result)?;
    let shown = |rate: Option<f64>| rate.map_or("not measured (--python)".to_string(), |r| format!("{:>9} tokens/s", thousands(r as u64)));
    println!("{} x {} tokens, {} threads, median of {} rounds", args.batch, args.length, args.threads, args.rounds);
    println!("  llm-train  {}", shown(our_rate));
    println!("  PyTorch    {}", shown(their_rate));
    if let Some(ratio) = ratio {
        println!("  ratio      {ratio:>9.2}");
    }
    println!("{}", programs::short(&path).display());
    Ok(())
}

fn speed(record: &Value) -> Option<f64> {
    record["tokens_per_second"].as_f64()
}

fn rate(record: Option<&Value>) -> String {
    record.and_then(speed).map_or("-".into(), |r| format!("{} tokens/s", thousands(r as u64)))
}

/// The record of a run that went well.
fn measure(command: Command) -> Result<Value> {
    let (record, error) = json(command)?;
    match (error, speed(&record)) {
        (Some(error), _) => bail!(error),
        (None, None) => bail!("its JSON has no `tokens_per_second`"),
        (None, Some(_)) => Ok(record),
    }
}

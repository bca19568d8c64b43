//! `llm-data process`: sources through steps to documents, one rank of any number.

use anyhow::{Context, Result};
use llm_data::ranks::Ranks;
use llm_data::store::Location;
use llm_data::store::write::sweep;
use llm_data::work::{self, Finished, ProcessConfig, Shown};

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct ProcessArgs {
    #[command(flatten)]
    run: llm_run::Args,
    /// This process's number, from 0 (else from SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX).
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Number of processes that share the work (else from SLURM_ARRAY_TASK_COUNT).
    #[arg(long, value_name = "N")]
    world_size: Option<usize>,
    /// Only put together what all ranks have done; may be repeated.
    #[arg(long, conflicts_with_all = ["rank", "verify"])]
    finish: bool,
    /// Only compare all files with their hashes; units with damaged files will be done again.
    #[arg(long, conflicts_with = "rank")]
    verify: bool,
    /// One JSON object a line instead of a bar, for the launcher.
    #[arg(long, hide = true)]
    progress_lines: bool,
}

fn number(name: &str) -> Result<Option<usize>> {
    match std::env::var(name) {
        Ok(text) => text.trim().parse().map(Some).with_context(|| format!("{name} is `{text}`, expected a number")),
        Err(_) => Ok(None),
    }
}

fn ranks(args: &ProcessArgs) -> Result<Ranks> {
    let rank = match args.rank {
        Some(rank) => Some(rank),
        None => number("SLURM_ARRAY_TASK_ID")?.or(number("JOB_COMPLETION_INDEX")?),
    };
    let world_size = match args.world_size {
        Some(size) => Some(size),
        None => number("SLURM_ARRAY_TASK_COUNT")?,
    };
    match (rank, world_size) {
        (None, None) => Ok(Ranks::default()),
        (Some(rank), Some(size)) => Ok(Ranks::new(rank, size)?),
        (Some(rank), None) => anyhow::bail!("rank {rank} of how many? add --world-size"),
        (None, Some(1)) => Ok(Ranks::default()),
        (None, Some(_)) => anyhow::bail!("--world-size without a rank; add --rank, or start all ranks with `llm-data launch local`"),
    }
}

/// Run the stage.
pub fn run(args: &ProcessArgs) -> Result<()> {
    llm_run::program::catch_interrupts();
    let mut config: ProcessConfig = args.run.load()?;
    if let Some(benchmarks) = std::env::var_os("LLM_BENCHMARKS").filter(|b| !b.is_empty() && config.benchmarks.is_empty()) {
        config.benchmarks = std::env::split_paths(&benchmarks).collect();
    }
    let ranks = ranks(args)?;
    let out = Location::parse(&args.run.out.to_string_lossy())?;
    if config.threads > 0 {
        let _ = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build_global();
    }
    if args.verify {
        let damaged = work::finish::verify(&config, &out)?;
        damaged.iter().for_each(|name| println!("{name}"));
        anyhow::ensure!(
            damaged.is_empty(),
            "{} files differ from what was written; run the same command without --verify to make them again",
            damaged.len()
        );
        println!("every file of every complete unit is as it was written");
        return Ok(());
    }
    sweep(&out)?;
    if !args.finish {
        let shown = if args.progress_lines { Shown::Lines } else { Shown::People };
        let report = work::process(&config, &out, ranks, shown)?;
        eprintln!("rank {} of {}: {} of {} units, {} were complete before", ranks.rank, ranks.world_size, report.mine, report.units, report.skipped);
    }
    match work::finish(&config, &out)? {
        Finished::Whole(funnel) => {
            println!("{}", funnel.summary());
            funnel.notices.iter().for_each(|notice| eprintln!("note: {notice}"));
        }
        Finished::Missing { units, first } if args.finish => {
            anyhow::bail!("{units} units are not complete (the first is {first}); run the ranks that miss them again")
        }
        Finished::Missing { units, .. } if ranks.world_size == 1 => {
            anyhow::bail!("{units} units were removed while this ran; run the same command again")
        }
        Finished::Missing { units, first } => {
            println!("{units} units of other ranks are not complete (the first is {first}); the last rank puts all together")
        }
    }
    Ok(())
}

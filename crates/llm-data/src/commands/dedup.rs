//! `llm-data dedup`: one document of each group of duplicates.

use anyhow::Result;
use llm_data::dedup::{DedupConfig, dedup};
use llm_run::{Args, Run};

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct DedupArgs {
    #[command(flatten)]
    args: Args,
    /// Memory to work in, e.g. 512MiB or 8GiB; what does not fit goes through files (the same as --set memory=...)
    #[arg(long)]
    memory: Option<String>,
}

/// Run the stage. Of several processes (`ranks`) the first one writes the manifest.
pub fn run(args: &DedupArgs) -> Result<()> {
    llm_run::program::catch_interrupts();
    let mut config: DedupConfig = args.args.load()?;
    if let Some(memory) = &args.memory {
        config.memory.clone_from(memory);
    }
    super::require_input("dedup", &config.input)?;
    let out = &args.args.out;
    let mut run = Run::start(out, "llm-data", "dedup", &config)?;
    run.manifest.seed = Some(config.seed);
    let funnel = dedup(&config, out)?;
    println!("{}", funnel.summary());
    if config.ranks.rank == 0 {
        run.input(&config.input)?;
        run.finish(super::summary(&funnel))?;
    }
    Ok(())
}

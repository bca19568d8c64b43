//! `llm-data read`: files to documents.

use anyhow::Result;
use llm_data::read::{ReadConfig, Source, read};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: ReadConfig = args.load()?;
    let mut run = Run::start(&args.out, "llm-data", "read", &config)?;
    run.manifest.seed = Some(config.seed);
    if config.sources.contains(&Source::Paths) {
        for path in config.paths.include.iter().filter(|p| p.exists()) {
            run.input(path)?;
        }
    }
    if config.sources.contains(&Source::CargoSources) {
        // What the packages are is a function of the lock file.
        let lock = config.cargo_sources.manifest.with_file_name("Cargo.lock");
        if lock.is_file() {
            run.input(&lock)?;
        }
    }
    let funnel = read(&config, &args.out)?;
    println!("{}", funnel.summary());
    run.finish(super::summary(&funnel))?;
    Ok(())
}

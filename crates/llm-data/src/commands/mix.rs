//! `llm-data mix`: so much of each source, in a reproducible order.

use anyhow::Result;
use llm_data::mix::{MixConfig, mix};
use llm_run::{Args, Run};

/// Run the stage and print the shares reached.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: MixConfig = args.load()?;
    for path in &config.inputs {
        super::require_input("mix", path)?;
    }
    let mut run = Run::start(&args.out, "llm-data", "mix", &config)?;
    run.manifest.seed = Some(config.seed);
    for path in config.inputs.iter().chain(&config.tokenizer) {
        run.input(path)?;
    }
    let (funnel, report) = mix(&config, &args.out)?;
    println!(
        "{:<20} {:>12} {:>14} {:>8} {:>8} {:>14} {:>12} {:>7}",
        "source", "documents", report.unit, "target", "share", "written", "documents", "epochs"
    );
    for s in &report.sources {
        let capped = if s.capped { "  capped" } else { "" };
        println!(
            "{:<20} {:>12} {:>14.0} {:>7.2}% {:>7.2}% {:>14.0} {:>12} {:>7.2}{capped}",
            s.name,
            s.documents,
            s.available,
            100.0 * s.target_share,
            100.0 * s.share,
            s.written,
            s.documents_written,
            s.epochs
        );
    }
    println!("{:.0} of {:.0} {}", report.total, report.budget, report.unit);
    run.finish(serde_json::json!({ "mix": report, "funnel": super::summary(&funnel) }))?;
    Ok(())
}

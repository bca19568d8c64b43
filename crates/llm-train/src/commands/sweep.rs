//! `llm-train sweep`: many runs, one table.

use anyhow::{Context, Result, bail};
use llm_run::{Run, atomic, program};
use llm_train::sweep::results::Status;
use llm_train::sweep::{Execution, Results, Spec, plan, report};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `sweep`.
#[derive(Debug, clap::Args)]
pub struct SweepArgs {
    /// Description of the sweep.
    #[arg(value_name = "SWEEP.toml")]
    spec: PathBuf,
    /// Output folder: runs, logs, sweep.json, sweep.html.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Runs at a time; the cores are divided between them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    /// Check everything and print the runs.
    #[arg(long)]
    dry_run: bool,
}

impl SweepArgs {
    pub fn run(&self) -> Result<()> {
        let name = || self.spec.display().to_string();
        let spec = Spec::read(&self.spec)?;
        let runs = plan(&spec).with_context(name)?;
        let Some(out) = self.out.as_ref().filter(|_| !self.dry_run) else {
            for run in &runs {
                let settings: Vec<String> = run.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
                println!("{}\n  seed {}, {}", run.name, run.seed, settings.join(", "));
            }
            println!("{} runs", runs.len());
            return Ok(());
        };
        let mut folder = Run::start(out, "llm-train", "sweep", &spec)?;
        folder.manifest.seed = spec.random.as_ref().map(|r| r.seed);
        folder.input(&self.spec)?;
        let executable = std::env::current_exe().context("cannot find this program's own file")?;
        let execution = Execution { spec: &spec, runs: &runs, out, executable, jobs: self.jobs as usize };
        let title = format!("Sweep {}", self.spec.file_stem().unwrap_or_default().to_string_lossy());
        let results = execution.run(&|results| write(out, results, &title))?;
        write(out, &results, &title).map_err(anyhow::Error::from)?;
        if program::interrupted() {
            bail!("interrupted; start the same command again to continue");
        }
        print!("{}", report::text(&results));
        let finished = results.count(Status::Finished);
        if finished == 0 {
            bail!("no run finished; the reasons are above, the logs in {}", out.join("logs").display());
        }
        let summary = json!({
            "runs": results.runs.len(),
            "finished": finished,
            "diverged": results.count(Status::Diverged),
            "failed": results.count(Status::Failed),
            "metric": results.metric,
            "best": results.ranking.first(),
        });
        folder.finish(summary)?;
        Ok(())
    }
}

fn write(out: &Path, results: &Results, title: &str) -> llm_train::Result<()> {
    atomic::write(out.join("sweep.json"), serde_json::to_string_pretty(results).unwrap_or_default())?;
    atomic::write(out.join("sweep.html"), report::html(results, title))?;
    Ok(())
}

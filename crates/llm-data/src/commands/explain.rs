//! `llm-data explain ID --run DIR...`: what happened to a document and why.

use anyhow::{Result, bail};
use llm_data::explain::{Fate, fates};
use llm_data::funnel::excerpt;
use std::path::PathBuf;

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Document id, e.g. rust-docs/book/ch04-01-what-is-ownership.html; a file's id also finds its chapters and rows
    id: String,
    /// Output folders of stages, in their order (read filter dedup split); a pipeline's run folder stands for all of them
    #[arg(long, num_args = 1.., required = true)]
    run: Vec<PathBuf>,
}

/// Expand a run folder into its stage folders.
fn stages(run: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for dir in run {
        if !dir.is_dir() {
            bail!("{}: no such folder", dir.display());
        }
        let is_stage = dir.join("funnel.json").is_file() || dir.join("documents").is_dir();
        if is_stage {
            all.push(dir.clone());
            continue;
        }
        let inner: Vec<PathBuf> = ["read", "filter", "dedup", "split"].iter().map(|s| dir.join(s)).filter(|p| p.is_dir()).collect();
        if inner.is_empty() {
            bail!("{}: neither a stage's output (documents/, funnel.json) nor a run folder with read/ filter/ dedup/ split/", dir.display());
        }
        all.extend(inner);
    }
    Ok(all)
}

/// Print the fates.
pub fn run(args: &ExplainArgs) -> Result<()> {
    let mut seen = false;
    for stage in stages(&args.run)? {
        for (id, fate) in fates(&args.id, &stage)? {
            seen |= fate != Fate::Unseen;
            let removals = llm_data::dedup::audit::of(&id, &stage)?;
            let stage = stage.display();
            match fate {
                Fate::Kept(folder, d) => {
                    let or = |v: Option<String>| v.unwrap_or_else(|| "-".into());
                    println!(
                        "{stage}: {id}: kept in {folder}: {} bytes, domain {}, language {} ({}), quality {}, licence {}\n    {}",
                        d.text.len(),
                        d.domain,
                        or(d.lang.clone()),
                        or(d.lang_score.map(|s| format!("{s:.2}"))),
                        or(d.quality.map(|q| format!("{q:.3}"))),
                        or(d.license.clone()),
                        excerpt(&d.text)
                    );
                }
                Fate::Dropped(drop) => {
                    println!("{stage}: {id}: dropped by `{}`: {} (limit {})\n    {}", drop.step, drop.value, drop.threshold, drop.text)
                }
                Fate::Unseen => println!("{stage}: {id}: not seen"),
            }
            for removal in removals {
                println!("    {removal}");
            }
        }
    }
    if !seen {
        bail!("no stage has a document `{}`; ids are in the `id` column of documents/*.parquet and in dropped.jsonl", args.id);
    }
    Ok(())
}

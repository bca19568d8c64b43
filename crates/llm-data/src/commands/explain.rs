//! `llm-data explain DOC`: what happened to a document and why; or what profiles make of a text.

use anyhow::{Context, Result, bail};
use llm_data::document::{Document, DocumentReader};
use llm_data::explain::{Fate, fates, measured};
use llm_data::filter::{FilterConfig, Models, apply, profiles};
use llm_data::funnel::excerpt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Document id, e.g. rust-docs/book/ch04-01-what-is-ownership.html; a file's id also finds its chapters and rows. With --profile
    /// and without --run: a text file
    doc: String,
    /// Output folders of stages, in their order (read filter dedup split); a pipeline's run folder stands for all of them
    #[arg(long, num_args = 1..)]
    run: Vec<PathBuf>,
    /// Apply these profiles now and print every value with its limit
    #[arg(long, num_args = 1..)]
    profile: Vec<String>,
    /// Configuration of `filter` for --profile
    #[arg(long)]
    config: Option<PathBuf>,
    /// Settings of `filter` for --profile
    #[arg(long)]
    set: Vec<String>,
    /// Domain of a text file: code has its own checks
    #[arg(long, default_value = "web")]
    domain: String,
    /// Address of a text file, for the profile `url`
    #[arg(long)]
    url: Option<String>,
    /// The quality.json that `filter` wrote, for the profile `tutorial`; without it the score is left out
    #[arg(long)]
    quality: Option<PathBuf>,
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
        let inner = inner_stages(dir)?;
        if inner.is_empty() {
            bail!("{}: neither a stage's output (documents/, funnel.json) nor a run folder with such outputs in it", dir.display());
        }
        all.extend(inner);
    }
    Ok(all)
}

/// The stages of a run folder that had documents, in their order.
fn inner_stages(run: &Path) -> Result<Vec<PathBuf>> {
    // By what usually comes first, since a stage that was left unchanged may be older than one before it; then by when they began.
    const USUAL: [&str; 9] = ["read", "process", "filter", "dedup", "decontaminate", "redact", "clean", "mix", "split"];
    let entries = std::fs::read_dir(run).with_context(|| format!("{}: cannot read", run.display()))?;
    let mut found = Vec::new();
    for path in entries.flatten().map(|e| e.path()).filter(|p| p.join("funnel.json").is_file()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let manifest = std::fs::read(path.join("manifest.json")).unwrap_or_default();
        let started = serde_json::from_slice::<serde_json::Value>(&manifest).ok().and_then(|m| m["started_at"].as_u64()).unwrap_or(0);
        let usual = USUAL.iter().position(|u| *u == name).unwrap_or(USUAL.len());
        found.push((usual, started, name, path));
    }
    found.sort();
    Ok(found.into_iter().map(|(.., path)| path).collect())
}

/// Print the fates, or the measurements.
pub fn run(args: &ExplainArgs) -> Result<()> {
    if !args.profile.is_empty() {
        return run_profiles(args);
    }
    if args.run.is_empty() {
        bail!("explain: give the folders of stages with --run, or a text file with --profile NAME");
    }
    // What became of each document or piece: the last stage that has it, or the one that dropped it.
    let mut ends: BTreeMap<String, String> = BTreeMap::new();
    for stage in stages(&args.run)? {
        for (id, fate) in fates(&args.doc, &stage)? {
            let name = stage.file_name().unwrap_or_default().to_string_lossy();
            match &fate {
                Fate::Kept(..) => drop(ends.insert(id.clone(), format!("kept to the end of `{name}`"))),
                Fate::Dropped(drop) => {
                    let reason = format!("dropped in `{name}` by `{}`: {} (limit {})", drop.step, drop.value, drop.threshold);
                    ends.insert(id.clone(), reason);
                }
                Fate::Unseen => {}
            }
            print_fate(&stage, &id, &fate);
            for removal in llm_data::dedup::audit::of(&id, &stage)? {
                println!("    {removal}");
            }
            if fate != Fate::Unseen {
                for line in measured(&id, &stage)? {
                    println!("    {line}");
                }
            }
        }
    }
    if ends.is_empty() {
        bail!("no stage has a document `{}`; ids are in the `id` column of documents/*.parquet and in dropped.jsonl", args.doc);
    }
    ends.iter().for_each(|(id, end)| println!("=> {id}: {end}"));
    Ok(())
}

fn print_fate(stage: &Path, id: &str, fate: &Fate) {
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
}

/// The document: by id from the first stage that has it, or a file.
fn document(args: &ExplainArgs) -> Result<Document> {
    for stage in stages(&args.run)? {
        if !stage.join("documents").is_dir() {
            continue;
        }
        for batch in DocumentReader::open(&stage)? {
            if let Some(found) = batch?.into_iter().find(|d| d.id == args.doc) {
                return Ok(found);
            }
        }
    }
    if !args.run.is_empty() {
        bail!("no stage has the text of a document `{}`; give the stage before `filter`, which still has what was dropped", args.doc);
    }
    let bytes = std::fs::read(&args.doc).with_context(|| format!("{}: cannot read; give a text file, or an id with --run", args.doc))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8; convert it first", args.doc))?;
    Ok(Document { id: args.doc.clone(), text, domain: args.domain.clone(), url: args.url.clone(), ..Document::default() })
}

fn run_profiles(args: &ExplainArgs) -> Result<()> {
    let config: FilterConfig = llm_run::config::load(args.config.as_deref(), &args.set)?;
    let config = FilterConfig { profiles: args.profile.clone(), ..config };
    let quality = args.quality.as_deref().map(llm_data::quality::QualityModel::load).transpose()?;
    let steps = profiles(&config, &Models { quality, ..Models::default() })?;
    let mut document = document(args)?;
    let bytes = document.text.len();
    let (dropped, trace) = apply(&steps, &mut document, true)?;
    println!("{}: {bytes} bytes, {}", document.id, excerpt(&document.text));
    println!("{:<44} {:>12} {:>12} {:>12}", "signal", "value", "least", "greatest");
    let show = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.4}"));
    for s in &trace.signals {
        let fails = s.min.is_some_and(|m| s.value < m) || s.max.is_some_and(|m| s.value > m);
        println!("{:<44} {:>12} {:>12} {:>12}{}", s.name, show(Some(s.value)), show(s.min), show(s.max), if fails { "  FAILS" } else { "" });
    }
    for (what, n) in &trace.counts {
        println!("{what}: {n}");
    }
    if document.text.len() != bytes {
        println!("text changed: {bytes} bytes before, {} after", document.text.len());
    }
    match dropped {
        Some(reason) => println!("dropped by `{}`: {} (limit {})", reason.check, reason.value, reason.threshold),
        None => println!("kept"),
    }
    Ok(())
}

//! `cargo xtask quickstart`: the embedded recipe for someone who has just cloned the workspace.
//!
//! It says what will happen, runs the pipeline, asks the served model one question, writes the report and ends with a
//! summary ([`crate::summary`]).

use crate::client::{Answer, Client, Settings};
use crate::folder::{self, RunFolder};
use crate::pipeline::{self, Options};
use crate::recipe::{Recipe, Stage};
use crate::server::Server;
use crate::term::{Paint, clip, wrap};
use crate::{bars, report, summary};
use anyhow::{Context, Result, bail};
use llm_run::progress::human_seconds;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;
use toml::Value;

/// Name and text of the embedded recipes.
pub const RECIPES: [(&str, &str); 4] = [
    ("quickstart.toml", include_str!("../recipes/quickstart.toml")),
    ("quickstart-ci.toml", include_str!("../recipes/quickstart-ci.toml")),
    ("real-text.toml", include_str!("../recipes/real-text.toml")),
    ("moe.toml", include_str!("../recipes/moe.toml")),
];

/// Flags of `quickstart`.
#[derive(clap::Args)]
pub struct Args {
    /// Your own text, JSONL, Parquet or HTML files and folders instead of the embedded default
    #[arg(long, value_name = "PATH", num_args = 1..)]
    documents: Vec<PathBuf>,
    /// Run folder (default: runs/quickstart)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Override a value: stage.key=value, seed=N (repeatable)
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    sets: Vec<String>,
    /// Device: cpu, cuda, vulkan or webgpu, with :N for the N-th
    #[arg(long)]
    device: Option<String>,
    /// A minute instead of ten: the same stages, far too small to learn much
    #[arg(long)]
    quick: bool,
    /// Run every stage again even when nothing changed
    #[arg(long)]
    fresh: bool,
    /// Do not start the server at the end to ask it a question
    #[arg(long)]
    no_serve_check: bool,
    /// Compare the result with what a quickstart must reach, and fail when it does not
    #[arg(long)]
    check: bool,
}

/// Run the command.
pub fn run(args: &Args) -> Result<()> {
    let (name, text) = RECIPES[usize::from(args.quick)];
    let mut recipe = Recipe::parse(text, name)?;
    if let Some(device) = &args.device {
        recipe.device.clone_from(device);
    }
    own_documents(&mut recipe, &args.documents)?;
    recipe.set(&args.sets)?;
    let out = args.out.clone().unwrap_or_else(|| folder::runs().join(&recipe.name));
    eprint!("{}", opening(&recipe, &args.documents, &out, Paint::stderr()));

    let started = Instant::now();
    let options = Options { out: out.clone(), force: args.fresh, again: crate::again(), ..Options::default() };
    let outcome = pipeline::run(&recipe, &options)?;
    let asked = if args.no_serve_check { None } else { Some(ask(&out, &recipe.device).context("the model was trained, but serving it failed")?) };
    let page = report::write(&out, None)?;
    eprintln!();
    let run = RunFolder::open(&out)?;
    print!("{}", summary::render(&run, asked.as_ref(), &page, args.out.is_some(), Paint::stdout()));
    if outcome.ran.is_empty() {
        println!("  Nothing had changed, so nothing was run again ({}).", human_seconds(started.elapsed().as_secs_f64()));
        println!("  --fresh runs everything, --set seed=7 another seed.");
    }
    if args.check {
        bars::report(&bars::measure(&run, asked.as_ref(), args.quick), Paint::stdout())?;
    }
    Ok(())
}

/// The user's own documents replace the embedded ones: the `read` stage then lists only these paths.
fn own_documents(recipe: &mut Recipe, documents: &[PathBuf]) -> Result<()> {
    if documents.is_empty() {
        return Ok(());
    }
    let mut paths = Vec::new();
    for path in documents {
        let full = std::path::absolute(path).with_context(|| format!("--documents {}", path.display()))?;
        if !full.exists() {
            bail!("--documents {}: no such file or folder", path.display());
        }
        paths.push(Value::String(full.display().to_string()));
    }
    let index = recipe.index("read")?;
    let stage = &mut recipe.stages[index];
    stage.inputs.clear();
    stage.title = "Read your documents".to_string();
    // Settings of the embedded readers would only change the stage's key.
    stage.config.retain(|name, _| name == "seed");
    stage.config.insert("sources".to_string(), Value::Array(vec![Value::String("paths".to_string())]));
    stage.config.insert("paths".to_string(), Value::Table([("include".to_string(), Value::Array(paths))].into_iter().collect()));
    Ok(())
}

/// What will happen, and how long it takes.
fn opening(recipe: &Recipe, documents: &[PathBuf], out: &Path, paint: Paint) -> String {
    let mut text = format!("\n  {}\n", paint.bold(&recipe.title));
    let what = if documents.is_empty() {
        "Everything happens on this machine; nothing is downloaded. The documents are what building this workspace has put \
         here: the Rust documentation and the sources of its dependencies."
    } else {
        "Everything happens on this machine, with your documents."
    };
    for line in wrap(what, 74) {
        text.push_str(&format!("  {}\n", paint.dim(&line)));
    }
    text.push('\n');
    for (index, stage) in recipe.stages.iter().enumerate() {
        let time = stage.seconds.map_or(String::new(), rough);
        text.push_str(&format!(
            "  {:>2}  {} {:<48} {}\n",
            index + 1,
            paint.cyan(&format!("{:<14}", clip(&stage.id, 14))),
            clip(&stage.title, 48),
            paint.dim(&format!("{time:>6}"))
        ));
    }
    let total: u64 = recipe.stages.iter().filter_map(|s: &Stage| s.seconds).sum();
    text.push('\n');
    if total > 0 {
        text.push_str(&format!("  About {} on two cores. Stop with Ctrl-C any time; run it again to go on.\n", rough(total).trim()));
    }
    text.push_str(&format!("  {}\n\n", paint.dim(&format!("Everything lands in {}", out.display()))));
    text
}

fn rough(seconds: u64) -> String {
    match seconds {
        0..=90 => format!("{seconds} s"),
        _ => format!("{} min", (seconds + 30) / 60),
    }
}

/// A question and what the served model says to it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: Answer,
}

/// Serve the final model and ask it the first exercise that evaluation saw it solve.
fn ask(out: &Path, device: &str) -> Result<Asked> {
    let model = ["grpo", "sft", "pretrain"].iter().map(|s| out.join(s).join("model")).find(|m| m.exists());
    let model = model.with_context(|| format!("{}: no model in this run", out.display()))?;
    let run = RunFolder::open(out)?;
    let samples = run.evaluated().last().map(|e| e.results.samples.clone()).unwrap_or_default();
    let solved = samples.iter().filter(|s| !s.question().is_empty() && s.task.starts_with("exercises"));
    let question = solved.max_by_key(|s| (s.correct == Some(true), s.question().len() < 160)).map(|s| s.question());
    let question = question.unwrap_or_else(|| "What is 12 + 30?".to_string());
    eprintln!("{}", Paint::stderr().dim("starting llm-serve to ask the model a question"));
    let server = Server::start(&model, device, &crate::process::interrupted)?;
    let client = Client::new(server.url())?;
    let name = client.models()?.remove(0);
    let settings = Settings { temperature: Some(0.0), max_tokens: None };
    let answer = client.chat(&name, &[json!({"role": "user", "content": question})], settings, |_| !crate::process::interrupted())?;
    Ok(Asked { question, answer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::columns;

    #[test]
    fn the_opening_fits_and_names_every_stage() {
        let recipe = Recipe::parse(RECIPES[0].1, RECIPES[0].0).unwrap();
        let text = opening(&recipe, &[], Path::new("runs/quickstart"), Paint::plain());
        assert!(text.lines().all(|l| columns(l) <= 80), "{text}");
        assert!(recipe.stages.iter().all(|s| text.contains(&s.id)));
    }

    #[test]
    fn own_documents_replace_the_embedded_ones() {
        let mut recipe = Recipe::parse(RECIPES[0].1, RECIPES[0].0).unwrap();
        let dir = tempfile::tempdir().unwrap();
        own_documents(&mut recipe, &[dir.path().to_path_buf()]).unwrap();
        let read = &recipe.stages[recipe.index("read").unwrap()];
        assert!(toml::to_string(read).unwrap().contains(&dir.path().display().to_string()));
        assert!(read.inputs.is_empty());
        assert!(own_documents(&mut recipe, &["no/such/file".into()]).unwrap_err().to_string().contains("no such file"));
    }
}

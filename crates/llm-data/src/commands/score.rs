//! `llm-data score`: what a model says of each line of a text, as JSON lines.

use anyhow::{Context, Result, bail};
use llm_data::fasttext::Model;
use llm_data::langid::Backend;
use llm_data::ngram::Scorer;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;

/// Lines scored together.
const BATCH: usize = 4096;

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct ScoreArgs {
    /// A fastText model (.bin, .ftz): labels and probabilities
    #[arg(long)]
    fasttext: Option<PathBuf>,
    /// A folder of train-ngram, or an ARPA or KenLM file: log10 probability and perplexity
    #[arg(long)]
    ngram: Option<PathBuf>,
    /// The language by the built-in detector
    #[arg(long)]
    language: bool,
    /// Labels to give for each line
    #[arg(long, default_value_t = 1)]
    labels: usize,
    /// Lines of text; - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Something that answers for one line.
type Answer = Box<dyn Fn(&str) -> Value + Sync>;

fn answer(args: &ScoreArgs) -> Result<Answer> {
    match (&args.fasttext, &args.ngram, args.language) {
        (Some(path), None, false) => {
            let (model, k) = (Model::open(path)?, args.labels);
            Ok(Box::new(move |line| {
                let found = model.predict(line, k, 0.0);
                let (labels, probabilities): (Vec<_>, Vec<_>) = found.into_iter().map(|p| (p.label, p.probability)).unzip();
                json!({ "labels": labels, "probabilities": probabilities })
            }))
        }
        (None, Some(path), false) => {
            let scorer = Scorer::open(path)?;
            Ok(Box::new(move |line| {
                let score = scorer.score(line);
                json!({ "log10": score.log10, "tokens": score.tokens, "unknown": score.unknown, "perplexity": score.perplexity() })
            }))
        }
        (None, None, true) => Ok(Box::new(|line| {
            let found = Backend::Builtin.identify(line);
            json!({ "language": found.as_ref().map(|f| &f.code), "score": found.as_ref().map(|f| f.score) })
        })),
        _ => bail!("score: give one of --fasttext MODEL, --ngram MODEL, --language"),
    }
}

/// Score the lines.
pub fn run(args: &ScoreArgs) -> Result<()> {
    let answer = answer(args)?;
    let name = args.file.display();
    let input: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(&args.file).with_context(|| format!("{name}: cannot open"))?)
    };
    let mut lines = std::io::BufReader::new(input).split(b'\n');
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    loop {
        let batch: Vec<Vec<u8>> = lines.by_ref().take(BATCH).collect::<std::io::Result<_>>().with_context(|| format!("{name}: cannot read"))?;
        if batch.is_empty() {
            return Ok(out.flush()?);
        }
        let answers: Vec<Value> = batch.par_iter().map(|line| answer(&String::from_utf8_lossy(line))).collect();
        for answer in answers {
            writeln!(out, "{answer}")?;
        }
    }
}

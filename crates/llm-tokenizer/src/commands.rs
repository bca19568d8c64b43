//! What each command of the program does.

use anyhow::{Context, Result, bail};
use clap::Args;
use llm_run::program::{catch_interrupts, interrupted};
use llm_run::{Progress, Run};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::fertility::{Group, Measure};
use llm_tokenizer::sample::{self, Reader, Sample};
use llm_tokenizer::trainer::{Trainer, TrainerConfig};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const PROGRAM: &str = "llm-tokenizer";
/// Bytes of text handed to the threads at once.
const BATCH_BYTES: usize = 8 << 20;

/// Configuration of `train`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Train {
    documents: Vec<PathBuf>,
    vocab_size: Option<usize>,
    digits: Option<usize>,
    min_frequency: Option<u64>,
    max_token_bytes: Option<usize>,
    /// Stop reading after so many bytes of text; 0 reads everything.
    max_bytes: u64,
    /// Recorded in the manifest; training uses no randomness.
    seed: u64,
}

impl Train {
    fn trainer(&self) -> TrainerConfig {
        let default = TrainerConfig::default();
        TrainerConfig {
            vocab_size: self.vocab_size.unwrap_or(default.vocab_size),
            digits: self.digits.unwrap_or(default.digits),
            min_frequency: self.min_frequency.unwrap_or(default.min_frequency),
            max_token_bytes: self.max_token_bytes.unwrap_or(default.max_token_bytes),
        }
    }
}

/// Configuration of `fertility`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fertility {
    tokenizer: PathBuf,
    samples: Vec<PathBuf>,
    /// Recorded in the manifest; measuring uses no randomness.
    seed: u64,
}

/// `train --config FILE --out DIR`.
pub fn train(args: &llm_run::Args) -> Result<()> {
    catch_interrupts();
    let config: Train = args.load()?;
    if config.documents.is_empty() {
        bail!("`documents` is empty: give text files, e.g. --set documents='[\"sample.jsonl\"]'");
    }
    let mut trainer = Trainer::new(config.trainer())?;
    let mut run = Run::start(&args.out, PROGRAM, "train", &config)?;
    let limit = if config.max_bytes == 0 { u64::MAX } else { config.max_bytes };
    for_each_batch(&mut run, "count words", &config.documents, limit, |batch| {
        let texts: Vec<&str> = batch.iter().map(|s| s.text.as_str()).collect();
        trainer.feed(&texts);
    })?;
    let (tokenizer, summary) = trainer.finish()?;
    tokenizer.save(run.dir())?;
    if summary.vocab_size < config.trainer().vocab_size {
        eprintln!("note: the text has only {} pairs worth a merge, so the vocabulary has {} tokens", summary.merges, summary.vocab_size);
    }
    println!("{} tokens from {} bytes, {} different words", summary.vocab_size, summary.bytes, summary.unique_words);
    run.finish(serde_json::to_value(summary)?)?;
    Ok(())
}

/// `fertility --config FILE --out DIR`.
pub fn fertility(args: &llm_run::Args) -> Result<()> {
    catch_interrupts();
    let config: Fertility = args.load()?;
    if config.tokenizer.as_os_str().is_empty() || config.samples.is_empty() {
        bail!("`tokenizer` (a folder) and `samples` (.jsonl files) are needed, e.g. --set tokenizer=tokenizer --set samples='[\"sample.jsonl\"]'");
    }
    let tokenizer = Tokenizer::load(&config.tokenizer)?;
    let mut run = Run::start(&args.out, PROGRAM, "fertility", &config)?;
    run.input(&config.tokenizer)?;
    let mut measure = Measure::new(tokenizer);
    for_each_batch(&mut run, "fertility", &config.samples, u64::MAX, |batch| measure.feed(batch))?;
    let report = measure.finish();
    llm_run::atomic::write(run.path("fertility.json"), serde_json::to_string_pretty(&report)?)?;
    println!("{:<16} {:>12} {:>12} {:>10} {:>10} {:>8}", "group", "bytes", "tokens", "tok/word", "byte/tok", "context");
    let line = |name: &str, g: &Group| {
        let share = g.context_share.map_or("-".to_string(), |s| format!("{:.0} %", s * 100.0));
        println!("{name:<16} {:>12} {:>12} {:>10.2} {:>10.2} {share:>8}", g.counts.bytes, g.counts.tokens, g.tokens_per_word, g.bytes_per_token);
    };
    line("total", &report.total);
    report.by_lang.iter().chain(&report.by_domain).for_each(|(name, group)| line(name, group));
    run.finish(serde_json::json!({"tokens_per_word": report.total.tokens_per_word, "bytes_per_token": report.total.bytes_per_token}))?;
    Ok(())
}

/// Stream samples in batches, with progress, up to `limit` bytes of text.
fn for_each_batch(run: &mut Run, name: &str, paths: &[PathBuf], limit: u64, mut each: impl FnMut(&[Sample])) -> Result<()> {
    let files = sample::files(paths)?;
    for file in &files {
        run.input(file)?;
    }
    let total: u64 = files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    let mut progress = Progress::new(name, total.min(limit), "bytes");
    let (mut batch, mut bytes, mut seen) = (Vec::new(), 0, 0u64);
    for row in files.iter().flat_map(|file| match Reader::open(file) {
        Ok(reader) => Box::new(reader) as Box<dyn Iterator<Item = llm_tokenizer::Result<Sample>>>,
        Err(error) => Box::new(std::iter::once(Err(error))),
    }) {
        let row: Sample = row?;
        bytes += row.text.len();
        batch.push(row);
        let enough = seen + bytes as u64 >= limit;
        if bytes >= BATCH_BYTES || enough {
            each(&batch);
            seen += bytes as u64;
            progress.set(seen);
            batch.clear();
            bytes = 0;
        }
        if interrupted() {
            bail!("interrupted");
        }
        if enough {
            break;
        }
    }
    each(&batch);
    seen += bytes as u64;
    progress.finish(format!("{seen} bytes of text from {} files", files.len()));
    Ok(())
}

/// Arguments of `encode`.
#[derive(Debug, Args)]
pub struct Encode {
    /// Tokenizer folder or tokenizer.json.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// The text; without it standard input is read.
    text: Option<String>,
    /// Turn `<|eot_id|>` and the like in the text into control tokens.
    #[arg(long)]
    special: bool,
}

impl Encode {
    /// Ids on one line, separated by blanks.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let text = text_or_stdin(self.text.as_deref())?;
        let ids = if self.special { tokenizer.encode_with_special(&text) } else { tokenizer.encode(&text) };
        println!("{}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
        Ok(())
    }
}

/// Arguments of `decode`.
#[derive(Debug, Args)]
pub struct Decode {
    /// Tokenizer folder or tokenizer.json.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Token ids; without them standard input is read. Commas and brackets are ignored.
    ids: Vec<String>,
    /// Leave control tokens out.
    #[arg(long)]
    skip_special: bool,
}

impl Decode {
    /// The text, nothing else.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let given = (!self.ids.is_empty()).then(|| self.ids.join(" "));
        let text = text_or_stdin(given.as_deref())?;
        let words = text.split(|c: char| c.is_whitespace() || ",[]".contains(c)).filter(|w| !w.is_empty());
        let mut ids = Vec::new();
        for word in words {
            let id: u32 = word.parse().with_context(|| format!("`{word}` is not a token id"))?;
            if tokenizer.token_bytes(id).is_none() {
                bail!("id {id} is not in the vocabulary (0..{})", tokenizer.vocab_size());
            }
            ids.push(id);
        }
        std::io::stdout().write_all(tokenizer.decode(&ids, self.skip_special).as_bytes()).context("cannot write")?;
        Ok(())
    }
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Tokenizer folder or tokenizer.json.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// A text to cut into tokens.
    text: Option<String>,
}

impl Inspect {
    /// A summary, or one line per token of the text.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        match &self.text {
            Some(text) => tokens(&tokenizer, text),
            None => summary(&tokenizer, &self.tokenizer),
        }
        Ok(())
    }
}

fn tokens(tokenizer: &Tokenizer, text: &str) {
    let ids = tokenizer.encode_with_special(text);
    for &id in &ids {
        println!("{id:>8}  {}", shown(tokenizer.token_bytes(id).unwrap_or_default()));
    }
    println!("{} tokens, {} bytes, {:.2} bytes per token", ids.len(), text.len(), text.len() as f64 / ids.len().max(1) as f64);
}

fn summary(tokenizer: &Tokenizer, path: &Path) {
    let encoder = if tokenizer.is_native() { "byte-level BPE, own encoder" } else { "`tokenizers` crate" };
    println!("{}: {} ids, {encoder}", path.display(), tokenizer.vocab_size());
    for (name, id) in [("begins a document", tokenizer.bos_id()), ("ends a document", tokenizer.eos_id()), ("padding", tokenizer.pad_id())] {
        let token = id.and_then(|id| tokenizer.token_bytes(id)).map_or("none".to_string(), shown);
        println!("{name:<18} {token}");
    }
    let template = tokenizer.chat_template();
    let marks = if template.is_some_and(|t| t.marks_generation()) { "yes, marks assistant text" } else { "yes, without assistant marks" };
    println!("{:<18} {}", "chat template", if template.is_some() { marks } else { "none" });
    println!("added tokens:");
    for token in tokenizer.added_tokens() {
        println!("{:>8}  {}{}", token.id, token.content.escape_debug(), if token.special { "" } else { "  (not special)" });
    }
    let lengths =
        (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_special(id)).filter_map(|id| tokenizer.token_bytes(id)).map(<[u8]>::len);
    let (count, bytes) = lengths.fold((0, 0), |(count, bytes), len| (count + 1, bytes + len));
    println!("mean token length {:.2} bytes", bytes as f64 / f64::from(count.max(1)));
    let mut longest: Vec<&[u8]> =
        (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_special(id)).filter_map(|id| tokenizer.token_bytes(id)).collect();
    longest.sort_by_key(|bytes| std::cmp::Reverse(bytes.len()));
    println!("longest: {}", longest.iter().take(8).map(|b| shown(b)).collect::<Vec<_>>().join(" "));
}

fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => bytes.iter().map(|b| format!("\\x{b:02x}")).collect(),
    }
}

fn text_or_stdin(text: Option<&str>) -> Result<String> {
    if let Some(text) = text {
        return Ok(text.to_string());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    String::from_utf8(bytes).context("standard input is not UTF-8")
}

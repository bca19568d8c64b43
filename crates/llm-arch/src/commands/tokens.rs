//! `llm-arch tokens`: change the vocabulary of a model folder, or look at it.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use llm_arch::hf::Checkpoint;
use llm_arch::tokens::glitch::{self, Kind, Report};
use llm_arch::tokens::rows::RowInit;
use llm_arch::tokens::{ModelFolder, Settings, Sizes, check, samples};
use llm_run::Seed;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::surgery::{Grown, NewToken, Placement, Placing};
use std::path::PathBuf;

/// Arguments of `tokens`.
#[derive(Debug, Args)]
pub struct Tokens {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add tokens to the tokenizer and rows for them to the model
    ///
    /// Old rows stay to the bit. Every row from the old tokenizer's length on is made anew, also where the model has rows there already.
    ///
    /// Example: llm-arch tokens add --model model/ --token '<think>' --token '</think>' --special --out model-think/
    Add(Add),
    /// Make one token of each text of a list, as ordinary vocabulary
    ///
    /// A text that is one word of a byte-level BPE (with the blank before it, if it has one) gets merges behind those there are, and what
    /// is joined on the way becomes a token too; any other text becomes an added token, which is found inside words as well.
    ///
    /// Example: llm-arch tokens extend --model model/ --tokens words.txt --out model-medical/
    Extend(Extend),
    /// Drop tokens that samples do not use, number the rest anew, and shrink the model
    ///
    /// Always kept: added tokens, bytes, what config.json names, and whatever merges need to build what is kept.
    ///
    /// Example: llm-arch tokens prune --model model/ --samples sample.jsonl --out model-small/
    Prune(Prune),
    /// Say whether the tokenizer and the model of a folder belong together; exit status 1 if not
    Check(Check),
    /// List tokens that training hardly met
    ///
    /// Sorted by the length of the input row, or for tied models by how near a row is to unused ones (Land & Bartolo 2024). These are
    /// candidates: `*` marks those that no number separates from unused rows.
    Glitch(Glitch),
}

/// Values of new rows.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Init {
    /// Mean of the rows of the pieces that the text is cut into today.
    Mean,
    /// Draws around the mean of all rows.
    Normal,
    /// Zeros.
    Zeros,
}

// What every command that writes takes. No doc comment: clap would make it the help of the commands.
#[derive(Debug, Args)]
struct Output {
    /// Model folder with config.json, weights and tokenizer.json.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder to write; must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Rows of the tables are a multiple of this [default: 64; `add` and `extend` leave a table that has room enough].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pad_to_multiple: Option<u32>,
}

#[derive(Debug, Args)]
struct New {
    /// Values of new rows.
    #[arg(long, value_enum, default_value = "mean")]
    init: Init,
    /// Seed of --init normal.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    output: Output,
    /// Text of a new token (repeatable).
    #[arg(long, required = true, allow_hyphen_values = true)]
    token: Vec<String>,
    /// Make them control tokens, which untrusted text cannot write.
    #[arg(long)]
    special: bool,
    #[command(flatten)]
    new: New,
}

#[derive(Debug, Args)]
struct Extend {
    #[command(flatten)]
    output: Output,
    /// File with one text per line; blanks at the start of a line count.
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Add every text as an added token, none through merges.
    #[arg(long)]
    added: bool,
    #[command(flatten)]
    new: New,
}

#[derive(Debug, Args)]
struct Prune {
    #[command(flatten)]
    output: Output,
    /// Texts whose tokens are kept: .jsonl with "text", .txt, or folders of them (repeatable).
    #[arg(long, value_name = "PATH", required_unless_present = "keep_top")]
    samples: Vec<PathBuf>,
    /// Keep the N most frequent tokens of the samples; without samples, the N lowest ids, which BPE learned first.
    #[arg(long, value_name = "N")]
    keep_top: Option<usize>,
}

#[derive(Debug, Args)]
struct Check {
    /// Model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Tokenizer folder or tokenizer.json [default: the model folder].
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Glitch {
    /// Model folder with config.json, weights and tokenizer.json.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Share of the ordinary tokens to list.
    #[arg(long, default_value_t = 0.02)]
    share: f64,
    /// Most lines of the table; JSON has all.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Id of a row that is known to be unused, besides those that are found (repeatable).
    #[arg(long, value_name = "ID")]
    unused: Vec<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Tokens {
    pub fn run(&self) -> Result<()> {
        match &self.command {
            Command::Add(add) => add.run(),
            Command::Extend(extend) => extend.run(),
            Command::Prune(prune) => prune.run(),
            Command::Check(check) => check.run(),
            Command::Glitch(glitch) => glitch.run(),
        }
    }
}

impl Output {
    fn settings(&self, new: Option<&New>) -> Settings {
        let init = match new.map(|new| (new.init, new.seed)) {
            None | Some((Init::Mean, _)) => RowInit::Mean,
            Some((Init::Normal, seed)) => RowInit::Normal(Seed(seed)),
            Some((Init::Zeros, _)) => RowInit::Zeros,
        };
        Settings { init, pad_to_multiple: self.pad_to_multiple.map(|n| n as usize) }
    }

    fn open(&self) -> Result<ModelFolder> {
        ensure!(!self.out.exists(), "{} exists already; choose a new folder", self.out.display());
        Ok(ModelFolder::open(&self.model)?)
    }

    fn report(&self, sizes: Sizes) {
        let filled = if sizes.filled > 0 { format!(" ({} without a token)", sizes.filled) } else { String::new() };
        println!("tokens {} -> {}, rows {} -> {}{filled}", sizes.tokens.0, sizes.tokens.1, sizes.rows.0, sizes.rows.1);
        let slow: Vec<&str> =
            ["tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"].into_iter().filter(|name| self.model.join(name).exists()).collect();
        if !slow.is_empty() {
            eprintln!("not copied, as they hold the old vocabulary: {}", slow.join(", "));
        }
        eprintln!("wrote {}", self.out.display());
    }

    fn grown(&self, folder: &ModelFolder, grown: &Grown, new: &New) -> Result<()> {
        let sizes = folder.grow(grown, &self.settings(Some(new)), &self.out)?;
        for made in &grown.made {
            let how = match made.placing {
                Placing::Added => "added",
                Placing::Merged => "merges",
                Placing::Intermediate => "on the way",
            };
            println!("{:>8}  {:<10}  {}  was {} pieces", made.id, how, made.text.escape_debug(), made.pieces.len());
        }
        for (text, id) in &grown.present {
            println!("{id:>8}  {:<10}  {}", "was there", text.escape_debug());
        }
        self.report(sizes);
        Ok(())
    }
}

impl Add {
    fn run(&self) -> Result<()> {
        let folder = self.output.open()?;
        let tokens: Vec<NewToken> = self.token.iter().map(|content| NewToken { content: content.clone(), special: self.special }).collect();
        self.output.grown(&folder, &folder.tokenizer.with_tokens(&tokens)?, &self.new)
    }
}

impl Extend {
    fn run(&self) -> Result<()> {
        let text = std::fs::read_to_string(&self.tokens).with_context(|| format!("cannot read {}", self.tokens.display()))?;
        let texts: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_string).collect();
        ensure!(!texts.is_empty(), "{}: no text; write one per line", self.tokens.display());
        let folder = self.output.open()?;
        let placement = if self.added { Placement::Added } else { Placement::Merges };
        let grown = folder.tokenizer.with_vocabulary(&texts, placement)?;
        ensure!(!grown.made.is_empty(), "{}: every text is one token already; there is nothing to add", self.tokens.display());
        self.output.grown(&folder, &grown, &self.new)
    }
}

impl Prune {
    fn run(&self) -> Result<()> {
        let folder = self.output.open()?;
        let tokenizer = &folder.tokenizer;
        let mut wanted = match self.samples.as_slice() {
            [] => (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.token_bytes(id).is_some()).collect(),
            paths => {
                let counts = samples::count(tokenizer, paths)?;
                ensure!(counts.texts > 0, "{}: no texts; pruning would leave only bytes", paths[0].display());
                counts.ranked()
            }
        };
        wanted.truncate(self.keep_top.unwrap_or(usize::MAX));
        wanted.extend(folder.named_ids()?);
        let pruned = tokenizer.pruned(wanted)?;
        if !self.samples.is_empty() {
            let recut = samples::recut(tokenizer, &pruned, &self.samples)?;
            match (&recut.first, self.keep_top) {
                (Some(first), None) => bail!("{} texts would be cut differently, the first is {first:?}; nothing was written", recut.different),
                (None, _) => println!("samples: {} tokens, all as before", recut.before),
                (Some(_), Some(_)) => {
                    let more = 100.0 * (recut.after as f64 / recut.before.max(1) as f64 - 1.0);
                    println!("samples: {} tokens -> {} ({more:+.1} %), {} texts are cut differently", recut.before, recut.after, recut.different);
                }
            }
        }
        let sizes = folder.prune(&pruned, &self.output.settings(None), &self.output.out)?;
        self.output.report(sizes);
        Ok(())
    }
}

impl Check {
    fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(self.tokenizer.as_ref().unwrap_or(&self.model))?;
        let config = llm_arch::hf::load_config(&self.model)?;
        let mut found = check::compare(&self.model, &config, &tokenizer)?;
        if let Err(error) = Checkpoint::open(&self.model) {
            found.problems.push(error.to_string());
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&found)?);
        } else {
            found.notes.iter().for_each(|note| println!("note: {note}"));
        }
        if !found.problems.is_empty() {
            bail!("{}: tokenizer and model do not belong together:\n  {}", self.model.display(), found.problems.join("\n  "));
        }
        if !self.json {
            println!("{}: {} tokens, {} rows; they belong together", self.model.display(), tokenizer.vocab_size(), config.vocab_size);
        }
        Ok(())
    }
}

impl Glitch {
    fn run(&self) -> Result<()> {
        ensure!(self.share > 0.0 && self.share <= 1.0, "--share {} is no share; expected more than 0 and at most 1", self.share);
        let folder = ModelFolder::open(&self.model)?;
        if let Some(id) = self.unused.iter().find(|&&id| id as usize >= folder.rows()) {
            bail!("--unused {id} is out of range: the model has {} rows", folder.rows());
        }
        let report = glitch::glitch(&folder, self.share, &self.unused)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print(&report, self.limit);
        }
        Ok(())
    }
}

fn print(report: &Report, limit: usize) {
    let count = |kind: Kind| report.kinds.get(&kind).copied().unwrap_or(0);
    println!(
        "{} ordinary, {} special, {} within a character, {} unreachable, {} rows without a token",
        count(Kind::Ordinary),
        count(Kind::Special),
        count(Kind::PartialUtf8),
        count(Kind::Unreachable),
        count(Kind::Padding)
    );
    println!("{}: {}", if report.tied { "tied" } else { "untied" }, report.indicator);
    let unused = report.unused_indicator.map_or("none known".to_string(), |most| format!("{}, at most {most:.4}", report.unused.len()));
    println!("unused rows: {unused}; median of ordinary tokens: {:.4}\n", report.median);
    println!("{:>8}  {:>9}  {:>8}  {:>8}    token", "id", "indicator", "length", "distance");
    for suspect in report.suspects.iter().take(limit) {
        let distance = suspect.distance.map_or("-".to_string(), |d| format!("{d:.4}"));
        let mark = if suspect.like_unused { '*' } else { ' ' };
        println!("{:>8}  {:>9.4}  {:>8.4}  {distance:>8}  {mark} {:?}", suspect.id, suspect.indicator, suspect.norm, suspect.text);
    }
    if report.suspects.len() > limit {
        println!("and {} more (--limit, --json)", report.suspects.len() - limit);
    }
}

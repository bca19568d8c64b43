//! `encode` and `decode`: one text and its ids, or a file of texts and a line of ids for each.

use super::{BATCH_BYTES, text_or_stdin};
use anyhow::{Context, Result, bail};
use clap::Args;
use llm_run::atomic::AtomicFile;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::sample::{Reader, Sample};
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Arguments of `encode`.
#[derive(Debug, Args)]
pub struct Encode {
    /// Tokenizer folder or file.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// The text; without it standard input is read.
    #[arg(conflicts_with = "rows")]
    text: Option<String>,
    /// Turn `<|eot_id|>` and the like in the text into control tokens.
    #[arg(long)]
    special: bool,
    /// Encode every row of a .jsonl file ({"text": ..}), on all threads; a line of ids for each
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Where the lines of --rows go [default: standard output]
    #[arg(long, value_name = "FILE", requires = "rows")]
    out: Option<PathBuf>,
}

impl Encode {
    /// Ids on one line, separated by blanks.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        if let Some(rows) = &self.rows {
            return to(self.out.as_deref(), |out| self.write_rows(&tokenizer, rows, out));
        }
        let text = text_or_stdin(self.text.as_deref())?;
        let ids = if self.special { tokenizer.encode_with_special(&text) } else { tokenizer.encode(&text) };
        println!("{}", line(&ids));
        Ok(())
    }

    fn write_rows(&self, tokenizer: &Tokenizer, rows: &Path, out: &mut dyn Write) -> Result<()> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut rows = Reader::open(rows)?;
        loop {
            let row = rows.next().transpose()?;
            let ended = row.is_none();
            bytes += row.as_ref().map_or(0, |r| r.text.len());
            batch.extend(row);
            if bytes >= BATCH_BYTES || ended {
                let encode =
                    |sample: &Sample| line(&if self.special { tokenizer.encode_with_special(&sample.text) } else { tokenizer.encode(&sample.text) });
                let lines: Vec<String> = batch.par_iter().map(encode).collect();
                for line in lines {
                    writeln!(out, "{line}").context("cannot write")?;
                }
                batch.clear();
                bytes = 0;
            }
            if ended {
                return Ok(());
            }
        }
    }
}

fn line(ids: &[u32]) -> String {
    let mut line = String::with_capacity(ids.len() * 6);
    for (i, id) in ids.iter().enumerate() {
        if i > 0 {
            line.push(' ');
        }
        line.push_str(&id.to_string());
    }
    line
}

/// Arguments of `decode`.
#[derive(Debug, Args)]
pub struct Decode {
    /// Tokenizer folder or file.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Token ids; without them standard input is read. Commas and brackets are ignored.
    #[arg(conflicts_with = "rows")]
    ids: Vec<String>,
    /// Leave control tokens out.
    #[arg(long)]
    skip_special: bool,
    /// Decode every line of a file of ids; a row {"text": ..} for each
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Where the rows of --rows go [default: standard output]
    #[arg(long, value_name = "FILE", requires = "rows")]
    out: Option<PathBuf>,
}

impl Decode {
    /// The text, nothing else.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        if let Some(rows) = &self.rows {
            return to(self.out.as_deref(), |out| self.write_rows(&tokenizer, rows, out));
        }
        let given = (!self.ids.is_empty()).then(|| self.ids.join(" "));
        let ids = ids_of(&tokenizer, &text_or_stdin(given.as_deref())?)?;
        std::io::stdout().write_all(tokenizer.decode(&ids, self.skip_special).as_bytes()).context("cannot write")?;
        Ok(())
    }

    fn write_rows(&self, tokenizer: &Tokenizer, rows: &Path, out: &mut dyn Write) -> Result<()> {
        let file = File::open(rows).with_context(|| format!("{}: cannot open", rows.display()))?;
        for (number, row) in BufReader::new(file).lines().enumerate() {
            let place = || format!("{}:{}", rows.display(), number + 1);
            let ids = ids_of(tokenizer, &row.with_context(place)?).with_context(place)?;
            writeln!(out, "{}", serde_json::json!({"text": tokenizer.decode(&ids, self.skip_special)})).context("cannot write")?;
        }
        Ok(())
    }
}

fn ids_of(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let words = text.split(|c: char| c.is_whitespace() || ",[]".contains(c)).filter(|w| !w.is_empty());
    let mut ids = Vec::new();
    for word in words {
        let id: u32 = word.parse().with_context(|| format!("`{word}` is not a token id"))?;
        if tokenizer.token_bytes(id).is_none() {
            bail!("id {id} is not in the vocabulary (0..{})", tokenizer.vocab_size());
        }
        ids.push(id);
    }
    Ok(ids)
}

/// Run `body` with a file that appears when all is written, or with standard output.
fn to(out: Option<&Path>, body: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    match out {
        None => body(&mut BufWriter::new(std::io::stdout().lock())),
        Some(path) => {
            let mut file = BufWriter::new(AtomicFile::create(path)?);
            body(&mut file)?;
            file.into_inner().map_err(|e| e.into_error()).context("cannot write")?.commit()?;
            Ok(())
        }
    }
}

//! What each command of the program does, a file each; here is what several of them use.

mod bench;
mod convert;
mod encode;
mod fertility;
mod inspect;
mod lint;
mod train;

pub use bench::Bench;
pub use convert::Convert;
pub use encode::{Decode, Encode};
pub use fertility::fertility;
pub use inspect::Inspect;
pub use lint::Lint;
pub use train::Train;

use anyhow::{Context, Result, bail};
use llm_run::program::interrupted;
use llm_run::{Progress, Run};
use llm_tokenizer::sample::{self, Reader, Sample};
use std::io::Read;
use std::path::PathBuf;

const PROGRAM: &str = "llm-tokenizer";
/// Bytes of text handed to the threads at once.
const BATCH_BYTES: usize = 8 << 20;

/// The text files behind some paths, recorded as inputs.
fn text_files(run: &mut Run, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let files = sample::files(paths)?;
    for file in &files {
        run.input(file)?;
    }
    Ok(files)
}

/// Stream samples in batches, with progress, up to `limit` bytes of text.
fn for_each_batch(run: &mut Run, name: &str, paths: &[PathBuf], limit: u64, mut each: impl FnMut(&[Sample])) -> Result<()> {
    let files = text_files(run, paths)?;
    let total = llm_tokenizer::sample::expected_bytes(&files);
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

fn text_or_stdin(text: Option<&str>) -> Result<String> {
    if let Some(text) = text {
        return Ok(text.to_string());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    String::from_utf8(bytes).context("standard input is not UTF-8")
}

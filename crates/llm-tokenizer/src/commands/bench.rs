//! `bench`: how fast a tokenizer encodes and decodes here.

use anyhow::{Result, bail};
use clap::Args;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::sample::{self, Reader};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Tokenizer folder or file
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Texts: .jsonl, .txt or folders of them
    #[arg(required = true, value_name = "PATH")]
    samples: Vec<PathBuf>,
    /// Times everything is done; the fastest counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Stop reading after so many bytes of text
    #[arg(long, default_value_t = 64 << 20)]
    max_bytes: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// One thread and all threads; a call for every text, as a packer makes it.
    pub fn run(&self) -> Result<()> {
        let start = Instant::now();
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let load = start.elapsed().as_secs_f64();
        let mut texts = Vec::new();
        let mut bytes = 0u64;
        'files: for file in sample::files(&self.samples)? {
            for row in Reader::open(&file)? {
                let text = row?.text;
                bytes += text.len() as u64;
                texts.push(text);
                if bytes >= self.max_bytes {
                    break 'files;
                }
            }
        }
        if bytes == 0 {
            bail!("there is no text in what was given");
        }
        let mut ids: Vec<Vec<u32>> = Vec::new();
        let one = self.fastest(|| ids = texts.iter().map(|text| tokenizer.encode(text)).collect());
        let all = self.fastest(|| drop(tokenizer.encode_batch(&texts)));
        let tokens: usize = ids.iter().map(Vec::len).sum();
        let decode = self.fastest(|| ids.iter().for_each(|ids| drop(tokenizer.decode(ids, true))));
        let threads = rayon::current_num_threads();
        let rate = |seconds: f64| bytes as f64 / 1e6 / seconds;
        let decoded = tokens as f64 / 1e6 / decode;
        if self.json {
            let report = json!({
                "texts": texts.len(), "bytes": bytes, "tokens": tokens, "threads": threads, "load_seconds": load,
                "encode_mb_per_s": rate(one), "encode_batch_mb_per_s": rate(all), "decode_mtokens_per_s": decoded,
            });
            println!("{report}");
            return Ok(());
        }
        println!("{}: {}, loaded in {load:.2} s", self.tokenizer.display(), tokenizer.algorithm());
        println!("{} texts, {bytes} bytes, {tokens} tokens, {:.2} bytes per token", texts.len(), bytes as f64 / tokens as f64);
        println!("encode, one thread   {:>9.1} MB/s", rate(one));
        println!("encode, {threads:>2} threads   {:>9.1} MB/s", rate(all));
        println!("decode, one thread   {decoded:>9.1} million tokens/s");
        Ok(())
    }

    fn fastest(&self, mut body: impl FnMut()) -> f64 {
        let mut best = f64::INFINITY;
        for _ in 0..self.repeat {
            let start = Instant::now();
            body();
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    }
}

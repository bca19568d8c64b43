//! `llm-arch generate`: continue a text, token by token through the cache. One prompt, no server; `llm-serve` is for users.

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use llm_arch::tokens::check;
use llm_arch::{CachedBatch, Decoder, KvDtype, KvPool, gguf, hf};
use llm_run::program;
use llm_tensor::host::to_vec;
use llm_tensor::quant::Activations;
use llm_tensor::sample::{self, History, Sampling};
use llm_tensor::{DeviceSpec, Precision};
use llm_tokenizer::Tokenizer;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `generate`. Names and defaults are those of Hugging Face's `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// Model folder with config.json, weights and tokenizer.json, or a GGUF file.
    model: PathBuf,
    /// Text to continue; `-` or nothing reads standard input.
    prompt: Option<String>,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// Ban the end tokens until so many are generated.
    #[arg(long, default_value_t = 0)]
    min_new_tokens: usize,
    /// Randomness; 0 takes the most likely token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the smallest set with this much probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Drop tokens below this share of the most likely one's probability.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Keep tokens of typical surprise up to this much probability.
    #[arg(long, default_value_t = 1.0)]
    typical_p: f32,
    /// Above 1: less of what prompt and answer contain.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Subtracted for every time a token was generated.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Subtracted once if a token was generated.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Never repeat a sequence of this many tokens.
    #[arg(long, default_value_t = 0)]
    no_repeat_ngram_size: usize,
    /// Seed of the randomness.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Text that ends the generation (repeatable).
    #[arg(long)]
    stop: Vec<String>,
    /// Do not put the beginning-of-text token before the prompt.
    #[arg(long)]
    no_bos: bool,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Number format of the weights: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
    /// Number format of the cached keys and values: f32, bf16, int8.
    #[arg(long, default_value_t, value_name = "FORMAT")]
    kv_dtype: KvDtype,
    /// Multiply quantised matrices of a GGUF file with float inputs; otherwise these are rounded to 8 bits, as llama.cpp does.
    #[arg(long)]
    exact: bool,
    /// Print ids, text and speed as JSON instead of streaming text.
    #[arg(long)]
    json: bool,
}

impl Generate {
    pub fn run(&self) -> Result<()> {
        program::catch_interrupts();
        let prompt = self.prompt()?;
        let file = gguf::find(&self.model);
        let device = self.device.open()?;
        let mut decoder = match &file {
            Some(file) => gguf::load(file, &device, self.precision)?,
            None => hf::load_as(&self.model, &device, self.precision)?,
        };
        if self.exact {
            decoder.set_activations(Activations::Exact);
        }
        let tokenizer =
            Tokenizer::load(file.as_ref().unwrap_or(&self.model)).map_err(|e| anyhow!("generate needs the tokenizer of the model: {e}"))?;
        let config = decoder.config();
        check::require(&self.model, config, &tokenizer)?;
        let mut ids = tokenizer.encode_with_special(&prompt);
        if let Some(bos) = tokenizer.bos_id().or(config.bos_token_id).filter(|bos| !self.no_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ensure!(!ids.is_empty(), "the prompt is empty and the model has no beginning-of-text token; give a prompt");
        let context = config.max_position_embeddings;
        ensure!(
            ids.len() + self.max_new_tokens <= context,
            "{} prompt tokens and --max-new-tokens {} do not fit the model's {context} positions",
            ids.len(),
            self.max_new_tokens
        );
        let sampling = self.sampling();
        sampling.check(config.vocab_size)?;
        self.continue_text(&decoder, &tokenizer, ids, &sampling)
    }

    fn prompt(&self) -> Result<String> {
        match self.prompt.as_deref() {
            Some("-") => {}
            Some(text) => return Ok(text.to_string()),
            None if std::io::stdin().is_terminal() => bail!("no prompt; give one after the folder, or pipe it in"),
            None => {}
        }
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the prompt from standard input")?;
        Ok(text)
    }

    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            seed: self.seed,
            min_tokens: self.min_new_tokens.min(self.max_new_tokens),
            max_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            ..Sampling::default()
        }
    }

    fn continue_text(&self, decoder: &Decoder, tokenizer: &Tokenizer, mut ids: Vec<u32>, sampling: &Sampling) -> Result<()> {
        const PAGE: usize = 16;
        let prompt_len = ids.len();
        let pages: Vec<u32> = (0..(prompt_len + sampling.max_tokens).div_ceil(PAGE) as u32).collect();
        let mut pool = KvPool::new(decoder.config(), pages.len(), PAGE, self.kv_dtype);
        let ends = decoder.config().eos_token_id.clone();
        let (mut stream, mut text, mut shown) = (tokenizer.decode_stream(true), String::new(), 0);
        let (mut at, mut reason, started) = (0, "length", Instant::now());
        let mut prefill = 0.0;
        while ids.len() - prompt_len < sampling.max_tokens {
            let batch =
                CachedBatch { ids: ids[at..].into(), positions: (at as u32..ids.len() as u32).collect(), pages: vec![&pages; ids.len() - at] };
            at = ids.len();
            let hidden = decoder.hidden_cached(&batch, &mut pool);
            let last = hidden.dims()[0] - 1;
            let logits = to_vec(decoder.logits(hidden.narrow(0, last, 1)));
            if prefill == 0.0 {
                prefill = started.elapsed().as_secs_f64();
            }
            let token = sample::choose(&logits, sampling, History { tokens: &ids, prompt_len, end_ids: &ends, ..History::default() }).token;
            if ends.contains(&token) {
                reason = "stop";
                break;
            }
            ids.push(token);
            text.push_str(&stream.push(token).unwrap_or_default());
            if let Some(found) = sampling.stop.iter().filter_map(|s| text.find(s.as_str())).min() {
                text.truncate(found);
                reason = "stop";
                break;
            }
            // What could still become a stop text waits.
            let safe = text.len() - held_back(&text, &sampling.stop);
            shown = self.show(&text, shown, safe)?;
            if program::interrupted() {
                reason = "interrupted";
                break;
            }
        }
        if reason == "length" {
            text.push_str(&stream.finish());
        }
        self.show(&text, shown, text.len())?;
        let new = ids.len() - prompt_len;
        let decode = started.elapsed().as_secs_f64() - prefill;
        let rate = new.saturating_sub(1) as f64 / decode.max(1e-9);
        if self.json {
            let record = serde_json::json!({"text": text, "ids": ids[prompt_len..], "prompt_ids": ids[..prompt_len], "finish_reason": reason, "prefill_seconds": prefill, "tokens_per_second": rate});
            println!("{}", serde_json::to_string_pretty(&record)?);
        } else {
            println!();
            if std::io::stderr().is_terminal() {
                eprintln!("[{prompt_len} + {new} tokens, {rate:.1} tokens/s, {reason}]");
            }
        }
        if reason == "interrupted" { bail!("interrupted") } else { Ok(()) }
    }

    /// Stream what is new; JSON comes at the end.
    fn show(&self, text: &str, shown: usize, upto: usize) -> Result<usize> {
        if !self.json && upto > shown {
            let mut out = std::io::stdout();
            out.write_all(&text.as_bytes()[shown..upto])?;
            out.flush()?;
        }
        Ok(upto.max(shown))
    }
}

/// Bytes at the end of `text` that begin one of the stop texts.
fn held_back(text: &str, stop: &[String]) -> usize {
    let longest = |s: &String| (1..=s.len().min(text.len())).rev().find(|&n| text.as_bytes().ends_with(&s.as_bytes()[..n]));
    stop.iter().filter_map(longest).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_become_a_stop_text_waits() {
        let stop = ["\n\nUser:".to_string(), "END".to_string()];
        for (text, held) in [("hello", 0), ("hello\n", 1), ("hello\n\nUs", 4), ("the EN", 2), ("END", 3), ("ü\n\n", 2)] {
            assert_eq!(held_back(text, &stop), held, "{text:?}");
        }
    }
}

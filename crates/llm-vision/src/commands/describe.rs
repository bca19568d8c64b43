//! `llm-vision describe`: what a vision-language model says about images, token by token through the cache.

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use llm_run::program;
use llm_tensor::sample::{self, History, Sampling};
use llm_tensor::{DeviceSpec, Precision};
use llm_tokenizer::{RenderOptions, Tokenizer};
use llm_vision::{ImageProcessor, RgbImage, Sequence, Vlm};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `describe`. Names and defaults are those of Hugging Face's `generate`.
#[derive(Debug, Args)]
pub struct Describe {
    /// Model folder with config.json, weights, tokenizer.json and preprocessor_config.json.
    #[arg(long)]
    model: PathBuf,
    /// PNG, JPEG or WebP files, in the order in which the prompt speaks of them.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// What to ask. The placeholder may stand in it once for each image; otherwise the images come first.
    #[arg(long, default_value = "Describe the image.")]
    prompt: String,
    /// Use the prompt as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// Randomness; 0 takes the most likely token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the smallest set with this much probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Seed of the randomness.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Number format of the weights: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
    /// Print ids, text and speed as JSON instead of streaming text.
    #[arg(long)]
    json: bool,
}

impl Describe {
    pub fn run(&self) -> Result<()> {
        program::catch_interrupts();
        let images = self.images.iter().map(RgbImage::open).collect::<Result<Vec<_>, _>>()?;
        let processor = ImageProcessor::load(&self.model)?;
        let tokenizer = Tokenizer::load(&self.model).map_err(|e| anyhow!("describe needs the tokenizer of the model: {e}"))?;
        let device = self.device.open()?;
        let vlm = Vlm::load(&self.model, &device, self.precision)?;
        let config = vlm.config();
        let ids = vlm.expand(&self.prompt(&tokenizer, config.image_token_id)?);
        let context = config.text.max_position_embeddings;
        ensure!(
            ids.len() + self.max_new_tokens <= context,
            "{} prompt tokens, {} of them for each image, and --max-new-tokens {} do not fit the model's {context} positions",
            ids.len(),
            config.tokens_per_image(),
            self.max_new_tokens
        );
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
            max_tokens: self.max_new_tokens,
            ..Sampling::default()
        };
        sampling.check(config.text.vocab_size)?;
        let pixel_values = processor.pixel_values(&images, &device)?;
        drop(images);
        self.answer(&vlm, &tokenizer, ids, pixel_values, &sampling)
    }

    /// Ids with one placeholder for each image.
    fn prompt(&self, tokenizer: &Tokenizer, image: u32) -> Result<Vec<u32>> {
        let bytes = tokenizer.token_bytes(image).with_context(|| format!("the tokenizer has no token {image}, the model's placeholder"))?;
        let placeholder = String::from_utf8_lossy(bytes).into_owned();
        let count = self.images.len();
        let given = self.prompt.matches(&placeholder).count();
        ensure!(given == 0 || given == count, "the prompt holds `{placeholder}` {given} times for {count} images");
        let plain = if given > 0 { self.prompt.clone() } else { format!("{}\n{}", placeholder.repeat(count), self.prompt) };
        let of = |text: &str| -> Vec<u32> { tokenizer.encode_with_special(text) };
        let fits = |ids: &Vec<u32>| ids.iter().filter(|&&id| id == image).count() == count;
        let bos = |mut ids: Vec<u32>| {
            if let Some(bos) = tokenizer.bos_id().filter(|bos| ids.first() != Some(bos)) {
                ids.insert(0, bos);
            }
            ids
        };
        let template = tokenizer.chat_template().filter(|_| !self.raw);
        let Some(template) = template else {
            // LLaVA-1.5 was trained with these words (its `conversation.py`, `vicuna_v1`).
            let text = if self.raw { plain } else { format!("USER: {plain} ASSISTANT:") };
            let ids = bos(of(&text));
            ensure!(fits(&ids), "`{placeholder}` is not one token for this tokenizer");
            return Ok(ids);
        };
        let parts: Vec<Value> = std::iter::repeat_n(json!({"type": "image"}), count).chain([json!({"type": "text", "text": self.prompt})]).collect();
        // Templates of such models take a list of parts; those of language models a text.
        let contents = if given > 0 { vec![json!(plain)] } else { vec![json!(parts), json!(plain)] };
        let mut problem = String::new();
        for content in contents {
            let options = RenderOptions { add_generation_prompt: true, variables: special_tokens(tokenizer), ..RenderOptions::default() };
            match template.render(&json!([{"role": "user", "content": content}]), &options) {
                Ok(text) if fits(&of(&text)) => return Ok(of(&text)),
                Ok(text) => problem = format!("it gives `{text}`, without one `{placeholder}` for each of {count} images"),
                Err(e) => problem = e.to_string(),
            }
        }
        bail!("{}: the chat template does not take images: {problem}; --raw leaves it out", self.model.display())
    }

    fn answer(
        &self,
        vlm: &Vlm,
        tokenizer: &Tokenizer,
        mut ids: Vec<u32>,
        pixel_values: llm_tensor::burn::tensor::Tensor<4>,
        sampling: &Sampling,
    ) -> Result<()> {
        let started = Instant::now();
        let mut features = Some(vlm.image_features(pixel_values)?);
        let (prompt_len, ends) = (ids.len(), vlm.config().text.eos_token_id.clone());
        let mut sequence = Sequence::new(vlm, prompt_len + self.max_new_tokens);
        let (mut stream, mut text, mut at) = (tokenizer.decode_stream(true), String::new(), 0);
        let (mut reason, mut prefill) = ("length", 0.0);
        while ids.len() - prompt_len < self.max_new_tokens {
            let mut logits = sequence.read(&ids[at..], features.take())?;
            at = ids.len();
            if prefill == 0.0 {
                prefill = started.elapsed().as_secs_f64();
            }
            // An image that the model makes up has no features.
            logits[vlm.config().image_token_id as usize] = f32::NEG_INFINITY;
            let token = sample::choose(&logits, sampling, History { tokens: &ids, prompt_len, end_ids: &ends, ..History::default() }).token;
            if ends.contains(&token) {
                reason = "stop";
                break;
            }
            ids.push(token);
            let new = stream.push(token).unwrap_or_default();
            self.show(&new)?;
            text.push_str(&new);
            if program::interrupted() {
                reason = "interrupted";
                break;
            }
        }
        let rest = stream.finish();
        self.show(&rest)?;
        text.push_str(&rest);
        let new = ids.len() - prompt_len;
        let rate = new.saturating_sub(1) as f64 / (started.elapsed().as_secs_f64() - prefill).max(1e-9);
        if self.json {
            let record = json!({"text": text, "ids": ids[prompt_len..], "prompt_ids": ids[..prompt_len], "finish_reason": reason, "prefill_seconds": prefill, "tokens_per_second": rate});
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
    fn show(&self, text: &str) -> Result<()> {
        if !self.json && !text.is_empty() {
            let mut out = std::io::stdout();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }
}

/// What templates call `bos_token` and `eos_token`.
fn special_tokens(tokenizer: &Tokenizer) -> serde_json::Map<String, Value> {
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_bytes(id)).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    [("bos_token", tokenizer.bos_id()), ("eos_token", tokenizer.eos_id())]
        .into_iter()
        .filter_map(|(name, id)| Some((name.to_string(), json!(text(id)?))))
        .collect()
}

//! The parameters that chat and text completions share, and how they become the engine's [`Sampling`].
//!
//! OpenAI's names first, then vLLM's (`top_k`, `min_p`, `repetition_penalty`, `min_tokens`), then those of Hugging Face's
//! `GenerationConfig` for what neither of them has. Ranges that do not depend on the model are checked here, the rest by
//! the engine (tokens of `logit_bias`, `min_tokens` against the limit).

use super::fields::{Fields, wrong_type};
use crate::defaults::Defaults;
use crate::error::ApiError;
use llm_infer::Sampling;
use serde_json::{Map, Value, json};

/// OpenAI's limits.
const MAX_STOPS: usize = 4;
/// So much text may be held back while a stop string is looked for.
const MAX_STOP_BYTES: usize = 1024;
const MAX_CHOICES: i64 = 128;
const MIN_PENALTY: f64 = -2.0;
const MAX_PENALTY: f64 = 2.0;
const MAX_BIAS: f64 = 100.0;

/// What the request said; `None` = the model's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingParams {
    /// 0 = greedy.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// 0 or -1 in the request = off.
    pub top_k: Option<usize>,
    /// Relative to the most probable token.
    pub min_p: Option<f32>,
    /// 1 = off.
    pub typical_p: Option<f32>,
    /// 0 = off.
    pub epsilon_cutoff: Option<f32>,
    /// 0 = off.
    pub eta_cutoff: Option<f32>,
    /// 1 = off.
    pub repetition_penalty: Option<f32>,
    /// 0 = off; counts generated tokens.
    pub frequency_penalty: Option<f32>,
    /// 0 = off; asks whether a token was generated.
    pub presence_penalty: Option<f32>,
    /// 0 = off.
    pub no_repeat_ngram_size: Option<usize>,
    /// Token id and what is added to its logit, by id.
    pub logit_bias: Vec<(u32, f32)>,
    /// No end token before so many tokens.
    pub min_tokens: Option<usize>,
    /// Upper bound of new tokens.
    pub max_tokens: Option<usize>,
    /// Up to four strings that end the reply and are not part of it.
    pub stop: Vec<String>,
    /// Same seed, same prompt, same weights: same tokens.
    pub seed: Option<u64>,
    /// The reply goes on to its limit: end tokens are no choice.
    pub ignore_eos: bool,
    /// Lower is sooner.
    pub priority: i32,
    /// Replies per prompt.
    pub n: usize,
    /// `Some(k)`: log-probabilities of the chosen tokens and of the `k` best.
    pub logprobs: Option<usize>,
}

/// How the reply is delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Server-sent events instead of one object.
    pub stream: bool,
    /// A last event with the token counts.
    pub include_usage: bool,
}

impl SamplingParams {
    /// Take the shared fields; `logprobs` and the token limit have different names in the two APIs, so they come extra.
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let top_p = fields.number("top_p", 0.0..=1.0)?;
        if top_p == Some(0.0) {
            return Err(ApiError::invalid("top_p", "'top_p' must be above 0 and at most 1; for greedy decoding use 'temperature': 0"));
        }
        let repetition_penalty = fields.number("repetition_penalty", 0.0..=10.0)?;
        if repetition_penalty == Some(0.0) {
            return Err(ApiError::invalid("repetition_penalty", "'repetition_penalty' must be above 0; 1 turns it off"));
        }
        let typical_p = fields.number("typical_p", 0.0..=1.0)?;
        if typical_p == Some(0.0) {
            return Err(ApiError::invalid("typical_p", "'typical_p' must be above 0 and at most 1; 1 turns it off"));
        }
        Ok(Self {
            temperature: fields.number("temperature", 0.0..=2.0)?,
            top_p,
            top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?.map(|k| usize::try_from(k).unwrap_or(0)),
            min_p: fields.number("min_p", 0.0..=1.0)?,
            typical_p,
            epsilon_cutoff: take_cutoff(fields, "epsilon_cutoff")?,
            eta_cutoff: take_cutoff(fields, "eta_cutoff")?,
            repetition_penalty,
            frequency_penalty: fields.number("frequency_penalty", MIN_PENALTY..=MAX_PENALTY)?,
            presence_penalty: fields.number("presence_penalty", MIN_PENALTY..=MAX_PENALTY)?,
            no_repeat_ngram_size: take_size(fields, "no_repeat_ngram_size")?,
            logit_bias: fields.object("logit_bias")?.map_or(Ok(Vec::new()), |map| parse_bias(&map))?,
            min_tokens: take_size(fields, "min_tokens")?,
            max_tokens: None,
            stop: take_stop(fields, "stop", MAX_STOPS)?,
            seed: take_seed(fields)?,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            priority: fields.integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?.map_or(0, |p| p as i32),
            n: fields.integer("n", 1..=MAX_CHOICES)?.map_or(1, |n| n as usize),
            logprobs: None,
        })
    }

    /// The engine's parameters for choice `index`. `room` is what the context has left after the prompt; `seed` is used
    /// when the request has none. Choice 0 is what a request with `n = 1` gets, as in vLLM.
    pub fn resolve(&self, defaults: &Defaults, stop_ids: &[u32], room: usize, seed: u64, index: usize) -> Sampling {
        let off = Sampling::default();
        let max_tokens = self.max_tokens.unwrap_or_else(|| defaults.max_tokens.unwrap_or(room).min(room));
        let min_tokens = self.min_tokens.unwrap_or(off.min_tokens);
        Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            typical_p: self.typical_p.unwrap_or(off.typical_p),
            epsilon_cutoff: self.epsilon_cutoff.unwrap_or(off.epsilon_cutoff),
            eta_cutoff: self.eta_cutoff.unwrap_or(off.eta_cutoff),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(off.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(off.presence_penalty),
            no_repeat_ngram_size: self.no_repeat_ngram_size.unwrap_or(off.no_repeat_ngram_size),
            logit_bias: self.logit_bias.clone(),
            // An end token is banned before `min_tokens`, so the limit as the minimum is vLLM's `ignore_eos`.
            min_tokens: if self.ignore_eos { max_tokens } else { min_tokens },
            seed: self.seed.unwrap_or(seed).wrapping_add(index as u64),
            max_tokens,
            stop: self.stop.clone(),
            stop_ids: stop_ids.to_vec(),
            top_logprobs: self.logprobs.unwrap_or(0),
        }
    }
}

/// 1 would drop everything.
fn take_cutoff(fields: &mut Fields, name: &str) -> Result<Option<f32>, ApiError> {
    match fields.number(name, 0.0..=1.0)? {
        Some(cutoff) if cutoff >= 1.0 => Err(ApiError::invalid(name, format!("'{name}' must be at least 0 and below 1; 0 turns it off"))),
        cutoff => Ok(cutoff),
    }
}

fn take_size(fields: &mut Fields, name: &str) -> Result<Option<usize>, ApiError> {
    Ok(fields.integer(name, 0..=i64::MAX)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}

/// `{"50256": -100, ...}`, by id whatever the order in the request.
fn parse_bias(map: &Map<String, Value>) -> Result<Vec<(u32, f32)>, ApiError> {
    let parse = |(key, value): (&String, &Value)| {
        let id = key.parse::<u32>().ok().filter(|id| id.to_string() == *key);
        let id = id.ok_or_else(|| ApiError::invalid("logit_bias", format!("'logit_bias' maps token ids to numbers; '{key}' is not a token id")))?;
        let bias = value.as_f64().ok_or_else(|| wrong_type(&format!("logit_bias.{key}"), "a number", value))?;
        if !(-MAX_BIAS..=MAX_BIAS).contains(&bias) {
            let message = format!("'logit_bias' values must be between -{MAX_BIAS} and {MAX_BIAS}; that of token {key} is {bias}");
            return Err(ApiError::invalid("logit_bias", message));
        }
        Ok((id, bias as f32))
    };
    let mut bias = map.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    bias.sort_unstable_by_key(|b| b.0);
    Ok(bias)
}

fn take_seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.take("seed", || json!({"type": "integer"})) else { return Ok(None) };
    // Negative seeds are legal in OpenAI's schema; the bits are what counts.
    value.as_u64().or_else(|| value.as_i64().map(|s| s as u64)).map(Some).ok_or_else(|| wrong_type("seed", "an integer", &value))
}

/// A string or a list of strings, none of them empty.
pub(super) fn take_stop(fields: &mut Fields, name: &str, most: usize) -> Result<Vec<String>, ApiError> {
    let expected = "a string or a list of strings";
    let schema = || json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": most}]});
    let stops = match fields.take(name, schema) {
        None => return Ok(Vec::new()),
        Some(Value::String(s)) => vec![s],
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(s) => Ok(s),
                other => Err(wrong_type(name, expected, &other)),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type(name, expected, &other)),
    };
    if stops.len() > most {
        return Err(ApiError::invalid(name, format!("'{name}' takes at most {most} strings, not {}", stops.len())));
    }
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::invalid(name, format!("'{name}' strings must not be empty")));
    }
    if let Some(long) = stops.iter().find(|s| s.len() > MAX_STOP_BYTES) {
        return Err(ApiError::invalid(name, format!("'{name}' strings have at most {MAX_STOP_BYTES} bytes, not {}", long.len())));
    }
    Ok(stops)
}

impl Delivery {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let Some(options) = fields.object("stream_options")? else { return Ok(Self { stream, include_usage: false }) };
        if !stream {
            return Err(ApiError::invalid("stream_options", "'stream_options' is only allowed when 'stream' is true"));
        }
        let include_usage = match options.get("include_usage") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(b)) => *b,
            Some(other) => return Err(wrong_type("stream_options.include_usage", "true or false", other)),
        };
        // Padding against traffic analysis: an honest no-op here.
        match options.keys().find(|k| !["include_usage", "include_obfuscation"].contains(&k.as_str())) {
            Some(key) => {
                Err(ApiError::invalid(format!("stream_options.{key}"), format!("unknown stream option '{key}'")).with_code("unknown_parameter"))
            }
            None => Ok(Self { stream, include_usage }),
        }
    }
}

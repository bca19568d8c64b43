//! A [`LanguageModel`] as a [`Backend`]: the harness's way from texts to tokens.
//!
//! This follows the Hugging Face backend of lm-evaluation-harness token by token (`api/model.py`, `models/huggingface.py`):
//!
//! - *Special tokens.* Text is encoded as the tokenizer's own post-processor has it: one begin-of-text token in front where it
//!   adds one, none otherwise; `add_bos` overrides that. A text that begins with the token already gets no second one.
//! - *Pairs.* Blanks at the end of the context move to the continuation; the whole is encoded, and the continuation's tokens are
//!   those after as many as the context alone has. An empty context becomes the begin-of-text token (end-of-text where there is
//!   none).
//! - *Too long.* Context and continuation are cut from the left to the context length plus one, as the last token is never fed;
//!   a generation's prompt is cut to what the answer leaves free.
//! - *Rolling.* Windows of the context length, the first one after the prefix token, each later one after the last token of the
//!   one before; the last one sees as much of that as fits.

use crate::backend::{Backend, Identity, Prepared};
use crate::error::{Error, Result, check_interrupt};
use crate::model::LanguageModel;
use crate::prompt::{Instance, Prompt};
use crate::python::rstrip;
use crate::task::{Answer, Generate};
use llm_infer::{FinishReason, Image, Request, Sampling, Scored};
use llm_run::Seed;
use llm_tensor::rayon::prelude::*;
use llm_tokenizer::{Message, RenderOptions, Tokenizer};
use std::path::PathBuf;

/// Tokens scored between two looks at the journal and Ctrl-C.
const GROUP_TOKENS: usize = 16_384;

/// A model with its tokens.
pub struct Tokens<'a> {
    model: &'a dyn LanguageModel,
    encoder: Encoder,
}

/// From texts to tokens.
struct Encoder {
    tokenizer: Tokenizer,
    /// The model's name, for errors.
    model: String,
    /// Put in front of every text; `None` where nothing is added.
    bos: Option<u32>,
    /// What an empty context is.
    prefix: u32,
    /// The text of `prefix`: what begins with it gets no `bos`.
    prefix_text: String,
    /// What stands for a picture.
    picture: Option<u32>,
}

impl Encoder {
    fn refuse(&self, message: impl Into<String>) -> Error {
        Error::Model { model: self.model.clone(), message: message.into() }
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        let bos = self.bos.filter(|_| !text.starts_with(&self.prefix_text));
        bos.into_iter().chain(self.tokenizer.encode_with_special(text)).collect()
    }

    fn encode_pair(&self, context: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        if context.is_empty() {
            let ids = self.tokenizer.encode_with_special(continuation);
            return match ids.split_first() {
                Some((&first, rest)) if first == self.prefix && !rest.is_empty() => Ok((vec![first], rest.to_vec())),
                Some(_) => Ok((vec![self.prefix], ids)),
                None => Err(self.refuse(format!("the continuation {continuation:?} has no tokens"))),
            };
        }
        let kept = rstrip(context);
        let whole = self.encode(&format!("{context}{continuation}"));
        let context = self.encode(kept);
        let continuation = whole.get(context.len()..).filter(|ids| !ids.is_empty() && !context.is_empty()).ok_or_else(|| {
            self.refuse(format!("{continuation:?} after a context of {} tokens adds no token; is the context only blanks?", context.len()))
        })?;
        Ok((context, continuation.to_vec()))
    }

    fn render(&self, prompt: &Prompt) -> Result<String> {
        let (messages, prefix) = match prompt {
            Prompt::Text(text) => return Ok(text.clone()),
            Prompt::Chat { messages, prefix } => (messages, prefix),
        };
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let rendered = self.tokenizer.render_chat(messages, &options).or_else(|error| {
            // As the harness does: some templates know no system role.
            let rest: Vec<Message> = messages.iter().filter(|m| m.role != "system").cloned().collect();
            if rest.len() == messages.len() { Err(error) } else { self.tokenizer.render_chat(&rest, &options) }
        })?;
        Ok(rendered + prefix.as_deref().unwrap_or(""))
    }

    /// Pictures stand before the question: in a chat in its last turn, where the template knows how to write them, else as their
    /// token on a line of its own.
    fn with_pictures(&self, prompt: &Prompt, pictures: usize) -> Result<Prompt> {
        let mut prompt = prompt.clone();
        if pictures == 0 {
            return Ok(prompt);
        }
        let token = self.picture.ok_or_else(|| self.refuse("it reads text only and the task shows pictures; give a vision-language model"))?;
        match &mut prompt {
            Prompt::Text(text) => text.insert_str(0, &format!("{}\n", self.tokenizer.decode(&[token], false)).repeat(pictures)),
            Prompt::Chat { messages, .. } => {
                if let Some(last) = messages.iter_mut().rev().find(|m| m.role == "user") {
                    *last = std::mem::take(last).with_images(pictures);
                }
            }
        }
        Ok(prompt)
    }

    fn prepare(&self, instance: &Instance) -> Result<Prepared> {
        match instance {
            Instance::Likelihood { prompt, continuation } => {
                let text = self.render(prompt)?;
                let (context, continuation) = self.encode_pair(&text, continuation)?;
                Ok(Prepared { text, context, continuation })
            }
            Instance::Rolling { text } => Ok(Prepared { text: String::new(), context: vec![self.prefix], continuation: self.encode(text) }),
            Instance::Generate { prompt, images, .. } => {
                let text = self.render(&self.with_pictures(prompt, images.len())?)?;
                let context = self.encode(&text);
                Ok(Prepared { text, context, continuation: Vec::new() })
            }
        }
    }
}

impl<'a> Tokens<'a> {
    /// `add_bos` overrides what the tokenizer does on its own.
    pub fn new(model: &'a dyn LanguageModel, add_bos: Option<bool>) -> Result<Self> {
        let (tokenizer, id) = (model.tokenizer().clone(), model.identity().id);
        let prefix = tokenizer.bos_id().or(tokenizer.eos_id()).ok_or_else(|| Error::Model {
            model: id.clone(),
            message: "its tokenizer has neither a begin-of-text nor an end-of-text token, so an empty context cannot be scored".to_string(),
        })?;
        let bos = if add_bos.unwrap_or_else(|| tokenizer.adds_bos()) { tokenizer.bos_id() } else { None };
        let prefix_text = tokenizer.decode(&[prefix], false);
        Ok(Self { model, encoder: Encoder { tokenizer, model: id, bos, prefix, prefix_text, picture: model.image_tokens().map(|(id, _)| id) } })
    }

    fn refuse(&self, message: impl Into<String>) -> Error {
        self.encoder.refuse(message)
    }

    /// The sequences that are scored for an instance: more than one where a text is longer than the context.
    fn windows(&self, instance: &Instance, prepared: &Prepared) -> Result<Vec<(Vec<u32>, usize)>> {
        let length = self.model.context_length();
        let Prepared { context, continuation, .. } = prepared;
        if let Instance::Rolling { .. } = instance {
            let (mut windows, mut scored) = (Vec::new(), 0);
            while scored < continuation.len() {
                let end = (scored + length).min(continuation.len());
                let mut ids = if scored == 0 { vec![self.encoder.prefix] } else { Vec::new() };
                // A last window that is not full sees as much as the context holds.
                ids.extend_from_slice(&continuation[if scored == 0 { 0 } else { end - length - 1 }..end]);
                let start = ids.len() - (end - scored);
                windows.push((ids, start));
                scored = end;
            }
            return Ok(windows);
        }
        if continuation.len() > length {
            return Err(self.refuse(format!("a continuation of {} tokens does not fit its context of {length}", continuation.len())));
        }
        let whole: Vec<u32> = context.iter().chain(continuation).copied().collect();
        let seen = whole[whole.len().saturating_sub(length + 1)..].to_vec();
        let start = seen.len() - continuation.len();
        Ok(vec![(seen, start)])
    }

    /// Likelihoods in fixed groups: which requests share a pass does not depend on what is known already.
    fn score(&self, instances: &[Instance], prepared: &[Prepared], known: &[bool], done: &mut dyn FnMut(usize, Answer) -> Result<()>) -> Result<()> {
        let mut work: Vec<(usize, Vec<u32>, usize)> = Vec::new();
        for (place, instance) in instances.iter().enumerate().filter(|(_, i)| !matches!(i, Instance::Generate { .. })) {
            work.extend(self.windows(instance, &prepared[place])?.into_iter().map(|(ids, start)| (place, ids, start)));
        }
        // Neighbours share what they begin with; a text's windows stay together through its sum.
        work.sort_by(|a, b| a.1.cmp(&b.1).then(a.0.cmp(&b.0)));
        let mut sums: Vec<(f64, bool, usize)> = vec![(0.0, true, 0); instances.len()];
        for (place, ..) in &work {
            sums[*place].2 += 1;
        }
        let mut rest = work.as_slice();
        while !rest.is_empty() {
            check_interrupt()?;
            let mut tokens = 0;
            let fits = |(_, ids, _): &&(usize, Vec<u32>, usize)| {
                tokens += ids.len();
                tokens <= GROUP_TOKENS
            };
            let (group, tail) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = tail;
            if group.iter().all(|(place, ..)| known[*place]) {
                continue;
            }
            let scored: Vec<Scored> = group.iter().map(|(_, tokens, start)| Scored { tokens, start: *start }).collect();
            let likelihoods = self.model.likelihoods(&scored)?;
            for ((place, ..), likelihood) in group.iter().zip(likelihoods) {
                let (sum, greedy, left) = &mut sums[*place];
                if !likelihood.sum.is_finite() {
                    return Err(self.refuse(format!("a log-likelihood is {}: is the model folder damaged?", likelihood.sum)));
                }
                *sum += likelihood.sum;
                *greedy &= likelihood.greedy;
                *left -= 1;
                if *left == 0 && !known[*place] {
                    done(*place, Answer::Likelihood { sum: *sum, greedy: *greedy })?;
                }
            }
        }
        Ok(())
    }

    fn request(&self, settings: &Generate, repeat: usize, prepared: &Prepared, images: Vec<Image>) -> Result<Request> {
        let length = self.model.context_length();
        if let Some((_, taken)) = self.model.image_tokens().filter(|_| !images.is_empty()) {
            // A picture's place cannot be cut off.
            let needed = prepared.context.len() + images.len() * (taken - 1) + settings.max_gen_toks;
            if needed > length {
                return Err(self.refuse(format!("a question with {} picture(s) takes {needed} tokens and the context holds {length}", images.len())));
            }
        }
        let room = length.checked_sub(settings.max_gen_toks).filter(|&room| room > 0).ok_or_else(|| {
            self.refuse(format!(
                "answers of {} tokens leave nothing of its context of {length} for the prompt; set `max_gen_toks` lower",
                settings.max_gen_toks
            ))
        })?;
        let prompt = prepared.context[prepared.context.len().saturating_sub(room)..].to_vec();
        if prompt.is_empty() {
            return Err(self.refuse("a prompt has no tokens; set `add_bos=true` or give it text"));
        }
        let sampling = Sampling {
            temperature: settings.temperature,
            top_p: settings.top_p,
            max_tokens: settings.max_gen_toks,
            stop: settings.until.iter().filter(|s| !s.is_empty()).cloned().collect(),
            stop_ids: self.encoder.tokenizer.eos_id().into_iter().collect(),
            seed: Seed(0).stream(&prepared.text).at(repeat as u64).0,
            ..Sampling::default()
        };
        Ok(Request::new(prompt, sampling).with_images(images))
    }

    fn continue_all(
        &self,
        instances: &[Instance],
        prepared: &[Prepared],
        known: &[bool],
        done: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()> {
        let mut places = Vec::new();
        let mut requests = Vec::new();
        for (place, instance) in instances.iter().enumerate() {
            if let Instance::Generate { images, settings, repeat, .. } = instance
                && !known[place]
            {
                let mut pictures = Vec::with_capacity(images.len());
                for path in images {
                    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?;
                    pictures.push(self.model.image(&bytes).map_err(|e| self.refuse(format!("{}: {e}", path.display())))?);
                }
                places.push((place, settings));
                requests.push(self.request(settings, *repeat, &prepared[place], pictures)?);
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        self.model.generate(requests, &mut |i, completion| {
            let (place, settings) = places[i];
            let finish = match completion.finish_reason {
                FinishReason::Length => "length",
                _ => "stop",
            };
            let text = cut(self.encoder.tokenizer.decode(&completion.tokens, true), &settings.until);
            done(place, Answer::Text { text, tokens: completion.tokens.len() as u32, finish: finish.to_string() })
        })?;
        Ok(())
    }
}

/// What stands before the first stop, each in turn.
pub fn cut(mut text: String, until: &[String]) -> String {
    for stop in until.iter().filter(|s| !s.is_empty()) {
        if let Some(end) = text.find(stop.as_str()) {
            text.truncate(end);
        }
    }
    text
}

impl Backend for Tokens<'_> {
    fn identity(&self) -> Identity {
        let mut identity = self.model.identity();
        if !identity.key.is_empty() {
            identity.key =
                llm_run::hash::bytes(format!("{} bos {:?} context {}", identity.key, self.encoder.bos, self.model.context_length()).as_bytes());
        }
        if identity.path == PathBuf::new() {
            identity.path = PathBuf::from(&identity.id);
        }
        identity
    }

    fn prepare(&self, instances: &[Instance]) -> Result<Vec<Prepared>> {
        let encoder = &self.encoder;
        instances.par_iter().map(|instance| encoder.prepare(instance)).collect()
    }

    fn answer(&self, instances: &[Instance], prepared: &[Prepared], known: &[bool], done: &mut dyn FnMut(usize, Answer) -> Result<()>) -> Result<()> {
        self.score(instances, prepared, known, done)?;
        self.continue_all(instances, prepared, known, done)
    }
}

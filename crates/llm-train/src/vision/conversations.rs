//! Pictures with captions or questions, and text exercises, as token sequences.
//!
//! A picture stands before the text of the first user message; its one placeholder becomes as many as an image has tokens. The chat
//! template of the tokenizer is used, and only the assistant's tokens are trained.

use crate::sequences::Sequence;
use crate::{Error, Result};
use llm_data::exercises;
use llm_data::pictures::{Caption, Picture, Question};
use llm_run::Seed;
use llm_tensor::rayon::prelude::*;
use llm_tokenizer::{ChatTokens, Message, Tokenizer};
use llm_vision::VlmConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What is learned about a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// To describe it.
    #[default]
    Captions,
    /// To answer questions.
    Questions,
    /// Both, as conversations of their own.
    Both,
}

/// A sequence and the picture that its placeholders stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Index of the picture.
    pub picture: Option<usize>,
    /// Expanded ids.
    pub sequence: Sequence,
    /// Kind of its only question, else empty.
    pub kind: String,
}

/// How pictures and text become sequences.
#[derive(Debug)]
pub struct Writer<'a> {
    /// Chat template and vocabulary.
    pub tokenizer: &'a Tokenizer,
    /// Placeholder and tokens of an image.
    pub model: &'a VlmConfig,
    /// Longest sequence.
    pub max_length: usize,
    /// Request for a caption, by language.
    pub caption_prompts: &'a BTreeMap<String, String>,
    /// So many captions of each language, from the first; 0 is all.
    pub captions_per_language: usize,
}

impl Writer<'_> {
    /// One conversation for each caption, or for every `together` questions of a picture in one language, in an order of the seed's.
    pub fn pictures(&self, path: &Path, pictures: &[Picture], form: Form, together: usize, seed: Seed) -> Result<Vec<Conversation>> {
        let place = |picture: &Picture| format!("{}: picture `{}`", path.display(), picture.id);
        let write = |(i, picture): (usize, &Picture)| -> Result<Vec<Conversation>> {
            let mut turns: Vec<(Vec<Message>, String)> = Vec::new();
            if form != Form::Questions {
                let most = if self.captions_per_language == 0 { usize::MAX } else { self.captions_per_language };
                let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
                for caption in &picture.captions {
                    let taken = taken.entry(&caption.lang).or_default();
                    *taken += 1;
                    if *taken <= most {
                        turns.push((self.caption(&place(picture), caption)?, String::new()));
                    }
                }
            }
            if form != Form::Captions {
                let mut questions: Vec<&Question> = picture.questions.iter().collect();
                seed.stream(&picture.id).rng().shuffle(&mut questions);
                // A conversation has one language: the same question in another would give the answer away.
                questions.sort_by(|a, b| a.lang.cmp(&b.lang));
                let kind = |group: &[&Question]| if let [one] = group { one.kind.clone() } else { String::new() };
                let groups = questions.chunk_by(|a, b| a.lang == b.lang).flat_map(|same| same.chunks(together.max(1)));
                turns.extend(groups.map(|group| (dialogue(group), kind(group))));
            }
            let one = |(messages, kind): (Vec<Message>, String)| {
                Ok(Conversation { picture: Some(i), sequence: self.sequence(&place(picture), &messages)?, kind })
            };
            turns.into_iter().map(one).collect()
        };
        let all: Vec<Vec<Conversation>> = pictures.par_iter().enumerate().map(write).collect::<Result<_>>()?;
        let all = all.concat();
        if all.is_empty() {
            let what = match form {
                Form::Captions => "captions",
                Form::Questions => "questions",
                Form::Both => "captions or questions",
            };
            return Err(Error::Objective(format!("{}: no picture has {what}", path.display())));
        }
        Ok(all)
    }

    /// Exercises of a JSONL file, without pictures.
    pub fn text(&self, path: &Path) -> Result<Vec<Conversation>> {
        let rows = exercises::read(path)?;
        if rows.is_empty() {
            return Err(Error::Objective(format!("{}: no exercises in it", path.display())));
        }
        let write = |(i, row): (usize, &exercises::Exercise)| {
            let place = format!("{}: row {} (`{}`)", path.display(), i + 1, row.id);
            Ok(Conversation { picture: None, sequence: self.sequence(&place, &row.messages)?, kind: String::new() })
        };
        rows.par_iter().enumerate().map(write).collect()
    }

    fn caption(&self, place: &str, caption: &Caption) -> Result<Vec<Message>> {
        let prompt = self.caption_prompts.get(&caption.lang).ok_or_else(|| {
            let known: Vec<&str> = self.caption_prompts.keys().map(String::as_str).collect();
            Error::Config(format!(
                "{place}: a caption in `{}`, but caption_prompts has {} only; add a request in that language",
                caption.lang,
                known.join(", ")
            ))
        })?;
        Ok(vec![Message::new("user", prompt.as_str()).with_images(1), Message::new("assistant", caption.text.as_str())])
    }

    fn sequence(&self, place: &str, messages: &[Message]) -> Result<Sequence> {
        let tokens = self.tokenizer.apply_chat_template(messages, false)?;
        if !tokens.assistant_mask.contains(&true) {
            return Err(Error::Objective(format!("{place}: no assistant tokens to train on; expected a message with role \"assistant\"")));
        }
        let sequence = expand(&tokens, self.model.image_token_id, self.model.tokens_per_image());
        if sequence.ids.len() > self.max_length {
            let (n, most) = (sequence.ids.len(), self.max_length);
            return Err(Error::Objective(format!("{place}: {n} tokens, expected at most max_length = {most}; raise it or leave the row out")));
        }
        Ok(sequence)
    }
}

fn dialogue(questions: &[&Question]) -> Vec<Message> {
    let turns = questions.iter().enumerate();
    let turn = |(i, q): (usize, &&Question)| {
        let answer = Message::new("assistant", q.answer.as_str());
        let answer = if q.reasoning.is_empty() { answer } else { answer.with_reasoning(q.reasoning.as_str()) };
        [Message::new("user", q.question.as_str()).with_images(usize::from(i == 0)), answer]
    };
    turns.flat_map(turn).collect()
}

/// Every placeholder as often as an image has tokens; nobody says it.
fn expand(tokens: &ChatTokens, image: u32, tokens_per_image: usize) -> Sequence {
    let mut sequence = Sequence { ids: Vec::new(), loss_mask: Vec::new() };
    for (&id, &said) in tokens.ids.iter().zip(&tokens.assistant_mask) {
        let times = if id == image { tokens_per_image } else { 1 };
        sequence.ids.extend(std::iter::repeat_n(id, times));
        sequence.loss_mask.extend(std::iter::repeat_n(said && id != image, times));
    }
    sequence
}

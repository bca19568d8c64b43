//! Chat: messages to ids, through the tokenizer's own Jinja template.
//!
//! The template is rendered with every message string made harmless first, control tokens are then found only where the
//! template itself wrote them, and the template's `{% generation %}` blocks say which tokens the assistant speaks. Where there are
//! none, several renderings are compared. An image becomes one placeholder token.

mod guard;
mod lint;
mod message;
mod python;
mod template;
mod turns;

pub use lint::{Finding, Severity, Shown, lint, lint_with};
pub use message::{ImagePart, Message, Part};
pub use template::{ChatTemplate, DEFAULT_TEMPLATE, RenderOptions};

use crate::added::{Piece, unchanged};
use crate::error::{Error, Result};
use crate::tokenizer::{Engine, Tokenizer};
use guard::{BREAK, Marked, Unmarked};
use std::ops::Range;
use template::Trial;
use turns::Turns;

/// An encoded conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTokens {
    /// Token ids, from the begin-of-text token on if the template writes one.
    pub ids: Vec<u32>,
    /// True where the assistant speaks, its end-of-turn token included; as long as `ids`. That is what stands in the
    /// template's `{% generation %}` blocks, or without any what the assistant's messages add to the rendering.
    pub assistant_mask: Vec<bool>,
}

impl Tokenizer {
    /// Encode a conversation. Text of the messages never becomes a control token.
    pub fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<ChatTokens> {
        self.apply_chat_template_with(messages, &RenderOptions { add_generation_prompt, ..RenderOptions::default() })
    }

    /// [`Tokenizer::apply_chat_template`] with tools and extra template variables.
    ///
    /// Fails if the template has no `{% generation %}` blocks and it is unclear where a turn of the assistant begins or ends.
    /// Whoever needs no mask takes [`Tokenizer::chat_ids_with`].
    pub fn apply_chat_template_with(&self, messages: &[Message], options: &RenderOptions) -> Result<ChatTokens> {
        let mut marked = self.render_marked(messages, options)?;
        let says_itself = self.chat_template().is_some_and(ChatTemplate::marks_generation);
        if !says_itself && messages.iter().any(|m| m.role == "assistant") {
            marked = Turns::new(self, messages, options, &marked).marked()?;
        }
        self.encode_chat(messages, &marked)
    }

    /// The ids of [`Tokenizer::apply_chat_template`] alone, for prompts. Needs no mask, so it renders once.
    pub fn chat_ids(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        self.chat_ids_with(messages, &RenderOptions { add_generation_prompt, ..RenderOptions::default() })
    }

    /// [`Tokenizer::chat_ids`] with tools and extra template variables.
    pub fn chat_ids_with(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>> {
        Ok(self.encode_chat(messages, &self.render_marked(messages, options)?)?.ids)
    }

    fn encode_chat(&self, messages: &[Message], marked: &Marked) -> Result<ChatTokens> {
        let mut tokens = self.encode_marked(marked);
        let images: usize = messages.iter().map(|m| m.images.len()).sum();
        let image = self.image_token_id();
        let written = tokens.ids.iter().filter(|&&id| Some(id) == image).count();
        if written != images {
            let token = self.image_token().unwrap_or("image");
            let message = format!("wrote {written} {token} tokens for {images} images; it needs a `{token}` of the vocabulary for each `image` part");
            return Err(Error::Template(message));
        }
        // Nobody says a placeholder, whoever's turn it stands in.
        for (mask, _) in tokens.assistant_mask.iter_mut().zip(&tokens.ids).filter(|(_, id)| Some(**id) == image) {
            *mask = false;
        }
        Ok(tokens)
    }

    /// The token that stands for an image: `image_token` of `tokenizer_config.json`, else `<|image|>` or `<image>` if it is an added
    /// token.
    pub fn image_token(&self) -> Option<&str> {
        let config = &self.0.config;
        let named = [config.get("image_token"), config.get("extra_special_tokens").and_then(|t| t.get("image_token"))];
        let named = named.into_iter().flatten().find_map(|token| token.as_str().or_else(|| token["content"].as_str()));
        named.into_iter().chain(["<|image|>", "<image>"]).find(|token| self.special_id(token).is_some())
    }

    /// Id of [`Tokenizer::image_token`]. [`Tokenizer::apply_chat_template`] writes it once for every image.
    pub fn image_token_id(&self) -> Option<u32> {
        self.special_id(self.image_token()?)
    }

    /// The text the template makes of a conversation, as Python's `apply_chat_template(.., tokenize=False)` gives it.
    pub fn render_chat(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        Ok(self.render_marked(messages, options)?.unmark().text)
    }

    fn render_marked(&self, messages: &[Message], options: &RenderOptions) -> Result<Marked> {
        self.render_trial(messages, options, None)
    }

    fn render_trial(&self, messages: &[Message], options: &RenderOptions, trial: Option<Trial>) -> Result<Marked> {
        let template = self.chat_template().ok_or(Error::NoTemplate)?;
        if messages.iter().any(|m| !m.images.is_empty()) && !template.forms().parts {
            return Err(Error::Template("shows text only, so it cannot place images; take a template that loops over the parts of `content`".into()));
        }
        // LLaVA's templates know only lists.
        let as_list = !template.forms().text && template.forms().parts;
        let messages = messages.iter().map(|m| m.template_value(as_list)).collect();
        let mut options = options.clone();
        for (name, value) in &self.0.config {
            // Special tokens are strings, or objects with a `content` in older files.
            if let Some(text) = name.ends_with("_token").then(|| value.as_str().or_else(|| value["content"].as_str())).flatten() {
                options.variables.entry(name.clone()).or_insert_with(|| text.into());
            }
        }
        template.render_guarded(messages, &options, self.added_tokens(), self.image_token(), trial)
    }

    fn encode_marked(&self, marked: &Marked) -> ChatTokens {
        let whole = marked.unmark();
        match &self.0.engine {
            Engine::Fallback(fallback) if !whole.guarded => {
                let found = fallback.encode_with_offsets(&whole.text, true);
                let (ids, assistant_mask) = found.into_iter().map(|(id, range)| (id, overlaps(&whole.spans, &range))).unzip();
                ChatTokens { ids, assistant_mask }
            }
            _ => self.encode_marked_pieces(marked),
        }
    }

    /// Cut at the control tokens of the template, encode the rest as untrusted text.
    fn encode_marked_pieces(&self, marked: &Marked) -> ChatTokens {
        let mut tokens = ChatTokens { ids: Vec::new(), assistant_mask: Vec::new() };
        let mut speaking = false;
        let mut broken = false;
        self.0.added.split(marked.as_str(), true, unchanged, |piece| match piece {
            Piece::Token(id, text) if !(broken && text.chars().nth(1).is_none()) => {
                tokens.ids.push(id);
                tokens.assistant_mask.push(speaking);
                broken = false;
            }
            // A token of one character, from a message.
            Piece::Token(_, text) | Piece::Text(text) => {
                let piece = Unmarked::new(text, speaking);
                self.encode_chat_text(&piece, &mut tokens);
                speaking = piece.speaking_after;
                broken = text.ends_with(BREAK);
            }
        });
        tokens
    }

    fn encode_chat_text(&self, piece: &Unmarked, tokens: &mut ChatTokens) {
        for (id, range) in self.plain_with_offsets(&piece.text, tokens.ids.is_empty()) {
            tokens.ids.push(id);
            tokens.assistant_mask.push(overlaps(&piece.spans, &range));
        }
    }
}

fn overlaps(spans: &[Range<usize>], token: &Range<usize>) -> bool {
    let after = spans.partition_point(|s| s.end <= token.start);
    spans.get(after).is_some_and(|s| s.start < token.end)
}

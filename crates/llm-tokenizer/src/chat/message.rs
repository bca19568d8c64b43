//! Messages with the field names of the OpenAI chat API.
//!
//! A message is its text and the images that stand in it: an image knows before which byte of the text it stands. So text is a plain
//! string for everybody who does not care for images, and the order of both is kept.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text. In JSON also `null` or a list of `{"type": "text", "text": ..}` and image parts, whose texts are joined.
    pub content: String,
    /// The images, in order. In JSON parts of the content: `{"type": "image_url", "image_url": {"url": ..}}` or `{"type": "image"}`.
    pub images: Vec<ImagePart>,
    /// What a reasoning model thought before `content`.
    pub reasoning_content: Option<String>,
    /// Calls the assistant makes, as the template expects them.
    pub tool_calls: Option<Value>,
    /// Which call a `tool` message answers.
    pub tool_call_id: Option<String>,
    /// Name of the speaker or tool.
    pub name: Option<String>,
}

/// An image in a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagePart {
    /// Where the image comes from; `None` where the caller has it.
    pub url: Option<String>,
    /// The byte of the text before which it stands; 0 is before all text.
    pub at: usize,
}

/// A piece of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Text, never empty.
    Text(&'a str),
    /// An image.
    Image(&'a ImagePart),
}

impl Message {
    /// A message with nothing but a role and text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// The same with reasoning.
    pub fn with_reasoning(mut self, reasoning: impl Into<String>) -> Self {
        self.reasoning_content = Some(reasoning.into());
        self
    }

    /// The same with `n` images before the text.
    pub fn with_images(mut self, n: usize) -> Self {
        self.images.splice(0..0, std::iter::repeat_n(ImagePart::default(), n));
        self
    }

    /// Texts and images in their order.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut from = 0;
        for image in &self.images {
            let to = self.content.floor_char_boundary(image.at).max(from);
            if to > from {
                parts.push(Part::Text(&self.content[from..to]));
            }
            parts.push(Part::Image(image));
            from = to;
        }
        if from < self.content.len() {
            parts.push(Part::Text(&self.content[from..]));
        }
        parts
    }

    /// What a template is given, in the form of Hugging Face's processors: content with images, or with `as_list` any content, is a list
    /// of `{"type": "image"}` and `{"type": "text", "text": ..}`.
    pub(super) fn template_value(&self, as_list: bool) -> Value {
        let mut wire = Wire::from(self.clone());
        if as_list || !self.images.is_empty() {
            wire.content = list(self, |_| json!({"type": "image"}));
        }
        serde_json::to_value(wire).unwrap_or_default()
    }
}

fn list(message: &Message, image: impl Fn(&ImagePart) -> Value) -> Value {
    let part = |part: Part<'_>| match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image(part) => image(part),
    };
    message.parts().into_iter().map(part).collect()
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
struct Wire {
    role: String,
    #[serde(default)]
    content: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl From<Message> for Wire {
    fn from(message: Message) -> Self {
        let content = if message.images.is_empty() {
            Value::String(message.content)
        } else {
            list(&message, |image| match &image.url {
                Some(url) => json!({"type": "image_url", "image_url": {"url": url}}),
                None => json!({"type": "image"}),
            })
        };
        let Message { role, reasoning_content, tool_calls, tool_call_id, name, .. } = message;
        Self { role, content, reasoning_content, tool_calls, tool_call_id, name }
    }
}

impl TryFrom<Wire> for Message {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let Wire { role, content, reasoning_content, tool_calls, tool_call_id, name } = wire;
        let mut message = Self { role, reasoning_content, tool_calls, tool_call_id, name, ..Self::default() };
        match content {
            Value::Null => {}
            Value::String(text) => message.content = text,
            Value::Array(parts) => {
                for (i, part) in parts.iter().enumerate() {
                    message.add(part).map_err(|e| format!("content[{i}]: {e}"))?;
                }
            }
            _ => return Err("content: expected a string, null or a list of text and image parts".into()),
        }
        Ok(message)
    }
}

impl Message {
    fn add(&mut self, part: &Value) -> Result<(), String> {
        let url = match part["type"].as_str() {
            Some("text") => {
                self.content.push_str(part["text"].as_str().ok_or("a text part needs a string `text`")?);
                return Ok(());
            }
            Some("image_url") => {
                let url = part["image_url"]["url"].as_str().ok_or("an `image_url` part needs `image_url`: {`url`: ..}")?;
                Some(url.to_string())
            }
            Some("image") => None,
            Some(other) => return Err(format!("part of type `{other}`; expected `text`, `image_url` or `image`")),
            None => return Err("a content part is an object with a `type`: `text`, `image_url` or `image`".into()),
        };
        self.images.push(ImagePart { url, at: self.content.len() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(content: &str) -> Result<Message, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"role":"user","content":{content}}}"#))
    }

    #[test]
    fn content_may_be_null_text_or_parts() {
        assert_eq!(parse("null").unwrap().content, "");
        assert_eq!(parse(r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#).unwrap(), Message::new("user", "ab"));
        for (content, says) in [
            ("3", "expected a string"),
            (r#"[{"type":"image_url"}]"#, "content[0]"),
            (r#"[{"type":"input_audio"}]"#, "input_audio"),
            (r#"["a"]"#, "type"),
        ] {
            let error = parse(content).unwrap_err().to_string();
            assert!(error.contains(says), "{content}: {error}");
        }
    }

    /// If this fails, images and the words about them change places.
    #[test]
    fn images_keep_their_places() {
        let json = r#"[{"type":"text","text":"é:"},{"type":"image_url","image_url":{"url":"data:x","detail":"low"}},{"type":"image"},{"type":"text","text":"b"}]"#;
        let message = parse(json).unwrap();
        assert_eq!(message.content, "é:b");
        let (first, second) = (ImagePart { url: Some("data:x".into()), at: 3 }, ImagePart { url: None, at: 3 });
        assert_eq!(message.parts(), [Part::Text("é:"), Part::Image(&first), Part::Image(&second), Part::Text("b")]);
        let again: Message = serde_json::from_value(serde_json::to_value(&message).unwrap()).unwrap();
        assert_eq!(again, message);
        let placed = message.with_images(1);
        assert!(matches!(placed.parts()[..], [Part::Image(ImagePart { url: None, at: 0 }), Part::Text("é:"), ..]));
        assert!(Message { images: vec![ImagePart { url: None, at: 1 << 40 }], ..placed }.parts().len() == 2, "an impossible place is the end");
    }
}

//! Messages with the field names of the OpenAI chat API.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said. In JSON also `null` or a list of `{"type": "text", "text": ..}` parts, which are joined.
    #[serde(default, deserialize_with = "text_content")]
    pub content: String,
    /// What a reasoning model thought before `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls the assistant makes, as the template expects them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Value>,
    /// Which call a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Name of the speaker or tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
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
}

fn text_content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
        Null(()),
    }
    #[derive(Deserialize)]
    struct Part {
        r#type: String,
        #[serde(default)]
        text: String,
    }
    let content =
        Content::deserialize(deserializer).map_err(|_| serde::de::Error::custom("content: expected a string, null or a list of text parts"))?;
    match content {
        Content::Text(text) => Ok(text),
        Content::Null(()) => Ok(String::new()),
        Content::Parts(parts) => match parts.iter().find(|p| p.r#type != "text") {
            Some(part) => Err(serde::de::Error::custom(format!("content part of type `{}`: only `text` is supported", part.r#type))),
            None => Ok(parts.into_iter().map(|p| p.text).collect()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn content_may_be_null_or_parts_but_not_an_image() {
        let parse = |content: &str| serde_json::from_str::<Message>(&format!(r#"{{"role":"user","content":{content}}}"#));
        assert_eq!(parse("null").unwrap().content, "");
        assert_eq!(parse(r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#).unwrap().content, "ab");
        assert!(parse(r#"[{"type":"image_url"}]"#).unwrap_err().to_string().contains("image_url"));
        assert!(parse("3").is_err());
    }
}

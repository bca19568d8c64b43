//! What clients get: whole replies and stream chunks, field for field as OpenAI documents them.

use super::describe::{Describe, Schemas, lists, wire};
use serde::Serialize;
use serde_json::Value;

/// A whole reply, or one chunk of a streamed one; `C` is the choice type.
#[derive(Debug, Clone, Serialize)]
pub struct Reply<C> {
    /// Who answers what.
    #[serde(flatten)]
    pub head: Head,
    /// One per requested completion; empty in the usage chunk.
    pub choices: Vec<C>,
    /// Token counts; in streams only in the last chunk, and only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl<C: Describe> Describe for Reply<C>
where
    Vec<C>: Describe,
{
    fn schema(schemas: &mut Schemas) -> Value {
        schemas.object(&Self::name(), &["doc = \"A whole reply, or one chunk of a streamed one.\""], |schemas, object| {
            object.field::<Head>("head", &["serde(flatten)"], schemas);
            object.field::<Vec<C>>("choices", &["doc = \"One per requested completion; empty in the usage chunk.\""], schemas);
            object.field::<Option<Usage>>("usage", &["serde(skip_serializing_if)"], schemas);
        })
    }

    fn name() -> String {
        format!("{}Reply", C::name())
    }
}

lists![TokenLogprob, ChatChoice, ChatDelta, TextChoice, ToolCall, ToolCallDelta, ModelCard];

wire! {
    /// Token counts.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
    pub struct Usage {
        /// Tokens of all prompts, template included.
        pub prompt_tokens: usize,
        /// Tokens generated, thinking included; the end token is not counted.
        pub completion_tokens: usize,
        /// The sum.
        pub total_tokens: usize,
        /// How the prompt divides.
        pub prompt_tokens_details: PromptDetails,
        /// How the completion divides.
        pub completion_tokens_details: UsageDetails,
    }

    /// Part of [`Usage`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
    pub struct PromptDetails {
        /// Tokens of the prompts whose keys were in the cache already.
        pub cached_tokens: usize,
    }

    /// Part of [`Usage`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
    pub struct UsageDetails {
        /// Tokens between `<think>` and `</think>`, markers included.
        pub reasoning_tokens: usize,
    }

    /// One generated token with its log-probability (chat form).
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct TokenLogprob {
        /// The text of the token; bytes that are not UTF-8 on their own appear as U+FFFD, see `bytes`.
        pub token: String,
        /// Natural logarithm.
        pub logprob: f32,
        /// The exact bytes.
        pub bytes: Vec<u8>,
        /// The most probable tokens at this place.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub top_logprobs: Option<Vec<TokenLogprob>>,
    }

    /// Log-probabilities of a chat choice.
    #[derive(Debug, Clone, Default, PartialEq, Serialize)]
    pub struct ChatLogprobs {
        /// Tokens of the answer.
        pub content: Vec<TokenLogprob>,
        /// Tokens of the thinking (extension, as `reasoning_content` is).
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub reasoning_content: Vec<TokenLogprob>,
    }

    /// The fields that head every object of one reply.
    #[derive(Debug, Clone, Serialize)]
    pub struct Head {
        /// The same in all chunks of a stream.
        pub id: String,
        /// `chat.completion`, `chat.completion.chunk` or `text_completion`.
        pub object: &'static str,
        /// Unix seconds.
        pub created: u64,
        /// The served name.
        pub model: String,
        /// First digits of the BLAKE3 hash of the weights: the same fingerprint and seed give the same reply.
        pub system_fingerprint: String,
    }

    /// A finished chat choice.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct ChatChoice {
        /// 0..n.
        pub index: usize,
        /// The assistant's turn.
        pub message: ChatReply,
        /// When asked for.
        pub logprobs: Option<ChatLogprobs>,
        /// `stop`, `length` or `tool_calls`.
        pub finish_reason: &'static str,
    }

    /// The assistant's turn.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct ChatReply {
        /// Always `assistant`.
        pub role: &'static str,
        /// The answer; null if there is none beside the calls.
        pub content: Option<String>,
        /// The thinking, if there was any.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reasoning_content: Option<String>,
        /// Functions to call, if any.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tool_calls: Option<Vec<ToolCall>>,
        /// Always null; official clients expect the field.
        pub refusal: Option<String>,
    }

    /// A chat choice in a stream.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct ChatDelta {
        /// 0..n.
        pub index: usize,
        /// What is new.
        pub delta: Delta,
        /// When asked for.
        pub logprobs: Option<ChatLogprobs>,
        /// Set in the choice's last chunk only.
        pub finish_reason: Option<&'static str>,
    }

    /// New text of a streamed choice.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
    pub struct Delta {
        /// In the first chunk only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub role: Option<&'static str>,
        /// More of the answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub content: Option<String>,
        /// More of the thinking.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reasoning_content: Option<String>,
        /// A call, or more of its arguments.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tool_calls: Option<Vec<ToolCallDelta>>,
    }

    /// A function that the model wants called.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct ToolCall {
        /// For the message that answers it.
        pub id: String,
        /// Always `function`.
        #[serde(rename = "type")]
        pub kind: &'static str,
        /// Which, and with what.
        pub function: FunctionCall,
    }

    /// Part of [`ToolCall`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct FunctionCall {
        /// Of the function.
        pub name: String,
        /// JSON text of an object.
        pub arguments: String,
    }

    /// News about a call in a stream: first its name, then its arguments.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct ToolCallDelta {
        /// Counts the calls of the choice from 0.
        pub index: usize,
        /// In the call's first chunk only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub id: Option<String>,
        /// `function`, in the call's first chunk only.
        #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
        pub kind: Option<&'static str>,
        /// What is new.
        pub function: FunctionDelta,
    }

    /// Part of [`ToolCallDelta`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct FunctionDelta {
        /// In the call's first chunk only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// More of the arguments' JSON text.
        pub arguments: String,
    }

    /// A text-completion choice; whole replies and stream chunks look alike.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct TextChoice {
        /// Counts through prompts, then choices of each.
        pub index: usize,
        /// The continuation, or what is new of it.
        pub text: String,
        /// When asked for.
        pub logprobs: Option<TextLogprobs>,
        /// `stop` or `length`; null while the stream goes on.
        pub finish_reason: Option<&'static str>,
    }

    /// Log-probabilities of a text choice: parallel lists.
    #[derive(Debug, Clone, Default, PartialEq, Serialize)]
    pub struct TextLogprobs {
        /// Text of each token.
        pub tokens: Vec<String>,
        /// Natural logarithms; null for the first token of an echoed prompt, which nothing precedes.
        pub token_logprobs: Vec<Option<f32>>,
        /// Text -> log-probability of the best tokens at each place; null as above.
        pub top_logprobs: Vec<Option<serde_json::Map<String, Value>>>,
        /// Where each token's text starts, in characters of the text.
        pub text_offset: Vec<usize>,
    }

    /// A model that requests may name.
    #[derive(Debug, Clone, Serialize)]
    pub struct ModelCard {
        /// The name to put into requests.
        pub id: String,
        /// Always `model`.
        pub object: &'static str,
        /// Unix seconds at which it was loaded.
        pub created: u64,
        /// Always `local`.
        pub owned_by: &'static str,
        /// Of an adapter: the model it belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub parent: Option<String>,
        /// Prompt and reply together, in tokens.
        pub max_model_len: usize,
        /// `text`, and `image` if the model sees.
        pub input_modalities: &'static [&'static str],
    }

    /// `GET /v1/models`.
    #[derive(Debug, Clone, Serialize)]
    pub struct ModelList {
        /// Always `list`.
        pub object: &'static str,
        /// The model, then its adapters.
        pub data: Vec<ModelCard>,
    }

    /// What went wrong, in OpenAI's form.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct ErrorBody {
        /// The error.
        pub error: ErrorObject,
    }

    /// Part of [`ErrorBody`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct ErrorObject {
        /// What was wrong, what was expected.
        pub message: String,
        /// `invalid_request_error`, `server_error` and the like.
        #[serde(rename = "type")]
        pub kind: &'static str,
        /// The field of the request at fault.
        pub param: Option<String>,
        /// A word that programs can compare with.
        pub code: Option<&'static str>,
    }
}

//! The OpenAPI document: paths, schemas of requests as their parsers read them, schemas of replies as their types are written.

use super::adapters::{AdapterReply, LoadRequest, UnloadRequest};
use super::anthropic;
use super::anthropic_reply::{CountReply, MessageReply, error_schema};
use super::chat::ChatRequest;
use super::completion::CompletionRequest;
use super::describe::{Describe, Schemas};
use super::embeddings::{EmbeddingReply, EmbeddingRequest};
use super::response::{ChatChoice, ChatDelta, ErrorBody, ModelCard, ModelList, Reply, TextChoice};
use super::tokens::{DetokenizeReply, DetokenizeRequest, TemplateReply, TemplateRequest, TokenizeReply, TokenizeRequest};
use serde_json::{Map, Value, json};

/// One endpoint.
struct Endpoint {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// Schema of the body.
    request: Option<Value>,
    /// Schema of the reply with status 200.
    reply: Value,
    /// Schema of an event, where the reply can be a stream.
    event: Option<Value>,
    /// Schema of errors.
    error: Value,
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for Endpoint { method, path, summary, request, reply, event, error } in endpoints(&mut schemas) {
        let media = if reply["type"] == "string" { "text/plain" } else { "application/json" };
        let mut content = json!({media: {"schema": reply}});
        if let Some(event) = event {
            content["text/event-stream"] = json!({"schema": event});
        }
        let mut operation = json!({
            "summary": summary,
            "responses": {"200": {"description": "OK", "content": content}, "default": {"description": "An error.",
                "content": {"application/json": {"schema": error}}}},
        });
        if let Some(request) = request {
            operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": request}}});
        }
        if path.contains('{') {
            operation["parameters"] = json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
        }
        if let Some(item) = paths.entry(path).or_insert_with(|| json!({})).as_object_mut() {
            item.insert(method.into(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "llm-serve", "version": env!("CARGO_PKG_VERSION"), "description": "One language model over the OpenAI and Anthropic APIs."},
        "paths": paths,
        "components": {"schemas": schemas.into_map(), "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"}, "header": {"type": "apiKey", "in": "header", "name": "x-api-key"}}},
        "security": [{}, {"bearer": []}, {"header": []}],
    })
}

fn endpoints(schemas: &mut Schemas) -> Vec<Endpoint> {
    let openai = ErrorBody::schema(schemas);
    let anthropic_error = schemas.named("AnthropicError", error_schema());
    let mut list = Vec::new();
    let mut post = |path, summary, request: Option<Value>, reply, event| {
        let error = if path_is_anthropic(path) { &anthropic_error } else { &openai };
        let method = if request.is_some() { "post" } else { "get" };
        list.push(Endpoint { method, path, summary, request, reply, event, error: error.clone() });
    };
    let chat = schemas.named("ChatRequest", ChatRequest::schema());
    let (reply, event) = (Reply::<ChatChoice>::schema(schemas), Reply::<ChatDelta>::schema(schemas));
    post("/v1/chat/completions", "The next turn of a conversation.", Some(chat), reply, Some(event));
    let completion = schemas.named("CompletionRequest", CompletionRequest::schema());
    let reply = Reply::<TextChoice>::schema(schemas);
    post("/v1/completions", "The continuation of a text.", Some(completion), reply.clone(), Some(reply));
    let embedding = schemas.named("EmbeddingRequest", EmbeddingRequest::schema());
    post("/v1/embeddings", "Vectors of texts.", Some(embedding), EmbeddingReply::schema(schemas), None);
    let message = schemas.named("MessageRequest", anthropic::schema());
    let event = json!({"type": "object", "required": ["type"], "properties": {"type": {"enum": ["message_start", "content_block_start",
        "content_block_delta", "content_block_stop", "message_delta", "message_stop", "ping", "error"]}}});
    post("/v1/messages", "The next turn of a conversation, in Anthropic's wording.", Some(message), MessageReply::schema(schemas), Some(event));
    let count = schemas.named("CountRequest", anthropic::count_schema());
    post("/v1/messages/count_tokens", "How long a conversation is, in tokens.", Some(count), CountReply::schema(schemas), None);
    post("/v1/models", "The model and its adapters.", None, ModelList::schema(schemas), None);
    post("/v1/models/{id}", "One of them.", None, ModelCard::schema(schemas), None);
    let tokenize = schemas.named("TokenizeRequest", TokenizeRequest::schema());
    post("/tokenize", "Ids of a text or a conversation.", Some(tokenize), TokenizeReply::schema(schemas), None);
    let detokenize = schemas.named("DetokenizeRequest", DetokenizeRequest::schema());
    post("/detokenize", "Text of ids.", Some(detokenize), DetokenizeReply::schema(schemas), None);
    let template = schemas.named("TemplateRequest", TemplateRequest::schema());
    post("/apply-template", "A conversation as the model sees it.", Some(template), TemplateReply::schema(schemas), None);
    let load = schemas.named("LoadRequest", LoadRequest::schema());
    post("/v1/load_lora_adapter", "Load an adapter under a name.", Some(load), AdapterReply::schema(schemas), None);
    let unload = schemas.named("UnloadRequest", UnloadRequest::schema());
    post("/v1/unload_lora_adapter", "Forget an adapter.", Some(unload), AdapterReply::schema(schemas), None);
    let status = json!({"type": "object", "required": ["status"]});
    post("/health", "Whether the process lives.", None, status.clone(), None);
    post("/ready", "Whether a request would be answered.", None, status, None);
    post("/metrics", "Numbers for Prometheus.", None, json!({"type": "string"}), None);
    post("/openapi.json", "This document.", None, json!({"type": "object", "required": ["openapi"]}), None);
    list
}

/// Paths whose errors are Anthropic's.
pub fn path_is_anthropic(path: &str) -> bool {
    path == "/v1/messages" || path.starts_with("/v1/messages/")
}

/// The routes as (method, path), for those who compare.
pub fn routes() -> Vec<(String, String)> {
    let document = document();
    let paths = document["paths"].as_object().into_iter().flatten();
    let methods = |(path, item): (&String, &Value)| {
        let methods: Vec<String> = item.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()).collect();
        methods.into_iter().map(|method| (method, path.clone())).collect::<Vec<_>>()
    };
    paths.flat_map(methods).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, generators of clients stop at a reference to nothing, or at half a schema.
    #[test]
    fn the_document_is_whole() {
        let document = document();
        let text = document.to_string();
        assert!(!text.contains("\"$comment\":\"incomplete\""));
        for target in text.split("\"$ref\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(&target[1..]).is_some_and(Value::is_object), "{target}");
        }
        assert!(document.pointer("/components/schemas/ChatChoiceReply/properties/id").is_some(), "flattened fields belong to it");
        assert!(routes().contains(&("POST".into(), "/v1/chat/completions".into())));
    }
}

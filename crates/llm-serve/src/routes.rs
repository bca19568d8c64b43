//! Paths, and the small endpoints.

use crate::api::openapi;
use crate::api::response::{ModelCard, ModelList};
use crate::app::{App, Served, Target};
use crate::error::ApiError;
use crate::{adapters, anthropic, chat, completions, embeddings, guard, metrics, page, tokens};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use std::sync::Arc;

/// The whole surface.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/messages", post(anthropic::handle))
        .route("/v1/messages/count_tokens", post(anthropic::count))
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/openapi.json", get(document))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(numbers))
        .merge(page::paths())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(app.body_limit))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::handle))
        .with_state(app)
}

/// The card of the model itself, or of one of its adapters.
fn card(served: &Served, adapter: Option<(String, u64)>) -> ModelCard {
    let input_modalities: &[&str] = if served.eyes.is_some() { &["text", "image"] } else { &["text"] };
    let parent = adapter.as_ref().map(|_| served.name.clone());
    let (id, created) = adapter.unwrap_or_else(|| (served.name.clone(), served.created));
    ModelCard { id, object: "model", created, owned_by: "local", parent, max_model_len: served.context, input_modalities }
}

fn cards(served: &Served) -> Vec<ModelCard> {
    let adapters = served.adapters.list().into_iter().map(|(name, loaded)| card(served, Some((name, loaded.created))));
    [card(served, None)].into_iter().chain(adapters).collect()
}

async fn models(State(app): State<Arc<App>>) -> Result<Json<ModelList>, ApiError> {
    Ok(Json(ModelList { object: "list", data: cards(app.ready()?) }))
}

/// Model names may contain slashes, hence the wildcard.
async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<ModelCard>, ApiError> {
    let served = app.ready()?;
    let Target { name, .. } = served.target(Some(&id))?;
    cards(served).into_iter().find(|card| card.id == name).map(Json).ok_or_else(|| ApiError::model_not_found(&id, &served.name))
}

async fn document() -> Json<Value> {
    Json(openapi::document())
}

/// The process lives: 503 asks for a new one.
async fn health(State(app): State<Arc<App>>) -> Response {
    let Some(served) = app.served.get() else {
        return Json(json!({"status": "loading"})).into_response();
    };
    if !served.worker.alive() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "engine stopped"}))).into_response();
    }
    Json(json!({"status": "ok", "model": served.name, "active_requests": served.worker.active()})).into_response()
}

/// 200 only when a request would be answered.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let status = match app.served.get() {
        None => "loading",
        Some(served) if !served.worker.alive() => "engine stopped",
        Some(_) if app.house.is_draining() => "shutting down",
        Some(served) => return Json(json!({"status": "ready", "model": served.name})).into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": status}))).into_response()
}

async fn numbers(State(app): State<Arc<App>>) -> Response {
    let model = app.house.model.get().map_or("", String::as_str);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], app.house.metrics.render(model)).into_response()
}

async fn not_found(request: Request) -> ApiError {
    ApiError::unknown_path(request.method().as_str(), request.uri().path())
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::method_not_allowed(request.method().as_str(), request.uri().path())
}

//! Paths, and the small endpoints.

use crate::access;
use crate::api::response::ModelCard;
use crate::app::{App, Served};
use crate::error::ApiError;
use crate::{chat, completions, page};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::json;
use std::sync::Arc;

/// The whole surface.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/health", get(health))
        .merge(page::paths::<Arc<App>>())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(app.body_limit))
        .layer(middleware::from_fn(access::log))
        .with_state(app)
}

fn card(served: &Served) -> ModelCard {
    let input_modalities: &[&str] = if served.eyes.is_some() { &["text", "image"] } else { &["text"] };
    ModelCard {
        id: served.name.clone(),
        object: "model",
        created: served.created,
        owned_by: "local",
        max_model_len: served.context,
        input_modalities,
    }
}

async fn models(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    Ok(Json(json!({"object": "list", "data": [card(app.ready()?)]})).into_response())
}

/// Model names may contain slashes, hence the wildcard.
async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<ModelCard>, ApiError> {
    let served = app.ready()?;
    served.check_name(Some(&id))?;
    Ok(Json(card(served)))
}

/// 200 only when a request would be answered.
async fn health(State(app): State<Arc<App>>) -> Response {
    let Some(served) = app.served.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "loading"}))).into_response();
    };
    if !served.worker.alive() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "engine stopped"}))).into_response();
    }
    Json(json!({"status": "ok", "model": served.name, "active_requests": served.worker.active()})).into_response()
}

async fn not_found(request: Request) -> ApiError {
    ApiError::unknown_path(request.method().as_str(), request.uri().path())
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::method_not_allowed(request.method().as_str(), request.uri().path())
}

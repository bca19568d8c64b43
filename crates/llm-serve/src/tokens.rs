//! `POST /tokenize`, `/detokenize` and `/apply-template`.

use crate::api::tokens::{DetokenizeReply, DetokenizeRequest, Source, TemplateReply, TemplateRequest, TokenizeReply, TokenizeRequest};
use crate::app::App;
use crate::error::ApiError;
use crate::prompt;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use std::sync::Arc;

/// `POST /tokenize`.
pub async fn tokenize(State(app): State<Arc<App>>, body: Result<Bytes, BytesRejection>) -> Result<Json<TokenizeReply>, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let TokenizeRequest { model, source, pieces } = TokenizeRequest::parse(&body)?;
    served.target(model.as_deref())?;
    let tokenizer = served.tokenizer.clone();
    let tokens = match source {
        Source::Chat(conversation) => prompt::render(served, *conversation).await?.ids,
        Source::Text { text, bos, special } => {
            let encoded = tokio::task::spawn_blocking(move || {
                let bos = tokenizer.bos_id().filter(|_| bos);
                let ids = if special { tokenizer.encode_with_special(&text) } else { tokenizer.encode(&text) };
                // Text with control tokens may bring its own.
                bos.filter(|bos| ids.first() != Some(bos)).into_iter().chain(ids).collect()
            });
            encoded.await.map_err(|_| ApiError::internal("the tokenizer panicked"))?
        }
    };
    let token_strs = pieces.then(|| tokens.iter().map(|&id| served.tokenizer.decode(&[id], false)).collect());
    Ok(Json(TokenizeReply { count: tokens.len(), max_model_len: served.context, tokens, token_strs }))
}

/// `POST /detokenize`.
pub async fn detokenize(State(app): State<Arc<App>>, body: Result<Bytes, BytesRejection>) -> Result<Json<DetokenizeReply>, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let DetokenizeRequest { model, tokens } = DetokenizeRequest::parse(&body)?;
    served.target(model.as_deref())?;
    let size = served.tokenizer.vocab_size();
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= size) {
        return Err(ApiError::invalid("tokens", format!("token id {id} is outside of the vocabulary of {size} entries")));
    }
    let prompt = served.tokenizer.decode(&tokens, false);
    Ok(Json(DetokenizeReply { content: prompt.clone(), prompt }))
}

/// `POST /apply-template`.
pub async fn apply_template(State(app): State<Arc<App>>, body: Result<Bytes, BytesRejection>) -> Result<Json<TemplateReply>, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let TemplateRequest { model, conversation } = TemplateRequest::parse(&body)?;
    served.target(model.as_deref())?;
    Ok(Json(TemplateReply { prompt: prompt::render_text(served, conversation).await? }))
}

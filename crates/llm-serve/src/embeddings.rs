//! `POST /v1/embeddings`: unit vectors of texts.

use crate::access::Tally;
use crate::api::embeddings::{Embedding, EmbeddingReply, EmbeddingRequest, EmbeddingUsage, Encoding};
use crate::app::App;
use crate::call::Lease;
use crate::completions::encode;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, general_purpose::PAD};
use serde_json::Value;
use std::sync::Arc;

const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD);

/// The handler.
pub async fn handle(
    State(app): State<Arc<App>>,
    Extension(tally): Extension<Arc<Tally>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<EmbeddingReply>, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let EmbeddingRequest { model, inputs, encoding, dimensions } = EmbeddingRequest::parse(&body)?;
    let target = served.target(model.as_deref())?;
    if target.adapter.is_some() {
        return Err(ApiError::unsupported("model", "embeddings are computed by the model itself, not by an adapter"));
    }
    if let Some(asked) = dimensions.filter(|&asked| asked > served.hidden_size) {
        let message = format!("'dimensions' is {asked}; vectors of this model have {}", served.hidden_size);
        return Err(ApiError::invalid("dimensions", message));
    }
    let inputs = encode(served, "input", inputs).await?;
    if let Some(long) = inputs.iter().find(|ids| ids.len() > served.context) {
        let message = format!("an input has {} tokens; the context of this model holds {}", long.len(), served.context);
        return Err(ApiError::invalid("input", message).with_code("context_length_exceeded"));
    }
    let prompt_tokens = inputs.iter().map(Vec::len).sum();
    tally.set(prompt_tokens, 0);
    let mut lease = Lease::tokens(prompt_tokens, 1)?;
    lease.submitted(prompt_tokens);
    let vectors = served.worker.embed(inputs).await.inspect_err(|error| lease.failed(error))?;
    lease.settle(prompt_tokens, 0).await?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| {
        let vector = dimensions.map_or_else(|| vector.clone(), |n| shorten(&vector, n));
        let embedding = match encoding {
            Encoding::Float => vector.into(),
            Encoding::Base64 => Value::String(BASE64.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())),
        };
        Embedding { object: "embedding", index, embedding }
    });
    let usage = EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens };
    Ok(Json(EmbeddingReply { object: "list", data: data.collect(), model: target.name, usage }))
}

/// The first numbers, as a unit vector again.
fn shorten(vector: &[f32], dimensions: usize) -> Vec<f32> {
    let first = &vector[..dimensions.min(vector.len())];
    let norm = first.iter().map(|x| x * x).sum::<f32>().sqrt();
    // A vector of zeros has no direction.
    first.iter().map(|x| if norm > 0.0 { x / norm } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_vector_is_a_unit_vector() {
        assert_eq!(shorten(&[3.0, 4.0, 12.0], 2), [0.6, 0.8]);
        assert_eq!(shorten(&[0.0, 1.0], 1), [0.0]);
    }
}

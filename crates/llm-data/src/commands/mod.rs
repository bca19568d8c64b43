//! One file per command; each is `run(args)`.

pub mod budget;
pub mod contamination_index;
pub mod decontaminate;
pub mod dedup;
pub mod exercises;
pub mod explain;
pub mod export;
pub mod filter;
pub mod launch;
pub mod mix;
pub mod pack;
pub mod process;
pub mod read;
pub mod redact;
pub mod sample;
pub mod scenes;
pub mod score;
pub mod split;
pub mod stats;
pub mod train_classifier;
pub mod train_ngram;
pub mod unredact;
pub mod what_if;

/// What of a funnel goes into the manifest.
fn summary(funnel: &llm_data::funnel::Funnel) -> serde_json::Value {
    serde_json::json!({
        "documents_in": funnel.documents_in,
        "documents_out": funnel.documents_out,
        "bytes_in": funnel.bytes_in,
        "bytes_out": funnel.bytes_out,
        "counts": funnel.counts,
    })
}

/// A clear error for a missing input before anything is created.
fn require_input(command: &str, path: &std::path::Path) -> anyhow::Result<()> {
    if path.as_os_str().is_empty() {
        anyhow::bail!("{command}: no input; set it to the output folder of the stage before, e.g. --set input=runs/x/read");
    }
    if !path.exists() {
        anyhow::bail!("{}: no such file or folder; run the stage before `{command}` first or correct the input", path.display());
    }
    Ok(())
}

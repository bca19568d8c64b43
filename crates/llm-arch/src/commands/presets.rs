//! `llm-arch presets`: what can be named instead of a folder.

use super::format::{bytes, count, thousands};
use anyhow::Result;
use clap::Args;
use llm_arch::budget::memory::kv_bytes_per_token;
use llm_arch::presets::PRESETS;

/// Arguments of `presets`.
#[derive(Debug, Args)]
pub struct Presets {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Presets {
    pub fn run(&self) -> Result<()> {
        let rows: Vec<_> = PRESETS.iter().map(|p| (p, p.config())).collect();
        if self.json {
            let row = |(p, c): &(_, llm_arch::DecoderConfig)| {
                let p: &&llm_arch::presets::Preset = p;
                serde_json::json!({"name": p.name, "parameters": p.parameters, "active": c.num_active_parameters(), "source": p.source, "config": c})
            };
            println!("{}", serde_json::to_string_pretty(&rows.iter().map(row).collect::<Vec<_>>())?);
            return Ok(());
        }
        println!("{:<17} {:>15} {:>7} {:>7} {:>8}  source", "name", "parameters", "active", "context", "KV/token");
        for (p, c) in rows {
            let active = count(c.num_active_parameters() as f64);
            let kv = bytes(kv_bytes_per_token(&c, 2) as f64);
            // The longest name of a repository is longer than what is left of 80 columns.
            println!("{:<17} {:>15} {active:>7} {:>7} {kv:>8}  {}", p.name, thousands(p.parameters), thousands(c.max_position_embeddings), p.source);
        }
        Ok(())
    }
}

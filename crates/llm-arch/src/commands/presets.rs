//! `llm-arch presets`: what can be named instead of a folder.

use super::format::{count, thousands};
use anyhow::Result;
use clap::Args;
use llm_arch::DecoderConfig;
use llm_arch::presets::{PRESETS, Preset};

/// Arguments of `presets`.
#[derive(Debug, Args)]
pub struct Presets {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Presets {
    pub fn run(&self) -> Result<()> {
        let rows: Vec<(&Preset, DecoderConfig)> = PRESETS.iter().map(|p| (p, p.config())).collect();
        if self.json {
            let row = |(p, c): &(&Preset, DecoderConfig)| serde_json::json!({"name": p.name, "parameters": p.parameters, "active": c.num_active_parameters(), "source": p.source, "config": c});
            println!("{}", serde_json::to_string_pretty(&rows.iter().map(row).collect::<Vec<_>>())?);
            return Ok(());
        }
        println!("{:<16} {:>15} {:>6} {:>7} config.json of", "name", "parameters", "active", "context");
        for (p, c) in rows {
            let active = count(c.num_active_parameters() as f64);
            println!("{:<16} {:>15} {active:>6} {:>7} {}", p.name, thousands(p.parameters), thousands(c.max_position_embeddings), p.source);
        }
        Ok(())
    }
}

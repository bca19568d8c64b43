//! A choice as a table at 80 columns, and as a configuration without a dial.

use super::{Choice, Rate};
use crate::quantity::{count, power, short, wrapped};
use crate::{Error, Result};
use llm_run::config;
use llm_run::progress::{human_seconds, thousands};
use std::fmt::Write;
use toml::Table;

impl Choice {
    /// The settings as a configuration that needs no dial.
    pub fn toml(&self) -> Result<String> {
        let mut table = Table::new();
        for setting in &self.settings {
            config::override_with(&mut table, &format!("{}={}", setting.key, setting.value))?;
        }
        let body = toml::to_string(&table).map_err(|e| Error::Config(format!("cannot write the settings as TOML: {e}")))?;
        let what = format!("# {}: {} parameters on {} tokens\n", self.dial, count(self.parameters as f64), count(self.recipe.tokens));
        Ok(what + &body)
    }

    /// A table at 80 columns.
    pub fn table(&self, rate: Option<&Rate>) -> String {
        let mut out = format!("{}, vocabulary of {}\n\n", self.dial, thousands(self.vocab_size as u64));
        let mut row = |name: &str, value: String, note: String| {
            let line = format!("  {name:<31}{value:>12}   {note}");
            let _ = writeln!(out, "{}", line.trim_end());
        };
        let r = &self.recipe;
        row("parameters", count(self.parameters as f64), format!("{} of them multiply", count(self.matmul_parameters as f64)));
        row("tokens", count(r.tokens), format!("{} per multiplying parameter", short(self.tokens_per_parameter)));
        if let (Some(epochs), Some(tokens)) = (self.epochs, self.available_tokens) {
            row("epochs", short((epochs * 100.0).round() / 100.0), format!("{} tokens in the shards", count(tokens as f64)));
        }
        row("compute C", power(r.flops), "FLOPs".into());
        if let Some(rate) = rate {
            let seconds = r.tokens / rate.tokens_per_second;
            row("time", human_seconds(seconds), format!("{} tokens/s, {}", count(rate.tokens_per_second), rate.source));
        }
        row("", String::new(), String::new());
        for s in &self.settings {
            row(s.key, s.value.to_string(), if s.given { "as given".into() } else { s.why.clone() });
        }
        for warning in &self.warnings {
            let _ = writeln!(out, "\n  {}", wrapped(&format!("warning: {warning}"), 76, "  "));
        }
        out
    }
}

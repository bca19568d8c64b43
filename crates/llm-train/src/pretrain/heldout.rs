//! Validation on held-out rows: of all of them together, and of each domain and language.
//!
//! | key | what |
//! |---|---|
//! | `val_loss` | nats per target |
//! | `val_perplexity` | its exponential |
//! | `val_bits_per_byte` | bits per byte of text, which does not depend on the tokenizer |
//! | `val_loss/domain=NAME`, `val_bits_per_byte/domain=NAME` | the same of the documents of a domain |
//! | `val_loss/lang=NAME`, `val_bits_per_byte/lang=NAME` | and of a language |
//!
//! One pass gives all of them: the loss of every target is on the host anyway.

use super::rows::{TokenRows, segments};
use super::weights::{DOMAIN, LANGUAGE, shown};
use crate::Result;
use crate::mixture::Mixture;
use llm_arch::Decoder;
use llm_data::pack::byte_lengths;
use llm_data::shards::{Row, Shards};
use llm_tensor::host;
use llm_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// Sums over targets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sum {
    /// Negative log-likelihoods, nats.
    pub nll: f64,
    /// Bytes of text that the targets stand for.
    pub bytes: u64,
    /// Targets.
    pub targets: usize,
}

impl Sum {
    fn loss(&self) -> f64 {
        self.nll / self.targets.max(1) as f64
    }

    fn bits_per_byte(&self) -> f64 {
        self.nll / std::f64::consts::LN_2 / self.bytes.max(1) as f64
    }
}

/// Held-out shards.
#[derive(Debug)]
pub struct Heldout {
    shards: Shards,
    /// Bytes of text of each id.
    bytes: Vec<u32>,
}

impl Heldout {
    /// Of shards that were packed with this tokenizer.
    pub fn new(shards: Shards, tokenizer: &Tokenizer) -> Self {
        Self { shards, bytes: byte_lengths(tokenizer) }
    }

    /// The numbers of the module's table over `eval_rows` rows, 0 for all; `mixture` counts what the experts did.
    pub fn validate(&self, model: &Decoder, eval_rows: usize, micro_batch_size: usize, mixture: &mut Mixture) -> Result<Map<String, Value>> {
        let heldout = &self.shards;
        let rows = if eval_rows == 0 { heldout.len() } else { eval_rows.min(heldout.len()) };
        let mut sum = Sum::default();
        let mut domains = vec![Sum::default(); heldout.labels().domains.len()];
        let mut languages = vec![Sum::default(); heldout.labels().languages.len()];
        for chunk in (0..rows).collect::<Vec<_>>().chunks(micro_batch_size) {
            // Evenly spread over the held-out set, so that all its domains count.
            let rows: Vec<Row> = chunk.iter().map(|&i| heldout.row(i * heldout.len() / rows)).collect();
            sum.bytes += rows.iter().map(|r| u64::from(r.target_bytes)).sum::<u64>();
            let batch = TokenRows::new(&rows);
            sum.targets += batch.counted;
            let losses = host::to_vec(model.nll(mixture.watch(model, &batch.batch), batch.targets));
            sum.nll += losses.iter().map(|&x| f64::from(x)).sum::<f64>();
            for (row, losses) in rows.iter().zip(losses.chunks(heldout.sequence_length())) {
                for segment in segments(row) {
                    let targets = segment.targets();
                    let part = Sum {
                        nll: losses[targets.clone()].iter().map(|&x| f64::from(x)).sum(),
                        bytes: self.bytes_of(&row.tokens[segment.tokens.start + 1..segment.tokens.end]),
                        targets: targets.len(),
                    };
                    let lists = [(&mut domains, segment.label.domain), (&mut languages, segment.label.language)];
                    for sum in lists.into_iter().filter_map(|(list, i)| list.get_mut(usize::from(i))) {
                        sum.nll += part.nll;
                        sum.bytes += part.bytes;
                        sum.targets += part.targets;
                    }
                }
            }
        }
        let mut record = Map::from_iter([
            ("val_loss".to_string(), json!(sum.loss())),
            ("val_perplexity".to_string(), json!(sum.loss().exp())),
            ("val_bits_per_byte".to_string(), json!(sum.bits_per_byte())),
        ]);
        for (prefix, names, sums) in [(DOMAIN, &heldout.labels().domains, &domains), (LANGUAGE, &heldout.labels().languages, &languages)] {
            // Where nothing has a name there is nothing to tell apart.
            let named = names.iter().any(|name| !name.is_empty());
            for (name, sum) in shown(names).zip(sums).filter(|(_, sum)| named && sum.targets > 0) {
                record.insert(format!("val_loss/{prefix}{name}"), json!(sum.loss()));
                record.insert(format!("val_bits_per_byte/{prefix}{name}"), json!(sum.bits_per_byte()));
            }
        }
        Ok(record)
    }

    /// Bytes of text that these ids stand for.
    pub fn bytes_of(&self, ids: &[u32]) -> u64 {
        ids.iter().map(|&id| u64::from(self.bytes.get(id as usize).copied().unwrap_or(0))).sum()
    }
}

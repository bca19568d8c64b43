//! The report in words: one or a few sentences for each language.

use super::names::language;
use super::report::{Group, Report};

impl Report {
    /// What a language costs, for people.
    pub fn sentence(&self, lang: &str) -> String {
        let name = language(lang);
        let reference = language(&self.reference);
        let Some(fertility) = self.values(lang, |g| Some(g.tokens_per_word)) else {
            return String::new();
        };
        let fertility = format!("takes {} tokens per word", self.listed(&fertility));
        let share = self.values(lang, |g| g.context_share).filter(|_| lang != self.reference);
        let Some(share) = share else {
            return format!("{name} {fertility}.{}", self.against_first(lang));
        };
        let mut text = format!("{name} gets {} of {reference}'s window", self.listed(&share));
        text.push_str(&format!(" and {fertility}."));
        if let (Some(flops), Some(cache)) = (self.values(lang, |g| g.training_flops_per_byte), self.values(lang, |g| g.kv_cache_per_1000_characters))
        {
            text.push_str(&format!(
                " A byte of it costs {} times the training FLOPs of a byte of {reference}, and 1000 characters fill {} times the KV cache.",
                numbers(&flops),
                numbers(&cache)
            ));
        }
        let texts = self.tokenizers.first().and_then(|t| t.by_lang.get(lang)).map_or(0, |g| g.parallel_texts);
        if let Some(parity) = self.values(lang, |g| g.parity_parallel) {
            let s = if texts == 1 { "" } else { "s" };
            text.push_str(&format!(" The same text takes {} times the tokens ({texts} translation{s}).", numbers(&parity)));
        }
        text + &self.against_first(lang)
    }

    /// One value for each tokenizer; `None` where one of them has none.
    fn values(&self, lang: &str, value: impl Fn(&Group) -> Option<f64>) -> Option<Vec<f64>> {
        let values: Option<Vec<f64>> = self.tokenizers.iter().map(|t| t.by_lang.get(lang).and_then(&value)).collect();
        values.filter(|v| !v.is_empty())
    }

    /// `0.61`, or `0.61 (biased) and 0.86 (balanced)`.
    fn listed(&self, values: &[f64]) -> String {
        match values {
            [only] => format!("{only:.2}"),
            _ => and(&values.iter().zip(&self.tokenizers).map(|(v, t)| format!("{v:.2} ({})", t.name)).collect::<Vec<_>>()),
        }
    }

    /// How many tokens the others need, compared with the first.
    fn against_first(&self, lang: &str) -> String {
        let Some((first, others)) = self.tokenizers.split_first() else {
            return String::new();
        };
        let parts: Vec<String> = others
            .iter()
            .filter_map(|other| {
                let change = (other.tokens_vs_first.get(lang)? - 1.0) * 100.0;
                let more = if change > 0.0 { "more" } else { "fewer" };
                Some(match change.abs() {
                    size if size < 0.05 => format!("{} as many", other.name),
                    size => format!("{} {size:.1} % {more}", other.name),
                })
            })
            .collect();
        if parts.is_empty() { String::new() } else { format!(" Tokens compared with {}: {}.", first.name, and(&parts)) }
    }
}

fn numbers(values: &[f64]) -> String {
    and(&values.iter().map(|v| format!("{v:.2}")).collect::<Vec<_>>())
}

/// `a`, `a and b`, `a, b and c`.
fn and(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

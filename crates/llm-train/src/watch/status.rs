//! The numbers of a training in one line of text, cut at whole fields.

use llm_run::progress::{human_seconds, thousands};

/// Numbers that a line and a dashboard show.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Steps taken.
    pub step: u64,
    /// Steps of the run.
    pub max_steps: u64,
    /// Tokens trained on.
    pub tokens: f64,
    /// Loss without its noise.
    pub loss: Option<f64>,
    /// Mean reward, where there is one.
    pub reward: Option<f64>,
    /// Divergence from the reference, nats.
    pub kl: Option<f64>,
    /// Tokens per answer.
    pub length: Option<f64>,
    /// Entropy of the policy, nats per token.
    pub entropy: Option<f64>,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Tokens per second.
    pub tokens_per_second: Option<f64>,
    /// Share of the peak.
    pub mfu: Option<f64>,
    /// Resident memory, bytes.
    pub memory: Option<f64>,
    /// Seconds trained, over all restarts.
    pub elapsed: f64,
    /// Seconds to go.
    pub left: Option<f64>,
}

/// `1.23 GiB`, `12.3 GiB`, `321 MiB`.
pub fn bytes(bytes: f64) -> String {
    let mib = bytes / (1u64 << 20) as f64;
    match mib {
        m if m < 1000.0 => format!("{m:.0} MiB"),
        m if m < 10_240.0 => format!("{:.2} GiB", m / 1024.0),
        m => format!("{:.1} GiB", m / 1024.0),
    }
}

/// `950`, `12.3k`, `4.56M`, `7.89B`.
pub fn short(value: f64) -> String {
    match value {
        v if v < 1e3 => format!("{v:.0}"),
        v if v < 1e6 => format!("{:.1}k", v / 1e3),
        v if v < 1e9 => format!("{:.2}M", v / 1e6),
        v if v < 1e12 => format!("{:.2}B", v / 1e9),
        v => format!("{:.2}T", v / 1e12),
    }
}

/// `41s`, `12m05s`, `3h20m`, `2d04h`.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0}s"),
        s if s < 86_400.0 => human_seconds(s),
        s => format!("{}d{:02}h", (s / 86_400.0) as u64, (s % 86_400.0 / 3600.0) as u64),
    }
}

/// A loss of any size in six characters or so.
pub fn loss(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.1e}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

impl Live {
    /// The fields in the order of what matters most.
    fn fields(&self) -> Vec<String> {
        let mut fields = vec![format!("{}/{}", thousands(self.step), thousands(self.max_steps))];
        fields.extend(self.left.map(|left| format!("ETA {}", time(left))));
        match self.reward {
            Some(reward) => {
                fields.push(format!("reward {reward:.3}"));
                fields.extend(self.kl.map(|kl| format!("kl {}", loss(kl))));
                fields.extend(self.length.map(|length| format!("length {length:.1}")));
                fields.extend(self.entropy.map(|entropy| format!("entropy {}", loss(entropy))));
            }
            None => fields.extend(self.loss.map(|value| format!("loss {}", loss(value)))),
        }
        fields.extend(self.lr.map(|lr| format!("lr {lr:.1e}")));
        fields.extend(self.grad_norm.map(|norm| format!("|g| {}", if norm < 1000.0 { format!("{norm:.2}") } else { format!("{norm:.1e}") })));
        fields.extend(self.tokens_per_second.map(|rate| format!("{} tok/s", short(rate))));
        fields.extend(self.mfu.map(|mfu| format!("MFU {:.0}%", 100.0 * mfu)));
        fields.extend(self.memory.map(bytes));
        fields
    }

    /// As many fields as fit into `width` columns, the least important dropped; a bar in front where there is room for it too.
    pub fn line(&self, width: usize) -> String {
        const BAR: usize = 10;
        let fields = self.fields();
        let (mut line, mut shown) = (String::new(), 0);
        for field in &fields {
            let room = width.saturating_sub(line.chars().count() + usize::from(!line.is_empty()));
            if field.chars().count() > room {
                break;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(field);
            shown += 1;
        }
        if shown == fields.len() && line.chars().count() + BAR < width && self.max_steps > 0 {
            let full = (self.step as f64 / self.max_steps as f64 * BAR as f64) as usize;
            line = format!("{}{} {line}", "━".repeat(full.min(BAR)), "─".repeat(BAR - full.min(BAR)));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn live() -> Live {
        Live {
            step: 1234,
            max_steps: 20_000,
            tokens: 2e6,
            loss: Some(3.2141),
            reward: None,
            kl: None,
            length: None,
            entropy: None,
            lr: Some(3e-4),
            grad_norm: Some(0.823),
            tokens_per_second: Some(12_345.0),
            mfu: Some(0.412),
            memory: Some(1.2e9),
            elapsed: 60.0,
            left: Some(7800.0),
        }
    }

    #[test]
    fn a_line_of_80_columns_has_what_matters() {
        assert_eq!(live().line(71), "1,234/20,000 ETA 2h10m loss 3.214 lr 3.0e-4 |g| 0.82 12.3k tok/s");
        assert_eq!(live().line(80), "1,234/20,000 ETA 2h10m loss 3.214 lr 3.0e-4 |g| 0.82 12.3k tok/s MFU 41%");
        assert!(live().line(120).starts_with("────────── 1,234/20,000 ETA"));
        assert!(live().line(120).ends_with("1.12 GiB"));
        let reward = Live { reward: Some(0.5), ..live() };
        assert!(reward.line(80).contains("reward 0.500 lr"), "{}", reward.line(80));
        let policy = Live { kl: Some(1.5), length: Some(41.5), entropy: Some(0.25), ..reward };
        assert_eq!(policy.line(71), "1,234/20,000 ETA 2h10m reward 0.500 kl 1.500 length 41.5 entropy 0.250");
    }

    proptest! {
        /// If this fails, a narrow terminal wraps the line and fills with copies of it.
        #[test]
        fn no_line_is_wider_than_asked(width in 0usize..200, step: u64, loss: f64, lr: f64, rate in 0f64..1e30, left in 0f64..1e12) {
            let live = Live { step, loss: Some(loss), lr: Some(lr), tokens_per_second: Some(rate), left: Some(left), ..live() };
            prop_assert!(live.line(width).chars().count() <= width);
        }
    }
}

//! Axes: linear or logarithmic, with round ticks and short labels.

/// One axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Beside the axis.
    pub label: String,
    /// Logarithmic.
    pub log: bool,
    /// Numbers are written as powers of ten, as compute is.
    pub powers: bool,
    /// Own ticks instead of round numbers.
    pub ticks: Option<Vec<(f64, String)>>,
}

impl Axis {
    /// An ordinary axis.
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_string(), log: false, powers: false, ticks: None }
    }

    /// A logarithmic axis.
    pub fn log(label: &str) -> Self {
        Self { log: true, ..Self::linear(label) }
    }

    /// A logarithmic axis of compute.
    pub fn compute(label: &str) -> Self {
        Self { powers: true, ..Self::log(label) }
    }

    pub(super) fn scale(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }

    pub(super) fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }

    /// Ticks within a range of scaled values: where (scaled), and what they say.
    pub(super) fn marks(&self, range: (f64, f64), count: usize) -> Vec<(f64, String)> {
        if let Some(own) = &self.ticks {
            return own.iter().map(|(value, label)| (self.scale(*value), label.clone())).collect();
        }
        if self.log {
            let label = |t: f64| {
                let value = crate::quantity::rounded(10f64.powf(t), 3);
                if self.powers { crate::quantity::power(value) } else { tick_label(value, if t < 3.0 { 0.0 } else { 1.0 }) }
            };
            return log_ticks(range.0, range.1).into_iter().map(|t| (t, label(t))).collect();
        }
        let ticks = llm_run::chart::ticks(range.0, range.1, count);
        let step = ticks.get(1).zip(ticks.first()).map_or(1.0, |(b, a)| b - a);
        ticks.into_iter().map(|t| (t, tick_label(t, step))).collect()
    }
}

/// Logarithms of round numbers within: powers of ten, and 2 and 5 times them where there are few.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = high - low;
    let factors: &[f64] = if decades < 0.8 {
        &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]
    } else if decades < 2.2 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let every = (decades / 6.0).ceil().max(1.0) as i64;
    let powers = (low.floor() as i64..=high.ceil() as i64).filter(|p| p.rem_euclid(every) == 0);
    powers.flat_map(|p| factors.iter().map(move |f| p as f64 + f.log10())).filter(|t| (low - 1e-9..=high + 1e-9).contains(t)).collect()
}

/// `50K`, `1.5M`, `1e18`, `0.003`.
fn tick_label(value: f64, step: f64) -> String {
    let size = value.abs();
    if size >= 1e13 || (size > 0.0 && size < 1e-4) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    if size >= 1e3 && step >= 1.0 {
        return crate::quantity::count(value).replace(' ', "").replace(".00", "").replace(".0", "");
    }
    if step > 0.0 {
        let digits = if step >= 1.0 { 0 } else { (-step.log10()).ceil().max(0.0) as usize };
        return format!("{value:.digits$}");
    }
    crate::quantity::short(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_labels_short() {
        let labels = |low: f64, high: f64| Axis::log("").marks((low, high), 5).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(labels(5.0, 7.0), ["100K", "200K", "500K", "1M", "2M", "5M", "10M"]);
        assert_eq!(labels(18.0, 21.0), ["1e18", "1e19", "1e20", "1e21"]);
        let compute = Axis::compute("").marks((10.95, 13.05), 5).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(compute, ["1e11", "2e11", "5e11", "1e12", "2e12", "5e12", "1e13"]);
        assert_eq!(labels(-4.0, -2.0), ["0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01"]);
    }
}

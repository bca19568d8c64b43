//! Where a value lies on an axis, and which values it names.

use crate::html::number;

/// One axis of a chart.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// Smallest value shown.
    pub low: f64,
    /// Largest value shown.
    pub high: f64,
    /// Equal ratios take equal room.
    pub log: bool,
}

impl Axis {
    /// 0 at `low`, 1 at `high`; what lies outside sits on the edge.
    pub fn place(&self, value: f64) -> f64 {
        let share = match self.log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        share.clamp(0.0, 1.0)
    }

    /// About `count` round values inside, with their labels.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let decades = if self.log { (self.high / self.low).log10() } else { 0.0 };
        if decades >= 1.0 {
            return log_ticks(self.low, self.high, count).into_iter().map(|v| (v, compact(v))).collect();
        }
        let values = ticks(self.low, self.high, count);
        let step = values.get(1).zip(values.first()).map_or(1.0, |(b, a)| b - a);
        values.into_iter().map(|v| (v, label(v, step))).collect()
    }
}

/// Round numbers that cover `low..=high` in about `count` steps of 1, 2 or 5 times a power of ten.
pub fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = (high - low).max(f64::MIN_POSITIVE);
    let raw = span / count.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(power * 10.0);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Powers of ten, with 2 and 5 times them where there is room.
fn log_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let decades = (high / low).log10();
    let multiples: &[f64] = if decades * 3.0 <= count as f64 + 1.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = ((decades / count.max(1) as f64).ceil() as i32).max(1);
    let exponents = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let inside = |v: &f64| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(v);
    exponents.filter(|e| e.rem_euclid(every) == 0).flat_map(|e| multiples.iter().map(move |m| m * 10f64.powi(e))).filter(inside).collect()
}

/// `200`, `50k`, `1M`, `1e-4`, `1e21`.
fn compact(value: f64) -> String {
    let size = value.abs();
    let scaled = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")].into_iter().find(|(scale, _)| size >= *scale);
    match scaled {
        _ if size >= 1e15 => format!("{value:.0e}"),
        Some((1e4, unit)) => format!("{}{unit}", number(value / 1e3)),
        Some((scale, unit)) => format!("{}{unit}", number(value / scale)),
        None if size < 1e-3 && size > 0.0 => format!("{value:.0e}"),
        None => number(value),
    }
}

/// `2,000` and `0.05`, with the digits the distance of the ticks asks for.
fn label(value: f64, step: f64) -> String {
    if value.abs() >= 10_000.0 {
        return compact(value);
    }
    if step != 0.0 && step < 1e-3 {
        return if value == 0.0 { "0".to_string() } else { format!("{value:.0e}") };
    }
    let digits = if step >= 1.0 { 0 } else { (-step.log10()).ceil().max(0.0) as usize };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let t = ticks(3.1, 7.9, 5);
        assert_eq!(t, [4.0, 5.0, 6.0, 7.0]);
        assert!(ticks(1.0, 1.0, 5).len() <= 2);
    }

    #[test]
    fn log_ticks_have_names_people_use() {
        let names = |low, high| Axis { low, high, log: true }.ticks(5).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(names(1.0, 100.0), ["1", "2", "5", "10", "20", "50", "100"]);
        assert_eq!(names(1e-5, 1e-2), ["1e-5", "1e-4", "0.001", "0.01"]);
        assert_eq!(names(9e5, 2e12), ["1M", "100M", "10B", "1T"]);
        assert_eq!(names(2.9, 3.5), ["3.0", "3.2", "3.4"], "less than a decade: even steps");
    }

    proptest! {
        /// If this fails, a point is drawn outside of its chart or a tick beside its value.
        #[test]
        fn places_are_inside_and_in_order(low in 1e-9f64..1e9, span in 1.01f64..1e9, a in 0f64..1.0, b in 0f64..1.0, log: bool) {
            let axis = Axis { low, high: low * span, log };
            let at = |share: f64| axis.place(low + share * (axis.high - low));
            prop_assert!((0.0..=1.0).contains(&at(a)) && (at(a) <= at(b)) == (a <= b) || (at(a) - at(b)).abs() < 1e-9);
            let ticks = axis.ticks(5);
            prop_assert!(ticks.len() <= 12 && ticks.iter().all(|(v, _)| *v >= low * 0.999 && *v <= axis.high * 1.001), "{ticks:?}");
        }
    }
}

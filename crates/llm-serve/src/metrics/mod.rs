//! Numbers for Prometheus, without a library: counters, gauges, histograms, and the text they are written in.
//!
//! | file | noun | job |
//! |---|---|---|
//! | [`mod@self`] | `Counter`, `Gauge`, `Histogram`, `Text` | the instruments and the exposition format |
//! | [`catalogue`] | `Metrics` | what this server counts, under vLLM's names and its own |
//!
//! Format: Prometheus text exposition 0.0.4 (`docs/instrumenting/exposition_formats`). All instruments are atomics: the engine's thread
//! never waits for whoever reads them.

pub mod catalogue;

pub use catalogue::Metrics;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The content type of `/metrics`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The total was counted elsewhere.
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    /// The total.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Set it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Read it.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Change it.
    pub fn add(&self, change: f64) {
        add(&self.0, change);
    }
}

fn add(bits: &AtomicU64, change: f64) {
    let next = |old: u64| Some((f64::from_bits(old) + change).to_bits());
    // Never `Err`, as `next` never says no.
    let _ = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
}

/// How often a value fell below each bound.
#[derive(Debug)]
pub struct Histogram {
    bounds: Vec<f64>,
    /// One more than there are bounds; not cumulative.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    /// Bounds in rising order, without infinity.
    pub fn new(bounds: &[f64]) -> Self {
        Self { bounds: bounds.to_vec(), counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Bounds 1, 2, 5, 10, 20, 50, ... up to `largest`.
    pub fn one_two_five(largest: usize) -> Self {
        let largest = largest as f64;
        let bounds = (0..18).flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(power))).take_while(|&bound| bound <= largest);
        Self::new(&bounds.collect::<Vec<_>>())
    }

    /// Count a value.
    pub fn observe(&self, value: f64) {
        let at = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        add(&self.sum, value);
    }

    /// Count a time, in seconds.
    pub fn time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// Values counted so far.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }
}

/// The text of `/metrics` as it grows.
#[derive(Debug, Default)]
pub struct Text {
    text: String,
    labels: Vec<(&'static str, String)>,
}

impl Text {
    /// Labels that every sample from here on begins with.
    pub fn with(labels: Vec<(&'static str, String)>) -> Self {
        Self { text: String::new(), labels }
    }

    /// Begin a family; its samples must follow at once.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        // Writing to a string cannot fail, here and below.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        let Self { text, labels: common } = self;
        let mut separator = '{';
        let mut pair = |label: &str, value: &str| {
            let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
            let _ = write!(text, "{separator}{label}=\"{value}\"");
            separator = ',';
        };
        common.iter().for_each(|(label, value)| pair(label, value));
        labels.iter().for_each(|(label, value)| pair(label, value));
        if separator == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {}", number(value));
    }

    /// A counter on its own.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value as f64);
    }

    /// A gauge on its own.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// A histogram on its own.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        self.buckets(name, &[], histogram);
    }

    /// The samples of a histogram.
    pub fn buckets(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = histogram.bounds.get(at).copied().unwrap_or(f64::INFINITY);
            let bound = number(bound);
            self.sample(&bucket, &[labels, &[("le", bound.as_str())]].concat(), total as f64);
        }
        self.sample(&format!("{name}_sum"), labels, f64::from_bits(histogram.sum.load(Ordering::Relaxed)));
        // The sum of the buckets that were just written: a value counted meanwhile must not make the two differ.
        self.sample(&format!("{name}_count"), labels, total as f64);
    }

    /// What was written.
    pub fn finish(self) -> String {
        self.text
    }
}

/// As Prometheus' own clients write numbers.
fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".into()
    } else if value == f64::NEG_INFINITY {
        "-Inf".into()
    } else if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value:.1}")
    } else {
        format!("{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_it() {
        let histogram = Histogram::new(&[1.0, 2.5]);
        for value in [0.0, 1.0, 1.5, 2.5, 2.6, 100.0] {
            histogram.observe(value);
        }
        let mut text = Text::with(vec![("model_name", "a\"b\\c\nd".into())]);
        text.histogram("x:seconds", "Time.", &histogram);
        let expected = [
            "# HELP x:seconds Time.",
            "# TYPE x:seconds histogram",
            r#"x:seconds_bucket{model_name="a\"b\\c\nd",le="1.0"} 2.0"#,
            r#"x:seconds_bucket{model_name="a\"b\\c\nd",le="2.5"} 4.0"#,
            r#"x:seconds_bucket{model_name="a\"b\\c\nd",le="+Inf"} 6.0"#,
            r#"x:seconds_sum{model_name="a\"b\\c\nd"} 107.6"#,
            r#"x:seconds_count{model_name="a\"b\\c\nd"} 6.0"#,
        ];
        assert_eq!(text.finish().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn bounds_of_counts() {
        assert_eq!(Histogram::one_two_five(100).bounds, [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(Histogram::one_two_five(0).counts.len(), 1);
    }

    #[test]
    fn gauges_and_counters() {
        let (gauge, counter) = (Gauge::default(), Counter::default());
        gauge.add(1.5);
        gauge.add(-1.0);
        counter.inc();
        counter.add(41);
        let mut text = Text::default();
        text.gauge("g", "A gauge\nwith \\ in its help.", gauge.get());
        text.counter("c_total", "A counter.", counter.get());
        assert_eq!(
            text.finish(),
            "# HELP g A gauge\\nwith \\\\ in its help.\n# TYPE g gauge\ng 0.5\n# HELP c_total A counter.\n# TYPE c_total counter\nc_total 42.0\n"
        );
    }
}

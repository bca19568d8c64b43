//! What people see: a table of 80 columns; what programs read: JSON with everything.

use super::ceiling::{Ceiling, Compute};
use super::stats::{Percentiles, Point, Slo};
use serde_json::{Value, json};
use std::fmt::Write;

/// What was measured, for the head of the table and the JSON.
#[derive(Debug, Clone)]
pub struct About {
    /// The name that requests use.
    pub model: String,
    /// Where.
    pub url: String,
    /// What was asked, in words.
    pub workload: String,
    /// The promise.
    pub slo: Slo,
    /// Measured on this machine.
    pub ceiling: Option<Ceiling>,
    /// Measured with this server.
    pub compute: Option<Compute>,
}

/// What prompts alone reached.
pub fn prompts_alone(compute: Compute) -> String {
    format!("processor: {} tokens/s of prompts alone, {} at a time\n", number(compute.tokens_per_second), compute.streams)
}

/// The lines above the table.
pub fn head(about: &About) -> String {
    let mut text = format!("{} at {}\n{}\n", about.model, about.url, about.workload);
    if let Some(ceiling) = about.ceiling {
        let _ = writeln!(
            text,
            "memory {:.1} GB/s, {} a step: at most {:.0} tokens/s a stream",
            ceiling.bandwidth / 1e9,
            bytes(ceiling.bytes_per_step),
            ceiling.steps_per_second()
        );
    }
    text
}

/// The table: throughput first, then waiting.
pub fn table(points: &[Point], slo: Slo) -> String {
    let mut text = String::from("\nthroughput               tokens/s           good       share of     requests\n");
    text.push_str("load           answers/s      out       in       /s  memory compute  done failed\n");
    for p in points {
        let good = if slo.is_empty() { "-".into() } else { number(p.goodput) };
        let percent = |share: Option<f64>| share.map_or("-".into(), |s| if s < 9.99 { format!("{:.0} %", s * 100.0) } else { "> 999 %".into() });
        let (memory, compute) = (percent(p.ceiling_share), percent(p.compute_share));
        let failed: usize = p.errors.values().sum();
        let _ = writeln!(
            text,
            "{:<14} {:>9} {:>8} {:>8} {good:>8} {memory:>7} {compute:>7} {:>5} {failed:>6}",
            p.load,
            number(p.requests_per_second),
            number(p.output_tokens_per_second),
            number(p.prompt_tokens_per_second),
            p.complete,
        );
    }
    text.push_str("\nwaiting, ms        first token             token to token         whole answer\n");
    text.push_str("load             p50    p90    p99      p50    p90    p99      p50    p90    p99\n");
    for p in points {
        let of = |p: &Percentiles| {
            if p.count == 0 { format!("{:>6} {:>6} {:>6}", "-", "-", "-") } else { format!("{:>6} {:>6} {:>6}", ms(p.p50), ms(p.p90), ms(p.p99)) }
        };
        let _ = writeln!(text, "{:<13} {}   {}   {}", p.load, of(&p.ttft), of(&p.itl), of(&p.e2e));
    }
    for p in points.iter().filter(|p| !p.errors.is_empty()) {
        let errors: Vec<_> = p.errors.iter().map(|(why, count)| format!("{count} x {why}")).collect();
        let _ = writeln!(text, "{}: failed {}", p.load, errors.join(", "));
    }
    text
}

/// Everything; times in seconds.
pub fn json(about: &About, points: &[Point]) -> Value {
    let seconds = |time: Option<std::time::Duration>| time.map(|t| t.as_secs_f64());
    json!({
        "model": about.model, "url": about.url, "workload": about.workload,
        "slo": {"ttft_seconds": seconds(about.slo.ttft), "itl_seconds": seconds(about.slo.itl)},
        "ceiling": about.ceiling, "compute": about.compute, "points": points,
    })
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn ms(seconds: f64) -> String {
    number(seconds * 1e3)
}

fn bytes(count: f64) -> String {
    if count >= 1e9 { format!("{:.2} GB of weights", count / 1e9) } else { format!("{:.1} MB of weights", count / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::stats::{End, Limits, Record};
    use std::time::Duration;

    fn point(load: &str, seconds: u64) -> Point {
        let time = Duration::from_secs(seconds);
        let record = Record {
            due: Duration::ZERO,
            first: Some(time),
            gaps: vec![time; 3],
            total: time * 4,
            prompt_tokens: 123_456,
            output_tokens: 99_999,
            end: End::Complete,
        };
        let lost = Record { end: End::Failed("429 overloaded".into()), ..record.clone() };
        Point::of(load.into(), &[record, lost], Slo::default(), Limits { steps_per_second: Some(0.01), tokens_per_second: Some(1.0) })
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let text = table(&[point("64 streams", 1), point("1024 streams", 5), point("12.5 req/s", 7)], Slo { ttft: Some(Duration::MAX), itl: None });
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
        assert!(text.contains("64 streams: failed 1 x 429 overloaded"), "{text}");
        let about = About { model: "m".into(), url: "http://a".into(), workload: "w".into(), slo: Slo::default(), ceiling: None, compute: None };
        let value = json(&about, &[point("1 stream", 1)]);
        assert_eq!(value["points"][0]["errors"]["429 overloaded"], 1);
        assert_eq!(value["points"][0]["ttft"]["p50"], 1.0);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0.1234, 9.999, 12.34, 99.96, 1234.5].map(number), ["0.12", "10.0", "12.3", "100", "1234"]);
    }
}

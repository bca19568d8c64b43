//! Records of requests to numbers: percentiles, throughput, goodput.

use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With the last event of its stream.
    Complete,
    /// With anything else: a status, or a word for what happened.
    Failed(String),
}

/// One request; times count from when it was due.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it was due, from the start of the measurement.
    pub due: Duration,
    /// Until the first text.
    pub first: Option<Duration>,
    /// Between two pieces of text.
    pub gaps: Vec<Duration>,
    /// Until the end.
    pub total: Duration,
    /// As the server counted.
    pub prompt_tokens: usize,
    /// As the server counted.
    pub output_tokens: usize,
    /// How it ended.
    pub end: End,
}

impl Record {
    fn complete(&self) -> bool {
        self.end == End::Complete
    }

    /// Mean time from token to token, by the server's count: a piece of text may hold several tokens, and a token no text.
    pub fn per_token(&self) -> Option<Duration> {
        let after = u32::try_from(self.output_tokens).ok()?.checked_sub(1).filter(|&n| n > 0)?;
        Some(self.total.checked_sub(self.first?)? / after)
    }
}

/// What users were promised.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slo {
    /// Longest time to the first text.
    pub ttft: Option<Duration>,
    /// Longest mean time from token to token.
    pub itl: Option<Duration>,
}

impl Slo {
    fn met(&self, record: &Record) -> bool {
        let within = |limit: Option<Duration>, time: Option<Duration>| limit.is_none_or(|l| time.is_some_and(|t| t <= l));
        // An answer of one token has no time between tokens.
        let itl = self.itl.filter(|_| record.output_tokens > 1);
        record.complete() && within(self.ttft, record.first) && within(itl, record.per_token())
    }

    /// Nothing was promised.
    pub fn is_empty(&self) -> bool {
        self.ttft.is_none() && self.itl.is_none()
    }
}

/// Seconds below which this share of the values lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half.
    pub p50: f64,
    /// Nine tenths.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// The average.
    pub mean: f64,
    /// How many values.
    pub count: usize,
}

impl Percentiles {
    /// Linear interpolation between the two nearest values, as numpy does. All zero without values.
    pub fn of(values: impl Iterator<Item = Duration>) -> Self {
        let mut values: Vec<f64> = values.map(|v| v.as_secs_f64()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let Some(&last) = values.last() else { return Self::default() };
        let at = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let low = values.get(place as usize).copied().unwrap_or(last);
            low + (values.get(place as usize + 1).copied().unwrap_or(last) - low) * place.fract()
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), mean: values.iter().sum::<f64>() / values.len() as f64, count: values.len() }
    }
}

/// The result at one level of load.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// `16 streams`, `4 req/s`.
    pub load: String,
    /// Requests that were answered to the end.
    pub complete: usize,
    /// The others, by status or by a word.
    pub errors: BTreeMap<String, usize>,
    /// From the first request to the last end.
    pub seconds: f64,
    /// Answers a second.
    pub requests_per_second: f64,
    /// Generated tokens a second, all streams together.
    pub output_tokens_per_second: f64,
    /// Prompt tokens a second.
    pub prompt_tokens_per_second: f64,
    /// Answers a second that kept the promise; none was given: all.
    pub goodput: f64,
    /// Mean length of a prompt, as the server counts.
    pub prompt_tokens: f64,
    /// Mean length of an answer.
    pub output_tokens: f64,
    /// Time to the first text.
    pub ttft: Percentiles,
    /// From one piece of text to the next.
    pub itl: Percentiles,
    /// From token to token, the mean of each request.
    pub per_token: Percentiles,
    /// The whole request.
    pub e2e: Percentiles,
    /// Share of what the memory allows: weights' bytes times steps a second, over the measured bandwidth.
    pub ceiling_share: Option<f64>,
    /// Share of what the processor allows: tokens of prompts and answers a second, over those of prompts alone.
    pub compute_share: Option<f64>,
}

/// What the machine allows at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Bandwidth over bytes of weights.
    pub steps_per_second: Option<f64>,
    /// Prompts alone.
    pub tokens_per_second: Option<f64>,
}

impl Point {
    /// Summarise.
    pub fn of(load: String, records: &[Record], slo: Slo, limits: Limits) -> Self {
        let done = || records.iter().filter(|r| r.complete());
        let mut errors = BTreeMap::new();
        for record in records {
            if let End::Failed(why) = &record.end {
                *errors.entry(why.clone()).or_default() += 1;
            }
        }
        let begin = records.iter().map(|r| r.due).min().unwrap_or_default();
        let end = records.iter().map(|r| r.due + r.total).max().unwrap_or_default();
        let seconds = end.saturating_sub(begin).as_secs_f64();
        let rate = |count: usize| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let complete = done().count();
        let mean = |sum: usize| if complete > 0 { sum as f64 / complete as f64 } else { 0.0 };
        let (prompt, output) = (done().map(|r| r.prompt_tokens).sum(), done().map(|r| r.output_tokens).sum());
        let per_token = Percentiles::of(done().filter_map(Record::per_token));
        let ceiling_share = limits.steps_per_second.filter(|_| per_token.p50 > 0.0).map(|limit| 1.0 / per_token.p50 / limit);
        let compute_share = limits.tokens_per_second.map(|limit| rate(prompt + output) / limit);
        Self {
            load,
            complete,
            errors,
            seconds,
            requests_per_second: rate(complete),
            output_tokens_per_second: rate(output),
            prompt_tokens_per_second: rate(prompt),
            goodput: rate(done().filter(|r| slo.met(r)).count()),
            prompt_tokens: mean(prompt),
            output_tokens: mean(output),
            ttft: Percentiles::of(done().filter_map(|r| r.first)),
            itl: Percentiles::of(done().flat_map(|r| r.gaps.iter().copied())),
            per_token,
            e2e: Percentiles::of(done().map(|r| r.total)),
            ceiling_share,
            compute_share,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn record(due: u64, first: u64, gaps: &[u64]) -> Record {
        let total = first + gaps.iter().sum::<u64>();
        let gaps: Vec<_> = gaps.iter().map(|&g| MS(g)).collect();
        Record { due: MS(due), first: Some(MS(first)), total: MS(total), prompt_tokens: 10, output_tokens: gaps.len() + 1, gaps, end: End::Complete }
    }

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([1, 2, 3, 4], [50, 90, 99]) = 2.5, 3.7, 3.97
        let p = Percentiles::of([4, 1, 3, 2].map(Duration::from_secs).into_iter());
        for (got, expected) in [(p.p50, 2.5), (p.p90, 3.7), (p.p99, 3.97), (p.mean, 2.5)] {
            assert!((got - expected).abs() < 1e-9, "{p:?}");
        }
        assert_eq!(Percentiles::of([].into_iter()), Percentiles::default());
        assert_eq!(Percentiles::of([MS(7)].into_iter()).p99, 0.007);
    }

    #[test]
    fn a_point_counts_what_was_answered_in_the_time_it_took() {
        let mut records = vec![record(0, 100, &[50, 50]), record(500, 300, &[100, 100])];
        records.push(Record { end: End::Failed("429".into()), first: None, gaps: vec![], output_tokens: 0, ..record(900, 100, &[]) });
        let slo = Slo { ttft: Some(MS(200)), itl: Some(MS(60)) };
        let limits = Limits { steps_per_second: Some(40.0), tokens_per_second: Some(52.0) };
        let point = Point::of("2 streams".into(), &records, slo, limits);
        assert_eq!((point.complete, point.seconds), (2, 1.0));
        assert_eq!(point.errors, [("429".to_string(), 1)].into());
        assert_eq!((point.output_tokens_per_second, point.prompt_tokens_per_second), (6.0, 20.0));
        assert_eq!(point.goodput, 1.0, "the second answer began too late");
        assert_eq!(point.itl.count, 4);
        assert!((point.per_token.p50 - 0.075).abs() < 1e-9);
        assert!((point.ceiling_share.unwrap() - 1.0 / 0.075 / 40.0).abs() < 1e-9);
        assert_eq!(point.compute_share, Some(0.5));
        let strict = Slo { itl: Some(MS(40)), ..Slo::default() };
        assert_eq!(Point::of(String::new(), &records, strict, Limits::default()).goodput, 0.0);
    }

    #[test]
    fn one_token_has_no_time_between_tokens() {
        let records = [record(0, 100, &[])];
        let point = Point::of(
            String::new(),
            &records,
            Slo { itl: Some(MS(1)), ..Slo::default() },
            Limits { steps_per_second: Some(10.0), tokens_per_second: None },
        );
        assert_eq!((point.goodput, point.per_token.count, point.ceiling_share), (10.0, 0, None));
    }
}

//! From answers to numbers: the harness's metrics of a document, their aggregation, standard errors and intervals.
//!
//! - `acc`: the largest sum of log p; `acc_norm`: divided by the characters of the choice, without the delimiter; `acc_bytes`:
//!   by its UTF-8 bytes. The first of equals wins, as numpy's `argmax` has it.
//! - The standard error of a mean is the sample deviation (n - 1) over √n; that of a perplexity comes from the bootstrap; a
//!   group's, weighted by size, is pooled from those of its tasks. Weighted perplexities and bits per byte have none in the
//!   harness; we give the bootstrap's.

use crate::results::Metric;
use crate::stats::{Item, bootstrap, wilson95};
use crate::task::{Aggregation, Answer, Ask, Document, MetricSpec, Score};
use llm_run::Seed;

/// Place of the largest value; the first of equals.
pub fn argmax(values: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in values.into_iter().enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

/// The metrics that need nothing but the document and its answers.
pub fn standard(specs: &[MetricSpec], document: &Document, answers: &[Answer]) -> Vec<Score> {
    specs.iter().filter_map(|spec| score(spec.metric, document, answers)).collect()
}

fn score(metric: Metric, document: &Document, answers: &[Answer]) -> Option<Score> {
    let share = |right: bool| Some(Score::plain(metric, f64::from(u8::from(right))));
    match (&document.ask, metric) {
        (Ask::Choice { choices, gold }, Metric::Acc | Metric::AccNorm | Metric::AccBytes) => {
            let sums = answers.iter().map(Answer::sum).zip(choices);
            let picked = argmax(sums.map(|(sum, choice)| match metric {
                Metric::AccNorm => sum / choice.chars().count() as f64,
                Metric::AccBytes => sum / choice.len() as f64,
                _ => sum,
            }));
            share(gold.contains(&picked))
        }
        (Ask::Likelihood, Metric::Acc) => share(matches!(answers.first()?, Answer::Likelihood { greedy: true, .. })),
        (Ask::Likelihood, Metric::Perplexity) => Some(Score::plain(metric, answers.first()?.sum())),
        (Ask::Rolling { words, .. }, Metric::WordPerplexity) => Some(Score { weight: *words as f64, ..Score::plain(metric, answers.first()?.sum()) }),
        (Ask::Rolling { bytes, .. }, Metric::BytePerplexity | Metric::BitsPerByte) => {
            Some(Score { weight: *bytes as f64, ..Score::plain(metric, answers.first()?.sum()) })
        }
        (Ask::Generate(_), Metric::ExactMatch) => {
            let text = answers.first()?.text();
            let extracted = Some(text.to_string());
            Some(Score { extracted, ..Score::plain(metric, f64::from(u8::from(text == document.target))) })
        }
        _ => None,
    }
}

/// One aggregated number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aggregate {
    /// The number.
    pub value: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// 95 % interval.
    pub ci95: Option<[f64; 2]>,
}

/// Join `(value, weight)` of all documents.
pub fn aggregate(aggregation: Aggregation, items: &[(f64, f64)], resamples: usize, seed: Seed) -> Aggregate {
    let n = items.len() as f64;
    let (sum, weight) = items.iter().fold((0.0, 0.0), |(s, w), (value, weight)| (s + value, w + weight));
    let ratio = |weighted: bool| -> Vec<Item> {
        items.iter().map(|&(value, weight)| Item { score: -value, weight: if weighted { weight } else { 1.0 } }).collect()
    };
    let spread = |weighted: bool| bootstrap(&ratio(weighted), resamples, seed);
    match aggregation {
        Aggregation::Mean => {
            let value = sum / n;
            let binary = items.iter().all(|(v, _)| *v == 0.0 || *v == 1.0);
            let ci95 = if binary { Some(wilson95(sum as u64, items.len() as u64)) } else { spread(false).map(|b| [-b.ci95[1], -b.ci95[0]]) };
            Aggregate { value, stderr: mean_stderr(items), ci95 }
        }
        // exp is monotonous, so the ends of the interval go through it; its slope carries the error over.
        Aggregation::Perplexity => exponential(-sum / n, spread(false)),
        Aggregation::WeightedPerplexity => exponential(-sum / weight, spread(true)),
        Aggregation::BitsPerByte => {
            let ln2 = std::f64::consts::LN_2;
            let spread = spread(true);
            let ci95 = spread.map(|b| b.ci95.map(|v| v / ln2));
            Aggregate { value: -sum / weight / ln2, stderr: spread.map(|b| b.stderr / ln2), ci95 }
        }
    }
}

fn exponential(exponent: f64, spread: Option<crate::stats::Bootstrap>) -> Aggregate {
    let value = exponent.exp();
    Aggregate { value, stderr: spread.map(|b| b.stderr * value), ci95: spread.map(|b| b.ci95.map(f64::exp)) }
}

/// Sample deviation over √n; `None` for fewer than two documents.
fn mean_stderr(items: &[(f64, f64)]) -> Option<f64> {
    let n = items.len() as f64;
    if items.len() < 2 {
        return None;
    }
    let mean = items.iter().map(|i| i.0).sum::<f64>() / n;
    let variance = items.iter().map(|i| (i.0 - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some((variance / n).sqrt())
}

/// Mean of tasks weighted by their documents, and the pooled standard error: `(value, stderr, n)` of each task.
pub fn weighted_mean(tasks: &[(f64, Option<f64>, u64)]) -> Aggregate {
    let total: f64 = tasks.iter().map(|t| t.2 as f64).sum();
    let value = tasks.iter().map(|t| t.0 * t.2 as f64).sum::<f64>() / total;
    let pooled = tasks.iter().map(|&(_, stderr, n)| Some((n as f64 - 1.0) * stderr?.powi(2) * n as f64)).sum::<Option<f64>>();
    let freedom = total - tasks.len() as f64;
    let stderr = pooled.filter(|_| freedom > 0.0).map(|sum| (sum / freedom / total).sqrt());
    let ci95 = stderr.map(|s| [value - 1.959_963_984_540_054 * s, value + 1.959_963_984_540_054 * s]);
    Aggregate { value, stderr, ci95 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn likelihoods(sums: &[f64]) -> Vec<Answer> {
        sums.iter().map(|&sum| Answer::Likelihood { sum, greedy: false }).collect()
    }

    /// Three choices where each rule prefers another one: the plain sum the short one, characters the long one, bytes the one
    /// of umlauts.
    #[test]
    fn the_three_accuracies_differ_as_they_should() {
        let choices = ["ab", "ääää", "abcde"].map(String::from).to_vec();
        let answers = likelihoods(&[-1.0, -1.5, -1.6]);
        let metrics = [Metric::Acc, Metric::AccNorm, Metric::AccBytes].map(MetricSpec::mean);
        for (gold, expected) in [(0, [1.0, 0.0, 0.0]), (1, [0.0, 0.0, 1.0]), (2, [0.0, 1.0, 0.0])] {
            let document = Document::choice("0", "", choices.clone(), gold, Value::Null);
            let got: Vec<f64> = standard(&metrics, &document, &answers).iter().map(|s| s.value).collect();
            assert_eq!(got, expected, "gold {gold}");
        }
        assert_eq!(argmax([-2.0, -1.0, -1.0]), 1, "the first of equals");
    }

    /// Reference values: harness `mean_stderr`, `perplexity` and `pooled_sample_stderr` by hand.
    #[test]
    fn aggregates() {
        let items: Vec<(f64, f64)> = [1.0, 0.0, 1.0, 1.0].into_iter().map(|v| (v, 1.0)).collect();
        let mean = aggregate(Aggregation::Mean, &items, 100, Seed(0));
        assert_eq!((mean.value, mean.stderr), (0.75, Some(0.25)));
        let logs: Vec<(f64, f64)> = [(-1.0, 2.0), (-3.0, 6.0)].to_vec();
        assert!((aggregate(Aggregation::Perplexity, &logs, 100, Seed(0)).value - 2f64.exp()).abs() < 1e-12);
        assert!((aggregate(Aggregation::WeightedPerplexity, &logs, 100, Seed(0)).value - 0.5f64.exp()).abs() < 1e-12);
        assert!((aggregate(Aggregation::BitsPerByte, &logs, 100, Seed(0)).value - 0.5 / 2f64.ln()).abs() < 1e-12);
        let group = weighted_mean(&[(0.5, Some(0.1), 10), (1.0, Some(0.2), 30)]);
        let pooled = ((9.0 * 0.01 * 10.0 + 29.0 * 0.04 * 30.0) / 38.0 / 40.0f64).sqrt();
        assert!((group.value - 0.875).abs() < 1e-12 && (group.stderr.unwrap() - pooled).abs() < 1e-12);
    }
}

//! Charts of the numbers in `metrics.jsonl`, by their keys: which belong together, what they are called, in what unit they are. The reports of
//! `llm-train` and of the pipeline draw the same ones; a key that is not known here has a chart of its own there.
//!
//! Keys are those of TRL where it has one. Held-out numbers have the key of the step's number after `val_` or `eval_`, and are dots in its
//! chart.

use crate::chart::{Chart, Mark, Series};
use serde_json::Value;

/// Curves in one chart.
const MOST_CURVES: usize = 6;

/// A key and its values over steps.
pub type Keyed<'a> = (&'a str, &'a [(f64, f64)]);

/// A chart that is known by name.
struct Known {
    title: &'static str,
    unit: &'static str,
    /// The y axis begins at 0.
    zero: bool,
    /// Keys and what they are called; one that ends in `/` is all keys that begin so, called by the rest.
    keys: &'static [(&'static str, &'static str)],
}

/// In the order in which they matter; those before [`FIRST_OTHER`] are of trainings with rewards or preferences only.
const KNOWN: &[Known] = &[
    Known {
        title: "Reward",
        unit: "mean of the answers",
        zero: false,
        keys: &[("reward", "reward"), ("objective/rlhf_reward", "with the KL penalty")],
    },
    Known {
        title: "Parts of the reward",
        unit: "mean of the answers",
        zero: false,
        keys: &[("objective/scores", "score"), ("objective/non_score_reward", "KL penalty"), ("reward/", ""), ("rewards/", "")],
    },
    Known {
        title: "Chosen and rejected answers",
        unit: "reward",
        zero: false,
        keys: &[
            ("rewards/chosen", "chosen"),
            ("rewards/rejected", "rejected"),
            ("rewards/margins", "margin"),
            ("margin", "margin"),
            ("mean_reward", "mean"),
            ("min_reward", "least"),
            ("max_reward", "most"),
        ],
    },
    Known {
        title: "Accuracy",
        unit: "share",
        zero: true,
        keys: &[("accuracy", "right"), ("rewards/accuracies", "pairs in the right order"), ("pass@", "pass@")],
    },
    Known { title: "Judge that is not trained on", unit: "mean of the answers", zero: false, keys: &[("judge", "judge")] },
    Known {
        title: "Divergence from the reference",
        unit: "KL, nats per answer",
        zero: true,
        keys: &[("kl_per_answer", "KL"), ("objective/kl", "KL")],
    },
    Known { title: "KL", unit: "nats", zero: true, keys: &[("kl", "KL")] },
    Known {
        title: "Answer length",
        unit: "tokens",
        zero: true,
        keys: &[("completion_length", "length"), ("length", "length"), ("thinking_length", "thinking")],
    },
    Known {
        title: "Answers that go wrong",
        unit: "share",
        zero: true,
        keys: &[("cut_off", "cut off"), ("truncated", "cut off"), ("repetition", "repeated 4-grams"), ("format_only", "form without content")],
    },
    Known { title: "Entropy", unit: "nats per token", zero: true, keys: &[("entropy", "entropy"), ("policy/entropy_avg", "entropy")] },
    Known {
        title: "Clipped",
        unit: "share of tokens",
        zero: true,
        keys: &[("clip_low", "below"), ("clip_high", "above"), ("policy/clipfrac_avg", "policy"), ("val/clipfrac_avg", "value"), ("clip_ratio/", "")],
    },
    Known {
        title: "Something to learn from",
        unit: "share",
        zero: true,
        keys: &[
            ("groups_with_signal", "groups that differ in reward"),
            ("trained_groups", "the same after resampling"),
            ("distinct", "answers that differ between prompts"),
        ],
    },
    Known { title: "Policy and value", unit: "loss", zero: false, keys: &[("loss/policy_avg", "policy"), ("loss/value_avg", "value")] },
    Known {
        title: "From the weights that drew the answers",
        unit: "KL, nats per token",
        zero: true,
        keys: &[("approx_kl", "KL"), ("policy/approxkl_avg", "KL")],
    },
    Known { title: "Probability ratio", unit: "mean", zero: false, keys: &[("val/ratio", "ratio")] },
    Known { title: "Weight of the KL penalty", unit: "", zero: true, keys: &[("kl_coef", "weight"), ("objective/kl_coef", "weight")] },
    Known { title: "Log-probabilities of answers", unit: "nats", zero: false, keys: &[("logps/", ""), ("objective/entropy", "their negative mean")] },
    Known { title: "General text", unit: "nats per token", zero: false, keys: &[("general_loss", "held out"), ("general_loss/", "")] },
    Known {
        title: "Calibration",
        unit: "error",
        zero: true,
        keys: &[("brier", "Brier score"), ("expected_calibration_error", "expected calibration error")],
    },
];
const FIRST_OTHER: usize = 5;

/// The key of the same number while training.
fn bare(key: &str) -> &str {
    key.strip_prefix("val_").or_else(|| key.strip_prefix("eval_")).unwrap_or(key)
}

/// Its chart, and its place and name there: a whole key before a beginning.
fn find(key: &str) -> Option<(usize, usize, String)> {
    let places = || KNOWN.iter().enumerate().flat_map(|(c, known)| known.keys.iter().enumerate().map(move |(k, (key, name))| (c, k, *key, *name)));
    let whole = places().find(|(.., known, _)| *known == key).map(|(c, k, _, name)| (c, k, name.to_string()));
    let begins = |known: &str| known.ends_with(['/', '@']) && key.starts_with(known);
    let part = || places().find(|(.., known, _)| begins(known)).map(|(c, k, known, name)| (c, k, format!("{name}{}", &key[known.len()..])));
    whole.or_else(part)
}

/// Has this key, of a step or of a validation, its place in a known chart?
pub fn is_known(key: &str) -> bool {
    find(bare(key)).is_some()
}

/// Is this a key that only trainings with rewards or preferences have, so that their `loss` is no likelihood?
pub fn is_objective(key: &str) -> bool {
    find(key).is_some_and(|(chart, ..)| chart < FIRST_OTHER)
}

/// The known charts of the numbers of steps and of validations.
pub fn charts(steps: &[Keyed<'_>], heldout: &[Keyed<'_>], marks: &[Mark]) -> Vec<Chart> {
    let mut found: Vec<Vec<(usize, Series)>> = KNOWN.iter().map(|_| Vec::new()).collect();
    for (key, points) in steps {
        if let Some((chart, place, name)) = find(key) {
            found[chart].push((2 * place, Series { name, points: points.to_vec(), smooth: true, ..Series::default() }));
        }
    }
    for (key, points) in heldout {
        if let Some((chart, place, name)) = find(bare(key)) {
            let name = format!("{name}, held out");
            found[chart].push((2 * place + 1, Series { name, points: points.to_vec(), dots: true, ..Series::default() }));
        }
    }
    let make = |(known, mut series): (&Known, Vec<(usize, Series)>)| {
        series.sort_by_key(|(place, _)| *place);
        let series = series.into_iter().take(MOST_CURVES).enumerate().map(|(i, (_, series))| Series { colour: i, ..series });
        Chart {
            title: known.title.into(),
            x: "step".into(),
            y: known.unit.into(),
            series: series.collect(),
            marks: marks.to_vec(),
            zero: known.zero,
            robust: true,
            ..Chart::default()
        }
    };
    KNOWN.iter().zip(found).filter(|(_, series)| !series.is_empty()).map(make).collect()
}

/// The reliability diagram of `calibration.json`: how often a reward model is right against how often it says so.
pub fn reliability(calibration: &Value) -> Option<Chart> {
    let number = |bin: &Value, key: &str| bin.get(key).and_then(Value::as_f64);
    let bins = calibration.get("bins")?.as_array()?.iter().filter(|bin| number(bin, "count").is_some_and(|n| n > 0.0));
    let points: Vec<(f64, f64)> = bins.filter_map(|bin| Some((number(bin, "confidence")?, number(bin, "accuracy")?))).collect();
    let from = points.first()?.0.min(0.5);
    let sure = Series { name: "as often as it says".into(), colour: 4, points: vec![(from, from), (1.0, 1.0)], dashed: true, ..Series::default() };
    let said = Series { name: "this model".into(), points, dots: true, ..Series::default() };
    let pairs = number(calibration, "pairs").map_or(String::new(), |n| format!(" of {n} held-out pairs"));
    Some(Chart {
        title: "How sure it may be".into(),
        x: "confidence in the preferred answer".into(),
        y: format!("share{pairs} in the right order"),
        series: vec![sure, said],
        ..Chart::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// If this fails, a number is drawn twice or not at all, or a part of the reward is taken for a pair's.
    #[test]
    fn every_key_has_one_place() {
        for (i, known) in KNOWN.iter().enumerate() {
            for (key, _) in known.keys {
                let at = find(&if key.ends_with(['/', '@']) { format!("{key}x") } else { key.to_string() });
                assert!(at.as_ref().is_some_and(|(chart, ..)| *chart == i), "{key}: {at:?}");
            }
        }
        assert_eq!(find("rewards/format").map(|f| (KNOWN[f.0].title, f.2)), Some(("Parts of the reward", "format".to_string())));
        assert_eq!(find("pass@8").map(|f| f.2), Some("pass@8".to_string()));
        for key in ["loss", "val_loss", "lr", "eval/arc/acc", "moe_load/max", "val_loss/domain=code", "tokens", "samples"] {
            assert!(!is_known(key), "{key}");
        }
        assert!(is_known("val_general_loss") && is_known("eval_rewards/margins") && is_objective("reward") && !is_objective("entropy"));
    }

    #[test]
    fn steps_and_validations_of_a_number_share_a_chart() {
        let (a, b) = ([(1.0, 0.1), (2.0, 0.2)], [(2.0, 0.15)]);
        let marks = [Mark { x: 2.0, text: "<alarm>".into(), colour: 1 }];
        let charts = charts(&[("kl", &a[..]), ("reward", &a[..]), ("unknown", &a[..])], &[("val_reward", &b[..])], &marks);
        assert_eq!(charts.iter().map(|c| c.title.as_str()).collect::<Vec<_>>(), ["Reward", "KL"]);
        assert_eq!(charts[0].series.iter().map(|s| (s.name.as_str(), s.dots)).collect::<Vec<_>>(), [("reward", false), ("reward, held out", true)]);
        let html = charts[0].clone().html().into_string();
        assert!(html.contains("&lt;alarm&gt; at 2") && !html.contains("NaN"));
    }

    #[test]
    fn the_reliability_diagram_leaves_out_empty_bins() {
        let bin = |count: u32, confidence: f64, accuracy: f64| json!({"count": count, "confidence": confidence, "accuracy": accuracy});
        let chart = reliability(&json!({"pairs": 12, "bins": [bin(4, 0.55, 0.5), bin(0, 0.0, 0.0), bin(8, 0.9, 0.75)]})).unwrap();
        assert_eq!(chart.series[1].points, [(0.55, 0.5), (0.9, 0.75)]);
        assert!(chart.html().into_string().contains("12 held-out pairs"));
        for broken in [json!(null), json!({}), json!({"bins": []}), json!({"bins": [3]})] {
            assert!(reliability(&broken).is_none());
        }
    }
}

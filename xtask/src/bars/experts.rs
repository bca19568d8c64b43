//! What `recipes/moe.toml` must reach: every expert alive and about equally busy, in training and on held-out text, and a loss not
//! above that of the dense model which spends as many parameters on a token.

use super::Bar;
use crate::experts::{dead, max_over_mean, trained};
use crate::folder::{Progress, RunFolder};

const MOST_MAX_OVER_MEAN: f64 = 1.5;
/// Balance is trained on the training documents; a few held-out ones on one subject lean towards its experts.
const MOST_MAX_OVER_MEAN_HELDOUT: f64 = 2.0;
const MOST_DIFFERENCE_IN_SIZE: f64 = 0.01;

/// Compare a run with its bars.
pub fn measure(run: &RunFolder) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut bar = |what, measured: String, bar: String, met| bars.push(Bar { what, measured, bar, met });
    let done = run.stages.iter().filter(|s| s.progress == Progress::Finished).count();
    bar("stages finished", done.to_string(), run.stages.len().to_string(), done == run.stages.len());
    let models = trained(run);
    let mixture = models.iter().find(|m| !m.looks.is_empty());
    let dense = models.iter().find(|m| m.looks.is_empty());
    let of = |model: Option<&_>, value: &dyn Fn(&crate::experts::Trained<'_>) -> Option<f64>| model.and_then(value).unwrap_or(f64::NAN);

    let (a, b) = (of(mixture, &|m| m.summary("active_parameters")), of(dense, &|m| m.summary("active_parameters")));
    bar(
        "active parameters",
        format!("{:+.2} %", (a / b - 1.0) * 100.0),
        "within 1 % of dense".into(),
        (a / b - 1.0).abs() <= MOST_DIFFERENCE_IN_SIZE,
    );
    let (a, b) = (of(mixture, &|m| m.last("tokens")), of(dense, &|m| m.last("tokens")));
    bar("tokens", format!("{a:.0}"), format!("{b:.0} as the dense model"), a == b);

    let ends = [mixture.and_then(|m| m.end()), mixture.and_then(|m| m.heldout.clone())];
    let names = [["dead experts", "max/mean load"], ["dead, held out", "max/mean, held out"]];
    for ((load, [no_dead, balance]), most) in ends.iter().zip(names).zip([MOST_MAX_OVER_MEAN, MOST_MAX_OVER_MEAN_HELDOUT]) {
        let (dead, max) = load.as_ref().map_or((None, f64::NAN), |load| (Some(dead(load)), max_over_mean(load)));
        bar(no_dead, dead.map_or("no numbers".into(), |n| n.to_string()), "none at the end".into(), dead == Some(0));
        bar(balance, format!("{max:.2}"), format!("at most {most:.2} at the end"), max <= most);
    }

    let mut lower = |what, a: f64, b: f64| bar(what, format!("{a:.4}"), format!("at most the dense {b:.4}"), a <= b);
    lower("training loss", of(mixture, &|m| m.final_cross_entropy()), of(dense, &|m| m.final_cross_entropy()));
    lower("held-out loss", of(mixture, &|m| m.last("val_loss")), of(dense, &|m| m.last("val_loss")));
    lower("bits per byte", of(mixture, &|m| m.bits_per_byte(run)), of(dense, &|m| m.bits_per_byte(run)));
    bars
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::mixture_run;

    fn missed(busiest: f64, idlest: f64, dense_loss: f64) -> Vec<&'static str> {
        let dir = mixture_run(busiest, idlest, dense_loss);
        measure(&RunFolder::open(dir.path()).unwrap()).into_iter().filter(|b| !b.met).map(|b| b.what).collect()
    }

    #[test]
    fn each_bar_is_held_and_missed_where_it_should_be() {
        assert_eq!(missed(1.4, 0.7, 4.0), Vec::<&str>::new());
        assert_eq!(missed(1.6, 0.5, 4.0), ["max/mean load"]);
        assert_eq!(missed(2.1, 0.5, 4.0), ["max/mean load", "max/mean, held out"]);
        assert_eq!(missed(1.4, 0.0, 4.0), ["dead experts", "dead, held out"]);
        assert_eq!(missed(1.4, 0.7, 2.0), ["training loss", "held-out loss", "bits per byte"]);
    }

    #[test]
    fn a_run_without_numbers_meets_nothing_by_accident() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("mixture")).unwrap();
        std::fs::write(dir.path().join("mixture/metrics.jsonl"), "").unwrap();
        let met: Vec<&str> = measure(&RunFolder::open(dir.path()).unwrap()).into_iter().filter(|b| b.met).map(|b| b.what).collect();
        assert!(met.is_empty(), "{met:?}");
    }
}

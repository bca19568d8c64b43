//! `llm-align loss-lab`: what the named losses on pairs say of a pair, and how hard they pull at it, for people who have to choose one.
//!
//! Without data it walks the margin d, the difference of the two log-ratios, which is split evenly between chosen and rejected. With a model,
//! a reference and a file of pairs it also shows where those pairs are, what each loss gives them on average, and its mean pull at the
//! chosen and at the rejected answer. The likelihood in ORPO and CPO is left out: it does not depend on the margin.

use crate::data::{self, Encoder, OnBadRow};
use crate::losses::preference::{FDivergence, Pairs, Parameters, PreferenceLoss};
use crate::preference::{pairs, scores};
use crate::{Error, Result, model};
use llm_run::chart::{Chart, Series};
use llm_run::html::{Html, join, left, number, page, right, table, tag, text};
use llm_run::{atomic, config};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::{DeviceSpec, host};
use llm_tokenizer::Tokenizer;
use llm_train::sequences::Sequences;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use std::fmt::Write;
use std::path::PathBuf;

/// Margins of the printed table, as shares of the range.
const SHOWN: [f64; 7] = [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0];
/// Log-probability of a token of the answers without data.
const TOKEN: f32 = -1.0;
const BARS: usize = 40;

/// Arguments of `loss-lab`.
#[derive(Debug, Clone, clap::Args)]
pub struct LossLabArgs {
    /// Losses to show, e.g. sigmoid,ipo_trl,apo_zero [default: all].
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_parser = parse_loss)]
    pub loss: Vec<PreferenceLoss>,
    /// Inverse temperature.
    #[arg(long, default_value_t = 0.1)]
    pub beta: f64,
    /// Probability that a label is wrong; EXO's epsilon.
    #[arg(long, default_value_t = 0.1)]
    pub label_smoothing: f64,
    /// Scores: reverse_kl, forward_kl, js_divergence, alpha_divergence.
    #[arg(long, default_value = "reverse_kl", value_parser = parse_divergence)]
    pub f_divergence: FDivergence,
    /// Largest margin, in nats.
    #[arg(long, default_value_t = 40.0)]
    pub range: f64,
    /// Tokens of an answer, for losses that average over them.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub length: u32,
    /// Your own pairs; needs --model and --reference.
    #[arg(long, value_name = "FILE", requires_all = ["model", "reference"])]
    pub pairs: Option<PathBuf>,
    /// Model folder: the policy.
    #[arg(long, value_name = "DIR", requires = "pairs")]
    pub model: Option<PathBuf>,
    /// Model folder: the reference.
    #[arg(long, value_name = "DIR", requires = "pairs")]
    pub reference: Option<PathBuf>,
    /// Most pairs to look at.
    #[arg(long, default_value_t = 512)]
    pub limit: usize,
    /// Where to compute.
    #[arg(long, default_value = "auto")]
    pub device: DeviceSpec,
    /// HTML page to write.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn named<T: for<'a> Deserialize<'a>>(name: &str) -> Result<T, String> {
    let read: Result<T, serde::de::value::Error> = T::deserialize(name.into_deserializer());
    read.map_err(|e| config::suggest(&e.to_string()))
}

fn parse_loss(name: &str) -> Result<PreferenceLoss, String> {
    named(name)
}

fn parse_divergence(name: &str) -> Result<FDivergence, String> {
    named(name)
}

/// A loss over margins.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Which.
    pub loss: PreferenceLoss,
    /// In the order of the margins.
    pub points: Vec<Point>,
}

/// Margin, value, derivative by the margin.
pub type Point = (f64, f64, f64);

fn value(point: &Point) -> f64 {
    point.1
}

fn derivative(point: &Point) -> f64 {
    point.2
}

/// The losses over margins d; both answers have `length` tokens.
pub fn curves(losses: &[PreferenceLoss], p: &Parameters, margins: &[f32], length: f32) -> Vec<Curve> {
    let device = Device::flex();
    let values = |values: Vec<f32>| {
        let n = values.len();
        host::from_vec(values, [n], &device)
    };
    let walk = |loss: PreferenceLoss, margins: &[f32]| -> Vec<Point> {
        let n = margins.len();
        let d = Tensor::<1>::from_inner(values(margins.to_vec())).require_grad();
        let same = || Tensor::<1>::from_inner(values(vec![TOKEN * length; n]));
        let lengths = || Tensor::<1>::from_inner(values(vec![length; n]));
        let pairs = Pairs {
            chosen_B: same() + d.clone().mul_scalar(0.5),
            rejected_B: same() - d.clone().mul_scalar(0.5),
            reference_chosen_B: same(),
            reference_rejected_B: same(),
            chosen_lengths_B: lengths(),
            rejected_lengths_B: lengths(),
        };
        let value = loss.per_pair(&pairs, p);
        let slopes = if value.is_tracked() { d.grad(&value.clone().sum().backward()).map(host::to_vec) } else { None };
        let slopes = slopes.unwrap_or_else(|| vec![0.0; n]);
        let value = host::to_vec(value.inner());
        margins.iter().zip(value).zip(slopes).map(|((&d, value), slope)| (f64::from(d), f64::from(value), f64::from(slope))).collect()
    };
    let one = |&loss: &PreferenceLoss| {
        // What a loss that sorts says of one pair is asked of one pair.
        let points = if loss.couples_pairs() { margins.iter().flat_map(|&d| walk(loss, &[d])).collect() } else { walk(loss, margins) };
        Curve { loss, points }
    };
    losses.iter().map(one).collect()
}

/// What a loss does to a set of pairs.
#[derive(Debug, Clone)]
pub struct Pull {
    /// Which.
    pub loss: PreferenceLoss,
    /// Mean over the pairs.
    pub mean: f64,
    /// Mean derivative by the chosen answer's log-probability; below 0 raises it.
    pub chosen: f64,
    /// The same of the rejected answer; above 0 lowers it.
    pub rejected: f64,
}

/// Each loss on given pairs (interleaved numbers: chosen, rejected, ...).
pub fn pulls(losses: &[PreferenceLoss], p: &Parameters, policy: &[f32], reference: &[f32], lengths: &[f32]) -> Vec<Pull> {
    let device = Device::flex();
    let of = |values: &[f32]| Tensor::<1>::from_inner(host::from_vec(values.to_vec(), [values.len()], &device));
    let n = (policy.len() / 2).max(1) as f64;
    let one = |&loss: &PreferenceLoss| {
        let leaf = of(policy).require_grad();
        let value = loss.per_pair(&Pairs::interleaved(leaf.clone(), of(reference), of(lengths)), p).sum();
        let slopes = if value.is_tracked() { leaf.grad(&value.backward()).map(host::to_vec) } else { None };
        let slopes = slopes.unwrap_or_else(|| vec![0.0; policy.len()]);
        let mean = |offset: usize| slopes.iter().skip(offset).step_by(2).map(|&x| f64::from(x)).sum::<f64>() / n;
        Pull { loss, mean: f64::from(host::scalar(value.inner())) / n, chosen: mean(0), rejected: mean(1) }
    };
    losses.iter().map(one).collect()
}

/// Log-probabilities of the pairs of a file under two models.
struct Own {
    name: String,
    policy: Vec<f32>,
    reference: Vec<f32>,
    lengths: Vec<f32>,
}

impl Own {
    /// The difference of the log-ratios of each pair.
    fn margins(&self) -> Vec<f64> {
        let r: Vec<f64> = self.policy.iter().zip(&self.reference).map(|(p, r)| f64::from(*p) - f64::from(*r)).collect();
        let mut margins: Vec<f64> = r.chunks_exact(2).map(|r| r[0] - r[1]).collect();
        margins.sort_by(f64::total_cmp);
        margins
    }
}

impl LossLabArgs {
    fn parameters(&self) -> Parameters {
        Parameters { beta: self.beta, label_smoothing: self.label_smoothing, f_divergence: self.f_divergence, ..Parameters::default() }
    }

    fn losses(&self) -> Vec<PreferenceLoss> {
        if self.loss.is_empty() { PreferenceLoss::ALL.into_iter().filter(|&l| l != PreferenceLoss::Sft).collect() } else { self.loss.clone() }
    }

    fn own(&self) -> Result<Option<Own>> {
        let (Some(path), Some(folder), Some(reference)) = (&self.pairs, &self.model, &self.reference) else { return Ok(None) };
        let device = self.device.open()?;
        let tokenizer = Tokenizer::load(folder)?;
        let models = [model::open(folder, &None, 0, &device)?.untracked(), model::open(reference, &None, 0, &device)?.untracked()];
        let context = models.iter().map(|m| m.config().max_position_embeddings).min().unwrap_or(0);
        if models[0].config().vocab_size != models[1].config().vocab_size {
            return Err(Error::Config(format!("{} and {} have different vocabularies", folder.display(), reference.display())));
        }
        let (mut found, skipped) = pairs::encode(path, data::pairs(path, OnBadRow::Skip)?, &Encoder::new(&tokenizer, context), OnBadRow::Skip)?;
        if !skipped.is_empty() {
            eprintln!("{}: {} rows skipped", path.display(), skipped.len());
        }
        found.truncate(self.limit);
        let mut own = Own { name: data_name(path), policy: Vec::new(), reference: Vec::new(), lengths: Vec::new() };
        for (_, (chosen, rejected)) in &found {
            let packed = Sequences::pack([chosen, rejected]);
            own.policy.extend(scores::of(&models[0], &packed, 2));
            own.reference.extend(scores::of(&models[1], &packed, 2));
            own.lengths.extend(scores::lengths(&packed, 2));
        }
        Ok(Some(own))
    }

    /// Print the tables and write the page.
    pub fn run(&self) -> Result<()> {
        if !(self.range.is_finite() && self.range > 0.0 && self.beta.is_finite() && self.beta > 0.0) {
            return Err(Error::Config("--range and --beta: expected positive numbers".into()));
        }
        if !(self.label_smoothing > 0.0 && self.label_smoothing < 0.5) {
            return Err(Error::Config("--label-smoothing: expected more than 0 (EXO's epsilon) and less than 0.5".into()));
        }
        let (losses, p, length) = (self.losses(), self.parameters(), self.length as f32);
        let shown: Vec<f32> = SHOWN.iter().map(|share| (share * self.range) as f32).collect();
        print!("{}", text_table(&curves(&losses, &p, &shown, length)));
        let own = self.own()?;
        let measured = own.as_ref().map(|own| pulls(&losses, &p, &own.policy, &own.reference, &own.lengths)).unwrap_or_default();
        if let Some(own) = &own {
            print!("{}", own_table(own, &measured));
        }
        let Some(out) = &self.out else { return Ok(()) };
        let margins: Vec<f32> = (-60..=60).map(|i| (f64::from(i) / 60.0 * self.range) as f32).collect();
        let html = self.page(&curves(&losses, &p, &margins, length), own.as_ref(), &measured);
        atomic::write(out, html)?;
        println!("wrote {}", out.display());
        Ok(())
    }

    fn page(&self, curves: &[Curve], own: Option<&Own>, measured: &[Pull]) -> String {
        let mut main = Vec::new();
        if let Some(own) = own {
            let row = |m: &Pull| vec![left(m.loss.name()), right(number(m.mean)), right(number(m.chosen)), right(number(m.rejected))];
            let head = ["loss", "mean", "by the chosen answer", "by the rejected answer"];
            let rows = measured.iter().map(row).collect();
            main.push(tag("section", [tag("h2", format!("Pairs of {}", own.name)), histogram(own), table(&head, rows)]));
        }
        let charts: Vec<Html> = curves.iter().map(|curve| chart(curve).html()).collect();
        main.push(tag("section", [tag("h2", "Losses over the margin"), tag("div class=grid2", charts)]));
        let note = format!(
            "beta {}, label smoothing {}, answers of {} tokens. The margin is the difference of the two log-ratios in nats, split evenly between \
             both answers. The likelihood in orpo and cpo is left out.",
            self.beta, self.label_smoothing, self.length
        );
        page("Losses on pairs", "", join([tag("h1", "Losses on pairs"), tag("p", text(note))]), join(main), "llm-align loss-lab")
    }
}

fn data_name(path: &std::path::Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn chart(curve: &Curve) -> Chart {
    let series = |name: &str, colour: usize, of: fn(&Point) -> f64| Series {
        name: name.into(),
        colour,
        points: curve.points.iter().map(|p| (p.0, of(p))).collect(),
        dashed: colour > 0,
        ..Series::default()
    };
    let series = vec![series("value", 0, value), series("derivative", 1, derivative)];
    Chart { title: curve.loss.name(), x: "margin d, nats".into(), y: "loss".into(), series, ..Chart::default() }
}

fn histogram(own: &Own) -> Html {
    let margins = own.margins();
    let (Some(&low), Some(&high)) = (margins.first(), margins.last()) else { return Html::default() };
    let width = ((high - low) / BARS as f64).max(f64::MIN_POSITIVE);
    let mut counts = [0usize; BARS];
    margins.iter().for_each(|d| counts[(((d - low) / width) as usize).min(BARS - 1)] += 1);
    let points = counts.iter().enumerate().map(|(i, &n)| (low + (i as f64 + 0.5) * width, n as f64)).collect();
    let series = vec![Series { name: "pairs".into(), points, ..Series::default() }];
    Chart { title: "Margins".into(), x: "margin d, nats".into(), y: "pairs".into(), series, zero: true, ..Chart::default() }.html()
}

/// Values and derivatives at a few margins.
fn text_table(curves: &[Curve]) -> String {
    type Column = (&'static str, fn(&Point) -> f64);
    let columns: [Column; 2] = [("value", value), ("derivative", derivative)];
    let mut out = String::new();
    for (title, of) in columns {
        let _ = write!(out, "{title:<16}");
        for (d, ..) in curves.first().map(|first| first.points.as_slice()).unwrap_or_default() {
            let _ = write!(out, "{:>11}", format!("d={}", number(*d)));
        }
        out.push('\n');
        for curve in curves {
            let _ = write!(out, "{:<16}", curve.loss.name());
            for point in &curve.points {
                let _ = write!(out, "{:>11}", number(of(point)));
            }
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

fn own_table(own: &Own, measured: &[Pull]) -> String {
    let margins = own.margins();
    let at = |q: f64| margins.get(((margins.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(f64::NAN);
    let right = margins.iter().filter(|d| **d > 0.0).count();
    let mut out = format!(
        "{}: {} pairs, margin from {} over {} (median) to {}, above 0 in {right}\n",
        own.name,
        margins.len(),
        number(at(0.0)),
        number(at(0.5)),
        number(at(1.0))
    );
    let _ = writeln!(out, "{:<16}{:>11}{:>11}{:>11}", "loss", "mean", "chosen", "rejected");
    for m in measured {
        let _ = writeln!(out, "{:<16}{:>11}{:>11}{:>11}", m.loss.name(), number(m.mean), number(m.chosen), number(m.rejected));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, the pictures show other derivatives than those that train.
    #[test]
    fn derivatives_are_those_of_the_values() {
        let p = Parameters { label_smoothing: 0.1, ..Parameters::default() };
        let step = 0.05f32;
        for d in [-7.0f32, -1.0, 3.0, 12.0] {
            for curve in curves(&PreferenceLoss::ALL, &p, &[d - step, d, d + step], 50.0) {
                let [a, b, c] = curve.points[..] else { panic!("three points") };
                let slope = (c.1 - a.1) / f64::from(2.0 * step);
                assert!((slope - b.2).abs() <= 2e-2 * slope.abs().max(1e-2), "{} at {d}: {} and {slope}", curve.loss.name(), b.2);
            }
        }
    }

    #[test]
    fn pulls_have_the_sign_of_learning_and_a_page_shows_every_loss() {
        let p = Parameters { label_smoothing: 0.1, ..Parameters::default() };
        let found = pulls(&[PreferenceLoss::Sigmoid, PreferenceLoss::ApoDown], &p, &[-5.0, -4.0], &[-4.5, -4.5], &[5.0, 4.0]);
        assert!(found[0].chosen < 0.0 && found[0].rejected > 0.0);
        assert!((found[0].chosen + found[0].rejected).abs() < 1e-7, "DPO sees only the difference");
        let text = text_table(&curves(&[PreferenceLoss::IpoTrl], &p, &[-1.0, 0.0, 1.0], 10.0));
        assert!(text.contains("ipo_trl") && text.contains("derivative"), "{text}");
    }
}

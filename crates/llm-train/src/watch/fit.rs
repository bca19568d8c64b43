//! The end of a loss curve from its beginning.
//!
//! Model: `L(s) = E + exp(c - a ln S(s) + b lr(s))`. `S` is the sum of the learning rates so far as shares of the peak: a power law in the
//! sum of the rates rather than in steps, and a gain while the rate falls, is the form of Tissue et al. 2024 ("Scaling Law with Learning Rate
//! Annealing"); the gain is taken here in its simplest form, proportional to the rate itself. `E` is tried at several shares of the present
//! loss, and the answers are averaged by how well they fit: nobody knows it from one short curve.
//!
//! Few steps say little about `a` and nothing about `b` before the rate falls, so both are held by a prior: an exponent of 0.15 and a gain of
//! 12 % of the loss, about what small language models show. Steps within the warm-up and the first third of the others are left out.
//!
//! The interval (10 % to 90 %) is a bootstrap of blocks of residuals, which keeps their correlation, times the error of the model itself.
//! That one is measured on the run's own past: how far the forecast from half-way to now missed. It is rough, and on a run that suddenly
//! learns something it is wrong.

use crate::schedule::Schedule;
use llm_run::Seed;
use serde::{Deserialize, Serialize};

/// Exponent of the power law and its spread.
const EXPONENT: (f64, f64) = (0.15, 0.06);
/// Share of the loss that goes when the rate falls to 0, and its spread.
const GAIN: (f64, f64) = (0.12, 0.06);
/// Irreducible loss as a share of the present one.
const IRREDUCIBLE: [f64; 4] = [0.0, 0.2, 0.4, 0.6];
/// How far the model is off where it is fitted, relative.
const MISFIT: f64 = 0.03;
/// How far it is off for every factor of e that it looks ahead, at least.
const AHEAD: f64 = 0.1;
const BINS: usize = 24;
const REPLICATES: usize = 80;
/// Knots at which the sum of the rates is kept.
const KNOTS: u64 = 4096;
/// Fewest points to fit.
const FEWEST: usize = 30;

/// A value and where it lies with a probability of 80 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Most likely.
    pub value: f64,
    /// One time in ten it is below.
    pub low: f64,
    /// One time in ten it is above.
    pub high: f64,
}

/// Sums of the learning rate over a schedule.
#[derive(Debug, Clone)]
pub struct Area {
    schedule: Schedule,
    max_steps: u64,
    /// Sum of the rates of the steps before each knot.
    sums: Vec<f64>,
    width: f64,
}

impl Area {
    /// Of a run.
    pub fn new(schedule: Schedule, max_steps: u64) -> Self {
        let knots = max_steps.clamp(1, KNOTS);
        let width = max_steps.max(1) as f64 / knots as f64;
        let mut sums = vec![0.0];
        for i in 0..knots {
            // One step per knot: its own rate. Otherwise the middle stands for all.
            let rate = schedule.factor(((i as f64 + if width > 1.0 { 0.5 } else { 0.0 }) * width) as u64, max_steps);
            sums.push(sums[i as usize] + rate * width);
        }
        Self { schedule, max_steps, sums, width }
    }

    /// Sum of the rates of the first `step` steps.
    fn before(&self, step: f64) -> f64 {
        let at = (step / self.width).clamp(0.0, (self.sums.len() - 1) as f64);
        let (knot, rest) = (at as usize, at.fract());
        let next = self.sums[(knot + 1).min(self.sums.len() - 1)];
        self.sums[knot] + rest * (next - self.sums[knot])
    }

    /// Rate of the last of `step` steps.
    fn rate(&self, step: f64) -> f64 {
        self.schedule.factor((step - 1.0).max(0.0) as u64, self.max_steps)
    }
}

/// Where a loss was measured.
#[derive(Debug, Clone, Copy)]
struct Place {
    log_area: f64,
    rate: f64,
}

/// Mean of neighbouring steps.
struct Bin {
    place: Place,
    loss: f64,
    count: f64,
}

/// One fit: irreducible loss, coefficients, how good it is.
struct Law {
    floor: f64,
    coefficients: [f64; 3],
    weight: f64,
}

impl Law {
    fn at(&self, place: Place) -> f64 {
        let [c, a, b] = self.coefficients;
        self.floor + (c - a * place.log_area + b * place.rate).exp()
    }
}

/// Several fits and their weights.
struct Laws(Vec<Law>);

impl Laws {
    fn at(&self, place: Place) -> f64 {
        self.0.iter().map(|law| law.weight * law.at(place)).sum()
    }

    /// None if a loss is not positive.
    fn fit(places: &[Place], losses: &[f64], noise: f64) -> Option<Self> {
        let bins = bins(places, losses);
        let newest = &bins[bins.len() - (bins.len() / 6).max(1)..];
        let now = newest.iter().map(|b| b.loss).sum::<f64>() / newest.len() as f64;
        if !(now > 0.0 && bins.iter().all(|b| b.loss > 0.0)) {
            return None;
        }
        let mut laws: Vec<Law> = IRREDUCIBLE.iter().filter_map(|share| law(&bins, share * now, 1.0 / (1.0 - share), noise / now, now)).collect();
        let best = laws.iter().map(|l| l.weight).fold(f64::INFINITY, f64::min);
        let total: f64 = laws.iter().map(|l| (best - l.weight).exp()).sum();
        for law in &mut laws {
            law.weight = (best - law.weight).exp() / total;
        }
        (!laws.is_empty() && total.is_finite()).then_some(Self(laws))
    }
}

fn bins(places: &[Place], losses: &[f64]) -> Vec<Bin> {
    let (n, count) = (losses.len(), BINS.min((losses.len() / 4).max(1)));
    let bin = |i: usize| {
        let range = i * n / count..(i + 1) * n / count;
        let size = range.len() as f64;
        let mean = |value: &dyn Fn(usize) -> f64| range.clone().map(value).sum::<f64>() / size;
        let place = Place { log_area: mean(&|i| places[i].log_area), rate: mean(&|i| places[i].rate) };
        Bin { place, loss: mean(&|i| losses[i]), count: size }
    };
    (0..count).map(bin).collect()
}

/// Weighted least squares with priors; `scale` is how much larger relative changes are without the floor. The weight is the misfit.
fn law(bins: &[Bin], floor: f64, scale: f64, noise: f64, now: f64) -> Option<Law> {
    let prior = [(0.0, 0.0), (EXPONENT.0 * scale, (EXPONENT.1 * scale).powi(-2)), (GAIN.0 * scale, (GAIN.1 * scale).powi(-2))];
    let (mut matrix, mut right) = ([[0.0; 3]; 3], [0.0; 3]);
    for (i, (mean, precision)) in prior.into_iter().enumerate() {
        matrix[i][i] = precision;
        right[i] = precision * mean;
    }
    let rows = bins.iter().map(|bin| {
        let weight = 1.0 / (scale * scale * (noise * noise / bin.count + MISFIT * MISFIT));
        (weight, [1.0, -bin.place.log_area, bin.place.rate], (bin.loss - floor).max(0.05 * now).ln())
    });
    for (weight, row, value) in rows.clone() {
        for i in 0..3 {
            right[i] += weight * row[i] * value;
            for j in 0..3 {
                matrix[i][j] += weight * row[i] * row[j];
            }
        }
    }
    let x = solve(matrix, right)?;
    let misfit: f64 = rows.map(|(weight, row, value)| weight * (value - row.iter().zip(x).map(|(r, x)| r * x).sum::<f64>()).powi(2)).sum();
    let stray: f64 = prior.iter().zip(x).map(|((mean, precision), x)| precision * (x - mean).powi(2)).sum();
    Some(Law { floor, coefficients: x, weight: (misfit + stray) / 2.0 })
}

/// Gaussian elimination of a positive definite system; none if it is singular.
fn solve(mut a: [[f64; 3]; 3], mut b: [f64; 3]) -> Option<[f64; 3]> {
    for i in 0..3 {
        if a[i][i] <= 1e-12 {
            return None;
        }
        for j in i + 1..3 {
            let factor = a[j][i] / a[i][i];
            let above = a[i];
            a[j].iter_mut().zip(above).skip(i).for_each(|(x, up)| *x -= factor * up);
            b[j] -= factor * b[i];
        }
    }
    let mut x = [0.0; 3];
    for i in (0..3).rev() {
        let known: f64 = (i + 1..3).map(|k| a[i][k] * x[k]).sum();
        x[i] = (b[i] - known) / a[i][i];
    }
    x.iter().all(|v| v.is_finite()).then_some(x)
}

/// Mean loss of the last steps of the run, from `points` of step and loss so far. None for too few points, and for a loss that is not
/// positive: that one is no measure of progress.
pub fn final_loss(points: &[(f64, f64)], area: &Area) -> Option<Interval> {
    let (places, losses, noise) = usable(points, area)?;
    let laws = Laws::fit(&places, &losses, noise)?;
    let last = places.last()?;
    let end = Place { log_area: area.before(area.max_steps as f64).ln(), rate: area.rate(area.max_steps as f64) };
    let ahead = (end.log_area - last.log_area).max(0.0);
    let value = laws.at(end);
    let error = missed(points, area).map_or(AHEAD, |missed| missed.hypot(AHEAD)) * ahead + MISFIT / 3.0;
    let residuals: Vec<f64> = places.iter().zip(&losses).map(|(place, loss)| loss - laws.at(*place)).collect();
    let block = ((residuals.len() as f64).sqrt() as usize).clamp(5, residuals.len());
    let mut rng = Seed(points.len() as u64).stream("forecast").rng();
    let mut ends = Vec::with_capacity(REPLICATES);
    for _ in 0..REPLICATES {
        let mut drawn = Vec::with_capacity(losses.len() + block);
        while drawn.len() < losses.len() {
            let at = rng.below(residuals.len() - block + 1);
            drawn.extend_from_slice(&residuals[at..at + block]);
        }
        // A residual as large as the loss would make it negative, of which there is no logarithm.
        let again: Vec<f64> = places.iter().zip(drawn).map(|(place, residual)| (laws.at(*place) + residual).max(0.05 * value)).collect();
        if let Some(laws) = Laws::fit(&places, &again, noise) {
            ends.push(laws.at(end) * (error * rng.normal()).exp());
        }
    }
    ends.sort_by(f64::total_cmp);
    let at = |share: f64| ends.get((share * (ends.len().max(1) - 1) as f64).round() as usize).copied();
    let interval = Interval { value, low: at(0.1)?.min(value), high: at(0.9)?.max(value) };
    (value.is_finite() && interval.high.is_finite()).then_some(interval)
}

/// Points to fit, and the noise of one.
fn usable(points: &[(f64, f64)], area: &Area) -> Option<(Vec<Place>, Vec<f64>, f64)> {
    let most = points.len().checked_sub(FEWEST)?;
    let warm = points.partition_point(|p| p.0 <= area.schedule.warmup_steps as f64);
    let after = warm + (points.len() - warm) / 3;
    let kept = &points[after.min(most)..];
    let place = |step: f64| Place { log_area: area.before(step).max(0.5).ln(), rate: area.rate(step) };
    let places = kept.iter().map(|p| place(p.0)).collect();
    let losses: Vec<f64> = kept.iter().map(|p| p.1).collect();
    let jumps: f64 = losses.windows(2).map(|w| (w[1] - w[0]).powi(2)).sum::<f64>() / (losses.len() - 1) as f64;
    Some((places, losses, (jumps / 2.0).sqrt()))
}

/// By how much the forecast from half-way to now missed, per factor of e that it looked ahead, relative.
fn missed(points: &[(f64, f64)], area: &Area) -> Option<f64> {
    let half = &points[..points.len() / 2];
    let (places, losses, noise) = usable(half, area)?;
    let laws = Laws::fit(&places, &losses, noise)?;
    let newest = &points[points.len() - points.len() / 10 - 1..];
    let now = newest.iter().map(|p| p.1).sum::<f64>() / newest.len() as f64;
    let middle = newest[newest.len() / 2].0;
    let place = Place { log_area: area.before(middle).max(0.5).ln(), rate: area.rate(middle) };
    let ahead = place.log_area - places.last()?.log_area;
    (now > 0.0 && ahead > 0.1).then(|| (now / laws.at(place)).ln().abs() / ahead).filter(|missed| missed.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ScheduleKind;

    fn curve(steps: u64, max_steps: u64, kind: ScheduleKind, noise: f64) -> (Vec<(f64, f64)>, Area, f64) {
        let schedule = Schedule { kind, warmup_steps: 20, min_lr_ratio: 0.1, ..Schedule::default() };
        let area = Area::new(schedule, max_steps);
        let truth = |step: f64| 1.0 + 6.0 * area.before(step).max(1.0).powf(-0.25) + 0.2 * area.rate(step);
        let mut rng = Seed(3).rng();
        let points = (1..=steps).map(|i| (i as f64, truth(i as f64) + noise * rng.normal())).collect();
        let end = truth(max_steps as f64);
        (points, area, end)
    }

    #[test]
    fn the_area_is_the_sum_of_the_rates() {
        let schedule = Schedule::default();
        for max_steps in [1, 300, 100_000] {
            let area = Area::new(schedule, max_steps);
            let sum: f64 = (0..max_steps).map(|s| schedule.factor(s, max_steps)).sum();
            assert!((area.before(max_steps as f64) - sum).abs() <= 1e-3 * sum + 1e-9, "{max_steps}");
        }
        let area = Area::new(schedule, 300);
        assert!((area.before(150.0) - (0..150).map(|s| schedule.factor(s, 300)).sum::<f64>()).abs() < 1e-9);
    }

    /// If this fails, the forecast is worse than what it says of itself on curves of the very kind it is made for.
    #[test]
    fn the_end_of_a_power_law_lies_in_the_interval_which_narrows() {
        let mut inside = 0;
        for kind in [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Wsd, ScheduleKind::Constant] {
            let mut widths = Vec::new();
            for steps in [100, 250, 500, 900] {
                let (points, area, end) = curve(steps, 1000, kind, 0.05);
                let interval = final_loss(&points, &area).unwrap();
                assert!(interval.low <= interval.value && interval.value <= interval.high);
                assert!((interval.value / end - 1.0).abs() < 0.1, "{kind:?} {steps}: {interval:?} and not {end}");
                inside += usize::from((interval.low..=interval.high).contains(&end));
                widths.push(interval.high - interval.low);
            }
            assert!(widths[3] < widths[0] / 2.0, "{kind:?}: {widths:?}");
        }
        assert!(inside >= 13, "eight in ten of 16 are 13, not {inside}");
    }

    #[test]
    fn what_is_no_loss_has_no_forecast() {
        let (mut points, area, _) = curve(200, 1000, ScheduleKind::Cosine, 0.0);
        assert!(final_loss(&points[..10], &area).is_none());
        points.iter_mut().for_each(|p| p.1 -= 5.0);
        assert!(final_loss(&points, &area).is_none(), "a reward-like objective");
        let flat: Vec<(f64, f64)> = (1..=200).map(|i| (f64::from(i), 2.0)).collect();
        assert!(final_loss(&flat, &area).is_some_and(|i| i.value.is_finite() && i.value <= 2.1));
    }

    /// If this fails, forecasting costs more than the half percent of a step that watching may cost.
    #[test]
    fn a_forecast_of_a_long_run_is_quick() {
        let (points, area, _) = curve(16_000, 100_000, ScheduleKind::Cosine, 0.05);
        let clock = std::time::Instant::now();
        final_loss(&points, &area).unwrap();
        assert!(clock.elapsed().as_secs_f64() < 2.0, "{:?}", clock.elapsed());
    }
}

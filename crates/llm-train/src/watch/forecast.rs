//! What a run will come to: its last loss ([`fit`](super::fit)), the time it takes, what it costs.
//!
//! Time is the median of the newest steps for each step to come, and the mean of a validation and of a checkpoint for each of those: a few
//! slow steps do not move the median, and what happens rarely is not forgotten.

use super::config::{About, WatchConfig};
use super::fit::{Area, Interval, final_loss};
use super::history::History;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Steps before the first forecast.
pub const FIRST: u64 = 50;
/// Newest steps whose median counts.
const NEWEST: usize = 256;
/// A forecast is due again when the run is so much further.
const FURTHER: f64 = 1.1;
/// Share of the time that forecasting may take, as a divisor.
const SHARE: u32 = 1000;

/// What was expected after `step` steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Steps taken when it was made.
    pub step: u64,
    /// Mean loss of the last steps; none where the loss is no measure of progress.
    pub loss: Option<Interval>,
    /// Seconds of training in all.
    pub seconds: f64,
    /// Seconds to go.
    pub seconds_left: f64,
    /// Of the whole run, when the price of an hour is known.
    pub cost: Option<f64>,
    /// Of the whole run, when the power is known.
    pub energy_kwh: Option<f64>,
}

/// Sum and number.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn push(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / f64::from(self.count) }
    }
}

/// Times of steps, validations and checkpoints: each ends when it is told.
#[derive(Debug)]
pub struct Laps {
    since: Instant,
    steps: VecDeque<f64>,
    validations: Mean,
    checkpoints: Mean,
}

impl Default for Laps {
    fn default() -> Self {
        Self { since: Instant::now(), steps: VecDeque::with_capacity(NEWEST), validations: Mean::default(), checkpoints: Mean::default() }
    }
}

impl Laps {
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.since).as_secs_f64();
        self.since = now;
        seconds
    }

    /// A step ended.
    pub fn step(&mut self) {
        let seconds = self.lap();
        if self.steps.len() == NEWEST {
            self.steps.pop_front();
        }
        self.steps.push_back(seconds);
    }

    /// A validation ended.
    pub fn validation(&mut self) {
        let seconds = self.lap();
        self.validations.push(seconds);
    }

    /// A checkpoint was saved.
    pub fn checkpoint(&mut self) {
        let seconds = self.lap();
        self.checkpoints.push(seconds);
    }

    /// Seconds from `step` to the end; none before the first step.
    pub fn left(&self, about: &About, step: u64) -> Option<f64> {
        if self.steps.is_empty() {
            return None;
        }
        let mut steps: Vec<f64> = self.steps.iter().copied().collect();
        let middle = steps.len() / 2;
        let (_, median, _) = steps.select_nth_unstable_by(middle, f64::total_cmp);
        let times = |every: u64| about.max_steps.checked_div(every).map_or(0, |all| all.saturating_sub(step / every));
        let other = times(about.eval_every) as f64 * self.validations.value() + times(about.checkpoint_every) as f64 * self.checkpoints.value();
        Some(about.max_steps.saturating_sub(step) as f64 * *median + other)
    }
}

/// When to forecast, and from what.
#[derive(Debug)]
pub struct Forecaster {
    area: Area,
    next: u64,
    not_before: Instant,
}

impl Forecaster {
    /// For a run.
    pub fn new(about: &About) -> Self {
        let next = FIRST.max((about.start_step as f64 * FURTHER) as u64);
        Self { area: Area::new(about.schedule, about.max_steps), next, not_before: Instant::now() }
    }

    /// The run is far enough from the last forecast, and forecasting has not taken more than its share of the time.
    pub fn due(&self, step: u64) -> bool {
        step >= self.next && (step == FIRST || Instant::now() >= self.not_before)
    }

    /// Forecast; none before the first step of this process.
    pub fn forecast(&mut self, history: &History, about: &About, config: &WatchConfig, laps: &Laps) -> Option<Forecast> {
        let clock = Instant::now();
        let step = history.step;
        self.next = ((step as f64 * FURTHER) as u64).max(step + 1);
        let seconds_left = laps.left(about, step)?;
        let loss = if about.forecasts_loss { final_loss(history.points("loss"), &self.area) } else { None };
        let seconds = history.last("elapsed_seconds").unwrap_or(0.0) + seconds_left;
        let cost = config.price_per_hour.map(|price| price * seconds / 3600.0);
        let energy_kwh = config.watts.map(|watts| watts * seconds / 3.6e6);
        self.not_before = Instant::now() + (clock.elapsed() * SHARE).min(Duration::from_secs(600));
        Some(Forecast { step, loss, seconds, seconds_left, cost, energy_kwh })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// If this fails, the time to go forgets validations and checkpoints, or one slow step moves it.
    #[test]
    fn time_to_go_counts_steps_validations_and_checkpoints() {
        let about = About { max_steps: 100, eval_every: 20, checkpoint_every: 50, ..About::default() };
        let mut laps = Laps::default();
        assert_eq!(laps.left(&about, 0), None);
        laps.steps.extend([0.1, 0.1, 9.0, 0.1, 0.1]);
        laps.validations = Mean { sum: 4.0, count: 2 };
        laps.checkpoints = Mean { sum: 3.0, count: 1 };
        let left = laps.left(&about, 45).unwrap();
        assert!((left - (55.0 * 0.1 + 3.0 * 2.0 + 2.0 * 3.0)).abs() < 1e-9, "{left}");
        assert_eq!(laps.left(&about, 100), Some(0.0));
    }

    #[test]
    fn a_forecast_knows_time_and_cost_even_where_it_knows_no_loss() {
        let about = About { max_steps: 1000, ..About::default() };
        let config = WatchConfig { price_per_hour: Some(3.6), watts: Some(1000.0), ..WatchConfig::default() };
        let (mut history, mut laps) = (History::default(), Laps::default());
        for step in 1..=50u32 {
            history.step(json!({"step": step, "loss": -1.0, "elapsed_seconds": step}).as_object().unwrap());
            laps.steps.push_back(1.0);
        }
        let mut forecaster = Forecaster::new(&about);
        assert!(!forecaster.due(49) && forecaster.due(50));
        let forecast = forecaster.forecast(&history, &about, &config, &laps).unwrap();
        assert_eq!((forecast.loss, forecast.seconds, forecast.seconds_left), (None, 1000.0, 950.0));
        assert!((forecast.cost.unwrap() - 1.0).abs() < 1e-9 && (forecast.energy_kwh.unwrap() - 1000.0 / 3600.0).abs() < 1e-9);
        assert!(!forecaster.due(54), "not again before the run is a tenth further");
    }
}

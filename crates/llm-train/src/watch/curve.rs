//! A curve that never grows beyond a bound: when it is full, neighbours are merged into their mean.

/// Points kept before neighbours are merged.
const MOST: usize = 1 << 14;

/// Values over steps.
#[derive(Debug, Clone)]
pub struct Curve {
    points: Vec<(f64, f64)>,
    /// Steps that one point is the mean of.
    stride: u32,
    sum: f64,
    count: u32,
    last: Option<(f64, f64)>,
}

impl Default for Curve {
    fn default() -> Self {
        Self { points: Vec::new(), stride: 1, sum: 0.0, count: 0, last: None }
    }
}

impl Curve {
    /// Append; what is not finite is left out. Going back to an earlier step forgets what came after it.
    pub fn push(&mut self, x: f64, y: f64) {
        if !(x.is_finite() && y.is_finite()) {
            return;
        }
        if self.last.is_some_and(|(last, _)| x <= last) {
            self.points.truncate(self.points.partition_point(|p| p.0 < x));
            (self.sum, self.count) = (0.0, 0);
        }
        self.last = Some((x, y));
        self.sum += y;
        self.count += 1;
        if self.count < self.stride {
            return;
        }
        self.points.push((x, self.sum / f64::from(self.count)));
        (self.sum, self.count) = (0.0, 0);
        if self.points.len() == MOST {
            self.points =
                self.points.chunks(2).map(|pair| (pair[pair.len() - 1].0, pair.iter().map(|p| p.1).sum::<f64>() / pair.len() as f64)).collect();
            self.stride *= 2;
        }
    }

    /// Means of as many steps each; every step as long as they are few.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// Steps that one point stands for.
    pub fn stride(&self) -> u32 {
        self.stride
    }

    /// The newest value as it came.
    pub fn last(&self) -> Option<f64> {
        self.last.map(|p| p.1)
    }

    /// At most `most` points, each the mean of its stretch.
    pub fn thinned(&self, most: usize) -> Vec<(f64, f64)> {
        let (n, most) = (self.points.len(), most.max(1));
        if n <= most {
            return self.points.clone();
        }
        let mean = |stretch: &[(f64, f64)]| {
            let count = stretch.len() as f64;
            (stretch.iter().map(|p| p.0).sum::<f64>() / count, stretch.iter().map(|p| p.1).sum::<f64>() / count)
        };
        (0..most).map(|i| mean(&self.points[i * n / most..(i + 1) * n / most])).collect()
    }
}

/// Exponential moving average that starts without a bias towards 0 (Kingma & Ba 2015, section 3).
#[derive(Debug, Clone, Copy, Default)]
pub struct Smooth {
    sum: f64,
    weight: f64,
}

/// A value of 20 steps ago counts a third of the newest.
const DECAY: f64 = 0.95;

impl Smooth {
    /// Take a value in.
    pub fn push(&mut self, value: f64) {
        if value.is_finite() {
            self.sum = DECAY * self.sum + (1.0 - DECAY) * value;
            self.weight = DECAY * self.weight + (1.0 - DECAY);
        }
    }

    /// The average; none of nothing.
    pub fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// If this fails, a long run's curve is bent by being made shorter.
        #[test]
        fn merging_keeps_the_mean_and_the_bound(n in 1usize..200_000) {
            let mut curve = Curve::default();
            for i in 1..=n {
                curve.push(i as f64, i as f64);
            }
            let kept = curve.points();
            prop_assert!(kept.len() < MOST && curve.last() == Some(n as f64));
            let covered = kept.len() * curve.stride() as usize;
            let mean = kept.iter().map(|p| p.1).sum::<f64>() / kept.len().max(1) as f64;
            prop_assert!(kept.is_empty() || (mean - (covered as f64 + 1.0) / 2.0).abs() < 1e-6 * n as f64);
            prop_assert!(n - covered < curve.stride() as usize);
            prop_assert!(curve.thinned(100).len() <= 100);
        }
    }

    #[test]
    fn going_back_forgets_what_came_after() {
        let mut curve = Curve::default();
        for i in 1..=10 {
            curve.push(f64::from(i), 1.0);
        }
        curve.push(4.0, 7.0);
        assert_eq!(curve.points(), [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 7.0)]);
    }

    #[test]
    fn the_average_has_no_bias_at_the_start() {
        let mut smooth = Smooth::default();
        assert_eq!(smooth.value(), None);
        smooth.push(3.0);
        assert!((smooth.value().unwrap() - 3.0).abs() < 1e-12);
    }
}

//! What a guess costs: the time of one more row in a pass.
//!
//! A pass of `n` rows takes about `a + b n`; both are fitted to the passes made, older ones counting less.

/// What is known of a machine's speed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    weight: f64,
    rows: f64,
    time: f64,
    rows_rows: f64,
    rows_time: f64,
    /// Seconds per guess of the draft model.
    guess: f64,
}

const KEEP: f64 = 0.98;
/// Before anything was measured: a row more costs a tenth of a pass.
const UNKNOWN: f64 = 0.1;

impl Pace {
    /// A pass was made.
    pub fn record(&mut self, rows: usize, seconds: f64) {
        let n = rows as f64;
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, n),
            (&mut self.time, seconds),
            (&mut self.rows_rows, n * n),
            (&mut self.rows_time, n * seconds),
        ] {
            *sum = KEEP * *sum + new;
        }
    }

    /// The draft model made guesses.
    pub fn record_guesses(&mut self, guesses: usize, seconds: f64) {
        let each = seconds / guesses.max(1) as f64;
        self.guess = if self.guess == 0.0 { each } else { KEEP * self.guess + (1.0 - KEEP) * each };
    }

    /// Time of a guess as a share of what a sequence among `sequences` takes of a pass without guesses.
    pub fn cost(&self, sequences: usize) -> f64 {
        let spread = self.weight * self.rows_rows - self.rows * self.rows;
        // Passes that were all alike say nothing about another row.
        if self.weight < 2.0 || spread < 0.01 * self.weight * self.rows_rows {
            return UNKNOWN;
        }
        let row = ((self.weight * self.rows_time - self.rows * self.time) / spread).clamp(0.0, self.time / self.rows);
        let base = (self.time - row * self.rows) / self.weight;
        let n = sequences.max(1) as f64;
        n * (row + self.guess) / (base + n * row).max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cheap_where_the_pass_is_not() {
        let mut pace = Pace::default();
        assert_eq!(pace.cost(1), UNKNOWN);
        for i in 0..50 {
            let rows = 1 + i % 7;
            pace.record(rows, 0.010 + 0.001 * rows as f64);
        }
        assert!((pace.cost(1) - 1.0 / 11.0).abs() < 1e-6, "{}", pace.cost(1));
        assert!((pace.cost(90) - 0.9).abs() < 1e-6, "a full batch waits for its rows");
        pace.record_guesses(4, 0.044);
        assert!(pace.cost(1) > 1.0, "a draft as slow as the model is not worth it");
    }
}

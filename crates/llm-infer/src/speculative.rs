//! Several tokens per forward pass: guess what comes next, let the model check all guesses at once.
//!
//! A guess costs a row of a pass that is made anyway; where memory is what a pass waits for, rows are nearly free. Guesses
//! come from the sequence itself (prompt lookup: Saxena, 2023): answers quote their prompts and repeat themselves. The model's
//! own choice at a position is a function of (seed, position) here, so checking is comparing: the tokens are those that would
//! have come without speculation, not only tokens of the same distribution, as the rule for choices drawn anew gives (Leviathan et al., Fast
//! Inference from Transformers via Speculative Decoding, 2023).
//!
//! Pure functions on slices; the engine owns passes, pages and grammars.

use std::ops::RangeInclusive;

/// What probably follows `tokens`: the tokens after an earlier place that ends alike.
///
/// The longest common ending counts, within the lengths of `ngrams`, and of equally long ones the most recent. At most `k`
/// tokens, none without a match. Where the copied stretch reaches the end of `tokens` it goes on with its own copy, as in LZ77, so
/// a repetition is continued however short its period is. One pass over `tokens`.
pub fn lookup(tokens: &[u32], ngrams: RangeInclusive<usize>, k: usize) -> Vec<u32> {
    let (least, most) = ((*ngrams.start()).max(1), *ngrams.end());
    let n = tokens.len();
    let Some(last) = tokens.last().filter(|_| k > 0) else { return Vec::new() };
    let (mut length, mut from) = (0, 0);
    for end in (1..n).rev() {
        if tokens[end - 1] != *last {
            continue;
        }
        let common = tokens[..end].iter().rev().zip(tokens.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
        if common > length {
            (length, from) = (common, end);
            if length == most {
                break;
            }
        }
    }
    if length < least {
        return Vec::new();
    }
    let period = n - from;
    (0..k).map(|i| tokens[from + i % period]).collect()
}

/// What a check of guesses yields: `count` of them stand, then `next` follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Guesses that stand.
    pub count: usize,
    /// The model's own token after them.
    pub next: u32,
}

/// Guesses against the model's choices. `choices[i]` is what the model takes after the first `i` guesses, so there is one more of
/// them than of guesses; those after the first wrong guess mean nothing and are not looked at. The sequence grows by
/// `choices[..=count]`.
pub fn accept(draft: &[u32], choices: &[u32]) -> Accepted {
    let count = draft.iter().zip(choices).take_while(|(guess, choice)| guess == choice).count();
    Accepted { count, next: choices[count] }
}

/// Share of older evidence that remains after a newer trial.
const FORGET: f64 = 0.9;
/// Speculation must promise this much more per time than none.
const WORTH: f64 = 1.02;
/// Steps without a guess after a failed one, doubled at every further failure.
const PAUSE: RangeInclusive<u32> = 8..=128;

/// How many tokens to guess next, for one sequence.
///
/// Of `k` guesses that hold with probability `a` each, a pass yields `(1 - a^(k+1)) / (1 - a)` tokens and takes `1 + cost * k` as long
/// as a pass without; the best ratio wins. Where none beats not guessing, a single guess is tried now and then, ever more
/// seldom while it fails, so text that cannot be guessed is slowed down by less than one in twenty.
#[derive(Debug, Clone)]
pub struct Controller {
    most: usize,
    cost: f64,
    /// Guesses that held and guesses that were checked, older ones weighing less.
    held: f64,
    tried: f64,
    pause: u32,
    wait: u32,
}

impl Controller {
    /// At most `most` guesses per pass; see [`Controller::set_cost`] for `cost`.
    pub fn new(most: usize, cost: f64) -> Self {
        // As if one of two guesses had held.
        Self { most, cost, held: 1.0, tried: 2.0, pause: 0, wait: 0 }
    }

    /// Time of one more row in a pass, as a share of the pass without it: 0.1 if eleven rows take twice as long as one.
    pub fn set_cost(&mut self, cost: f64) {
        self.cost = cost.max(0.0);
    }

    /// The share of guesses that hold, as far as is known.
    pub fn acceptance(&self) -> f64 {
        self.held / self.tried
    }

    /// How many tokens to guess in this step.
    pub fn propose(&mut self) -> usize {
        let best = self.best();
        if best > 0 {
            return best;
        }
        if self.wait > 0 {
            self.wait -= 1;
            return 0;
        }
        1.min(self.most)
    }

    /// The outcome of a check. A step without guesses is none and needs no call.
    pub fn record(&mut self, proposed: usize, accepted: usize) {
        if proposed == 0 {
            return;
        }
        // The guesses after the first wrong one were not tried.
        for i in 0..(accepted + 1).min(proposed) {
            self.held = FORGET * self.held + f64::from(i < accepted);
            self.tried = FORGET * self.tried + 1.0;
        }
        self.pause = if accepted > 0 { 0 } else { (2 * self.pause).clamp(*PAUSE.start(), *PAUSE.end()) };
        self.wait = self.pause;
    }

    fn best(&self) -> usize {
        let a = self.acceptance();
        let (mut best, mut most, mut tokens, mut power) = (0, WORTH, 1.0, 1.0);
        for k in 1..=self.most {
            power *= a;
            tokens += power;
            let rate = tokens / (1.0 + self.cost * k as f64);
            if rate > most {
                (best, most) = (k, rate);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_run::Seed;
    use proptest::prelude::*;

    #[test]
    fn the_longest_ending_wins_and_then_the_most_recent() {
        // "1 2 3" was followed by 7, the later "9 3" only shares its last token.
        let tokens = [1, 2, 3, 7, 8, 9, 3, 5, 1, 2, 3];
        assert_eq!(lookup(&tokens, 1..=3, 2), [7, 8]);
        assert_eq!(lookup(&tokens, 1..=1, 2), [5, 1]);
        assert_eq!(lookup(&[1, 4, 1, 5, 1], 1..=4, 1), [5]);
        assert_eq!(lookup(&tokens, 4..=8, 2), [0u32; 0], "three tokens are not four");
        assert_eq!(lookup(&[4, 6, 4, 6, 4], 1..=3, 5), [6, 4, 6, 4, 6], "a repetition goes on");
        for tokens in [&[][..], &[1], &[1, 2]] {
            assert!(lookup(tokens, 1..=3, 4).is_empty());
        }
        assert!(lookup(&[1, 1], 1..=3, 0).is_empty());
    }

    #[test]
    fn guesses_stand_until_the_first_wrong_one() {
        assert_eq!(accept(&[5, 6, 7], &[5, 6, 9, 7]), Accepted { count: 2, next: 9 });
        assert_eq!(accept(&[5, 6], &[5, 6, 9]), Accepted { count: 2, next: 9 });
        assert_eq!(accept(&[5, 6], &[4, 6, 9]), Accepted { count: 0, next: 4 });
        assert_eq!(accept(&[], &[3]), Accepted { count: 0, next: 3 });
    }

    /// Steps of a text of which a guess holds with probability `a`, at a price of `cost` per guess: tokens per time.
    fn speed(a: f64, cost: f64, steps: u32, seed: u64) -> f64 {
        let mut rng = Seed(seed).stream("text").rng();
        let mut controller = Controller::new(8, cost);
        let (mut tokens, mut time) = (0.0, 0.0);
        for _ in 0..steps {
            let k = controller.propose();
            assert!(k <= 8);
            let held = (0..k).take_while(|_| rng.chance(a)).count();
            controller.record(k, held);
            tokens += 1.0 + held as f64;
            time += 1.0 + cost * k as f64;
        }
        tokens / time
    }

    #[test]
    fn hopeless_speculation_costs_less_than_a_twentieth() {
        for cost in [0.02, 0.1, 0.2, 0.5, 1.0] {
            for steps in [128, 1024] {
                let speed = speed(0.0, cost, steps, 1);
                assert!(speed > 0.95, "{speed} at cost {cost} over {steps} steps");
            }
        }
    }

    #[test]
    fn speculation_pays_where_guesses_hold() {
        assert!(speed(0.9, 0.1, 1000, 2) > 2.5);
        assert!(speed(0.6, 0.1, 1000, 3) > 1.4);
        // Text that becomes a quotation after a long stretch that was none.
        let mut controller = Controller::new(8, 0.1);
        for _ in 0..500 {
            let k = controller.propose();
            controller.record(k, 0);
        }
        let found = (0..300).position(|_| {
            let k = controller.propose();
            controller.record(k, k);
            k == 8
        });
        assert!(found.is_some_and(|steps| steps < 180), "{found:?}");
    }

    proptest! {
        /// Whatever is guessed, the tokens are those of the model alone.
        #[test]
        fn speculation_changes_no_token(prompt in prop::collection::vec(0u32..3, 1..20), most in 1usize..4, k in 0usize..6) {
            // A model whose choice depends on its last two tokens and the position, repetitive enough to be guessed.
            let choice = |tokens: &[u32]| (tokens.iter().rev().take(2).sum::<u32>() + u32::from(tokens.len().is_multiple_of(11))) % 3;
            let mut alone = prompt.clone();
            let mut guessed = prompt.clone();
            while alone.len() < 80 {
                alone.push(choice(&alone));
            }
            while guessed.len() < 80 {
                let draft = lookup(&guessed, 1..=most, k);
                let all = [guessed.as_slice(), &draft].concat();
                let choices: Vec<u32> = (guessed.len()..=all.len()).map(|n| choice(&all[..n])).collect();
                let Accepted { count, next } = accept(&draft, &choices);
                guessed.extend(&draft[..count]);
                guessed.push(next);
            }
            prop_assert_eq!(&guessed[..80], &alone[..80]);
        }

        /// Against the definition, read literally.
        #[test]
        fn lookup_is_its_definition(tokens in prop::collection::vec(0u32..3, 0..40), least in 1usize..3, more in 0usize..4, k in 1usize..6) {
            let n = tokens.len();
            let ends = (least..=least + more).rev().filter(|&length| length < n).find_map(|length| {
                (length..n).rev().find(|&end| tokens[end - length..end] == tokens[n - length..])
            });
            let found = lookup(&tokens, least..=least + more, k);
            match ends {
                None => prop_assert!(found.is_empty()),
                Some(end) => {
                    let mut whole = tokens.clone();
                    (0..k).for_each(|i| whole.push(whole[end + i]));
                    prop_assert_eq!(&found[..], &whole[n..]);
                }
            }
        }
    }
}

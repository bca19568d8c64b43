//! The baseline that a language model must beat: an order-3 byte model, two bytes of context, counted not trained.
//!
//! Interpolated Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1999, section 2.5):
//!
//! `p(c | ab) = (N(abc) + T(ab) · p(c | b)) / (N(ab) + T(ab))`
//!
//! where `N` counts occurrences and `T(ab)` counts the distinct bytes seen after `ab`; the recursion ends at the uniform
//! distribution over 256 bytes. A context that was never seen hands over to the shorter one. Kneser-Ney gains nothing
//! worth its bookkeeping here: with 256 symbols and megabytes of text nearly every context is well observed.
//!
//! Counts live in flat tables (the trigrams: 2^24 counters, 64 MiB), so training is one increment per byte and order. The
//! first byte of a document is predicted from no context and the second from one byte: no text leaks between documents.

const SYMBOLS: usize = 256;

/// Counts of an order-3 byte model; feed it documents, then [`ByteTrigram::freeze`] it.
#[derive(Debug, Clone)]
pub struct ByteTrigram {
    unigrams: Vec<u64>,
    bigrams: Vec<u64>,
    trigrams: Vec<u32>,
    bytes: u64,
}

impl Default for ByteTrigram {
    fn default() -> Self {
        Self { unigrams: vec![0; SYMBOLS], bigrams: vec![0; SYMBOLS * SYMBOLS], trigrams: vec![0; SYMBOLS * SYMBOLS * SYMBOLS], bytes: 0 }
    }
}

impl ByteTrigram {
    /// Count one document.
    pub fn add(&mut self, document: &[u8]) {
        self.bytes += document.len() as u64;
        // The last three bytes, newest lowest; the masks below cut it to the order counted.
        let mut history = 0usize;
        for (i, &byte) in document.iter().enumerate() {
            history = ((history << 8) | usize::from(byte)) & 0xFF_FFFF;
            self.unigrams[usize::from(byte)] += 1;
            if i >= 1 {
                self.bigrams[history & 0xFFFF] += 1;
            }
            if i >= 2 {
                // Four billion occurrences of one trigram saturate; the estimate is then off by less than its noise.
                let count = &mut self.trigrams[history];
                *count = count.saturating_add(1);
            }
        }
    }

    /// Bytes counted so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Turn counts into a distribution.
    pub fn freeze(self) -> TrainedTrigram {
        let order0 = interpolate(&self.unigrams, |_| 1.0 / SYMBOLS as f64);
        let order1 = interpolate(&self.bigrams, |c| order0[c]);
        let contexts = self
            .trigrams
            .chunks_exact(SYMBOLS)
            .map(|row| (row.iter().map(|&n| u64::from(n)).sum(), row.iter().filter(|&&n| n > 0).count() as u64))
            .collect();
        TrainedTrigram { order0, order1, trigrams: self.trigrams, contexts }
    }
}

/// Witten-Bell over a table of rows of 256 counts; `shorter(c)` is what the shorter context says.
fn interpolate(counts: &[u64], shorter: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut probabilities = Vec::with_capacity(counts.len());
    for row in counts.chunks_exact(SYMBOLS) {
        let total: u64 = row.iter().sum();
        let types = row.iter().filter(|&&n| n > 0).count() as u64;
        probabilities.extend(row.iter().enumerate().map(|(c, &n)| smooth(n, total, types, shorter(c))));
    }
    probabilities
}

fn smooth(count: u64, total: u64, types: u64, shorter: f64) -> f64 {
    if total == 0 { shorter } else { (count as f64 + types as f64 * shorter) / (total + types) as f64 }
}

/// A frozen order-3 byte model.
#[derive(Debug, Clone)]
pub struct TrainedTrigram {
    order0: Vec<f64>,
    order1: Vec<f64>,
    trigrams: Vec<u32>,
    /// Per pair of bytes: N (occurrences as context) and T (distinct successors).
    contexts: Vec<(u64, u64)>,
}

impl TrainedTrigram {
    /// `p(byte | context)`; only the last two bytes of `context` count, fewer mean a shorter context.
    pub fn probability(&self, context: &[u8], byte: u8) -> f64 {
        let c = usize::from(byte);
        match *context {
            [] => self.order0[c],
            [b] => self.order1[usize::from(b) << 8 | c],
            [.., a, b] => {
                let pair = usize::from(a) << 8 | usize::from(b);
                let (total, types) = self.contexts[pair];
                smooth(u64::from(self.trigrams[pair << 8 | c]), total, types, self.order1[usize::from(b) << 8 | c])
            }
        }
    }

    /// Bits needed for a whole document: the sum of -log2 p over its bytes.
    pub fn bits(&self, document: &[u8]) -> f64 {
        document.iter().enumerate().map(|(i, &byte)| -self.probability(&document[i.saturating_sub(2)..i], byte).log2()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn trained(documents: &[&[u8]]) -> TrainedTrigram {
        let mut counts = ByteTrigram::default();
        documents.iter().for_each(|d| counts.add(d));
        counts.freeze()
    }

    /// The definition, word for word, with maps and recursion.
    struct Reference {
        counts: BTreeMap<Vec<u8>, u64>,
    }

    impl Reference {
        fn new(documents: &[&[u8]]) -> Self {
            let mut counts = BTreeMap::new();
            for document in documents {
                for end in 1..=document.len() {
                    for order in 1..=end.min(3) {
                        *counts.entry(document[end - order..end].to_vec()).or_default() += 1;
                    }
                }
            }
            Self { counts }
        }

        fn probability(&self, context: &[u8], byte: u8) -> f64 {
            let shorter = if context.is_empty() { 1.0 / 256.0 } else { self.probability(&context[1..], byte) };
            let seen: Vec<(u8, u64)> = (0..=255u8).filter_map(|c| self.counts.get(&[context, &[c]].concat()).map(|&n| (c, n))).collect();
            let total: u64 = seen.iter().map(|&(_, n)| n).sum();
            let types = seen.iter().map(|&(c, _)| c).collect::<BTreeSet<_>>().len() as u64;
            let count = seen.iter().find(|&&(c, _)| c == byte).map_or(0, |&(_, n)| n);
            if total == 0 { shorter } else { (count as f64 + types as f64 * shorter) / (total + types) as f64 }
        }
    }

    const TEXT: &str = "Die Sonne scheint auf das Dach des Hauses. The sun shines on the roof of the house. El sol brilla sobre el tejado \
        de la casa. Zwei Vögel sitzen dort, two birds sit there, dos pájaros están allí. fn main() { println!(\"{}\", 1 + 1); }";

    #[test]
    fn probabilities_sum_to_one_in_every_kind_of_context() {
        let model = trained(&[TEXT.as_bytes(), b"", b"x"]);
        for context in [&b""[..], b"e", b"th", b"\0", b"\0\0", b"e\0", b"long context: th"] {
            let sum: f64 = (0..=255).map(|c| model.probability(context, c)).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{context:?}: {sum}");
        }
        let untrained = trained(&[]);
        assert_eq!(untrained.probability(b"ab", b'c'), 1.0 / 256.0);
        assert_eq!(untrained.bits(b"abc"), 24.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn equals_the_slow_reference(
            documents in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), any::<u8>()], 0..60), 0..5),
            text in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), any::<u8>()], 0..40),
        ) {
            let documents: Vec<&[u8]> = documents.iter().map(Vec::as_slice).collect();
            let (model, reference) = (trained(&documents), Reference::new(&documents));
            let mut bits = 0.0;
            for (i, &byte) in text.iter().enumerate() {
                let context = &text[i.saturating_sub(2)..i];
                let want = reference.probability(context, byte);
                prop_assert!((model.probability(context, byte) - want).abs() < 1e-12);
                bits -= want.log2();
            }
            prop_assert!((model.bits(&text) - bits).abs() < 1e-9);
        }
    }

    #[test]
    fn context_helps_on_unseen_text() {
        let model = trained(&[TEXT.as_bytes()]);
        let unseen = "The house is on the sun side. Das Haus steht dort auf der Sonnenseite, la casa del sol.".as_bytes();
        let order0: f64 = unseen.iter().map(|&b| -model.probability(&[], b).log2()).sum();
        assert!(model.bits(unseen) < 0.95 * order0, "{} bits against {order0}", model.bits(unseen));
    }
}

//! Different words with their counts, bytes in one piece: what is left of a corpus when training begins.

/// Words in the order they were pushed.
#[derive(Debug, Default)]
pub struct Words {
    bytes: Vec<u8>,
    /// Where each word ends in `bytes`.
    ends: Vec<u64>,
    counts: Vec<u64>,
}

impl Words {
    pub fn push(&mut self, word: &[u8], count: u64) {
        self.bytes.extend_from_slice(word);
        self.ends.push(self.bytes.len() as u64);
        self.counts.push(count);
    }

    /// Equal words come one after the other and become one.
    pub fn add_to_last_or_push(&mut self, word: &[u8], count: u64) {
        if !self.ends.is_empty()
            && self.bytes(self.len() - 1) == word
            && let Some(last) = self.counts.last_mut()
        {
            *last = last.saturating_add(count);
        } else {
            self.push(word, count);
        }
    }

    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.counts.shrink_to_fit();
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn bytes(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.bytes[start..self.ends[i] as usize]
    }

    pub fn count(&self, i: usize) -> u64 {
        self.counts[i]
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        (0..self.len()).map(|i| (self.bytes(i), self.counts[i]))
    }
}

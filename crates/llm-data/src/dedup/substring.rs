//! Repeated stretches of bytes: every one of at least `n` bytes that occurs earlier in the corpus (after Lee et al., 2022).
//!
//! A suffix array of the corpus would find them, and would need several times its size in memory. Instead every window of `n` bytes
//! chooses a place in itself: where the hash of `n / 2` bytes is least (winnowing, Schleimer et al., 2003). Equal windows choose equal
//! places, so any repetition of `n` bytes or more shows as two places with the same hash, and there are only about four places per `n`
//! bytes. They are sorted on disk; the bytes around places with equal hashes are then compared, so nothing is removed by accident of
//! a hash.

use super::records::AnchorRecord;
use std::collections::VecDeque;

/// Multiplier of the rolling hash.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// The places that the windows of `n` bytes choose. Consecutive windows with the same place make one record.
pub fn anchors(text: &[u8], doc: u32, n: usize) -> Vec<AnchorRecord> {
    let gram = n / 2;
    let width = n - gram + 1;
    let mut found: Vec<AnchorRecord> = Vec::new();
    if text.len() < n {
        return found;
    }
    let highest = (0..gram).fold(1u64, |p, _| p.wrapping_mul(BASE));
    let mut rolling = text[..gram].iter().fold(0u64, |h, b| h.wrapping_mul(BASE).wrapping_add(u64::from(*b) + 1));
    // Places whose hash is below that of all later ones: the first is the choice of the window.
    let mut least: VecDeque<(u64, usize)> = VecDeque::new();
    for at in 0..=text.len() - gram {
        if at > 0 {
            let (out, new) = (u64::from(text[at - 1]) + 1, u64::from(text[at + gram - 1]) + 1);
            rolling = rolling.wrapping_mul(BASE).wrapping_add(new).wrapping_sub(out.wrapping_mul(highest));
        }
        let hash = super::minhash::mix(rolling);
        while least.back().is_some_and(|(h, _)| *h > hash) {
            least.pop_back();
        }
        least.push_back((hash, at));
        let Some(window) = (at + 1).checked_sub(width) else { continue };
        while least.front().is_some_and(|(_, p)| *p < window) {
            least.pop_front();
        }
        let Some(&(key, place)) = least.front() else { continue };
        match found.last_mut() {
            Some(last) if last.at as usize == place => last.last = (place - window) as u16,
            _ => found.push(AnchorRecord { key, doc, at: place as u32, before: (place - window) as u16, last: (place - window) as u16 }),
        }
    }
    found
}

/// The bytes that a record's windows span, and where its place is in them.
#[derive(Debug, Clone)]
pub struct Context {
    /// The record.
    pub anchor: AnchorRecord,
    /// From the first byte of its first window to the last byte of its last.
    pub bytes: Vec<u8>,
}

impl AnchorRecord {
    /// First byte of the first window and byte after the last one.
    pub fn span(&self, n: usize) -> (usize, usize) {
        let at = self.at as usize;
        (at - usize::from(self.before), at - usize::from(self.last) + n)
    }
}

impl Context {
    /// The stretch around the place that both have, as byte range of this document.
    pub fn common(&self, other: &Self) -> (usize, usize) {
        let (here, there) = (usize::from(self.anchor.before), usize::from(other.anchor.before));
        let left = self.bytes[..here].iter().rev().zip(other.bytes[..there].iter().rev()).take_while(|(a, b)| a == b).count();
        let right = self.bytes[here..].iter().zip(&other.bytes[there..]).take_while(|(a, b)| a == b).count();
        let at = self.anchor.at as usize;
        (at - left, at + right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn every_window_is_in_one_record_and_equal_windows_choose_alike(text in proptest::collection::vec(97u8..100, 0..400), half in 8usize..20) {
            let n = 2 * half;
            let found = anchors(&text, 0, n);
            let mut chosen = Vec::new();
            for record in &found {
                let (first, end) = record.span(n);
                prop_assert!(end <= text.len());
                for window in first..=end - n {
                    chosen.push((window, record.at as usize - window));
                }
            }
            prop_assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), (0..(text.len() + 1).saturating_sub(n)).collect::<Vec<_>>());
            for (i, a) in &chosen {
                for (j, b) in &chosen {
                    if text[*i..i + n] == text[*j..j + n] {
                        prop_assert_eq!(a, b);
                    }
                }
            }
        }
    }
}

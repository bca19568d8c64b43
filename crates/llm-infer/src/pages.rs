//! Who owns which page of the key/value pool.
//!
//! A full page is immutable and is known by the tokens it holds and the page before it, so sequences with a common prefix
//! (one prompt sampled eight times, one system prompt for everybody) share it. Sharing is exact: tokens are compared, not
//! only hashed. The last, partial page of a sequence is always its own, so nothing is ever copied on write.

use std::collections::HashMap;

const NONE: u32 = u32::MAX;

/// Page tables of all sequences.
#[derive(Debug)]
pub struct PagedKv {
    page_size: usize,
    free: Vec<u32>,
    references: Vec<u32>,
    /// Key under which a full page is shared, to remove it when the page is freed.
    keys: Vec<Option<Key>>,
    shared: HashMap<Key, u32>,
}

/// The page before (or none) and the tokens of this one.
type Key = (u32, Vec<u32>);

impl PagedKv {
    /// All pages free.
    pub fn new(pages: usize, page_size: usize) -> Self {
        Self { page_size, free: (0..pages as u32).rev().collect(), references: vec![0; pages], keys: vec![None; pages], shared: HashMap::new() }
    }

    /// Pages nobody uses.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// Pages that live sequences already hold for the beginning of `tokens`; at least one token is left to compute. The
    /// caller owns a reference to each.
    pub fn share_prefix(&mut self, tokens: &[u32]) -> Vec<u32> {
        let mut pages = Vec::new();
        let mut before = NONE;
        for chunk in tokens[..tokens.len().saturating_sub(1)].chunks_exact(self.page_size) {
            let Some(&page) = self.shared.get(&(before, chunk.to_vec())) else { break };
            self.references[page as usize] += 1;
            pages.push(page);
            before = page;
        }
        pages
    }

    /// Grow a page table until it covers `tokens` tokens; false (and no change) when there are not enough pages.
    pub fn reserve(&mut self, pages: &mut Vec<u32>, tokens: usize) -> bool {
        let missing = tokens.div_ceil(self.page_size).saturating_sub(pages.len());
        if missing > self.free.len() {
            return false;
        }
        for _ in 0..missing {
            // Checked above.
            let Some(page) = self.free.pop() else { return false };
            self.references[page as usize] = 1;
            pages.push(page);
        }
        true
    }

    /// Offer the full pages among the first `computed` tokens for sharing.
    pub fn publish(&mut self, pages: &[u32], tokens: &[u32], computed: usize) {
        let mut before = NONE;
        for (&page, chunk) in pages.iter().zip(tokens[..computed].chunks_exact(self.page_size)) {
            if self.keys[page as usize].is_none() {
                let key = (before, chunk.to_vec());
                if !self.shared.contains_key(&key) {
                    self.shared.insert(key.clone(), page);
                    self.keys[page as usize] = Some(key);
                }
            }
            before = page;
        }
    }

    /// Give the pages of a sequence back.
    pub fn release(&mut self, pages: &[u32]) {
        // Later pages first: a shared page outlives the pages that name it as their predecessor.
        for &page in pages.iter().rev() {
            let references = &mut self.references[page as usize];
            *references -= 1;
            if *references == 0 {
                if let Some(key) = self.keys[page as usize].take() {
                    self.shared.remove(&key);
                }
                self.free.push(page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_common_prefix_is_shared_and_the_rest_is_not() {
        let mut kv = PagedKv::new(10, 4);
        let tokens: Vec<u32> = (0..10).collect();
        let mut a = kv.share_prefix(&tokens);
        assert!(a.is_empty());
        assert!(kv.reserve(&mut a, 10));
        kv.publish(&a, &tokens, 10);
        let mut b = kv.share_prefix(&tokens);
        assert_eq!(b, a[..2]);
        assert!(kv.reserve(&mut b, 10));
        assert_ne!(b[2], a[2]);
        // A whole multiple: the last page stays unshared so that one token is left to compute.
        let c = kv.share_prefix(&tokens[..8]);
        assert_eq!(c, a[..1]);
        for pages in [&a, &b, &c] {
            kv.release(pages);
        }
        assert_eq!(kv.free_pages(), 10);
        assert!(kv.share_prefix(&tokens).is_empty(), "freed pages must not be found");
    }

    proptest! {
        /// No page is lost or handed out twice, whatever sequences come and go.
        #[test]
        fn pages_are_conserved(ops in prop::collection::vec((0u32..3, 1usize..20, any::<bool>()), 1..60)) {
            let mut kv = PagedKv::new(16, 4);
            let mut live: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
            for (family, length, remove) in ops {
                if remove && !live.is_empty() {
                    let (pages, _) = live.swap_remove(length % live.len());
                    kv.release(&pages);
                    continue;
                }
                let tokens: Vec<u32> = (0..length as u32).map(|i| family * 100 + i / 2).collect();
                let mut pages = kv.share_prefix(&tokens);
                if kv.reserve(&mut pages, length) {
                    kv.publish(&pages, &tokens, length);
                    live.push((pages, tokens));
                } else {
                    kv.release(&pages);
                }
                // Two sequences may hold the same page only where their tokens up to its end agree.
                for (i, (p, t)) in live.iter().enumerate() {
                    for (q, u) in &live[i + 1..] {
                        for (x, page) in p.iter().enumerate() {
                            if let Some(y) = q.iter().position(|other| other == page) {
                                prop_assert_eq!(x, y);
                                prop_assert!(t.len() >= (x + 1) * 4 && t[..(x + 1) * 4] == u[..(x + 1) * 4]);
                            }
                        }
                    }
                }
            }
            for (pages, _) in live {
                kv.release(&pages);
            }
            prop_assert_eq!(kv.free_pages(), 16);
        }
    }
}

//! Who owns which page of the key/value pool.
//!
//! A full page is immutable and is known by the tokens it holds and the page before it, so sequences with a common prefix
//! (one prompt sampled eight times, one system prompt for everybody) share it. Sharing is exact: tokens are compared, not
//! only hashed. An image is known by the BLAKE3 hash of its file: all its placeholders are the same token, so a page is also known by the
//! images it shows a part of. The last, partial page of a sequence is always its own, so nothing is ever copied on write.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

const NONE: u32 = u32::MAX;

/// An image among the tokens of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The placeholders that stand for it.
    pub tokens: Range<usize>,
    /// Hash of what they stand for.
    pub hash: Arc<str>,
}

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

/// The page before (or none), the tokens of this one, and the images a part of which is in it. Which part follows from the pages before.
type Key = (u32, Vec<u32>, Vec<Arc<str>>);

fn key(before: u32, index: usize, chunk: &[u32], pictures: &[Picture]) -> Key {
    let page = index * chunk.len()..(index + 1) * chunk.len();
    let shown = pictures.iter().filter(|p| p.tokens.start < page.end && page.start < p.tokens.end);
    (before, chunk.to_vec(), shown.map(|p| Arc::clone(&p.hash)).collect())
}

impl PagedKv {
    /// All pages free.
    pub fn new(pages: usize, page_size: usize) -> Self {
        Self { page_size, free: (0..pages as u32).rev().collect(), references: vec![0; pages], keys: vec![None; pages], shared: HashMap::new() }
    }

    /// All pages.
    pub fn pages(&self) -> usize {
        self.references.len()
    }

    /// Pages nobody uses.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// Pages that live sequences already hold for the beginning of `tokens`; at least one token is left to compute. The
    /// caller owns a reference to each.
    pub fn share_prefix(&mut self, tokens: &[u32], pictures: &[Picture]) -> Vec<u32> {
        let mut pages = Vec::new();
        let mut before = NONE;
        for (i, chunk) in tokens[..tokens.len().saturating_sub(1)].chunks_exact(self.page_size).enumerate() {
            let Some(&page) = self.shared.get(&key(before, i, chunk, pictures)) else { break };
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
    pub fn publish(&mut self, pages: &[u32], tokens: &[u32], pictures: &[Picture], computed: usize) {
        let mut before = NONE;
        for (i, (&page, chunk)) in pages.iter().zip(tokens[..computed].chunks_exact(self.page_size)).enumerate() {
            if self.keys[page as usize].is_none() {
                let key = key(before, i, chunk, pictures);
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
        let mut a = kv.share_prefix(&tokens, &[]);
        assert!(a.is_empty());
        assert!(kv.reserve(&mut a, 10));
        kv.publish(&a, &tokens, &[], 10);
        let mut b = kv.share_prefix(&tokens, &[]);
        assert_eq!(b, a[..2]);
        assert!(kv.reserve(&mut b, 10));
        assert_ne!(b[2], a[2]);
        // A whole multiple: the last page stays unshared so that one token is left to compute.
        let c = kv.share_prefix(&tokens[..8], &[]);
        assert_eq!(c, a[..1]);
        for pages in [&a, &b, &c] {
            kv.release(pages);
        }
        assert_eq!(kv.free_pages(), 10);
        assert!(kv.share_prefix(&tokens, &[]).is_empty(), "freed pages must not be found");
    }

    /// If this fails, one user's question is answered about another user's image.
    #[test]
    fn the_same_placeholders_are_shared_for_the_same_image_only() {
        let mut kv = PagedKv::new(30, 4);
        // One token, two images of five placeholders, two tokens: neither begins nor ends with a page.
        let tokens = [[1; 1].as_slice(), &[9; 10], &[2; 2]].concat();
        let shown = |first: &str, second: &str| [Picture { tokens: 1..6, hash: first.into() }, Picture { tokens: 6..11, hash: second.into() }];
        let mut a = kv.share_prefix(&tokens, &shown("x", "y"));
        assert!(kv.reserve(&mut a, tokens.len()));
        kv.publish(&a, &tokens, &shown("x", "y"), tokens.len());
        for (first, second, shared) in [("x", "y", 3), ("x", "x", 1), ("y", "y", 0), ("y", "x", 0)] {
            let b = kv.share_prefix(&tokens, &shown(first, second));
            assert_eq!(b, a[..shared], "{first} {second}");
            kv.release(&b);
        }
        assert!(kv.share_prefix(&tokens, &[]).is_empty());
    }

    proptest! {
        /// No page is lost or handed out twice, whatever sequences come and go.
        #[test]
        fn pages_are_conserved(ops in prop::collection::vec((0u32..3, 1usize..20, any::<bool>(), 0u32..3), 1..60)) {
            let mut kv = PagedKv::new(16, 4);
            let mut live: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
            for (family, length, remove, image) in ops {
                if remove && !live.is_empty() {
                    let (pages, _) = live.swap_remove(length % live.len());
                    kv.release(&pages);
                    continue;
                }
                let mut tokens: Vec<u32> = (0..length as u32).map(|i| family * 100 + i / 2).collect();
                let seen = 2.min(length)..7.min(length);
                tokens[seen.clone()].fill(999);
                let pictures = [Picture { tokens: seen.clone(), hash: image.to_string().into() }];
                let mut pages = kv.share_prefix(&tokens, &pictures);
                if kv.reserve(&mut pages, length) {
                    kv.publish(&pages, &tokens, &pictures, length);
                    tokens[seen].fill(1000 + image);
                    live.push((pages, tokens));
                } else {
                    kv.release(&pages);
                }
                // Two sequences may hold the same page only where their tokens and images up to its end agree.
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

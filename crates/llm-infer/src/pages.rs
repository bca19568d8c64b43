//! Who owns which page of the key/value pool, and which pages hold what somebody may ask for again.
//!
//! A full page is immutable and is known by its tokens and by the page before it, so sequences with a common prefix (one prompt sampled
//! eight times, one system prompt for everybody, a conversation that goes on) share it. Known pages form a tree over token ids with one page
//! to an edge: a radix tree whose edges have one length, found by hashing (SGLang's RadixAttention, Zheng et al. 2024, and vLLM's
//! block hashes are the two ends of this). Sharing is exact: tokens are compared, not only hashed. An image is known by the BLAKE3 hash of its
//! file: all its placeholders are the same token, so a page is also known by the images it shows a part of. Pages of different adapters grow from
//! different roots.
//!
//! A page that no sequence holds any more stays known until its room is needed. The one that was given back first goes first; a sequence
//! gives its pages back from the end, so a page goes before the one that leads to it.
//!
//! A page's place in the tree is a number that is never used twice: whatever becomes of a page, nothing can be found behind it by mistake.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Stands in a page table for a page that was given back because nobody looks so far behind.
pub const GONE: u32 = u32::MAX;
/// Nodes below this are roots: 0 for the model itself, `1 + id` for an adapter.
const FIRST_NODE: u64 = 1 << 33;
/// Pages behind one node that are compared when a part of one may do.
const COMPARED: usize = 64;

/// An image among the tokens of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The placeholders that stand for it.
    pub tokens: Range<usize>,
    /// Hash of what they stand for.
    pub hash: Arc<str>,
}

/// The pages of a sequence, in order.
#[derive(Debug, Clone)]
pub struct PageTable {
    /// Where the tree of its adapter begins.
    root: u64,
    pages: Vec<u32>,
    /// So many leading pages are known,
    known: usize,
    /// and this is where the last of them stands in the tree.
    node: u64,
    /// So many leading pages were given back.
    gone: usize,
}

impl PageTable {
    /// No pages yet. Sequences of different adapters never share.
    pub fn new(adapter: Option<u32>) -> Self {
        Self::at(adapter.map_or(0, |id| 1 + u64::from(id)))
    }

    fn at(root: u64) -> Self {
        Self { root, pages: Vec::new(), known: 0, node: root, gone: 0 }
    }

    /// Ids, [`GONE`] for those that were given back.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Pages in it that were not given back.
    pub fn held(&self) -> usize {
        self.pages.len() - self.gone
    }
}

/// What a page is known by: the node before it, its tokens, and the images a part of which is in it. Which part follows from the pages before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    before: u64,
    tokens: Box<[u32]>,
    images: Box<[Arc<str>]>,
}

#[derive(Debug)]
struct Known {
    key: Key,
    node: u64,
    /// The page of the node before.
    parent: u32,
    /// Its keys and values are there; false within the step that computes them.
    written: bool,
}

#[derive(Debug, Default)]
struct Page {
    references: u32,
    known: Option<Known>,
    /// When it was given back, while nobody holds it.
    idle_since: u64,
}

/// Page tables of all sequences.
#[derive(Debug)]
pub struct PagedKv {
    page_size: usize,
    sharing: bool,
    pages: Vec<Page>,
    free: Vec<u32>,
    /// Known pages that nobody holds, by the time they were given back.
    idle: BTreeMap<u64, u32>,
    shared: HashMap<Key, u32>,
    /// `(node, page behind it)`.
    children: BTreeSet<(u64, u32)>,
    /// Known but not yet written.
    fresh: Vec<u32>,
    clock: u64,
    next_node: u64,
}

impl PagedKv {
    /// All pages free. Without `sharing` no page is ever known, so none is found and none is kept.
    pub fn new(pages: usize, page_size: usize, sharing: bool) -> Self {
        Self {
            page_size,
            sharing,
            pages: (0..pages).map(|_| Page::default()).collect(),
            free: (0..pages as u32).rev().collect(),
            idle: BTreeMap::new(),
            shared: HashMap::new(),
            children: BTreeSet::new(),
            fresh: Vec::new(),
            clock: 0,
            next_node: FIRST_NODE,
        }
    }

    /// All pages.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Pages no sequence holds: those that keep nothing, and those that would be given up for somebody who needs room.
    pub fn free_pages(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Those of them that keep something.
    pub fn kept_pages(&self) -> usize {
        self.idle.len()
    }

    fn key(&self, before: u64, index: usize, tokens: &[u32], pictures: &[Picture]) -> Key {
        let page = index * self.page_size..(index + 1) * self.page_size;
        let shown = pictures.iter().filter(|p| p.tokens.start < page.end && page.start < p.tokens.end);
        Key { before, tokens: tokens[page.clone()].into(), images: shown.map(|p| Arc::clone(&p.hash)).collect() }
    }

    /// Take known pages for the tokens after the first `computed`, as far as they go, in place of the table's own. At least one token is
    /// left to compute. Returns how many are computed now.
    pub fn adopt(&mut self, table: &mut PageTable, tokens: &[u32], pictures: &[Picture], computed: usize) -> usize {
        let mut index = computed / self.page_size;
        if !self.sharing || table.gone > 0 || table.known != index || !computed.is_multiple_of(self.page_size) {
            return computed;
        }
        while (index + 1) * self.page_size < tokens.len() {
            let key = self.key(table.node, index, tokens, pictures);
            let Some(&page) = self.shared.get(&key) else { break };
            self.take_known(table, index, page);
            index += 1;
        }
        index * self.page_size
    }

    /// Let a known page stand at a place of a table.
    fn take_known(&mut self, table: &mut PageTable, index: usize, page: u32) {
        self.acquire(page);
        match table.pages.get_mut(index) {
            Some(own) => {
                let own = std::mem::replace(own, page);
                self.give_back(own);
            }
            None => table.pages.push(page),
        }
        table.known = index + 1;
        table.node = self.pages[page as usize].known.as_ref().map_or(table.node, |k| k.node);
    }

    /// A known page that begins as the tokens after the table's known pages do, the table's own page there, and how many tokens they have in
    /// common. Copying the one to the other saves computing them; at least one token is left to compute. Pages that show images are not looked at.
    pub fn fork(&self, table: &PageTable, tokens: &[u32], pictures: &[Picture], computed: usize) -> Option<(u32, u32, usize)> {
        let (index, start) = (table.known, table.known * self.page_size);
        let own = *table.pages.get(index)?;
        if !self.sharing || table.gone > 0 || computed != start {
            return None;
        }
        let end = (start + self.page_size).min(tokens.len() - 1);
        if pictures.iter().any(|p| p.tokens.start < end && start < p.tokens.end) {
            return None;
        }
        let wanted = &tokens[start..end];
        let behind = self.children.range((table.node, 0)..=(table.node, u32::MAX)).rev().take(COMPARED);
        let common = |page: u32| match &self.pages[page as usize].known {
            Some(known) if known.written && known.key.images.is_empty() => known.key.tokens.iter().zip(wanted).take_while(|(a, b)| a == b).count(),
            _ => 0,
        };
        let (n, page) = behind.map(|&(_, page)| (common(page), page)).max()?;
        (n > 0).then_some((page, own, n))
    }

    /// Grow a page table until it covers `tokens` tokens; false (and no change) when there are not enough pages.
    pub fn reserve(&mut self, table: &mut PageTable, tokens: usize) -> bool {
        self.reserve_leaving(table, tokens, 0)
    }

    /// [`PagedKv::reserve`] if so many pages remain for others.
    pub fn reserve_leaving(&mut self, table: &mut PageTable, tokens: usize, others: usize) -> bool {
        let missing = tokens.div_ceil(self.page_size).saturating_sub(table.pages.len());
        if missing > 0 && missing + others > self.free_pages() {
            return false;
        }
        for _ in 0..missing {
            // Checked above.
            let Some(page) = self.free.pop().or_else(|| self.evict()) else { return false };
            self.pages[page as usize].references = 1;
            table.pages.push(page);
        }
        true
    }

    /// Tokens a table can be made to cover.
    pub fn reach(&self, table: &PageTable) -> usize {
        (table.pages.len() + self.free_pages()) * self.page_size
    }

    /// The full pages among the first `computed` tokens become known. `written` is false when this step is yet to compute them: a neighbour
    /// in the same pass may point to them already, as a layer stores keys and values before it reads any.
    pub fn publish(&mut self, table: &mut PageTable, tokens: &[u32], pictures: &[Picture], computed: usize, written: bool) {
        if !self.sharing || table.gone > 0 {
            return;
        }
        for index in table.known..computed / self.page_size {
            let key = self.key(table.node, index, tokens, pictures);
            if let Some(&page) = self.shared.get(&key) {
                if !written {
                    return;
                }
                // A twin was faster: one copy is enough.
                self.take_known(table, index, page);
                continue;
            }
            let page = table.pages[index];
            let parent = index.checked_sub(1).map_or(GONE, |i| table.pages[i]);
            let node = self.next_node;
            self.next_node += 1;
            self.children.insert((table.node, page));
            self.shared.insert(key.clone(), page);
            self.pages[page as usize].known = Some(Known { key, node, parent, written });
            if !written {
                self.fresh.push(page);
            }
            (table.known, table.node) = (index + 1, node);
        }
    }

    /// The step is over: what it published ahead is written.
    pub fn commit(&mut self) {
        for page in self.fresh.drain(..) {
            if let Some(known) = &mut self.pages[page as usize].known {
                known.written = true;
            }
        }
    }

    /// An empty table begins behind so many pages that nobody looks at any more.
    pub fn skip(&mut self, table: &mut PageTable, pages: usize) {
        table.pages.resize(pages, GONE);
        table.gone = pages;
    }

    /// Give back the pages that lie wholly before position `first`.
    pub fn slide(&mut self, table: &mut PageTable, first: usize) {
        for index in table.gone..(first / self.page_size).min(table.pages.len()) {
            let page = std::mem::replace(&mut table.pages[index], GONE);
            table.gone = index + 1;
            self.give_back(page);
        }
    }

    /// Give the pages of a sequence back; the table is as new afterwards.
    pub fn release(&mut self, table: &mut PageTable) {
        let PageTable { pages, gone, .. } = std::mem::replace(table, PageTable::at(table.root));
        // Later pages first: a page goes before the one that leads to it.
        pages[gone..].iter().rev().for_each(|&page| self.give_back(page));
    }

    /// Nothing is known any more. Pages that sequences hold stay theirs.
    pub fn clear(&mut self) {
        self.shared.clear();
        self.children.clear();
        self.fresh.clear();
        self.free.extend(std::mem::take(&mut self.idle).into_values());
        self.pages.iter_mut().for_each(|page| page.known = None);
    }

    fn acquire(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        if entry.references == 0 {
            self.idle.remove(&entry.idle_since);
        }
        entry.references += 1;
    }

    fn give_back(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        entry.references -= 1;
        if entry.references > 0 {
            return;
        }
        // What the page before leads to must be there for the page to be found.
        let found = |known: &Known| {
            let parent = || self.pages[known.parent as usize].known.as_ref();
            known.written && (known.key.before < FIRST_NODE || parent().is_some_and(|p| p.node == known.key.before))
        };
        if self.pages[page as usize].known.as_ref().is_some_and(found) {
            self.clock += 1;
            self.pages[page as usize].idle_since = self.clock;
            self.idle.insert(self.clock, page);
        } else {
            self.forget(page);
            self.free.push(page);
        }
    }

    fn evict(&mut self) -> Option<u32> {
        let (_, page) = self.idle.pop_first()?;
        self.forget(page);
        Some(page)
    }

    fn forget(&mut self, page: u32) {
        if let Some(Known { key, .. }) = self.pages[page as usize].known.take() {
            self.children.remove(&(key.before, page));
            self.shared.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: bool = true;

    /// A sequence from its arrival to its last token; how many tokens were found.
    fn run(kv: &mut PagedKv, tokens: &[u32], pictures: &[Picture]) -> (PageTable, usize) {
        let mut table = PageTable::new(None);
        let found = kv.adopt(&mut table, tokens, pictures, 0);
        assert!(kv.reserve(&mut table, tokens.len()));
        kv.publish(&mut table, tokens, pictures, tokens.len(), FULL);
        (table, found)
    }

    #[test]
    fn a_common_prefix_is_shared_and_the_rest_is_not() {
        let mut kv = PagedKv::new(10, 4, true);
        let tokens: Vec<u32> = (0..10).collect();
        let (mut a, found) = run(&mut kv, &tokens, &[]);
        assert_eq!(found, 0);
        let (mut b, found) = run(&mut kv, &tokens, &[]);
        assert_eq!((found, &b.pages[..2]), (8, &a.pages[..2]));
        assert_ne!(b.pages[2], a.pages[2]);
        // A whole multiple: the last page stays unshared so that one token is left to compute.
        let mut c = PageTable::new(None);
        assert_eq!(kv.adopt(&mut c, &tokens[..8], &[], 0), 4);
        assert_eq!(c.pages, a.pages[..1]);
        let mut other = PageTable::new(Some(0));
        assert_eq!(kv.adopt(&mut other, &tokens, &[], 0), 0, "another adapter has other keys");
        for table in [&mut a, &mut b, &mut c] {
            kv.release(table);
        }
        assert_eq!((kv.free_pages(), kv.kept_pages()), (10, 2));
        // What is kept is found again, until it is cleared.
        let (mut d, found) = run(&mut kv, &tokens, &[]);
        assert_eq!(found, 8);
        kv.clear();
        kv.release(&mut d);
        assert_eq!((kv.free_pages(), kv.kept_pages()), (10, 0));
        assert_eq!(kv.adopt(&mut PageTable::new(None), &tokens, &[], 0), 0);
    }

    #[test]
    fn without_sharing_nothing_is_found_or_kept() {
        let mut kv = PagedKv::new(10, 4, false);
        let tokens: Vec<u32> = (0..10).collect();
        let (mut a, _) = run(&mut kv, &tokens, &[]);
        let (mut b, found) = run(&mut kv, &tokens, &[]);
        assert_eq!(found, 0);
        kv.release(&mut a);
        kv.release(&mut b);
        assert_eq!((kv.free_pages(), kv.kept_pages()), (10, 0));
    }

    /// If this fails, one user's question is answered about another user's image.
    #[test]
    fn the_same_placeholders_are_shared_for_the_same_image_only() {
        let mut kv = PagedKv::new(30, 4, true);
        // One token, two images of five placeholders, two tokens: neither begins nor ends with a page.
        let tokens = [[1; 1].as_slice(), &[9; 10], &[2; 2]].concat();
        let shown = |first: &str, second: &str| [Picture { tokens: 1..6, hash: first.into() }, Picture { tokens: 6..11, hash: second.into() }];
        let (a, _) = run(&mut kv, &tokens, &shown("x", "y"));
        for (first, second, shared) in [("x", "y", 3), ("x", "x", 1), ("y", "y", 0), ("y", "x", 0)] {
            let mut b = PageTable::new(None);
            assert_eq!(kv.adopt(&mut b, &tokens, &shown(first, second), 0), shared * 4, "{first} {second}");
            assert_eq!(b.pages, a.pages[..shared]);
            kv.release(&mut b);
        }
        assert_eq!(kv.adopt(&mut PageTable::new(None), &tokens, &[], 0), 0);
    }

    #[test]
    fn room_is_made_from_the_ends_of_what_is_kept_longest() {
        let mut kv = PagedKv::new(6, 2, true);
        let (old, new): (Vec<u32>, Vec<u32>) = ((0..6).collect(), (10..16).collect());
        for tokens in [&old, &new] {
            let (mut table, _) = run(&mut kv, tokens, &[]);
            kv.release(&mut table);
        }
        // Looked at again: the first page of the older one is now younger than everything else.
        let mut table = PageTable::new(None);
        assert_eq!(kv.adopt(&mut table, &old[..3], &[], 0), 2);
        kv.release(&mut table);
        let mut big = PageTable::new(None);
        assert!(kv.reserve(&mut big, 6));
        let found = |kv: &mut PagedKv, tokens: &[u32]| {
            let mut table = PageTable::new(None);
            let found = kv.adopt(&mut table, &[tokens, &[99]].concat(), &[], 0);
            kv.release(&mut table);
            found
        };
        assert_eq!((found(&mut kv, &old), found(&mut kv, &new)), (2, 4));
        assert!(!kv.reserve(&mut PageTable::new(None), 8), "three pages are left");
    }

    #[test]
    fn a_page_may_be_forked_in_its_middle() {
        let mut kv = PagedKv::new(10, 4, true);
        let tokens: Vec<u32> = (0..9).collect();
        let (mut a, _) = run(&mut kv, &tokens, &[]);
        let wanted = [0, 1, 2, 3, 4, 5, 7, 7, 7];
        let (b, found) = {
            let mut table = PageTable::new(None);
            let found = kv.adopt(&mut table, &wanted, &[], 0);
            assert!(kv.reserve(&mut table, 9));
            (table, found)
        };
        assert_eq!(kv.fork(&b, &wanted, &[], found), Some((a.pages[1], b.pages[1], 2)));
        assert_eq!(kv.fork(&b, &wanted[..6], &[], found), Some((a.pages[1], b.pages[1], 1)), "one token is left to compute");
        assert_eq!(kv.fork(&b, &wanted, &[Picture { tokens: 5..7, hash: "x".into() }], found), None);
        kv.release(&mut a);
    }

    /// What lies behind the window of all layers is given back, is found by others as long as it is kept, and nothing is offered after it.
    #[test]
    fn a_window_slides() {
        let mut kv = PagedKv::new(8, 2, true);
        let tokens: Vec<u32> = (0..8).collect();
        let (mut a, _) = run(&mut kv, &tokens[..6], &[]);
        kv.slide(&mut a, 5);
        assert_eq!((&a.pages[..2], kv.free_pages(), kv.kept_pages()), (&[GONE; 2][..], 7, 2));
        assert!(kv.reserve(&mut a, 8));
        kv.publish(&mut a, &tokens, &[], 8, FULL);
        let mut b = PageTable::new(None);
        assert_eq!(kv.adopt(&mut b, &[&tokens[..], &[9]].concat(), &[], 0), 6, "the fourth page came after the first was gone");
        kv.release(&mut b);
        kv.release(&mut a);
        assert_eq!(kv.free_pages(), 8);
    }
}

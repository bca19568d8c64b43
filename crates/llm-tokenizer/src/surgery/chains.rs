//! Merges that make one token of a word, behind all merges there are.
//!
//! A word is cut today into pieces. New rules join them from the left, two at a time, each with a lower priority than every rule before
//! it, so no text is cut differently until all older rules have done their work, and a word that was made one token stays one when more
//! are made after it. What is joined on the way becomes a token too: a word of four pieces costs three rows. Continued BPE training on a
//! corpus would waste fewer (Purason et al. 2025, arXiv 2512.03989); it needs the corpus, and this needs a list.

use std::collections::HashMap;

/// New rules and the tokens they make.
#[derive(Debug)]
pub struct Chains<'a> {
    /// Ids of the old vocabulary by bytes.
    old: &'a HashMap<Vec<u8>, u32>,
    next: u32,
    ranks: HashMap<(u32, u32), (usize, u32)>,
    /// Rules in rank order: left, right, joined.
    pub rules: Vec<(u32, u32, u32)>,
    /// New tokens in the order of their ids.
    pub made: Vec<Joined>,
}

/// A token that rules make.
#[derive(Debug, Clone)]
pub struct Joined {
    pub id: u32,
    pub bytes: Vec<u8>,
    /// What its text is cut into by the old tokenizer.
    pub pieces: Vec<u32>,
}

impl<'a> Chains<'a> {
    /// New ids begin at `next`.
    pub fn new(old: &'a HashMap<Vec<u8>, u32>, next: u32) -> Self {
        Self { old, next, ranks: HashMap::new(), rules: Vec::new(), made: Vec::new() }
    }

    /// The new token of that id.
    pub fn get(&self, id: u32) -> Option<&Joined> {
        self.made.get(id.checked_sub(self.made.first()?.id)? as usize)
    }

    /// Apply the new rules to what the old ones left.
    pub fn cut(&self, ids: &mut Vec<u32>) {
        loop {
            let rule = |(at, pair): (usize, &[u32])| self.ranks.get(&(pair[0], pair[1])).map(|&(rank, joined)| (rank, at, joined));
            let Some((_, at, joined)) = ids.windows(2).enumerate().filter_map(rule).min() else { return };
            ids[at] = joined;
            ids.remove(at + 1);
        }
    }

    /// Make one token of a word that the old tokenizer cuts into `pieces`; its id. `bytes` are those of an old token.
    pub fn join(&mut self, pieces: &[u32], bytes: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
        let mut ids = pieces.to_vec();
        loop {
            self.cut(&mut ids);
            let [left, right, ..] = *ids.as_slice() else { return ids.first().copied() };
            let whole = |id: u32| self.get(id).map_or_else(|| (bytes(id), vec![id]), |made| (made.bytes.clone(), made.pieces.clone()));
            let ((mut text, mut parts), (more, rest)) = (whole(left), whole(right));
            text.extend(more);
            parts.extend(rest);
            // The vocabulary may hold the text without a way to reach it.
            let joined = match self.old.get(&text) {
                Some(&id) => id,
                None => {
                    let id = self.next;
                    self.next += 1;
                    self.made.push(Joined { id, bytes: text, pieces: parts });
                    id
                }
            };
            self.ranks.insert((left, right), (self.rules.len(), joined));
            self.rules.push((left, right, joined));
        }
    }
}

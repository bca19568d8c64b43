//! A trie over bytes: all pieces that start at a place of the text.

/// Nodes are numbers; an open-addressing table maps (node, byte) to the next.
#[derive(Debug)]
pub struct Trie {
    keys: Vec<u64>,
    next: Vec<u32>,
    mask: usize,
    /// By node: the value of the string that ends there, or [`Trie::NONE`].
    values: Vec<u32>,
}

const EMPTY: u64 = u64::MAX;

impl Trie {
    /// No value.
    pub const NONE: u32 = u32::MAX;
    /// The node of the empty string.
    pub const ROOT: u32 = 0;

    /// From strings and their values; of equal strings the last counts.
    pub fn new<'a>(strings: impl Iterator<Item = (&'a [u8], u32)> + Clone) -> Self {
        let most: usize = strings.clone().map(|(s, _)| s.len()).sum();
        let capacity = (most * 2).next_power_of_two().max(16);
        let mut trie = Self { keys: vec![EMPTY; capacity], next: vec![0; capacity], mask: capacity - 1, values: vec![Self::NONE] };
        for (string, value) in strings {
            let mut node = Self::ROOT;
            for &byte in string {
                let at = trie.slot(node, byte);
                if trie.keys[at] == EMPTY {
                    trie.keys[at] = key(node, byte);
                    trie.next[at] = trie.values.len() as u32;
                    trie.values.push(Self::NONE);
                }
                node = trie.next[at];
            }
            trie.values[node as usize] = value;
        }
        trie
    }

    /// Where (node, byte) is or would be.
    fn slot(&self, node: u32, byte: u8) -> usize {
        let key = key(node, byte);
        let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut at = (mixed ^ mixed >> 32) as usize & self.mask;
        while self.keys[at] != key && self.keys[at] != EMPTY {
            at = (at + 1) & self.mask;
        }
        at
    }

    /// The node after `byte`.
    #[inline]
    pub fn step(&self, node: u32, byte: u8) -> Option<u32> {
        let at = self.slot(node, byte);
        (self.keys[at] != EMPTY).then(|| self.next[at])
    }

    /// The value at a node.
    #[inline]
    pub fn value(&self, node: u32) -> u32 {
        self.values[node as usize]
    }

    /// Length and value of the longest string that `text` starts with.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let (mut node, mut found) = (Self::ROOT, None);
        for (i, &byte) in text.iter().enumerate() {
            let Some(next) = self.step(node, byte) else { break };
            node = next;
            if self.value(node) != Self::NONE {
                found = Some((i + 1, self.value(node)));
            }
        }
        found
    }
}

fn key(node: u32, byte: u8) -> u64 {
    u64::from(node) << 8 | u64::from(byte)
}

//! Best-fit packing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"): no document is cut that fits a row.
//!
//! Documents longer than a row are cut into full rows and a rest; then all pieces, longest first, go to the row with the least
//! room that still holds them. Rows are found by their room through a two-level bit set, so a piece costs a few word
//! operations whatever the number of open rows.

use std::collections::VecDeque;

/// Part of a document that lies in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which document, as the caller counts.
    pub(super) document: u32,
    /// Which part of it; a document in one piece has part 0 only.
    pub(super) part: u32,
    /// First token in the document. From the second part on it is also the last token of the part before: there a target, here
    /// only an input.
    pub(super) start: u64,
    /// Tokens.
    pub(super) len: u32,
}

/// Cut documents of these lengths into pieces of at most `capacity` tokens; neighbouring pieces share one token.
pub(super) fn pieces(lengths: impl IntoIterator<Item = u64>, capacity: u32) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (document, length) in lengths.into_iter().enumerate() {
        let (mut start, mut part) = (0, 0);
        // A rest of the one shared token holds no target.
        while start + 1 < length || part == 0 && length > 0 {
            let len = (length - start).min(u64::from(capacity)) as u32;
            pieces.push(Piece { document: document as u32, part, start, len });
            start += u64::from(len) - 1;
            part += 1;
            if capacity == 1 {
                break;
            }
        }
    }
    pieces
}

/// Rows of pieces, each at most `capacity` tokens, in the order in which they were opened.
pub(super) fn pack(pieces: &[Piece], capacity: u32) -> Vec<Vec<Piece>> {
    let mut order: Vec<Piece> = pieces.to_vec();
    // Stable: pieces of one length keep the order in which they come.
    order.sort_by_key(|p| std::cmp::Reverse(p.len));
    let mut rooms = Rooms::new(capacity as usize);
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    for piece in order {
        let row = rooms.take(piece.len as usize).unwrap_or_else(|| {
            rows.push(Vec::new());
            (rows.len() - 1, capacity as usize)
        });
        rows[row.0].push(piece);
        rooms.put(row.0, row.1 - piece.len as usize);
    }
    rows
}

/// Open rows by the room they have.
struct Rooms {
    by_room: Vec<VecDeque<usize>>,
    /// Bit `r` is set when a row with room `r` is open.
    bits: Vec<u64>,
    /// Bit `w` is set when word `w` of `bits` is not zero.
    words: Vec<u64>,
}

impl Rooms {
    fn new(capacity: usize) -> Self {
        let words = (capacity + 1).div_ceil(64);
        Self { by_room: vec![VecDeque::new(); capacity + 1], bits: vec![0; words], words: vec![0; words.div_ceil(64)] }
    }

    /// The row with the least room of at least `len`, the oldest of these, with its room.
    fn take(&mut self, len: usize) -> Option<(usize, usize)> {
        let room = self.next(len)?;
        let row = self.by_room[room].pop_front()?;
        if self.by_room[room].is_empty() {
            self.bits[room / 64] &= !(1 << (room % 64));
            if self.bits[room / 64] == 0 {
                self.words[room / 4096] &= !(1 << (room / 64 % 64));
            }
        }
        Some((row, room))
    }

    fn put(&mut self, row: usize, room: usize) {
        if room > 0 {
            self.by_room[room].push_back(row);
            self.bits[room / 64] |= 1 << (room % 64);
            self.words[room / 4096] |= 1 << (room / 64 % 64);
        }
    }

    fn next(&self, len: usize) -> Option<usize> {
        let word = len / 64;
        let here = self.bits.get(word)? & (u64::MAX << (len % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let after = word + 1;
        let mut group = after / 64;
        let mut mask = u64::MAX << (after % 64);
        while let Some(words) = self.words.get(group) {
            let words = words & mask;
            if words != 0 {
                let word = group * 64 + words.trailing_zeros() as usize;
                return Some(word * 64 + self.bits[word].trailing_zeros() as usize);
            }
            (group, mask) = (group + 1, u64::MAX);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lengths(rows: &[Vec<Piece>]) -> Vec<Vec<u32>> {
        rows.iter().map(|r| r.iter().map(|p| p.len).collect()).collect()
    }

    #[test]
    fn by_hand() {
        // 7+3, 6+4, 5+2 and the 8: each goes where least is left over.
        let rows = pack(&pieces([3, 7, 8, 6, 4, 5, 2], 10), 10);
        assert_eq!(lengths(&rows), [vec![8, 2], vec![7, 3], vec![6, 4], vec![5]]);
    }

    #[test]
    fn a_long_document_fills_rows_and_shares_one_token() {
        // 25 tokens in rows of 10: 0..10, 9..19, 18..25.
        let cut = pieces([25], 10);
        assert_eq!(cut.iter().map(|p| (p.start, p.len)).collect::<Vec<_>>(), [(0, 10), (9, 10), (18, 7)]);
        // 19 tokens end with the second row; no third piece of the shared token alone.
        assert_eq!(pieces([19], 10).len(), 2);
    }

    proptest! {
        #[test]
        fn every_token_is_there_once_and_nothing_that_fits_is_cut(documents in prop::collection::vec(0u64..400, 0..60), capacity in 2u32..150) {
            let rows = pack(&pieces(documents.iter().copied(), capacity), capacity);
            let mut covered: Vec<Vec<u8>> = documents.iter().map(|n| vec![0; *n as usize]).collect();
            let mut parts = vec![0; documents.len()];
            for row in &rows {
                prop_assert!(row.iter().map(|p| p.len).sum::<u32>() <= capacity);
                for piece in row {
                    parts[piece.document as usize] += 1;
                    let new = piece.start as usize + usize::from(piece.part > 0);
                    let end = piece.start as usize + piece.len as usize;
                    covered[piece.document as usize][new..end].iter_mut().for_each(|n| *n += 1);
                }
            }
            prop_assert!(covered.iter().flatten().all(|n| *n == 1), "each token is new exactly once");
            for (n, parts) in documents.iter().zip(parts) {
                prop_assert!(*n > u64::from(capacity) || parts == i32::from(*n > 0), "{} in {} parts", n, parts);
            }
        }

        #[test]
        fn the_row_taken_is_the_tightest(lens in prop::collection::vec(1u32..5000, 1..200)) {
            // Against the rule itself, written down without the bit set.
            let capacity = 5000;
            let cut = pieces(lens.iter().map(|l| u64::from(*l)), capacity);
            let rows = pack(&cut, capacity);
            let mut sorted = lens.clone();
            sorted.sort_by_key(|l| std::cmp::Reverse(*l));
            let mut rooms: Vec<u32> = Vec::new();
            for len in sorted {
                match rooms.iter_mut().filter(|r| **r >= len).min() {
                    Some(room) => *room -= len,
                    None => rooms.push(capacity - len),
                }
            }
            let mut ours: Vec<u32> = rows.iter().map(|r| capacity - r.iter().map(|p| p.len).sum::<u32>()).collect();
            ours.sort_unstable();
            rooms.sort_unstable();
            prop_assert_eq!(ours, rooms);
        }
    }
}

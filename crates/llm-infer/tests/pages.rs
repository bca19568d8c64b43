//! Whatever sequences come and go: no page is lost, handed out twice, or found for other tokens than it holds.

use llm_infer::pages::{GONE, PageTable, PagedKv, Picture};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

const PAGES: usize = 16;
const SIZE: usize = 4;

/// What a place of the pool holds: all that its key and value depend on.
type Content = HashMap<(u32, usize), Vec<u32>>;

struct Live {
    table: PageTable,
    tokens: Vec<u32>,
    pictures: Vec<Picture>,
    /// Tokens with placeholders told apart by their image.
    shown: Vec<u32>,
    computed: usize,
}

impl Live {
    fn place(&self, position: usize) -> (u32, usize) {
        (self.table.pages()[position / SIZE], position % SIZE)
    }

    fn write(&mut self, content: &mut Content, to: usize) {
        for position in self.computed..to {
            content.insert(self.place(position), self.shown[..=position].to_vec());
        }
        self.computed = to;
    }
}

#[derive(Debug, Clone)]
enum Op {
    Start { family: u32, length: usize, image: u32, ahead: bool },
    Grow(usize),
    Slide(usize, usize),
    End(usize),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0u32..3, 1usize..24, 0u32..2, any::<bool>()).prop_map(|(family, length, image, ahead)| Op::Start { family, length, image, ahead }),
        4 => (0usize..9).prop_map(Op::Grow),
        1 => (0usize..9, 0usize..12).prop_map(|(i, first)| Op::Slide(i, first)),
        4 => (0usize..9).prop_map(Op::End),
        1 => Just(Op::Clear),
    ]
}

fn start(kv: &mut PagedKv, content: &mut Content, family: u32, length: usize, image: u32, ahead: bool) -> Option<Live> {
    // Families agree in their first six tokens, so prefixes end within a page.
    let mut tokens: Vec<u32> = (0..length as u32).map(|i| if i < 6 { i } else { family * 100 + i / 2 }).collect();
    let seen = 8.min(length)..11.min(length);
    tokens[seen.clone()].fill(999);
    let mut shown = tokens.clone();
    shown[seen.clone()].fill(1000 + image);
    let pictures = if seen.is_empty() { vec![] } else { vec![Picture { tokens: seen, hash: image.to_string().into() }] };
    let mut live = Live { table: PageTable::new(None), tokens, pictures, shown, computed: 0 };
    live.computed = kv.adopt(&mut live.table, &live.tokens, &live.pictures, 0);
    assert!(live.computed < length);
    if !kv.reserve(&mut live.table, length) {
        kv.release(&mut live.table);
        return None;
    }
    if let Some((from, to, n)) = kv.fork(&live.table, &live.tokens, &live.pictures, live.computed) {
        for slot in 0..n {
            let copied = content[&(from, slot)].clone();
            content.insert((to, slot), copied);
        }
        live.computed += n;
        assert!(live.computed < length);
    }
    if ahead {
        kv.publish(&mut live.table, &live.tokens, &live.pictures, length, false);
    }
    live.write(content, length);
    kv.commit();
    kv.publish(&mut live.table, &live.tokens, &live.pictures, length, true);
    Some(live)
}

proptest! {
    #[test]
    fn pages_are_conserved_and_hold_what_they_are_found_for(ops in prop::collection::vec(op(), 1..80), sharing in any::<bool>()) {
        let mut kv = PagedKv::new(PAGES, SIZE, sharing);
        let (mut content, mut live): (Content, Vec<Live>) = Default::default();
        for op in ops {
            match op {
                Op::Start { family, length, image, ahead } => live.extend(start(&mut kv, &mut content, family, length, image, ahead)),
                Op::Grow(i) if i < live.len() => {
                    let sequence = &mut live[i];
                    let next = 500 + sequence.tokens.len() as u32 % 2;
                    if kv.reserve(&mut sequence.table, sequence.tokens.len() + 1) {
                        sequence.tokens.push(next);
                        sequence.shown.push(next);
                        sequence.write(&mut content, sequence.tokens.len());
                        kv.publish(&mut sequence.table, &sequence.tokens, &sequence.pictures, sequence.computed, true);
                    }
                }
                Op::Slide(i, first) if i < live.len() => {
                    let first = first.min(live[i].tokens.len());
                    kv.slide(&mut live[i].table, first);
                }
                Op::End(i) if i < live.len() => kv.release(&mut live.swap_remove(i).table),
                Op::Clear => kv.clear(),
                _ => {}
            }
            // What a sequence holds is what it computed: nobody's page was given away, overwritten or confused.
            for sequence in &live {
                for position in 0..sequence.computed {
                    let place = sequence.place(position);
                    prop_assert!(place.0 == GONE || content[&place] == sequence.shown[..=position], "position {position}");
                }
            }
            let held: BTreeSet<u32> = live.iter().flat_map(|s| s.table.pages()).copied().filter(|&p| p != GONE).collect();
            prop_assert_eq!(kv.free_pages() + held.len(), PAGES);
            prop_assert!(sharing || kv.kept_pages() == 0);
        }
        for mut sequence in live {
            kv.release(&mut sequence.table);
        }
        prop_assert_eq!(kv.free_pages(), PAGES);
        // And all of them can still be used.
        prop_assert!(kv.reserve(&mut PageTable::new(None), PAGES * SIZE));
    }
}

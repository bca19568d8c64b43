//! Which replica a request goes to: a pure function of its key and of what the replicas are doing.
//!
//! A conversation should return to the replica that still holds its prefix in the key/value cache. So the start of the
//! prompt is hashed together with each replica's name and the highest hash wins (rendezvous hashing, Thaler and
//! Ravishankar 1998): when a replica goes away only its own conversations move, and they come back with it.
//!
//! A prefix that everybody uses would bury one replica. Bounded loads (Mirrokni, Thorup and Zadimoghaddam 2016) prevent that:
//! a replica takes at most `factor` times the mean of requests under way; what is beyond goes to the next in the order of
//! that key, so a hot prefix spreads over as few replicas as carry it. Below `spill_after` requests nothing spills,
//! because an engine answers that many in one batch.

use serde_json::Value;
use std::cmp::Reverse;

/// What the choice needs to know of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica<'a> {
    /// Its address, the name that is hashed.
    pub name: &'a str,
    /// Requests of ours that it has.
    pub load: usize,
    /// It may be asked.
    pub usable: bool,
}

/// How a replica was chosen, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The key's own replica.
    Home,
    /// Its own one was full.
    Spilled,
    /// No key: the one with the fewest requests.
    Balanced,
}

/// Limits of a replica's load.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Times the mean load.
    pub factor: f64,
    /// Requests that any replica may have.
    pub spill_after: usize,
}

/// The index of the replica to ask, or `None` if none is usable.
pub fn choose(key: Option<u64>, replicas: &[Replica<'_>], bound: Bound) -> Option<(usize, Choice)> {
    let usable = || replicas.iter().enumerate().filter(|(_, r)| r.usable);
    let Some(key) = key else {
        // Equal loads: the first by name, so that every router decides alike.
        return usable().min_by_key(|(_, r)| (r.load, r.name)).map(|(index, _)| (index, Choice::Balanced));
    };
    let (count, total) = usable().fold((0usize, 0usize), |(count, total), (_, r)| (count + 1, total + r.load));
    let most = (bound.factor * (total + 1) as f64 / count.max(1) as f64).ceil() as usize;
    let most = most.max(bound.spill_after).max(1);
    let mut order: Vec<_> = usable().map(|(index, r)| (score(key, r.name), index, r.load)).collect();
    order.sort_unstable_by_key(|&(score, index, _)| Reverse((score, Reverse(index))));
    let place = order.iter().position(|&(_, _, load)| load < most)?;
    Some((order[place].1, if place == 0 { Choice::Home } else { Choice::Spilled }))
}

/// FNV-1a with a final mix: every router, started at any time, must come to the same order, so no randomly keyed hash will do.
pub fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for &byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    mix(hash)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn score(key: u64, name: &str) -> u64 {
    mix(key ^ hash(&[name.as_bytes()]))
}

/// The key of a request body: the model and the first `characters` of its prompt. Of messages those up to the first
/// question count, so that a conversation keeps its key while it grows. `None`: the body has no prompt.
pub fn key(body: &[u8], characters: usize) -> Option<u64> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let mut prefix = Prefix { text: String::new(), left: characters };
    match (body.get("messages"), body.get("prompt").or_else(|| body.get("input"))) {
        (Some(Value::Array(messages)), _) => {
            // Anthropic's system text stands beside the messages.
            prefix.take(body.get("system").unwrap_or(&Value::Null));
            for message in messages {
                let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
                prefix.add(role);
                prefix.take(message.get("content").unwrap_or(&Value::Null));
                if role == "user" {
                    break;
                }
            }
        }
        (_, Some(prompt)) => prefix.take(prompt),
        _ => return None,
    }
    let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
    (!prefix.text.is_empty()).then(|| hash(&[model.as_bytes(), prefix.text.as_bytes()]))
}

struct Prefix {
    text: String,
    left: usize,
}

impl Prefix {
    fn add(&mut self, text: &str) {
        self.text.extend(text.chars().take(self.left));
        self.left = self.left.saturating_sub(text.chars().take(self.left).count());
    }

    /// Text, lists of text, token ids, content parts: whatever stands first.
    fn take(&mut self, value: &Value) {
        match value {
            _ if self.left == 0 => {}
            Value::String(text) => self.add(text),
            Value::Number(number) => self.add(&format!("{number} ")),
            Value::Array(items) => items.iter().for_each(|item| self.take(item)),
            Value::Object(part) => {
                ["text", "url", "image_url", "source", "data", "content"].iter().filter_map(|k| part.get(*k)).for_each(|v| self.take(v))
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const BOUND: Bound = Bound { factor: 1.25, spill_after: 0 };
    const NAMES: [&str; 4] = ["http://a:1", "http://b:1", "http://c:1", "http://d:1"];

    fn idle() -> Vec<Replica<'static>> {
        NAMES.iter().map(|&name| Replica { name, load: 0, usable: true }).collect()
    }

    fn of(body: Value) -> Option<u64> {
        key(body.to_string().as_bytes(), 64)
    }

    #[test]
    fn a_growing_conversation_keeps_its_key() {
        let system = json!({"role": "system", "content": "Be brief."});
        let user = |text: &str| json!({"role": "user", "content": text});
        let first = of(json!({"model": "m", "messages": [system, user("hi")]}));
        let grown = json!({"model": "m", "stream": true, "messages": [system, user("hi"), {"role": "assistant", "content": "hello"}, user("why?")]});
        assert!(first.is_some());
        assert_eq!(of(grown), first);
        assert_ne!(of(json!({"model": "m", "messages": [system, user("ho")]})), first);
        assert_ne!(of(json!({"model": "adapter", "messages": [system, user("hi")]})), first);
        let parts = json!({"messages": [user("hi")]});
        assert_eq!(of(json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]})), of(parts));
    }

    #[test]
    fn prompts_of_text_and_of_ids_have_keys_by_their_start() {
        let long = |end: &str| json!({"prompt": format!("{}{end}", "x".repeat(64))});
        assert_eq!(of(long("a")), of(long("b")));
        assert_ne!(of(json!({"prompt": [1, 23]})), of(json!({"prompt": [12, 3]})));
        assert_eq!(of(json!({"prompt": ""})), None);
        assert_eq!(of(json!({"name": "x"})), None);
        assert_eq!(key(b"{oops", 64), None);
    }

    #[test]
    fn a_lost_replica_moves_only_its_own_keys_and_they_come_back() {
        let all = idle();
        let mut without = idle();
        without[2].usable = false;
        let mut moved = 0;
        for key in (0..4000).map(|i: u64| hash(&[&i.to_le_bytes()])) {
            let (home, _) = choose(Some(key), &all, BOUND).unwrap();
            let (other, _) = choose(Some(key), &without, BOUND).unwrap();
            if home == 2 {
                moved += 1;
            } else {
                assert_eq!(home, other);
            }
        }
        assert!((800..1200).contains(&moved), "{moved} of 4000 keys lived on one of four replicas");
    }

    #[test]
    fn without_a_key_the_least_loaded_is_asked() {
        let mut replicas = idle();
        replicas.iter_mut().zip([3, 1, 2, 0]).for_each(|(r, load)| r.load = load);
        replicas[3].usable = false;
        assert_eq!(choose(None, &replicas, BOUND), Some((1, Choice::Balanced)));
        replicas.iter_mut().for_each(|r| r.usable = false);
        assert_eq!(choose(None, &replicas, BOUND), None);
        assert_eq!(choose(Some(1), &replicas, BOUND), None);
    }

    proptest! {
        /// One prefix for everybody: no replica gets more than its bound, and none is used before those in front of it are full.
        #[test]
        fn a_hot_prefix_spreads_within_the_bound(key in any::<u64>(), requests in 1usize..200, spill_after in 0usize..8) {
            let mut replicas = idle();
            let bound = Bound { spill_after, ..BOUND };
            for sent in 0..requests {
                let (index, choice) = choose(Some(key), &replicas, bound).unwrap();
                prop_assert_eq!(choice == Choice::Home, index == choose(Some(key), &idle(), bound).unwrap().0);
                replicas[index].load += 1;
                let most = ((1.25 * (sent + 1) as f64 / 4.0).ceil() as usize).max(spill_after).max(1);
                prop_assert!(replicas.iter().all(|r| r.load <= most), "{:?}", replicas);
            }
        }

        /// There is always somebody below the bound.
        #[test]
        fn somebody_is_chosen_if_anybody_is_usable(key in any::<u64>(), loads in proptest::array::uniform4((0usize..50, any::<bool>()))) {
            let mut replicas = idle();
            for (replica, (load, usable)) in replicas.iter_mut().zip(loads) {
                (replica.load, replica.usable) = (load, usable);
            }
            let chosen = choose(Some(key), &replicas, BOUND);
            prop_assert_eq!(chosen.is_some(), replicas.iter().any(|r| r.usable));
            prop_assert!(chosen.is_none_or(|(index, _)| replicas[index].usable));
        }
    }
}

//! The hash functions and the generator that datatrove's signatures are made of: xxHash64, SHA-1, MT19937.
//!
//! Written out here, 20 to 50 lines each, because signatures need nothing else of the packages that have them.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| data[at + i]))
}

/// xxHash64 with seed 0.
pub fn xxh64(data: &[u8]) -> u64 {
    let round = |acc: u64, input: u64| acc.wrapping_add(input.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1);
    let mut at = 0;
    let mut hash = if data.len() >= 32 {
        let mut v = [P1.wrapping_add(P2), P2, 0, 0u64.wrapping_sub(P1)];
        while at + 32 <= data.len() {
            for (lane, v) in v.iter_mut().enumerate() {
                *v = round(*v, u64_at(data, at + 8 * lane));
            }
            at += 32;
        }
        let sum = v.iter().zip([1, 7, 12, 18]).fold(0u64, |sum, (v, by)| sum.wrapping_add(v.rotate_left(by)));
        v.iter().fold(sum, |h, v| (h ^ round(0, *v)).wrapping_mul(P1).wrapping_add(P4))
    } else {
        P5
    };
    hash = hash.wrapping_add(data.len() as u64);
    while at + 8 <= data.len() {
        hash = (hash ^ round(0, u64_at(data, at))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        at += 8;
    }
    if at + 4 <= data.len() {
        let word = u64::from(u32::from_le_bytes(std::array::from_fn(|i| data[at + i])));
        hash = (hash ^ word.wrapping_mul(P1)).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        at += 4;
    }
    for &byte in &data[at..] {
        hash = (hash ^ u64::from(byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

/// The first 8 bytes of SHA-1 (RFC 3174) as a little-endian number.
pub fn sha1_u64(data: &[u8]) -> u64 {
    let mut state = [0x6745_2301u32, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
    let mut blocks = data.chunks_exact(64);
    for block in &mut blocks {
        sha1_block(&mut state, block);
    }
    let rest = blocks.remainder();
    let mut last = [0u8; 128];
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()] = 0x80;
    let end = if rest.len() < 56 { 64 } else { 128 };
    last[end - 8..end].copy_from_slice(&(8 * data.len() as u64).to_be_bytes());
    for block in last[..end].chunks_exact(64) {
        sha1_block(&mut state, block);
    }
    u64::from(state[0].swap_bytes()) | u64::from(state[1].swap_bytes()) << 32
}

fn sha1_block(state: &mut [u32; 5], block: &[u8]) {
    let mut w = [0u32; 80];
    for (w, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
        *w = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for i in 16..80 {
        w[i] = (w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (i, w) in w.iter().enumerate() {
        let (f, k) = match i / 20 {
            0 => ((b & c) | (!b & d), 0x5A82_7999u32),
            1 => (b ^ c ^ d, 0x6ED9_EBA1),
            2 => ((b & c) | (b & d) | (c & d), 0x8F1B_BCDC),
            _ => (b ^ c ^ d, 0xCA62_C1D6),
        };
        let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*w);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (state, value) in state.iter_mut().zip([a, b, c, d, e]) {
        *state = state.wrapping_add(value);
    }
}

/// The Mersenne Twister (Matsumoto and Nishimura, 1998), seeded like `numpy.random.RandomState(seed)`.
#[derive(Debug)]
pub struct Mt19937 {
    state: [u32; 624],
    at: usize,
}

impl Mt19937 {
    /// From one number.
    pub fn new(seed: u32) -> Self {
        let mut state = [0u32; 624];
        state[0] = seed;
        for i in 1..624 {
            state[i] = 1_812_433_253u32.wrapping_mul(state[i - 1] ^ (state[i - 1] >> 30)).wrapping_add(i as u32);
        }
        Self { state, at: 624 }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.at == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7FFF_FFFF);
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in `low..high` as `RandomState.randint(low, high, dtype=uint64)` draws it: the high half first, too large ones refused.
    pub fn randint(&mut self, low: u64, high: u64) -> u64 {
        let most = high - 1 - low;
        let mask = u64::MAX >> most.leading_zeros();
        loop {
            let value = (u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())) & mask;
            if value <= most {
                return low + value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        assert_eq!(xxh64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(sha1_u64(b"abc").to_le_bytes(), [0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a]);
        assert_eq!(sha1_u64(b"").to_le_bytes(), [0xda, 0x39, 0xa3, 0xee, 0x5e, 0x6b, 0x4b, 0x0d]);
        // The original authors' generator with seed 5489.
        assert_eq!(Mt19937::new(5489).next_u32(), 3_499_211_612);
    }

    #[test]
    fn lengths_around_the_block_borders() {
        // From Python's xxhash and hashlib over bytes 0, 1, 2, …
        let data: Vec<u8> = (0..=255).collect();
        for (length, xx, sha) in EXPECTED {
            assert_eq!((xxh64(&data[..length]), sha1_u64(&data[..length])), (xx, sha), "{length} bytes");
        }
    }

    const EXPECTED: [(usize, u64, u64); 8] = [
        (7, 0x14CC_643F_630C_72D2, 0x87BE_CDB8_116F_C86D),
        (31, 0xC346_D2B5_9B4D_8EE1, 0x8204_2AF6_B5AC_BB43),
        (32, 0xCBF5_9C51_16FF_32B4, 0xC422_53EA_EFD8_5BAE),
        (55, 0x511C_D496_994E_A839, 0x8FE6_CF29_67D4_E28A),
        (56, 0x0CD8_69F8_0FF2_B918, 0x03C9_DA98_C62E_6E63),
        (64, 0xF7C6_7301_DB67_13F0, 0x3521_FA4F_518D_13C6),
        (119, 0x7CE4_06B9_10F2_29EC, 0x4AAB_1B00_069D_C841),
        (256, 0x1FAC_BE84_06CD_904B, 0x688E_F7B7_BDD6_1649),
    ];
}

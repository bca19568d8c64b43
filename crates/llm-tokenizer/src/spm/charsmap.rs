//! The precompiled character map of a SentencePiece normaliser: the longest source string at a place is replaced.
//!
//! Layout (`normalizer.cc`): size of the trie in bytes (u32, little-endian), a Darts double-array of u32 units, then the
//! replacement strings, each ended by a zero byte. Every access is checked: the map comes from a file.

/// A character map; without rules it leaves text as it is.
#[derive(Debug, Clone, Default)]
pub struct Charsmap {
    bytes: Vec<u8>,
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    /// From the bytes of `precompiled_charsmap`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let broken = || format!("precompiled_charsmap: {} bytes do not hold the trie they announce", bytes.len());
        let (size, rest) = bytes.split_at_checked(4).ok_or_else(broken)?;
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        let (trie, replacements) = rest.split_at_checked(size).filter(|_| size.is_multiple_of(4) && size > 0).ok_or_else(broken)?;
        let units = trie.chunks_exact(4).map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]])).collect();
        std::str::from_utf8(replacements).map_err(|_| "precompiled_charsmap: a replacement is not UTF-8")?;
        Ok(Self { bytes: bytes.to_vec(), units, replacements: replacements.to_vec() })
    }

    /// The bytes it was read from.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// True if there are no rules.
    pub fn is_identity(&self) -> bool {
        self.units.is_empty()
    }

    /// Replacement of the longest source string that `text` starts with, and how many bytes that string has.
    pub fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let unit = |at: usize| self.units.get(at).copied();
        let offset = |unit: u32| ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize;
        let mut node = offset(unit(0)?);
        let mut found = None;
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            node ^= usize::from(byte);
            let Some(here) = unit(node).filter(|u| u & (1 << 31 | 0xff) == u32::from(byte)) else { break };
            node ^= offset(here);
            if here >> 8 & 1 == 1 {
                found = unit(node).map(|leaf| ((leaf & 0x7fff_ffff) as usize, i + 1));
            }
        }
        let (at, length) = found.filter(|&(_, length)| text.is_char_boundary(length))?;
        let rest = self.replacements.get(at..)?;
        let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
        Some((std::str::from_utf8(&rest[..end]).ok()?, length))
    }
}

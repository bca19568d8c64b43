//! The byte-level alphabet of GPT-2: every byte has a printable character, so that a vocabulary of byte strings can be
//! written as JSON text. Printable Latin-1 bytes stand for themselves, the other 68 become U+0100, U+0101, ... in order.

use std::sync::OnceLock;

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

fn alphabet() -> &'static [char; 256] {
    static ALPHABET: OnceLock<[char; 256]> = OnceLock::new();
    ALPHABET.get_or_init(|| {
        let mut table = ['\0'; 256];
        let mut next = 0x100u32;
        for byte in 0..=255u8 {
            table[usize::from(byte)] = if is_printable(byte) {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap_or_default()
            };
        }
        table
    })
}

/// Bytes as alphabet characters: `" a"` becomes `"Ġa"`.
pub fn to_alphabet(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| alphabet()[usize::from(b)]).collect()
}

/// Alphabet characters back to bytes; `None` if a character is outside the alphabet.
pub fn from_alphabet(text: &str) -> Option<Vec<u8>> {
    static BACK: OnceLock<[i16; 0x144]> = OnceLock::new();
    let back = BACK.get_or_init(|| {
        let mut table = [-1i16; 0x144];
        for byte in 0..=255u8 {
            table[alphabet()[usize::from(byte)] as usize] = i16::from(byte);
        }
        table
    });
    text.chars().map(|c| back.get(c as usize).and_then(|&b| u8::try_from(b).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection_with_the_known_corner_characters() {
        let all: Vec<u8> = (0..=255).collect();
        let text = to_alphabet(&all);
        assert_eq!(from_alphabet(&text).unwrap(), all);
        assert_eq!(to_alphabet(b" \n"), "\u{120}\u{10a}");
        assert_eq!(text.chars().max(), Some('\u{143}'));
        assert!(from_alphabet("漢").is_none() && from_alphabet(" ").is_none());
    }
}

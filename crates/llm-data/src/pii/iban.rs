//! International bank account numbers (ISO 13616): country lengths and the mod-97 check.

/// Lengths by country, as in the SWIFT registry.
const LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HN", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
    ("YE", 30),
];

/// The IBAN whose check digits start at `digit`: its byte range. Written in one piece or in groups of four.
pub(super) fn at(bytes: &[u8], digit: usize) -> Option<(usize, usize)> {
    let start = digit.checked_sub(2)?;
    let country = std::str::from_utf8(&bytes[start..digit]).ok().filter(|c| c.bytes().all(|b| b.is_ascii_uppercase()))?;
    if start > 0 && (bytes[start - 1].is_ascii_alphanumeric() || bytes[start - 1] >= 0x80 || bytes[start - 1] == b'_') {
        return None;
    }
    let length = LENGTHS.binary_search_by_key(&country, |l| l.0).ok().map(|i| LENGTHS[i].1)?;
    let mut letters = [0u8; 34];
    let (mut n, mut at, mut gap) = (0, start, 0u8);
    while n < length {
        let b = *bytes.get(at)?;
        if b.is_ascii_digit() || b.is_ascii_uppercase() {
            letters[n] = b;
            n += 1;
            at += 1;
        } else if matches!(b, b' ' | b'-') && n > 0 && n.is_multiple_of(4) && (gap == 0 && n == 4 || gap == b) {
            gap = b;
            at += 1;
            // Only one.
            if !bytes.get(at)?.is_ascii_alphanumeric() {
                return None;
            }
        } else if bytes[at..].starts_with("\u{a0}".as_bytes()) && n > 0 && n.is_multiple_of(4) {
            at += 2;
        } else {
            return None;
        }
    }
    let ends = bytes.get(at).is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_');
    (ends && letters[2..4].iter().all(u8::is_ascii_digit) && mod_97(&letters[..length]) == 1).then_some((start, at))
}

/// The first four characters go to the end, letters count 10 to 35 (ISO 7064 mod 97-10).
fn mod_97(iban: &[u8]) -> u32 {
    iban[4..].iter().chain(&iban[..4]).fold(0, |r, b| match b {
        b'0'..=b'9' => (r * 10 + u32::from(b - b'0')) % 97,
        _ => (r * 100 + u32::from(b - b'A') + 10) % 97,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Option<&str> {
        let digit = text.bytes().position(|b| b.is_ascii_digit())?;
        at(text.as_bytes(), digit).map(|(a, b)| &text[a..b])
    }

    #[test]
    fn the_registry_is_sorted() {
        assert!(LENGTHS.is_sorted_by_key(|l| l.0));
    }

    #[test]
    fn examples_of_the_registry_pass_and_one_wrong_digit_fails() {
        for iban in [
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "ES91 2100 0418 4502 0005 1332",
            "GB29 NWBK 6016 1331 9268 19",
            "NL91ABNA0417164300",
        ] {
            assert_eq!(find(iban), Some(iban));
            assert_eq!(find(&format!("x {iban}, y")), Some(iban));
        }
        assert_eq!(find("DE89370400440532013001"), None);
        assert_eq!(find("DE8937040044053201300"), None, "too short");
        assert_eq!(find("DE893704004405320130000"), None, "too long");
        assert_eq!(find("ADE89370400440532013000"), None, "glued");
        assert_eq!(find("DE89 37040044053201 3000"), None, "not in groups of four");
    }
}

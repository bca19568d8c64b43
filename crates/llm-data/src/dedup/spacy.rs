//! Words as spaCy's blank English tokenizer cuts them, for texts that datatrove has simplified.
//!
//! After the simplification there is no punctuation and no capital letter left, so of spaCy's rules only these can still apply:
//! contractions written without apostrophe, symbols and currencies at the edges, symbols inside, and units after a digit. The tables
//! were read out of spaCy 3.8; a text of another kind needs the full tokenizer.

/// Contractions: the words that they fall into.
const CONTRACTIONS: &str = "\
    ai-nt are-nt can-not ca-nt ca-nt-ve could-nt could-nt-ve could-ve dare-nt did-nt did-nt-ve does-nt does-nt-ve do-nt do-nt-ve gon-na got-ta \
    had-nt had-nt-ve has-nt have-nt he-d he-d-ve he-ll-ve he-s how-d how-d-ve how-ll how-ll-ve how-re how-s how-ve i-d i-d-ve i-ll-ve i-m i-m-a \
    is-nt it-d it-d-ve it-ll it-ll-ve i-ve may-nt may-nt-ve might-nt might-nt-ve might-ve must-nt must-nt-ve must-ve need-nt need-nt-ve not-ve \
    ought-nt ought-nt-ve sha-nt sha-nt-ve she-d-ve she-ll-ve she-s should-nt should-nt-ve should-ve that-d that-d-ve that-ll that-ll-ve that-s \
    there-d there-d-ve there-ll there-ll-ve there-re there-s there-ve these-d these-d-ve these-ll these-ll-ve these-re these-ve they-d they-d-ve \
    they-ll they-ll-ve they-re they-ve this-d this-d-ve this-ll this-ll-ve this-s those-d those-d-ve those-ll those-ll-ve those-re those-ve \
    was-nt we-d we-d-ve we-ll-ve were-nt we-ve what-d what-d-ve what-ll what-ll-ve what-re what-s what-ve when-d when-d-ve when-ll when-ll-ve \
    when-re when-s when-ve where-d where-d-ve where-ll where-ll-ve where-re where-s where-ve who-d who-d-ve who-ll who-ll-ve who-s who-ve why-d \
    why-d-ve why-ll why-ll-ve why-re why-s why-ve wo-nt wo-nt-ve would-nt would-nt-ve would-ve y-all you-d you-d-ve you-ll you-ll-ve you-re \
    you-ve";

/// Symbols that are words of their own wherever they stand.
#[rustfmt::skip]
const SYMBOLS: [(u32, u32); 178] = [
    (0xA6, 0xA6), (0xA9, 0xA9), (0xAE, 0xAE), (0xB0, 0xB0), (0x482, 0x482), (0x58D, 0x58E), (0x60E, 0x60F), (0x6DE, 0x6DE), (0x6E9, 0x6E9),
    (0x6FD, 0x6FE), (0x7F6, 0x7F6), (0x9FA, 0x9FA), (0xB70, 0xB70), (0xBF3, 0xBF8), (0xBFA, 0xBFA), (0xC7F, 0xC7F), (0xD4F, 0xD4F), (0xD79, 0xD79),
    (0xF01, 0xF03), (0xF13, 0xF13), (0xF15, 0xF17), (0xF1A, 0xF1F), (0xF34, 0xF34), (0xF36, 0xF36), (0xF38, 0xF38), (0xFBE, 0xFC5), (0xFC7, 0xFCC),
    (0xFCE, 0xFCF), (0xFD5, 0xFD8), (0x109E, 0x109F), (0x1390, 0x1399), (0x1940, 0x1940), (0x19DE, 0x19FF), (0x1B61, 0x1B6A), (0x1B74, 0x1B7C),
    (0x2100, 0x2101), (0x2103, 0x2106), (0x2108, 0x2109), (0x2114, 0x2114), (0x2116, 0x2117), (0x211E, 0x2123), (0x2125, 0x2125), (0x2127, 0x2127),
    (0x2129, 0x2129), (0x212E, 0x212E), (0x213A, 0x213B), (0x214A, 0x214A), (0x214C, 0x214D), (0x214F, 0x214F), (0x218A, 0x218B), (0x2195, 0x2199),
    (0x219C, 0x219F), (0x21A1, 0x21A2), (0x21A4, 0x21A5), (0x21A7, 0x21AD), (0x21AF, 0x21CC), (0x21D0, 0x21D1), (0x21D3, 0x21D3), (0x21D5, 0x21F3),
    (0x2300, 0x2307), (0x230C, 0x231F), (0x2322, 0x2328), (0x232B, 0x237B), (0x237D, 0x239A), (0x23B4, 0x23DB), (0x23E2, 0x2426), (0x2440, 0x244A),
    (0x249C, 0x24B5), (0x24D0, 0x24E9), (0x2500, 0x2500), (0x2502, 0x25B6), (0x25B8, 0x25B9), (0x25BB, 0x25C0), (0x25C2, 0x25F7), (0x2600, 0x266E),
    (0x2670, 0x2767), (0x2794, 0x27BF), (0x2800, 0x28FF), (0x2B00, 0x2B2F), (0x2B45, 0x2B46), (0x2B4D, 0x2B73), (0x2B76, 0x2B95), (0x2B98, 0x2BC8),
    (0x2BCA, 0x2BFE), (0x2CE5, 0x2CEA), (0x2E80, 0x2E99), (0x2E9B, 0x2EF3), (0x2F00, 0x2FD5), (0x2FF0, 0x2FFB), (0x3004, 0x3004), (0x3012, 0x3013),
    (0x3020, 0x3020), (0x3036, 0x3037), (0x303E, 0x303F), (0x3190, 0x3191), (0x3196, 0x319F), (0x31C0, 0x31E3), (0x3200, 0x321E), (0x322A, 0x3247),
    (0x3250, 0x3250), (0x3260, 0x327F), (0x328A, 0x32B0), (0x32C0, 0x32FE), (0x3300, 0x33FF), (0x4DC0, 0x4DFF), (0xA490, 0xA4C6), (0xA828, 0xA82B),
    (0xA836, 0xA837), (0xA839, 0xA839), (0xAA77, 0xAA79), (0xFDFD, 0xFDFD), (0xFFE4, 0xFFE4), (0xFFE8, 0xFFE8), (0xFFED, 0xFFEE), (0xFFFC, 0xFFFD),
    (0x10137, 0x1013F), (0x10179, 0x10189), (0x1018C, 0x1018E), (0x10190, 0x1019B), (0x101A0, 0x101A0), (0x101D0, 0x101FC), (0x10877, 0x10878),
    (0x10AC8, 0x10AC8), (0x1173F, 0x1173F), (0x16B3C, 0x16B3F), (0x16B45, 0x16B45), (0x1BC9C, 0x1BC9C), (0x1D000, 0x1D0F5), (0x1D100, 0x1D126),
    (0x1D129, 0x1D15D), (0x1D16A, 0x1D16C), (0x1D183, 0x1D184), (0x1D18C, 0x1D1A9), (0x1D1AE, 0x1D1BA), (0x1D1C1, 0x1D1E8), (0x1D200, 0x1D241),
    (0x1D245, 0x1D245), (0x1D300, 0x1D356), (0x1D800, 0x1D9FF), (0x1DA37, 0x1DA3A), (0x1DA6D, 0x1DA74), (0x1DA76, 0x1DA83), (0x1DA85, 0x1DA86),
    (0x1ECAC, 0x1ECAC), (0x1F000, 0x1F02B), (0x1F030, 0x1F093), (0x1F0A0, 0x1F0AE), (0x1F0B1, 0x1F0BF), (0x1F0C1, 0x1F0CF), (0x1F0D1, 0x1F0F5),
    (0x1F110, 0x1F16B), (0x1F170, 0x1F1AC), (0x1F1E6, 0x1F202), (0x1F210, 0x1F23B), (0x1F240, 0x1F248), (0x1F250, 0x1F251), (0x1F260, 0x1F265),
    (0x1F300, 0x1F3FA), (0x1F400, 0x1F6D4), (0x1F6E0, 0x1F6EC), (0x1F6F0, 0x1F6F9), (0x1F700, 0x1F773), (0x1F780, 0x1F7D8), (0x1F800, 0x1F80B),
    (0x1F810, 0x1F847), (0x1F850, 0x1F859), (0x1F860, 0x1F887), (0x1F890, 0x1F8AD), (0x1F900, 0x1F90B), (0x1F910, 0x1F93E), (0x1F940, 0x1F970),
    (0x1F973, 0x1F976), (0x1F97A, 0x1F97A), (0x1F97C, 0x1F9A2), (0x1F9B0, 0x1F9B9), (0x1F9C0, 0x1F9C2), (0x1F9D0, 0x1F9FF), (0x1FA60, 0x1FA6D),
];

/// Marks that are cut off at both ends.
const EDGES: [char; 22] = ['¡', '·', '¿', '،', '؛', '؟', '٪', '۔', '।', '‘', '‚', '⟦', '⟧', '『', '』', '〔', '〕', ';', '`', '´', '〈', '〉'];

/// Units that are cut off after an ASCII digit.
const UNITS: &[&str] = &[
    "km",
    "km²",
    "km³",
    "m",
    "m²",
    "m³",
    "dm",
    "dm²",
    "dm³",
    "cm",
    "cm²",
    "cm³",
    "mm",
    "mm²",
    "mm³",
    "ha",
    "µm",
    "nm",
    "yd",
    "in",
    "ft",
    "kg",
    "g",
    "mg",
    "µg",
    "t",
    "lb",
    "oz",
    "kmh",
    "mph",
    "mbar",
    "mb",
    "kb",
    "gb",
    "tb",
    "км",
    "км²",
    "км³",
    "м",
    "м²",
    "м³",
    "дм",
    "дм²",
    "дм³",
    "см",
    "см²",
    "см³",
    "мм",
    "мм²",
    "мм³",
    "нм",
    "кг",
    "г",
    "мг",
    "мбар",
    "кб",
    "мб",
    "гб",
    "тбكم",
    "كم²",
    "كم³",
    "م",
    "م²",
    "م³",
    "سم",
    "سم²",
    "سم³",
    "مم",
    "مم²",
    "مم³",
    "كم",
    "غرام",
    "جرام",
    "جم",
    "كغ",
    "ملغ",
    "كوب",
    "اكواب",
];

fn is_symbol(c: char) -> bool {
    let c = u32::from(c);
    c >= 0xA6
        && SYMBOLS
            .binary_search_by(|(from, to)| {
                if *to < c {
                    std::cmp::Ordering::Less
                } else if *from > c {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Equal
                }
            })
            .is_ok()
}

fn is_currency(c: char) -> bool {
    matches!(c, '£' | '¥' | '฿' | '₠'..='₿' | '﷼') && !('\u{20C0}'..).contains(&c)
}

fn is_edge(c: char) -> bool {
    EDGES.contains(&c) || matches!(c, '<' | '>') || is_symbol(c)
}

fn is_prefix(c: char) -> bool {
    is_edge(c) || is_currency(c) || c == '§' || c == '='
}

/// Contractions by their spelling.
#[derive(Debug)]
pub struct Words {
    contractions: std::collections::HashMap<String, Vec<&'static str>>,
}

impl Default for Words {
    fn default() -> Self {
        let contractions = CONTRACTIONS.split_whitespace().map(|c| (c.replace('-', ""), c.split('-').collect())).collect();
        Self { contractions }
    }
}

impl Words {
    /// Hand every word of a simplified text to `word`, in order.
    pub fn each<'a>(&self, text: &'a str, mut word: impl FnMut(&'a str)) {
        for chunk in text.split_whitespace() {
            if !chunk.contains('‘') {
                self.chunk(chunk, &mut word);
                continue;
            }
            // `‘s` is one word also where other rules have cut it in two.
            let mut at = 0;
            let mut before: Option<usize> = None;
            self.chunk(chunk, &mut |w: &'a str| {
                match before.take() {
                    Some(start) if w == "s" => word(&chunk[start..at + 1]),
                    open => {
                        if let Some(start) = open {
                            word(&chunk[start..at]);
                        }
                        if w == "‘" { before = Some(at) } else { word(w) }
                    }
                }
                at += w.len();
            });
            if let Some(start) = before {
                word(&chunk[start..]);
            }
        }
    }

    fn special<'a>(&self, text: &'a str, word: &mut impl FnMut(&'a str)) -> bool {
        // No contraction is shorter or longer.
        if !(2..=11).contains(&text.len()) || !text.is_ascii() {
            return false;
        }
        let Some(parts) = self.contractions.get(text) else { return false };
        let mut at = 0;
        for part in parts {
            word(&text[at..at + part.len()]);
            at += part.len();
        }
        true
    }

    fn chunk<'a>(&self, mut text: &'a str, word: &mut impl FnMut(&'a str)) {
        if text.bytes().all(|b| b.is_ascii_lowercase()) {
            if !self.special(text, word) {
                word(text);
            }
            return;
        }
        let mut suffixes = Vec::new();
        // `‘s` is the one special case with a symbol.
        while !text.is_empty() && !self.is_special(text) {
            let prefix = text.chars().next().filter(|c| is_prefix(*c)).map_or(0, char::len_utf8);
            if prefix > 0 && self.is_special(&text[prefix..]) {
                word(&text[..prefix]);
                text = &text[prefix..];
                break;
            }
            let suffix = suffix(&text[prefix..]);
            if suffix > 0 && self.is_special(&text[..text.len() - suffix]) {
                suffixes.push(&text[text.len() - suffix..]);
                text = &text[..text.len() - suffix];
                break;
            }
            if prefix == 0 && suffix == 0 {
                break;
            }
            if prefix > 0 {
                word(&text[..prefix]);
            }
            if suffix > 0 {
                suffixes.push(&text[text.len() - suffix..]);
            }
            text = &text[prefix..text.len() - suffix];
        }
        if text == "‘s" {
            word(text);
        } else if !text.is_empty() && !self.special(text, word) {
            infixes(text, word);
        }
        for suffix in suffixes.into_iter().rev() {
            word(suffix);
        }
    }

    fn is_special(&self, text: &str) -> bool {
        text == "‘s" || matches!(text, "ol" | "em" | "ll") || (text.len() <= 11 && self.contractions.contains_key(text))
    }
}

/// Bytes of what is cut off at the end.
fn suffix(text: &str) -> usize {
    let Some(last) = text.chars().next_back() else { return 0 };
    if let Some(digit) = text.bytes().rposition(|b| b.is_ascii_digit()) {
        let unit = &text[digit + 1..];
        if !unit.is_empty() && UNITS.contains(&unit) {
            return unit.len();
        }
        let mut chars = unit.chars();
        if chars.next().is_some_and(is_currency) && chars.next().is_none() {
            return unit.len();
        }
    }
    if is_edge(last) { last.len_utf8() } else { 0 }
}

/// Symbols inside are words, and so is what stands between them.
fn infixes<'a>(text: &'a str, word: &mut impl FnMut(&'a str)) {
    let mut start = 0;
    let mut before: Option<char> = None;
    for (at, c) in text.char_indices() {
        // spaCy's letters leave out some that Unicode has (ligatures, the micro sign); `≠` right beside one of these is cut differently.
        let letter = |c: char| c.is_alphabetic() && !c.is_numeric();
        let between = || before.is_some_and(|c| c.is_ascii_digit() || letter(c)) && text[at + c.len_utf8()..].chars().next().is_some_and(letter);
        if is_symbol(c) || (matches!(c, '=' | '<' | '>') && between()) {
            if at > start {
                word(&text[start..at]);
            }
            word(&text[at..at + c.len_utf8()]);
            start = at + c.len_utf8();
        }
        before = Some(c);
    }
    if start < text.len() {
        word(&text[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        Words::default().each(text, |w| found.push(w));
        found
    }

    #[test]
    fn rules_that_survive_the_simplification() {
        assert_eq!(words("i cant go 0km for 0€ or €0"), ["i", "ca", "nt", "go", "0", "km", "for", "0", "€", "or", "€", "0"]);
        assert_eq!(words("a©b ☺x☺ theyllve 0th km"), ["a", "©", "b", "☺", "x", "☺", "they", "ll", "ve", "0th", "km"]);
        assert_eq!(words("☺dont ‘s ‘a x=y"), ["☺", "do", "nt", "‘s", "‘", "a", "x", "=", "y"]);
    }
}

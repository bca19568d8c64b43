//! Scripts of characters (Unicode's `Script` property): a piece of a SentencePiece-style vocabulary keeps to one.
//!
//! As in SentencePiece (`TrainerInterface::IsValidSentencePiece`) the Japanese syllabaries and their sign for long vowels count as
//! Chinese characters, because one word mixes them.

use crate::pretokenize::ranges;
use std::sync::OnceLock;

/// Digits, punctuation, and what has no script.
pub const COMMON: u8 = 0;
/// Marks that belong to the character before them.
pub const INHERITED: u8 = 1;
/// Chinese characters and Japanese syllabaries.
const HAN: u8 = 2;
/// The sign for long vowels, which Unicode calls common.
const LONG_VOWEL: char = '\u{30FC}';
const CODE_POINTS: usize = 0x11_0000;

/// All other scripts of Unicode 16; numbers from [`HAN`] + 1 on.
const OTHERS: &str = "\
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo Brahmi Braille \
    Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Coptic Cuneiform Cypriot Cypro_Minoan \
    Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Garay Georgian Glagolitic Gothic \
    Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Gurung_Khema Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Imperial_Aramaic \
    Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Kawi Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki \
    Khudawadi Kirat_Rai Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen \
    Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar \
    Nabataean Nag_Mundari Nandinagari New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Ol_Onal Old_Hungarian Old_Italic \
    Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong Palmyrene \
    Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian \
    Sora_Sompeng Soyombo Sundanese Sunuwar Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu \
    Thaana Thai Tibetan Tifinagh Tirhuta Todhri Toto Tulu_Tigalari Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square";

/// Number of the script of `c`; equal numbers, equal scripts.
pub fn script(c: char) -> u8 {
    static SCRIPTS: OnceLock<Vec<u8>> = OnceLock::new();
    let scripts = SCRIPTS.get_or_init(|| {
        let mut scripts = vec![COMMON; CODE_POINTS];
        let folded = [("Inherited", INHERITED), ("Han", HAN), ("Hiragana", HAN), ("Katakana", HAN)];
        for (name, number) in folded.into_iter().chain(OTHERS.split_whitespace().zip(HAN + 1..)) {
            for (first, last) in ranges(&format!(r"\p{{Script={name}}}")) {
                scripts[first as usize..=last as usize].fill(number);
            }
        }
        scripts[LONG_VOWEL as usize] = HAN;
        scripts
    });
    scripts[c as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_script_and_no_two_are_one() {
        for name in OTHERS.split_whitespace() {
            assert!(!ranges(&format!(r"\p{{Script={name}}}")).is_empty(), "{name}");
        }
        let first = |text: &str| text.chars().map(script).collect::<Vec<_>>();
        assert_eq!(first("1.,\u{2581} 🙂"), [COMMON; 6]);
        assert_eq!(first("日ひカー"), [HAN; 4]);
        assert_eq!(script('\u{301}'), INHERITED);
        let different: std::collections::BTreeSet<u8> = first("aжδא한ก").into_iter().collect();
        assert!(different.len() == 6 && different.iter().all(|&s| s > HAN));
        assert_eq!(script('a'), script('ß'));
    }
}

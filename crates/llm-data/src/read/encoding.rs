//! Bytes to text: byte order marks, UTF-8, a declared charset, else detection.
//!
//! Order: a byte order mark wins; valid UTF-8 is UTF-8; then what HTTP or the page declares; then `chardetng`. Bytes that
//! are no text at all (NUL bytes outside UTF-16) are refused.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8};

/// Decoded text and the name of the encoding.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The text with `\n` line ends.
    pub text: String,
    /// WHATWG name of the encoding, e.g. `windows-1252`.
    pub encoding: &'static str,
}

/// Decode; `declared` is the charset that a header named. `None`: binary data.
pub fn decode(bytes: &[u8], declared: Option<&str>) -> Option<Decoded> {
    let (encoding, bytes) = match Encoding::for_bom(bytes) {
        Some((encoding, length)) => (encoding, &bytes[length..]),
        None if bytes.iter().take(8192).any(|b| *b == 0) => return None,
        None if std::str::from_utf8(bytes).is_ok() => (UTF_8, bytes),
        None => (declared.and_then(|d| Encoding::for_label(d.trim().as_bytes())).filter(|e| *e != UTF_8).unwrap_or_else(|| detect(bytes)), bytes),
    };
    let (text, _) = encoding.decode_without_bom_handling(bytes);
    let text = if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text.into_owned() };
    Some(Decoded { text, encoding: encoding.name() })
}

fn detect(bytes: &[u8]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    detector.guess(None, Utf8Detection::Allow)
}

/// The charset that an HTML page declares in its first bytes.
pub fn html_charset(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).to_ascii_lowercase();
    let at = head.find("charset=")? + "charset=".len();
    let value = head[at..].trim_start_matches(['"', '\'', ' ']);
    let end = value.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(value.len());
    (end > 0).then(|| value[..end].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn latin_1_is_detected_and_line_ends_are_unified() {
        let bytes =
            b"Als Gregor Samsa eines Morgens aus unruhigen Tr\xe4umen erwachte,\r\nfand er sich in seinem Bett zu einem ungeheueren Ungeziefer";
        let decoded = decode(bytes, None).unwrap();
        assert!(decoded.text.contains("Träumen erwachte,\nfand"), "{decoded:?}");
        assert_eq!(decoded.encoding, "windows-1252");
    }

    #[test]
    fn byte_order_marks_and_binaries() {
        assert_eq!(decode(b"\xff\xfea\0b\0", None).unwrap().text, "ab");
        assert_eq!(decode("\u{feff}ä".as_bytes(), None).unwrap().text, "ä");
        assert_eq!(decode(b"\x7fELF\0\0\x01", None), None);
        assert_eq!(html_charset(b"<meta charset=\"ISO-8859-15\">").as_deref(), Some("iso-8859-15"));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), declared in "[a-z0-9-]{0,12}") {
            let _ = decode(&bytes, Some(&declared));
            let _ = html_charset(&bytes);
        }
    }
}

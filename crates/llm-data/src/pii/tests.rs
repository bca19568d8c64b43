//! Every kind of personal data, and what only looks like it.

use super::*;
use proptest::prelude::*;

fn pii() -> Pii {
    Pii::new(&PiiConfig { tax_id: true, ..PiiConfig::default() }).unwrap()
}

fn redacted(text: &str, lang: Option<&str>) -> String {
    pii().redact(text, lang, false).0.into_owned()
}

#[test]
fn each_kind_has_its_placeholder() {
    let text = "Write to jane.doe+x@mail.uni-ulm.de or max (at) firma (dot) de, call +49 731 50-22033; IBAN DE89 3704 0044 0532 0130 00, \
                Visa 4111 1111 1111 1111, Steuer-ID 86 095 742 719, host 93.184.216.34 or 2606:2800:220:1:248:1893:25c8:1946.";
    assert_eq!(redacted(text, None), "Write to <EMAIL> or <EMAIL>, call <PHONE>; IBAN <IBAN>, Visa <CARD>, Steuer-ID <TAX_ID>, host <IP> or <IP>.");
}

#[test]
fn telephone_numbers_of_three_countries() {
    for (text, lang) in [
        ("0731/5022033", None),
        ("(0731) 50 22 03-3", Some("de")),
        ("030 12345678", Some("de")),
        ("0171-2345678", Some("de")),
        ("0049 731 5022033", None),
        ("+49 (0) 731 50-22033", None),
        ("+34 612 345 678", None),
        ("+34612345678", None),
        ("612 345 678", Some("es")),
        ("91 234 56 78", Some("es")),
        ("(555) 123-4567", Some("en")),
        ("212-555-0123", None),
        ("1-800-555-0199", None),
        ("+1 (212) 555-0123", None),
        ("+44 20 7946 0958", None),
    ] {
        assert_eq!(redacted(&format!("so {text}, ok"), lang), "so <PHONE>, ok", "{text}");
    }
    for (text, rest) in [
        ("Tel.: 5022033", "Tel.: <PHONE>"),
        ("Telefon 07 31 / 5 02 20 33", "Telefon <PHONE>"),
        ("móvil: 612345678", "móvil: <PHONE>"),
        ("☎ 50 22 03", "☎ <PHONE>"),
    ] {
        assert_eq!(redacted(text, None), rest);
    }
}

#[test]
fn numbers_that_are_none_of_it_stay() {
    for text in [
        "ISBN 978-3-16-148410-0",
        "978-3-16-148410-0",
        "doi:10.1000/182",
        "https://doi.org/10.1038/nature12373",
        "2024-11-24 10:00:00",
        "24.11.2024",
        "1914-1918",
        "1.234.567,89 €",
        "612 345 678 €",
        "v1.20.33.44",
        "Bestellnummer 0301-2345678",
        "order no. 212-555-0123",
        "10:30-12:45",
        "0x1234-5678-9012",
        "const A: u64 = 1234567890123;",
        "4111111111111112",
        "550e8400-e29b-41d4-a716-446655440000",
        "192.168.1.1",
        "ORCID 0000-0002-1825-0097",
        "Tel.    01 0000a",
        "Rechnung 2024/0815-4711",
        "3.14159265358979",
        "1,234,567,890",
        "DE89370400440532013001",
        "icon@2x.png",
        "git@github.com:rust-lang/rust.git",
        "user@example.com",
        "#[cfg(test)]",
        "@handle",
        "a-555-123-4567",
        "20241124",
        "20241124103000",
        "2^64 = 18446744073709551616",
        "Aktenzeichen 4 K 2345/19",
        "pp. 123-145, 1999",
    ] {
        assert_eq!(redacted(text, Some("de")), text);
    }
}

#[test]
fn datatrove_replaces_in_rotation() {
    let config = PiiConfig { profile: Profile::Datatrove, ..PiiConfig::default() };
    let pii = Pii::new(&config).unwrap();
    let (text, replaced) = pii.redact("a@b.de, c@d.fr e@f.es 10.0.0.1 8.8.8.8 93.184.216.34.5", None, false);
    assert_eq!(text, "email@example.com, firstname.lastname@example.org email@example.com 10.0.0.1 22.214.171.124 126.96.36.199.5");
    assert_eq!(replaced.len(), 5);
}

#[test]
fn a_placeholder_that_would_be_found_again_is_refused() {
    let config = PiiConfig { placeholders: BTreeMap::from([(Kind::Email, "x@y.de".to_string())]), ..PiiConfig::default() };
    assert!(Pii::new(&config).unwrap_err().to_string().contains("pii.placeholders.email"));
}

#[test]
fn an_altered_text_is_not_restored() {
    let mut document = Document { id: "d1".into(), text: "a b@c.org".into(), ..Document::default() };
    let entries = pii().redact_document(&mut document);
    assert_eq!(document.text, "a <EMAIL>");
    document.text.insert(0, 'x');
    let message = unredact(&mut document, &entries).unwrap_err().to_string();
    assert!(message.contains("`d1`") && message.contains("byte 2"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn redaction_is_undone_by_its_report(text in "([a-z]{0,4}|@|\\.|[0-9]{1,4}|\\+|-| |:|/|\\(|\\)|ä|[a-z]{1,3}@[a-z]{1,4}\\.de|Tel\\. [0-9/ ]{8}|\\+49 [0-9]{4} [0-9]{5}|DE89 3704 0044 0532 0130 00){0,40}") {
        let mut document = Document { id: "x".into(), text: text.clone(), ..Document::default() };
        let entries = pii().redact_document(&mut document);
        for e in &entries {
            prop_assert_eq!(&text[e.start as usize..e.end as usize], &e.original);
        }
        unredact(&mut document, &entries).unwrap();
        prop_assert_eq!(document.text, text);
    }

    #[test]
    fn any_string_is_accepted(text in any::<String>(), lang in prop::option::of("de|es|en")) {
        let found = pii().find(&text, lang.as_deref(), false);
        for f in &found {
            prop_assert!(text.get(f.start..f.end).is_some());
        }
        prop_assert!(found.windows(2).all(|w| w[0].end <= w[1].start));
    }
}

//! What the words before a number say about it.

/// For or against a telephone or card number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// "Tel.", "call", "móvil".
    Phone,
    /// "Visa", "Kreditkarte".
    Card,
    /// "order", "ISBN", "Aktenzeichen".
    Other,
    /// Nothing known.
    None,
}

const PHONE: &[&str] = &[
    "tel",
    "telefon",
    "telefonnummer",
    "telefonnr",
    "telephone",
    "phone",
    "fon",
    "fax",
    "telefax",
    "mobil",
    "mobile",
    "handy",
    "handynummer",
    "cell",
    "cellphone",
    "call",
    "ring",
    "dial",
    "tlf",
    "teléfono",
    "telefono",
    "móvil",
    "movil",
    "llame",
    "llama",
    "llámanos",
    "llámame",
    "ruf",
    "rufen",
    "rufnummer",
    "durchwahl",
    "hotline",
    "whatsapp",
    "wa",
    "sms",
    "text",
    "erreichbar",
    "reach",
    "contacto",
    "celular",
    "anrufen",
    "unter",
    "signal",
    "phones",
    "tfno",
    "tfn",
];
const CARD: &[&str] = &[
    "visa",
    "mastercard",
    "amex",
    "card",
    "cards",
    "kreditkarte",
    "kreditkartennummer",
    "karte",
    "kartennummer",
    "tarjeta",
    "maestro",
    "discover",
    "cc",
    "diners",
    "jcb",
];
const OTHER: &[&str] = &[
    "order",
    "orders",
    "bestellung",
    "bestellnummer",
    "bestellnr",
    "auftrag",
    "auftragsnummer",
    "rechnung",
    "rechnungsnummer",
    "invoice",
    "pedido",
    "factura",
    "isbn",
    "issn",
    "doi",
    "ticket",
    "konto",
    "kontonummer",
    "kto",
    "blz",
    "artikel",
    "artikelnummer",
    "sku",
    "ref",
    "referencia",
    "aktenzeichen",
    "az",
    "tracking",
    "sendungsnummer",
    "serial",
    "seriennummer",
    "serie",
    "version",
    "versión",
    "ver",
    "zeile",
    "line",
    "patent",
    "pmid",
    "orcid",
    "cuenta",
    "expediente",
    "id",
    "build",
    "commit",
    "release",
    "ean",
    "gtin",
    "upc",
    "model",
    "modell",
    "modelo",
    "item",
    "vorgang",
    "kundennummer",
    "customer",
    "cliente",
    "case",
    "oclc",
    "hrb",
    "steuernummer",
    "kilometerstand",
    "euro",
    "usd",
    "eur",
    "page",
    "pages",
    "seite",
    "seiten",
    "sections",
    "rfc",
    "din",
    "iso",
    "postfach",
    "bug",
    "issue",
    "plz",
    "lote",
    "batch",
    "charge",
    "envío",
    "guía",
    "seguimiento",
];

/// The nearest telling word among the last few before `at`, on the same line.
pub(super) fn hint(text: &str, at: usize) -> Hint {
    let from = text.floor_char_boundary(at.saturating_sub(48));
    let before = &text[from..at];
    let before = before.rsplit('\n').next().unwrap_or_default();
    if before.trim_end().ends_with(['☎', '📞', '✆', '☏', '📱']) {
        return Hint::Phone;
    }
    for word in before.rsplit(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).take(4) {
        let word = word.to_lowercase();
        let is = |list: &[&str]| list.contains(&word.as_str());
        if is(PHONE) {
            return Hint::Phone;
        }
        if is(CARD) {
            return Hint::Card;
        }
        // "Bestell-Nr.", "order no." and the like end in a word that says nothing by itself.
        if is(OTHER) || word.starts_with("bestell") || word.starts_with("rechnungs") || word.starts_with("artikel") {
            return Hint::Other;
        }
    }
    Hint::None
}

/// A unit or currency right after a number: then it is an amount.
pub(super) fn is_amount(text: &str, end: usize) -> bool {
    let after = text[end..].trim_start_matches([' ', '\u{a0}']);
    if after.starts_with(['€', '$', '£', '¥', '%', '°']) {
        return true;
    }
    let word: String = after.chars().take_while(|c| c.is_alphabetic()).take(14).flat_map(char::to_lowercase).collect();
    const UNITS: &[&str] = &[
        "eur",
        "euro",
        "euros",
        "usd",
        "dollar",
        "dollars",
        "dólares",
        "pesetas",
        "libras",
        "pounds",
        "pfund",
        "km",
        "kg",
        "m",
        "cm",
        "mm",
        "g",
        "t",
        "mb",
        "gb",
        "kb",
        "bytes",
        "byte",
        "habitantes",
        "einwohner",
        "inhabitants",
        "people",
        "personas",
        "menschen",
        "millones",
        "millionen",
        "million",
        "tonnen",
        "tonnes",
        "toneladas",
        "pesos",
        "chf",
        "stück",
        "meter",
        "metros",
        "years",
        "jahre",
        "años",
        "seconds",
        "sekunden",
        "ms",
        "liter",
        "litros",
        "kilometer",
        "prozent",
        "percent",
    ];
    UNITS.contains(&word.as_str())
}

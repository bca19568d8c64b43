//! Precision and recall of the finder of personal data, by kind and language, on sentences marked by hand
//! (`fixtures/pii/annotated.txt`) and on generated ones. `-- --nocapture` prints the table of docs/data.md.

use llm_data::pii::{Kind, Pii, PiiConfig};
use llm_run::Seed;
use llm_run::seed::Rng;
use std::collections::BTreeMap;

type Marked = (String, Vec<(usize, usize, Kind)>);

/// `{kind:value}` marks become ranges.
fn parse(marked: &str) -> Marked {
    let (mut text, mut found, mut rest) = (String::new(), Vec::new(), marked);
    while let Some(open) = rest.find('{') {
        let Some((kind, value, after)) = rest[open + 1..].split_once('}').and_then(|(inside, after)| {
            let (kind, value) = inside.split_once(':')?;
            Some((Kind::ALL.into_iter().find(|k| k.name() == kind)?, value, after))
        }) else {
            text.push_str(&rest[..=open]);
            rest = &rest[open + 1..];
            continue;
        };
        text.push_str(&rest[..open]);
        let start = text.len();
        text.push_str(value);
        found.push((start, text.len(), kind));
        rest = after;
    }
    text.push_str(rest);
    (text, found)
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    right: usize,
    missed: usize,
    wrong: usize,
}

impl Count {
    fn precision(self) -> f64 {
        self.right as f64 / (self.right + self.wrong).max(1) as f64
    }
    fn recall(self) -> f64 {
        self.right as f64 / (self.right + self.missed).max(1) as f64
    }
}

type Table = BTreeMap<(String, &'static str), Count>;

fn judge(pii: &Pii, lang: &str, (text, marks): &Marked, table: &mut Table, mistakes: &mut Vec<String>) {
    let found: Vec<(usize, usize, Kind)> = pii.find(text, Some(lang), false).into_iter().map(|f| (f.start, f.end, f.kind)).collect();
    for (start, end, kind) in marks {
        let right = found.contains(&(*start, *end, *kind));
        for key in [kind.name(), "all"] {
            let count = table.entry((lang.to_string(), key)).or_default();
            if right { count.right += 1 } else { count.missed += 1 }
        }
        if !right {
            mistakes.push(format!("missed {} `{}` in: {text}", kind.name(), &text[*start..*end]));
        }
    }
    for (start, end, kind) in found.iter().filter(|f| !marks.contains(f)) {
        for key in [kind.name(), "all"] {
            table.entry((lang.to_string(), key)).or_default().wrong += 1;
        }
        mistakes.push(format!("wrong {} `{}` in: {text}", kind.name(), &text[*start..*end]));
    }
}

fn print(title: &str, table: &Table, mistakes: &[String]) {
    println!("{title}\nlang kind     right missed wrong precision recall");
    for ((lang, kind), c) in table {
        println!("{lang:<4} {kind:<8} {:>5} {:>6} {:>5} {:>9.3} {:>6.3}", c.right, c.missed, c.wrong, c.precision(), c.recall());
    }
    mistakes.iter().for_each(|m| println!("  {m}"));
}

fn total(table: &Table) -> Count {
    table.iter().filter(|((_, kind), _)| *kind == "all").fold(Count::default(), |t, (_, c)| Count {
        right: t.right + c.right,
        missed: t.missed + c.missed,
        wrong: t.wrong + c.wrong,
    })
}

fn pii() -> Pii {
    Pii::new(&PiiConfig { tax_id: true, ..PiiConfig::default() }).unwrap()
}

#[test]
fn sentences_marked_by_hand() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/pii/annotated.txt");
    let (mut table, mut mistakes) = (Table::new(), Vec::new());
    let pii = pii();
    for line in std::fs::read_to_string(path).unwrap().lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (lang, text) = line.split_once(" | ").unwrap();
        judge(&pii, lang, &parse(text), &mut table, &mut mistakes);
    }
    print("by hand", &table, &mistakes);
    let all = total(&table);
    assert!(all.right + all.missed >= 60, "{all:?}");
    assert!(all.precision() >= 0.95 && all.recall() >= 0.95, "{all:?}");
}

fn digits(rng: &mut Rng, n: usize) -> String {
    (0..n).map(|_| char::from(b'0' + rng.below(10) as u8)).collect()
}

fn luhn(prefix: &str, length: usize, rng: &mut Rng) -> String {
    let body = format!("{prefix}{}", digits(rng, length - 1 - prefix.len()));
    let sum: u32 = body.bytes().rev().enumerate().map(|(i, b)| u32::from(b - b'0') * (2 - i as u32 % 2)).map(|d| d / 10 + d % 10).sum();
    format!("{body}{}", (10 - sum % 10) % 10)
}

/// Check digits by the definition: 98 minus the remainder with `00` in their place, in long division.
fn iban(country: &str, account: &str) -> String {
    let number: String = format!("{account}{country}00").chars().map(|c| c.to_digit(36).unwrap().to_string()).collect();
    let remainder = number.bytes().fold(0u32, |r, b| (r * 10 + u32::from(b - b'0')) % 97);
    format!("{country}{:02}{account}", 98 - remainder)
}

fn fours(text: &str) -> String {
    text.as_bytes().chunks(4).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>().join(" ")
}

fn value(lang: &str, kind: Kind, rng: &mut Rng) -> String {
    let d = |n: usize, rng: &mut Rng| digits(rng, n);
    match kind {
        Kind::Email => {
            let word = |rng: &mut Rng| {
                ["anna", "jose", "smith", "info", "kontakt", "ventas", "m.keller", "j_doe", "a.b-c", "team42"][rng.below(10)].to_string()
            };
            format!(
                "{}@{}.{}",
                word(rng),
                ["mail", "firma-x", "uni.beispiel", "acme", "web2"][rng.below(5)],
                ["de", "es", "com", "org", "co.uk"][rng.below(5)]
            )
        }
        Kind::Iban => {
            let raw = match rng.below(3) {
                0 => iban("DE", &d(18, rng)),
                1 => iban("ES", &d(20, rng)),
                _ => iban("GB", &format!("NWBK{}", d(14, rng))),
            };
            if rng.chance(0.5) { fours(&raw) } else { raw }
        }
        Kind::Card => {
            let raw = match rng.below(2) {
                0 => luhn("4", 16, rng),
                _ => luhn(["51", "53", "55"][rng.below(3)], 16, rng),
            };
            if rng.chance(0.6) { fours(&raw) } else { raw }
        }
        Kind::Ip => format!("{}.{}.{}.{}", [23, 45, 85, 93, 134, 151, 212][rng.below(7)], rng.below(256), rng.below(256), 1 + rng.below(254)),
        Kind::Phone => match (lang, rng.below(4)) {
            (_, 0) => match lang {
                "de" => format!("+49 {} {}", [731, 711, 30, 89, 40][rng.below(5)], d(7, rng)),
                "es" => format!("+34 6{} {} {}", d(2, rng), d(3, rng), d(3, rng)),
                _ => format!("+1 {}{} {}{}-{}", 2 + rng.below(8), ["12", "02", "55"][rng.below(3)], 2 + rng.below(8), d(2, rng), d(4, rng)),
            },
            ("de", 1) => format!("0{}/{}", ["731", "711", "6221", "7531"][rng.below(4)], d(6, rng)),
            ("de", 2) => format!("01{} {}", ["51", "60", "70", "76"][rng.below(4)], d(8, rng)),
            ("de", _) => format!("({}) {} {}", ["030", "089", "0221", "0731"][rng.below(4)], d(4, rng), d(3, rng)),
            ("es", 1) => format!("9{} {} {} {}", 1 + rng.below(8), d(3, rng), d(2, rng), d(2, rng)),
            ("es", 2) => format!("6{} {} {}", d(2, rng), d(3, rng), d(3, rng)),
            ("es", _) => format!("9{} {} {} {}", d(2, rng), d(2, rng), d(2, rng), d(2, rng)),
            (_, 1) => format!("({}{}) {}{}-{}", 2 + rng.below(8), ["12", "02", "55"][rng.below(3)], 2 + rng.below(8), d(2, rng), d(4, rng)),
            (_, 2) => format!("{}{}-{}{}-{}", 2 + rng.below(8), ["12", "02", "55"][rng.below(3)], 2 + rng.below(8), d(2, rng), d(4, rng)),
            (_, _) => format!("{}{}.{}{}.{}", 2 + rng.below(8), ["12", "02", "55"][rng.below(3)], 2 + rng.below(8), d(2, rng), d(4, rng)),
        },
        _ => unreachable!(),
    }
}

/// A number that looks like one of the kinds and is none.
fn decoy(rng: &mut Rng) -> String {
    let d = |n: usize, rng: &mut Rng| digits(rng, n);
    match rng.below(14) {
        0 => format!("ISBN 978-{}-{}-{}-{}", 1 + rng.below(9), d(2, rng), d(6, rng), d(1, rng)),
        1 => format!("{:02}.{:02}.20{}", 1 + rng.below(28), 1 + rng.below(12), d(2, rng)),
        2 => format!(
            "20{}-{:02}-{:02} {:02}:{:02}:{:02}",
            d(2, rng),
            1 + rng.below(12),
            1 + rng.below(28),
            rng.below(24),
            rng.below(60),
            rng.below(60)
        ),
        3 => format!("v{}.{}.{}.{}", rng.below(30), rng.below(30), rng.below(300), rng.below(99)),
        4 => format!("order no. {}-{}-{}", d(3, rng), d(7, rng), d(7, rng)),
        5 => format!("{}.{}.{},{} €", 1 + rng.below(999), d(3, rng), d(3, rng), d(2, rng)),
        6 => format!("doi:10.{}/s{}-{}-{}", 1000 + rng.below(9000), d(5, rng), d(3, rng), d(4, rng)),
        7 => format!("{:02}:{:02}-{:02}:{:02}", rng.below(24), rng.below(60), rng.below(24), rng.below(60)),
        8 => {
            // A wrong check digit.
            let good = luhn("4", 16, rng);
            let last = good.as_bytes()[15] - b'0';
            fours(&format!("{}{}", &good[..15], (last + 1) % 10))
        }
        9 => {
            let good = iban("DE", &d(18, rng));
            let last = good.as_bytes()[21] - b'0';
            fours(&format!("{}{}", &good[..21], (last + 1) % 10))
        }
        10 => format!("0x{:016x}", rng.next_u64()),
        11 => format!("let key: u64 = {};", rng.next_u64()),
        12 => format!("pp. {}-{}, {}", 100 + rng.below(400), 500 + rng.below(499), 1900 + rng.below(120)),
        _ => format!("192.168.{}.{}", rng.below(256), rng.below(256)),
    }
}

#[test]
fn generated_sentences() {
    let frames: BTreeMap<&str, Vec<&str>> = BTreeMap::from([
        ("de", vec!["Bitte notieren: {}.", "Kontakt: {} (Frau Weber)", "Wir haben {} erhalten, danke.", "Die Angabe {} wurde geprüft.", "{}"]),
        ("es", vec!["Tome nota: {}.", "Datos: {} (señora Ruiz)", "Hemos recibido {}, gracias.", "El dato {} fue revisado.", "{}"]),
        ("en", vec!["Please note: {}.", "Details: {} (Mrs Webb)", "We received {}, thank you.", "The entry {} was checked.", "{}"]),
    ]);
    let (mut table, mut mistakes) = (Table::new(), Vec::new());
    let pii = pii();
    let mut rng = Seed(11).stream("pii").rng();
    for (lang, frames) in &frames {
        for kind in [Kind::Email, Kind::Phone, Kind::Iban, Kind::Card, Kind::Ip] {
            for _ in 0..200 {
                let frame = rng.pick(frames);
                let value = value(lang, kind, &mut rng);
                let text = frame.replace("{}", &format!("{{{}:{value}}}", kind.name()));
                judge(&pii, lang, &parse(&text), &mut table, &mut mistakes);
            }
        }
        for _ in 0..1000 {
            let text = rng.pick(frames).replace("{}", &decoy(&mut rng));
            judge(&pii, lang, &parse(&text), &mut table, &mut mistakes);
        }
    }
    mistakes.truncate(40);
    print("generated: 1000 values and 1000 decoys in each language", &table, &mistakes);
    let all = total(&table);
    assert!(all.precision() >= 0.99 && all.recall() >= 0.98, "{all:?}");
}

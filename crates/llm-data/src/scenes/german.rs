//! German: three genders; adjectives after `ein` (strong) and after `der`, `vom`, `dem` (weak).

use super::ask::{Answer, Ask, Reference};
use super::scene::{Bar, Cell, Colour, Content, Object, Scene, Shape};
use super::wording::{Wording, by_object, by_place, capital, counted, fill, listed, plural};
use llm_run::Rng;

pub(super) struct German;

/// Singular, plural, gender.
const SHAPES: [(&str, &str, char); 6] = [
    ("Kreis", "Kreise", 'm'),
    ("Quadrat", "Quadrate", 'n'),
    ("Dreieck", "Dreiecke", 'n'),
    ("Stern", "Sterne", 'm'),
    ("Raute", "Rauten", 'f'),
    ("Kreuz", "Kreuze", 'n'),
];
const COLOURS: [&str; 8] = ["rot", "grün", "blau", "gelb", "orange", "violett", "schwarz", "weiß"];
/// What takes endings.
const STEMS: [&str; 8] = ["rot", "grün", "blau", "gelb", "orangefarben", "violett", "schwarz", "weiß"];
const NUMBERS: [&str; 10] = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"];
const PLACES: [&str; 9] = [
    "oben links",
    "oben in der Mitte",
    "oben rechts",
    "in der Mitte links",
    "in der Mitte",
    "in der Mitte rechts",
    "unten links",
    "unten in der Mitte",
    "unten rechts",
];

fn colour(colour: Colour) -> &'static str {
    COLOURS[colour as usize]
}

fn stem(colour: Colour) -> &'static str {
    STEMS[colour as usize]
}

fn number(n: usize) -> &'static str {
    NUMBERS.get(n).copied().unwrap_or("viele")
}

/// `der rote Stern`.
fn nominative(reference: Reference) -> String {
    let article = |s: Shape| match SHAPES[s as usize].2 {
        'm' => "der",
        'f' => "die",
        _ => "das",
    };
    match reference {
        Reference::Only => "die Figur".into(),
        Reference::Shape(s) => format!("{} {}", article(s), SHAPES[s as usize].0),
        Reference::Colour(c) => format!("die {}e Figur", stem(c)),
        Reference::Both(c, s) => format!("{} {}e {}", article(s), stem(c), SHAPES[s as usize].0),
        Reference::At(cell) => format!("die Figur {}", PLACES[cell.0]),
    }
}

/// `dem roten Stern`; with `von` merged where German merges it.
fn dative(reference: Reference, von: bool) -> String {
    let article = |gender: char| match (gender, von) {
        ('f', true) => "von der",
        ('f', false) => "der",
        (_, true) => "vom",
        (_, false) => "dem",
    };
    let rest = |s: Shape| (article(SHAPES[s as usize].2), SHAPES[s as usize].0);
    match reference {
        Reference::Only => format!("{} Figur", article('f')),
        Reference::Shape(s) => format!("{} {}", rest(s).0, rest(s).1),
        Reference::Colour(c) => format!("{} {}en Figur", article('f'), stem(c)),
        Reference::Both(c, s) => format!("{} {}en {}", rest(s).0, stem(c), rest(s).1),
        Reference::At(cell) => format!("{} Figur {}", article('f'), PLACES[cell.0]),
    }
}

/// `ein roter Stern`, `ein kleiner roter Stern`.
fn indefinite(c: Colour, s: Shape, small: bool) -> String {
    let (noun, _, gender) = SHAPES[s as usize];
    let (ein, ending) = match gender {
        'm' => ("ein", "er"),
        'f' => ("eine", "e"),
        _ => ("ein", "es"),
    };
    let size = if small { format!("klein{ending} ") } else { String::new() };
    format!("{ein} {size}{}{ending} {noun}", stem(c))
}

/// `zwei rote Kreise und ein Stern`, by what `words` makes of each kind and number.
fn summed<K: PartialEq>(objects: &[Object], key: impl Fn(&Object) -> K, words: impl Fn(&K, usize) -> String) -> String {
    listed(&counted(objects, key).iter().map(|(k, n)| words(k, *n)).collect::<Vec<_>>(), "und")
}

fn shapes_of(s: Shape, n: usize) -> String {
    let (one, many, gender) = SHAPES[s as usize];
    if n == 1 { format!("{} {one}", if gender == 'f' { "eine" } else { "ein" }) } else { format!("{} {many}", number(n)) }
}

fn colours_of(c: Colour, n: usize) -> String {
    if n == 1 { format!("eine {}e Figur", stem(c)) } else { format!("{} {}e Figuren", number(n), stem(c)) }
}

fn objects_of(c: Colour, s: Shape, n: usize) -> String {
    if n == 1 { indefinite(c, s, false) } else { format!("{} {}e {}", number(n), stem(c), SHAPES[s as usize].1) }
}

impl Wording for German {
    fn question(&self, ask: Ask, rng: &mut Rng) -> String {
        match ask {
            Ask::ColourOf(r) => fill(
                &["Welche Farbe hat {x}?", "Was für eine Farbe hat {x}?", "In welcher Farbe siehst du {y}?"],
                &[("{x}", nominative(r)), ("{y}", accusative(r))],
                rng,
            ),
            Ask::ShapeOf(Reference::Colour(c)) => fill(
                &["Welche Figur ist {c}?", "Was für eine Figur ist {c}?", "Nenne die {s}e Figur."],
                &[("{c}", colour(c).into()), ("{s}", stem(c).into())],
                rng,
            ),
            Ask::ShapeOf(Reference::At(cell)) => {
                fill(&["Welche Figur ist {p}?", "Was siehst du {p}?", "Nenne die Figur {p}."], &[("{p}", PLACES[cell.0].into())], rng)
            }
            Ask::ShapeOf(_) => fill(&["Welche Figur ist das?", "Welche Figur ist zu sehen?", "Nenne die Figur."], &[], rng),
            Ask::CountAll => fill(&["Wie viele Figuren gibt es?", "Wie viele Figuren siehst du?", "Zähle die Figuren."], &[], rng),
            Ask::CountShape(s) => {
                fill(&["Wie viele {s} gibt es?", "Wie viele {s} siehst du?", "Zähle die {s}."], &[("{s}", SHAPES[s as usize].1.into())], rng)
            }
            Ask::CountColour(c) => fill(
                &["Wie viele Figuren sind {c}?", "Wie viele {s}e Figuren siehst du?", "Zähle die {s}en Figuren."],
                &[("{c}", colour(c).into()), ("{s}", stem(c).into())],
                rng,
            ),
            Ask::Where(r) => {
                fill(&["Wo ist {x}?", "An welcher Stelle ist {x}?", "Wo siehst du {y}?"], &[("{x}", nominative(r)), ("{y}", accusative(r))], rng)
            }
            Ask::Side(a, b) => fill(
                &["Ist {x} links oder rechts {y}?", "Links oder rechts {y}: wo ist {x}?"],
                &[("{x}", nominative(a)), ("{y}", dative(b, true))],
                rng,
            ),
            Ask::Level(a, b) => {
                fill(&["Ist {x} über oder unter {y}?", "Über oder unter {y}: wo ist {x}?"], &[("{x}", nominative(a)), ("{y}", dative(b, false))], rng)
            }
            Ask::Word => fill(&["Welches Wort steht hier?", "Was steht hier?", "Lies das Wort."], &[], rng),
            Ask::ColourOfWord => {
                fill(&["Welche Farbe hat das Wort?", "In welcher Farbe ist das Wort geschrieben?", "Nenne die Farbe des Wortes."], &[], rng)
            }
            Ask::Highest => fill(
                &["Welche Farbe hat der höchste Balken?", "In welcher Farbe ist der höchste Balken?", "Nenne die Farbe des höchsten Balkens."],
                &[],
                rng,
            ),
            Ask::Lowest => fill(
                &[
                    "Welche Farbe hat der niedrigste Balken?",
                    "In welcher Farbe ist der niedrigste Balken?",
                    "Nenne die Farbe des niedrigsten Balkens.",
                ],
                &[],
                rng,
            ),
            Ask::Bars => fill(&["Wie viele Balken gibt es?", "Wie viele Balken hat das Diagramm?", "Zähle die Balken."], &[], rng),
            Ask::FirstBar => fill(&["Welche Farbe hat der erste Balken von links?", "Nenne die Farbe des ersten Balkens von links."], &[], rng),
        }
    }

    fn answer(&self, answer: Answer) -> String {
        match answer {
            Answer::Colour(c) => colour(c).into(),
            Answer::Shape(s) => SHAPES[s as usize].0.into(),
            Answer::Number(n) => n.to_string(),
            Answer::Place(cell) => PLACES[cell.0].into(),
            Answer::Left => "links".into(),
            Answer::Right => "rechts".into(),
            Answer::Above => "über".into(),
            Answer::Below => "unter".into(),
            Answer::Word(word) => word.into(),
        }
    }

    fn alternatives(&self, answer: Answer) -> Vec<String> {
        match answer {
            Answer::Colour(c) => {
                let mut forms: Vec<String> = ["", "e", "er", "es"].iter().map(|ending| format!("{}{ending}", stem(c))).collect();
                match c {
                    Colour::Purple => forms.push("lila".into()),
                    Colour::White => forms.push("weiss".into()),
                    _ => {}
                }
                // Which bar: `der rote`.
                forms.push(format!("der {}e", stem(c)));
                forms
            }
            Answer::Shape(s) => {
                let noun = SHAPES[s as usize].0;
                let ein = if SHAPES[s as usize].2 == 'f' { "eine" } else { "ein" };
                vec![format!("{ein} {noun}"), nominative(Reference::Shape(s))]
            }
            Answer::Number(1) => vec!["eins".into(), "ein".into(), "eine".into(), "einer".into(), "eines".into()],
            Answer::Number(n) => vec![number(n).into()],
            Answer::Place(cell) => vec![PLACES[cell.0].replace("in der ", "")],
            Answer::Left => vec!["links davon".into()],
            Answer::Right => vec!["rechts davon".into()],
            Answer::Above => vec!["darüber".into(), "oberhalb".into()],
            Answer::Below => vec!["darunter".into(), "unterhalb".into()],
            Answer::Word(_) => Vec::new(),
        }
    }

    fn object(&self, object: &Object) -> String {
        indefinite(object.colour, object.shape, object.small)
    }

    fn place(&self, cell: Cell) -> String {
        PLACES[cell.0].to_string()
    }

    fn captions(&self, scene: &Scene, rng: &mut Rng) -> Vec<String> {
        match &scene.content {
            Content::Shapes(objects) => {
                let all_known = summed(objects, |o| (o.colour, o.shape), |(c, s), n| objects_of(*c, *s, n));
                let shapes = summed(objects, |o| o.shape, |s, n| shapes_of(*s, n));
                let colours = summed(objects, |o| o.colour, |c, n| colours_of(*c, n));
                let places = listed(&objects.iter().map(|o| PLACES[o.cell.0].to_string()).collect::<Vec<_>>(), "und");
                let all = match objects.len() {
                    1 => "eine Figur".to_string(),
                    n => format!("{} Figuren", number(n)),
                };
                vec![
                    by_place(self, objects, ["und", "nichts"], rng),
                    by_object(self, objects, "und"),
                    fill(&["{A}: {g}.", "Zu sehen: {a}, {g}."], &[("{A}", capital(&all)), ("{a}", all), ("{g}", all_known)], rng),
                    format!("{}.", capital(&shapes)),
                    format!("{}.", capital(&colours)),
                    format!("{} {places}.", ["Eine Figur", "Figuren"][plural(objects.len())]),
                ]
            }
            Content::Word { word, colour: c } => {
                let values = [("{w}", word.to_string()), ("{s}", stem(*c).to_string())];
                vec![fill(&["Das {s}e Wort \"{w}\".", "\"{w}\" steht da in {s}en Buchstaben."], &values, rng)]
            }
            Content::Chart(bars) => vec![chart(bars)],
        }
    }
}

/// `den roten Stern`.
fn accusative(reference: Reference) -> String {
    match reference {
        Reference::Shape(s) if SHAPES[s as usize].2 == 'm' => format!("den {}", SHAPES[s as usize].0),
        Reference::Both(c, s) if SHAPES[s as usize].2 == 'm' => format!("den {}en {}", stem(c), SHAPES[s as usize].0),
        _ => nominative(reference),
    }
}

fn chart(bars: &[Bar]) -> String {
    let names = listed(&bars.iter().map(|b| colour(b.colour).to_string()).collect::<Vec<_>>(), "und");
    let highest = bars.iter().max_by_key(|b| b.height).map_or("", |b| stem(b.colour));
    let lowest = bars.iter().min_by_key(|b| b.height).map_or("", |b| stem(b.colour));
    let count = number(bars.len());
    format!("Ein Balkendiagramm mit {count} Balken: {names}. Der {highest}e Balken ist der höchste, der {lowest}e der niedrigste.")
}

//! Spanish: two genders; adjectives follow the noun and agree in gender and number.

use super::ask::{Answer, Ask, Reference};
use super::scene::{Bar, Cell, Colour, Content, Object, Scene, Shape};
use super::wording::{Wording, by_object, by_place, capital, counted, fill, listed, plural};
use llm_run::Rng;

pub(super) struct Spanish;

/// Singular, plural, feminine.
const SHAPES: [(&str, &str, bool); 6] = [
    ("círculo", "círculos", false),
    ("cuadrado", "cuadrados", false),
    ("triángulo", "triángulos", false),
    ("estrella", "estrellas", true),
    ("rombo", "rombos", false),
    ("cruz", "cruces", true),
];
/// Masculine, feminine, and their plurals.
const COLOURS: [[&str; 4]; 8] = [
    ["rojo", "roja", "rojos", "rojas"],
    ["verde", "verde", "verdes", "verdes"],
    ["azul", "azul", "azules", "azules"],
    ["amarillo", "amarilla", "amarillos", "amarillas"],
    ["naranja", "naranja", "naranjas", "naranjas"],
    ["morado", "morada", "morados", "moradas"],
    ["negro", "negra", "negros", "negras"],
    ["blanco", "blanca", "blancos", "blancas"],
];
const NUMBERS: [&str; 10] = ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"];
const PLACES: [&str; 9] = [
    "arriba a la izquierda",
    "arriba en el centro",
    "arriba a la derecha",
    "en el centro a la izquierda",
    "en el centro",
    "en el centro a la derecha",
    "abajo a la izquierda",
    "abajo en el centro",
    "abajo a la derecha",
];

fn colour(colour: Colour, feminine: bool, plural: bool) -> &'static str {
    COLOURS[colour as usize][usize::from(feminine) + 2 * usize::from(plural)]
}

fn number(n: usize) -> &'static str {
    NUMBERS.get(n).copied().unwrap_or("muchos")
}

/// `de arriba a la izquierda`, `del centro`.
fn from(cell: Cell) -> String {
    format!("de {}", PLACES[cell.0]).replace("de en el centro", "del centro")
}

/// `estrella roja` and its gender.
fn noun(reference: Reference) -> (String, bool) {
    match reference {
        Reference::Only => ("figura".into(), true),
        Reference::Shape(s) => (SHAPES[s as usize].0.into(), SHAPES[s as usize].2),
        Reference::Colour(c) => (format!("figura {}", colour(c, true, false)), true),
        Reference::Both(c, s) => {
            let (noun, _, feminine) = SHAPES[s as usize];
            (format!("{noun} {}", colour(c, feminine, false)), feminine)
        }
        Reference::At(cell) => (format!("figura {}", from(cell)), true),
    }
}

/// `la estrella roja`.
fn the(reference: Reference) -> String {
    let (noun, feminine) = noun(reference);
    format!("{} {noun}", if feminine { "la" } else { "el" })
}

/// `de la estrella roja`, `del círculo`.
fn of(reference: Reference) -> String {
    let (noun, feminine) = noun(reference);
    format!("{} {noun}", if feminine { "de la" } else { "del" })
}

fn indefinite(c: Colour, s: Shape, small: bool) -> String {
    let (noun, _, feminine) = SHAPES[s as usize];
    let (un, size) = if feminine { ("una", " pequeña") } else { ("un", " pequeño") };
    format!("{un} {noun} {}{}", colour(c, feminine, false), if small { size } else { "" })
}

/// `dos círculos rojos y una estrella`, by what `words` makes of each kind and number.
fn summed<K: PartialEq>(objects: &[Object], key: impl Fn(&Object) -> K, words: impl Fn(&K, usize) -> String) -> String {
    listed(&counted(objects, key).iter().map(|(k, n)| words(k, *n)).collect::<Vec<_>>(), "y")
}

fn shapes_of(s: Shape, n: usize) -> String {
    let (one, many, feminine) = SHAPES[s as usize];
    if n == 1 { format!("{} {one}", if feminine { "una" } else { "un" }) } else { format!("{} {many}", number(n)) }
}

fn colours_of(c: Colour, n: usize) -> String {
    if n == 1 { format!("una figura {}", colour(c, true, false)) } else { format!("{} figuras {}", number(n), colour(c, true, true)) }
}

fn objects_of(c: Colour, s: Shape, n: usize) -> String {
    let (_, many, feminine) = SHAPES[s as usize];
    if n == 1 { indefinite(c, s, false) } else { format!("{} {many} {}", number(n), colour(c, feminine, true)) }
}

impl Wording for Spanish {
    fn question(&self, ask: Ask, rng: &mut Rng) -> String {
        match ask {
            Ask::ColourOf(r) => {
                fill(&["¿De qué color es {x}?", "¿Qué color tiene {x}?", "Di el color {y}."], &[("{x}", the(r)), ("{y}", of(r))], rng)
            }
            Ask::ShapeOf(Reference::Colour(c)) => {
                fill(&["¿Qué figura es {c}?", "¿Cuál es la figura {c}?", "Di qué figura es {c}."], &[("{c}", colour(c, true, false).into())], rng)
            }
            Ask::ShapeOf(Reference::At(cell)) => {
                fill(&["¿Qué figura está {p}?", "¿Qué ves {p}?", "Di qué figura está {p}."], &[("{p}", PLACES[cell.0].into())], rng)
            }
            Ask::ShapeOf(_) => fill(&["¿Qué figura es?", "¿Qué figura se ve?", "Di qué figura es."], &[], rng),
            Ask::CountAll => fill(&["¿Cuántas figuras hay?", "¿Cuántas figuras ves?", "Cuenta las figuras."], &[], rng),
            Ask::CountShape(s) => {
                let (_, plural, feminine) = SHAPES[s as usize];
                let (how_many, los) = if feminine { ("Cuántas", "las") } else { ("Cuántos", "los") };
                let values = [("{q}", how_many.to_string()), ("{l}", los.to_string()), ("{s}", plural.to_string())];
                fill(&["¿{q} {s} hay?", "¿{q} {s} ves?", "Cuenta {l} {s}."], &values, rng)
            }
            Ask::CountColour(c) => fill(
                &["¿Cuántas figuras son {c}?", "¿Cuántas figuras {c} ves?", "Cuenta las figuras {c}."],
                &[("{c}", colour(c, true, true).into())],
                rng,
            ),
            Ask::Where(r) => fill(&["¿Dónde está {x}?", "¿En qué lugar está {x}?", "¿Dónde ves {x}?"], &[("{x}", the(r))], rng),
            Ask::Side(a, b) => fill(
                &["¿Está {x} a la izquierda o a la derecha {y}?", "A la izquierda o a la derecha {y}: ¿dónde está {x}?"],
                &[("{x}", the(a)), ("{y}", of(b))],
                rng,
            ),
            Ask::Level(a, b) => {
                fill(&["¿Está {x} encima o debajo {y}?", "Encima o debajo {y}: ¿dónde está {x}?"], &[("{x}", the(a)), ("{y}", of(b))], rng)
            }
            Ask::Word => fill(&["¿Qué palabra está escrita aquí?", "¿Qué pone aquí?", "Lee la palabra."], &[], rng),
            Ask::ColourOfWord => {
                fill(&["¿De qué color es la palabra?", "¿En qué color está escrita la palabra?", "Di el color de la palabra."], &[], rng)
            }
            Ask::Highest => fill(
                &["¿De qué color es la barra más alta?", "¿Cuál es el color de la barra más alta?", "Di el color de la barra más alta."],
                &[],
                rng,
            ),
            Ask::Lowest => fill(
                &["¿De qué color es la barra más baja?", "¿Cuál es el color de la barra más baja?", "Di el color de la barra más baja."],
                &[],
                rng,
            ),
            Ask::Bars => fill(&["¿Cuántas barras hay?", "¿Cuántas barras tiene el gráfico?", "Cuenta las barras."], &[], rng),
            Ask::FirstBar => {
                fill(&["¿De qué color es la primera barra por la izquierda?", "Di el color de la primera barra por la izquierda."], &[], rng)
            }
        }
    }

    fn answer(&self, answer: Answer) -> String {
        match answer {
            Answer::Colour(c) => colour(c, false, false).into(),
            Answer::Shape(s) => SHAPES[s as usize].0.into(),
            Answer::Number(n) => n.to_string(),
            Answer::Place(cell) => PLACES[cell.0].into(),
            Answer::Left => "a la izquierda".into(),
            Answer::Right => "a la derecha".into(),
            Answer::Above => "encima".into(),
            Answer::Below => "debajo".into(),
            Answer::Word(word) => word.into(),
        }
    }

    fn alternatives(&self, answer: Answer) -> Vec<String> {
        match answer {
            Answer::Colour(c) => {
                let mut forms = vec![colour(c, true, false).to_string(), format!("la {}", colour(c, true, false))];
                if c == Colour::Purple {
                    forms.extend(["violeta".to_string(), "lila".to_string()]);
                }
                forms
            }
            Answer::Shape(s) => {
                let (noun, _, feminine) = SHAPES[s as usize];
                let un = if feminine { "una" } else { "un" };
                vec![format!("{un} {noun}"), the(Reference::Shape(s))]
            }
            Answer::Number(1) => vec!["uno".into(), "una".into(), "un".into()],
            Answer::Number(n) => vec![number(n).into()],
            Answer::Place(cell) => vec![PLACES[cell.0].replace("en el ", "")],
            Answer::Left => vec!["izquierda".into()],
            Answer::Right => vec!["derecha".into()],
            Answer::Above => vec!["arriba".into()],
            Answer::Below => vec!["abajo".into()],
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
                let places = listed(&objects.iter().map(|o| PLACES[o.cell.0].to_string()).collect::<Vec<_>>(), "y");
                let all = match objects.len() {
                    1 => "una figura".to_string(),
                    n => format!("{} figuras", number(n)),
                };
                vec![
                    by_place(self, objects, ["y", "nada"], rng),
                    by_object(self, objects, "y"),
                    fill(&["{A}: {g}.", "La imagen muestra {a}: {g}."], &[("{A}", capital(&all)), ("{a}", all), ("{g}", all_known)], rng),
                    format!("{}.", capital(&shapes)),
                    format!("{}.", capital(&colours)),
                    format!("{} {places}.", ["Una figura", "Figuras"][plural(objects.len())]),
                ]
            }
            Content::Word { word, colour: c } => {
                let values = [("{w}", word.to_string()), ("{c}", colour(*c, false, false).to_string()), ("{f}", colour(*c, true, true).to_string())];
                vec![fill(&["La palabra \"{w}\" en {c}.", "\"{w}\" está escrito en letras {f}."], &values, rng)]
            }
            Content::Chart(bars) => vec![chart(bars)],
        }
    }
}

fn chart(bars: &[Bar]) -> String {
    let names = listed(&bars.iter().map(|b| colour(b.colour, true, false).to_string()).collect::<Vec<_>>(), "y");
    let highest = bars.iter().max_by_key(|b| b.height).map_or("", |b| colour(b.colour, true, false));
    let lowest = bars.iter().min_by_key(|b| b.height).map_or("", |b| colour(b.colour, true, false));
    let count = number(bars.len());
    format!("Un gráfico de barras con {count} barras: {names}. La barra {highest} es la más alta, la {lowest} la más baja.")
}

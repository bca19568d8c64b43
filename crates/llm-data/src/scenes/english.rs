//! English.

use super::ask::{Answer, Ask, Reference};
use super::scene::{Bar, Cell, Colour, Content, Object, Scene, Shape};
use super::wording::{Wording, by_object, by_place, capital, counted, fill, listed, plural};
use llm_run::Rng;

pub(super) struct English;

const SHAPES: [[&str; 2]; 6] =
    [["circle", "circles"], ["square", "squares"], ["triangle", "triangles"], ["star", "stars"], ["diamond", "diamonds"], ["cross", "crosses"]];
const COLOURS: [&str; 8] = ["red", "green", "blue", "yellow", "orange", "purple", "black", "white"];
const NUMBERS: [&str; 10] = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const PLACES: [&str; 9] =
    ["top left", "top centre", "top right", "centre left", "centre", "centre right", "bottom left", "bottom centre", "bottom right"];

fn shape(shape: Shape) -> &'static str {
    SHAPES[shape as usize][0]
}

fn colour(colour: Colour) -> &'static str {
    COLOURS[colour as usize]
}

fn number(n: usize) -> &'static str {
    NUMBERS.get(n).copied().unwrap_or("many")
}

fn at(cell: Cell) -> String {
    format!("{} {}", if PLACES[cell.0] == "centre" { "in the" } else { "at the" }, PLACES[cell.0])
}

fn the(reference: Reference) -> String {
    match reference {
        Reference::Only => "the shape".into(),
        Reference::Shape(s) => format!("the {}", shape(s)),
        Reference::Colour(c) => format!("the {} shape", colour(c)),
        Reference::Both(c, s) => format!("the {} {}", colour(c), shape(s)),
        Reference::At(cell) => format!("the shape {}", at(cell)),
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// `a small red star`.
fn indefinite(object: &Object) -> String {
    let words = format!("{}{} {}", if object.small { "small " } else { "" }, colour(object.colour), shape(object.shape));
    format!("{} {words}", article(&words))
}

/// `two red circles and one star`, by what `words` makes of each kind and number.
fn summed<K: PartialEq>(objects: &[Object], key: impl Fn(&Object) -> K, words: impl Fn(&K, usize) -> String) -> String {
    listed(&counted(objects, key).iter().map(|(k, n)| format!("{} {}", number(*n), words(k, *n))).collect::<Vec<_>>(), "and")
}

impl Wording for English {
    fn question(&self, ask: Ask, rng: &mut Rng) -> String {
        match ask {
            Ask::ColourOf(r) => fill(&["What colour is {x}?", "Which colour does {x} have?", "Name the colour of {x}."], &[("{x}", the(r))], rng),
            Ask::ShapeOf(Reference::Colour(c)) => {
                fill(&["Which shape is {c}?", "What shape is the {c} one?", "Name the {c} shape."], &[("{c}", colour(c).into())], rng)
            }
            Ask::ShapeOf(Reference::At(cell)) => {
                fill(&["Which shape is {p}?", "What do you see {p}?", "Name the shape {p}."], &[("{p}", at(cell))], rng)
            }
            Ask::ShapeOf(_) => fill(&["What shape is it?", "Which shape is shown?", "Name the shape."], &[], rng),
            Ask::CountAll => fill(&["How many shapes are there?", "How many shapes do you see?", "Count the shapes."], &[], rng),
            Ask::CountShape(s) => {
                fill(&["How many {s} are there?", "How many {s} do you see?", "Count the {s}."], &[("{s}", SHAPES[s as usize][1].into())], rng)
            }
            Ask::CountColour(c) => {
                fill(&["How many shapes are {c}?", "How many {c} shapes do you see?", "Count the {c} shapes."], &[("{c}", colour(c).into())], rng)
            }
            Ask::Where(r) => fill(&["Where is {x}?", "In which part of the picture is {x}?", "Where do you see {x}?"], &[("{x}", the(r))], rng),
            Ask::Side(a, b) => {
                fill(&["Is {x} to the left or to the right of {y}?", "Left or right of {y}: where is {x}?"], &[("{x}", the(a)), ("{y}", the(b))], rng)
            }
            Ask::Level(a, b) => fill(&["Is {x} above or below {y}?", "Above or below {y}: where is {x}?"], &[("{x}", the(a)), ("{y}", the(b))], rng),
            Ask::Word => fill(&["Which word is written here?", "What does it say?", "Read the word."], &[], rng),
            Ask::ColourOfWord => {
                fill(&["What colour is the word?", "In which colour is the word written?", "Name the colour of the word."], &[], rng)
            }
            Ask::Highest => {
                fill(&["What colour is the highest bar?", "In which colour is the highest bar?", "Name the colour of the highest bar."], &[], rng)
            }
            Ask::Lowest => {
                fill(&["What colour is the lowest bar?", "In which colour is the lowest bar?", "Name the colour of the lowest bar."], &[], rng)
            }
            Ask::Bars => fill(&["How many bars are there?", "How many bars does the chart have?", "Count the bars."], &[], rng),
            Ask::FirstBar => fill(&["What colour is the first bar from the left?", "Name the colour of the first bar from the left."], &[], rng),
        }
    }

    fn answer(&self, answer: Answer) -> String {
        match answer {
            Answer::Colour(c) => colour(c).into(),
            Answer::Shape(s) => shape(s).into(),
            Answer::Number(n) => n.to_string(),
            Answer::Place(cell) => PLACES[cell.0].into(),
            Answer::Left => "left".into(),
            Answer::Right => "right".into(),
            Answer::Above => "above".into(),
            Answer::Below => "below".into(),
            Answer::Word(word) => word.into(),
        }
    }

    fn alternatives(&self, answer: Answer) -> Vec<String> {
        let own = self.answer(answer);
        match answer {
            Answer::Colour(Colour::Purple) => vec!["violet".into()],
            Answer::Shape(s) => vec![format!("{} {}", article(shape(s)), shape(s)), format!("the {}", shape(s))],
            Answer::Number(n) => vec![number(n).into()],
            Answer::Place(cell) => vec![at(cell), own.replace("centre", "center"), own.replace("centre", "middle")],
            Answer::Left | Answer::Right => vec![format!("to the {own}"), format!("on the {own}")],
            _ => Vec::new(),
        }
    }

    fn object(&self, object: &Object) -> String {
        indefinite(object)
    }

    fn place(&self, cell: Cell) -> String {
        at(cell)
    }

    fn captions(&self, scene: &Scene, rng: &mut Rng) -> Vec<String> {
        match &scene.content {
            Content::Shapes(objects) => {
                let noun = |s: Shape, n| SHAPES[s as usize][plural(n)];
                let all_known = summed(objects, |o| (o.colour, o.shape), |(c, s), n| format!("{} {}", colour(*c), noun(*s, n)));
                let shapes = summed(objects, |o| o.shape, |s, n| noun(*s, n).to_string());
                let colours = summed(objects, |o| o.colour, |c, n| format!("{} {}", colour(*c), ["shape", "shapes"][plural(n)]));
                let places = listed(&objects.iter().map(|o| at(o.cell)).collect::<Vec<_>>(), "and");
                let all = match objects.len() {
                    1 => "one shape".to_string(),
                    n => format!("{} shapes", number(n)),
                };
                vec![
                    by_place(self, objects, ["and", "nothing"], rng),
                    by_object(self, objects, "and"),
                    fill(&["{A}: {g}.", "The picture shows {a}: {g}."], &[("{A}", capital(&all)), ("{a}", all), ("{g}", all_known)], rng),
                    format!("{}.", capital(&shapes)),
                    format!("{}.", capital(&colours)),
                    format!("{} {places}.", ["A shape", "Shapes"][plural(objects.len())]),
                ]
            }
            Content::Word { word, colour: c } => {
                let values = [("{w}", word.to_string()), ("{c}", colour(*c).to_string())];
                vec![fill(&["The word \"{w}\" in {c}.", "\"{w}\" is written in {c} letters."], &values, rng)]
            }
            Content::Chart(bars) => vec![chart(bars)],
        }
    }
}

fn chart(bars: &[Bar]) -> String {
    let names = listed(&bars.iter().map(|b| colour(b.colour).to_string()).collect::<Vec<_>>(), "and");
    let highest = bars.iter().max_by_key(|b| b.height).map_or("", |b| colour(b.colour));
    let lowest = bars.iter().min_by_key(|b| b.height).map_or("", |b| colour(b.colour));
    format!("A bar chart with {} bars: {names}. The {highest} bar is the highest, the {lowest} one the lowest.", number(bars.len()))
}

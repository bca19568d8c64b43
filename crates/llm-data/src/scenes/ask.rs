//! What can be asked about a scene and what is the answer, without words.
//!
//! Every question has one right answer that the picture alone gives: an object is referred to by its shape, its colour,
//! both, or its place only where that names no other object.

use super::scene::{Bar, Cell, Colour, Content, Object, Scene, Shape};
use llm_run::Rng;

/// How a question points at an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    /// The only one there is.
    Only,
    Shape(Shape),
    Colour(Colour),
    Both(Colour, Shape),
    At(Cell),
}

impl Reference {
    /// The object that it points at.
    pub(super) fn find(self, objects: &[Object]) -> Option<Object> {
        let fits = |o: &Object| match self {
            Reference::Only => true,
            Reference::Shape(shape) => o.shape == shape,
            Reference::Colour(colour) => o.colour == colour,
            Reference::Both(colour, shape) => (o.colour, o.shape) == (colour, shape),
            Reference::At(cell) => o.cell == cell,
        };
        objects.iter().copied().find(fits)
    }
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    ColourOf(Reference),
    ShapeOf(Reference),
    CountAll,
    CountShape(Shape),
    CountColour(Colour),
    Where(Reference),
    /// Left or right of the second.
    Side(Reference, Reference),
    /// Above or below the second.
    Level(Reference, Reference),
    Word,
    ColourOfWord,
    Highest,
    Lowest,
    Bars,
    FirstBar,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Colour(Colour),
    Shape(Shape),
    Number(usize),
    Place(Cell),
    Left,
    Right,
    Above,
    Below,
    Word(&'static str),
}

impl Ask {
    /// The objects that it names.
    pub(super) fn references(self) -> Vec<Reference> {
        match self {
            Ask::ColourOf(r) | Ask::ShapeOf(r) | Ask::Where(r) => vec![r],
            Ask::Side(a, b) | Ask::Level(a, b) => vec![a, b],
            _ => Vec::new(),
        }
    }

    /// What has to be seen.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Ask::ColourOf(_) | Ask::ColourOfWord => "colour",
            Ask::ShapeOf(_) => "shape",
            Ask::CountAll | Ask::CountShape(_) | Ask::CountColour(_) => "count",
            Ask::Where(_) | Ask::Side(..) | Ask::Level(..) => "position",
            Ask::Word => "word",
            Ask::Highest | Ask::Lowest | Ask::Bars | Ask::FirstBar => "chart",
        }
    }
}

/// Some questions about a scene with their answers.
pub(super) fn questions(scene: &Scene, rng: &mut Rng) -> Vec<(Ask, Answer)> {
    match &scene.content {
        Content::Shapes(objects) => about_objects(objects, rng),
        Content::Word { word, colour } => vec![(Ask::Word, Answer::Word(word)), (Ask::ColourOfWord, Answer::Colour(*colour))],
        Content::Chart(bars) => about_bars(bars, rng),
    }
}

fn about_objects(objects: &[Object], rng: &mut Rng) -> Vec<(Ask, Answer)> {
    let mut asked = vec![(Ask::CountAll, Answer::Number(objects.len()))];
    let object = *rng.pick(objects);
    let same_shape = objects.iter().filter(|o| o.shape == object.shape).count();
    let same_colour = objects.iter().filter(|o| o.colour == object.colour).count();
    if objects.len() > 1 {
        asked.push(if rng.chance(0.5) {
            (Ask::CountShape(object.shape), Answer::Number(same_shape))
        } else {
            (Ask::CountColour(object.colour), Answer::Number(same_colour))
        });
    }
    let object = *rng.pick(objects);
    if let Some(reference) = refer(objects, object, Asked::Colour, rng) {
        asked.push((Ask::ColourOf(reference), Answer::Colour(object.colour)));
    }
    let object = *rng.pick(objects);
    if let Some(reference) = refer(objects, object, Asked::Shape, rng) {
        asked.push((Ask::ShapeOf(reference), Answer::Shape(object.shape)));
    }
    asked.extend(position(objects, rng));
    asked
}

/// What the question is after, which its reference must not say.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Asked {
    Colour,
    Shape,
    Place,
}

/// A phrase that only this object fits.
fn refer(objects: &[Object], object: Object, asked: Asked, rng: &mut Rng) -> Option<Reference> {
    let unique = |same: &dyn Fn(&Object) -> bool| objects.iter().filter(|o| same(o)).count() == 1;
    let mut fitting = Vec::new();
    if objects.len() == 1 {
        fitting.push(Reference::Only);
    }
    if asked != Asked::Shape && unique(&|o| o.shape == object.shape) {
        fitting.push(Reference::Shape(object.shape));
    }
    if asked != Asked::Colour && unique(&|o| o.colour == object.colour) {
        fitting.push(Reference::Colour(object.colour));
    }
    // Both only where neither suffices.
    if fitting.is_empty() && asked == Asked::Place && unique(&|o| (o.colour, o.shape) == (object.colour, object.shape)) {
        fitting.push(Reference::Both(object.colour, object.shape));
    }
    // By its place in every third question, and where nothing else will do.
    if asked != Asked::Place && objects.len() > 1 && (fitting.is_empty() || rng.chance(1.0 / 3.0)) {
        return Some(Reference::At(object.cell));
    }
    if fitting.is_empty() { None } else { Some(*rng.pick(&fitting)) }
}

/// Where one object is, or how two lie to each other.
fn position(objects: &[Object], rng: &mut Rng) -> Option<(Ask, Answer)> {
    let mut order: Vec<Object> = objects.to_vec();
    rng.shuffle(&mut order);
    let mut named: Vec<(Object, Reference)> = Vec::new();
    for object in order {
        if let Some(reference) = refer(objects, object, Asked::Place, rng) {
            named.push((object, reference));
        }
    }
    let (object, reference) = *named.first()?;
    if let Some((other, its)) = named.get(1).copied()
        && rng.chance(0.5)
    {
        let (left, above) = (object.cell.column() < other.cell.column(), object.cell.row() < other.cell.row());
        let side = (Ask::Side(reference, its), if left { Answer::Left } else { Answer::Right });
        let level = (Ask::Level(reference, its), if above { Answer::Above } else { Answer::Below });
        let (columns, rows) = (object.cell.column() != other.cell.column(), object.cell.row() != other.cell.row());
        return Some(if columns && (!rows || rng.chance(0.5)) { side } else { level });
    }
    Some((Ask::Where(reference), Answer::Place(object.cell)))
}

fn about_bars(bars: &[Bar], rng: &mut Rng) -> Vec<(Ask, Answer)> {
    let by_height = |bar: &&Bar| bar.height;
    let mut asked = vec![(Ask::Bars, Answer::Number(bars.len()))];
    asked.extend(bars.iter().max_by_key(by_height).map(|b| (Ask::Highest, Answer::Colour(b.colour))));
    asked.extend(if rng.chance(0.5) {
        bars.iter().min_by_key(by_height).map(|b| (Ask::Lowest, Answer::Colour(b.colour)))
    } else {
        bars.first().map(|b| (Ask::FirstBar, Answer::Colour(b.colour)))
    });
    asked
}

//! What a scene shows, without pixels and without words: objects on a 3 x 3 grid, a printed word, or a bar chart.
//!
//! The *key* of a scene is this description without its background. Which side a scene is on, training or held-out, is a
//! function of the seed and the key alone, so no scene of one side can occur on the other, however its pixels vary.

use llm_run::{Rng, Seed};

/// Side of the grid of places.
pub(super) const GRID: usize = 3;
/// Heights of bars, in steps of the chart's height.
pub(super) const MOST_HEIGHT: usize = 12;

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident: $($variant:ident),+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $(#[doc = stringify!($variant)] $variant),+ }
        impl $name {
            /// All of them, in the order of the word tables.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
        }
    };
}

choices! {
    /// Shape of an object.
    Shape: Circle, Square, Triangle, Star, Diamond, Cross
}
choices! {
    /// Named colour of an object, a word or a bar.
    Colour: Red, Green, Blue, Yellow, Orange, Purple, Black, White
}
choices! {
    /// What is behind it.
    Background: Grey, Sky, Cream, Slate, Navy, Umber
}

impl Background {
    /// Black is not drawn on dark grounds, nor white on light ones.
    pub(super) fn is_dark(self) -> bool {
        self >= Background::Slate
    }
}

/// A place of the grid, 0 at the top left, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell(pub usize);

impl Cell {
    /// Row from the top.
    pub fn row(self) -> usize {
        self.0 / GRID
    }

    /// Column from the left.
    pub fn column(self) -> usize {
        self.0 % GRID
    }
}

/// A coloured shape somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Where; no two objects share a place.
    pub cell: Cell,
    /// Its shape.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// One of two sizes.
    pub small: bool,
}

/// A bar of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Its colour; no two bars share one.
    pub colour: Colour,
    /// 2 to 12.
    pub height: usize,
}

/// Kinds of scenes, for shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One to four objects, some of them alike.
    Shapes,
    /// One to nine objects of any shape and colour.
    Crowd,
    /// A printed word.
    Word,
    /// Two to five bars.
    Chart,
}

/// What is to be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Objects in the order of their places.
    Shapes(Vec<Object>),
    /// A short word in capitals.
    Word {
        /// The letters.
        word: &'static str,
        /// Their colour.
        colour: Colour,
    },
    /// Two to five bars from left to right; one is the highest and one the lowest, clearly.
    Chart(Vec<Bar>),
}

/// A scene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// What is shown.
    pub content: Content,
    /// On which ground.
    pub background: Background,
}

/// Words of three or four letters of the three languages, none of them a colour.
pub(super) const WORDS: [&str; 36] = [
    "SUN", "CAT", "DOG", "BUS", "CUP", "HAT", "SKY", "TREE", "FISH", "BOOK", "MOON", "KEY", "HUT", "TAG", "BALL", "HAUS", "BROT", "MOND", "ZUG",
    "UHR", "TOR", "WALD", "BERG", "EIS", "SOL", "PAN", "LUZ", "MAR", "RIO", "CASA", "GATO", "LUNA", "FLOR", "MESA", "VIDA", "AGUA",
];

impl Scene {
    /// Any scene of that kind.
    pub fn draw(kind: Kind, rng: &mut Rng) -> Self {
        let background = *rng.pick(Background::ALL);
        let hidden = if background.is_dark() { Colour::Black } else { Colour::White };
        let colours: Vec<Colour> = Colour::ALL.iter().copied().filter(|c| *c != hidden).collect();
        let content = match kind {
            Kind::Shapes => Content::Shapes(objects(&colours, rng)),
            Kind::Crowd => Content::Shapes(crowd(&colours, rng)),
            Kind::Word => Content::Word { word: WORDS[rng.below(WORDS.len())], colour: *rng.pick(&colours) },
            Kind::Chart => Content::Chart(bars(colours, rng)),
        };
        Self { content, background }
    }

    /// The description that decides training or held-out.
    pub fn key(&self) -> String {
        format!("{:?}", self.content)
    }

    /// The objects; none on other pictures.
    pub(super) fn objects(&self) -> &[Object] {
        match &self.content {
            Content::Shapes(objects) => objects,
            _ => &[],
        }
    }

    /// True when the scene belongs to the held-out side: a fifth of all descriptions does.
    pub fn is_heldout(&self, seed: u64) -> bool {
        Seed(seed).stream("side").stream(&self.key()).rng().chance(0.2)
    }
}

/// Objects from a few shapes and colours, so that some occur twice and counting takes looking.
fn objects(colours: &[Colour], rng: &mut Rng) -> Vec<Object> {
    let some = |n: usize, rng: &mut Rng| (0..n).map(|_| rng.below(1 << 16)).collect::<Vec<_>>();
    let shapes: Vec<Shape> = some(1 + rng.below(3), rng).into_iter().map(|i| Shape::ALL[i % Shape::ALL.len()]).collect();
    let colours: Vec<Colour> = some(1 + rng.below(4), rng).into_iter().map(|i| colours[i % colours.len()]).collect();
    let object = |cell, rng: &mut Rng| Object { cell, shape: *rng.pick(&shapes), colour: *rng.pick(&colours), small: rng.chance(0.4) };
    cells(4, rng).into_iter().map(|cell| object(cell, rng)).collect()
}

/// Objects that tell nothing about each other.
fn crowd(colours: &[Colour], rng: &mut Rng) -> Vec<Object> {
    let object = |cell, rng: &mut Rng| Object { cell, shape: *rng.pick(Shape::ALL), colour: *rng.pick(colours), small: rng.chance(0.4) };
    cells(GRID * GRID, rng).into_iter().map(|cell| object(cell, rng)).collect()
}

/// One to `most` places in order.
fn cells(most: usize, rng: &mut Rng) -> Vec<Cell> {
    let mut cells: Vec<Cell> = (0..GRID * GRID).map(Cell).collect();
    rng.shuffle(&mut cells);
    cells.truncate(1 + rng.below(most));
    cells.sort_unstable();
    cells
}

fn bars(mut colours: Vec<Colour>, rng: &mut Rng) -> Vec<Bar> {
    rng.shuffle(&mut colours);
    colours.truncate(2 + rng.below(4));
    loop {
        let bars: Vec<Bar> = colours.iter().map(|&colour| Bar { colour, height: rng.range(2, MOST_HEIGHT as i64) as usize }).collect();
        let mut heights: Vec<usize> = bars.iter().map(|b| b.height).collect();
        heights.sort_unstable();
        if heights[1] >= heights[0] + 2 && heights[heights.len() - 1] >= heights[heights.len() - 2] + 2 {
            return bars;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drawn_scene_keeps_its_promises() {
        let (mut held, mut most) = (0, 0);
        for i in 0..3000 {
            let kind = [Kind::Shapes, Kind::Word, Kind::Chart, Kind::Crowd][i % 4];
            let scene = Scene::draw(kind, &mut Seed(3).at(i as u64).rng());
            held += usize::from(scene.is_heldout(5));
            let fits = |c: Colour| c != if scene.background.is_dark() { Colour::Black } else { Colour::White };
            match &scene.content {
                Content::Shapes(objects) => {
                    most = most.max(objects.len());
                    assert!((1..=if kind == Kind::Crowd { 9 } else { 4 }).contains(&objects.len()) && objects.iter().all(|o| fits(o.colour)));
                    assert!(objects.windows(2).all(|w| w[0].cell < w[1].cell), "places are distinct and in order");
                }
                Content::Word { word, colour } => assert!((3..=4).contains(&word.len()) && fits(*colour)),
                Content::Chart(bars) => {
                    assert!((2..=5).contains(&bars.len()) && bars.iter().all(|b| fits(b.colour)));
                    assert!(bars.iter().enumerate().all(|(i, b)| bars[..i].iter().all(|other| other.colour != b.colour)));
                }
            }
        }
        assert!((500..700).contains(&held), "a fifth is held out, got {held} of 3000");
        assert_eq!(most, 9, "every place can have an object");
    }
}

//! A small rasteriser: filled shapes with smooth edges on a noisy ground.
//!
//! A pixel's coverage is counted on 4 x 4 points inside it. Coordinates are in 64ths of the image's side, so a scene looks
//! the same at any size.

use super::font;
use super::scene::{Background, Bar, Cell, Colour, Content, GRID, MOST_HEIGHT, Scene, Shape};
use llm_run::Rng;

/// Points per pixel and axis.
const SUBSAMPLES: usize = 4;
/// Side of the image in drawing units.
const SIDE: f32 = 64.0;

/// Rows of red, green, blue.
pub(super) struct Canvas {
    size: usize,
    pub data: Vec<u8>,
}

/// A box in drawing units: left, top, right, bottom.
type Bounds = [f32; 4];

impl Canvas {
    fn new(size: usize, colour: [u8; 3]) -> Self {
        Self { size, data: colour.repeat(size * size) }
    }

    /// Paint where `inside(x, y)` holds; nothing outside of `bounds` is looked at.
    fn fill(&mut self, bounds: Bounds, colour: [u8; 3], inside: impl Fn(f32, f32) -> bool) {
        let scale = self.size as f32 / SIDE;
        let pixel = |v: f32| ((v * scale).max(0.0) as usize).min(self.size);
        let (left, top) = (pixel(bounds[0] - 1.0), pixel(bounds[1] - 1.0));
        let (right, bottom) = (pixel(bounds[2] + 2.0), pixel(bounds[3] + 2.0));
        let at = |pixel: usize, sub: usize| (pixel as f32 + (sub as f32 + 0.5) / SUBSAMPLES as f32) / scale;
        for y in top..bottom {
            for x in left..right {
                let points = (0..SUBSAMPLES * SUBSAMPLES).filter(|i| inside(at(x, i % SUBSAMPLES), at(y, i / SUBSAMPLES))).count();
                let share = points as f32 / (SUBSAMPLES * SUBSAMPLES) as f32;
                for (value, new) in self.data[(y * self.size + x) * 3..][..3].iter_mut().zip(colour) {
                    *value = (f32::from(*value) * (1.0 - share) + f32::from(new) * share).round() as u8;
                }
            }
        }
    }

    /// Lighten and darken blocks of 2 x 2 pixels a little.
    fn noise(&mut self, amount: i64, rng: &mut Rng) {
        let blocks = self.size.div_ceil(2);
        let offsets: Vec<i64> = (0..blocks * blocks).map(|_| rng.range(-amount, amount)).collect();
        for (i, pixel) in self.data.chunks_exact_mut(3).enumerate() {
            let offset = offsets[i / self.size / 2 * blocks + i % self.size / 2];
            pixel.iter_mut().for_each(|v| *v = (i64::from(*v) + offset).clamp(0, 255) as u8);
        }
    }
}

/// Even-odd rule.
fn in_polygon(points: &[(f32, f32)], x: f32, y: f32) -> bool {
    let mut inside = false;
    for (i, &(x1, y1)) in points.iter().enumerate() {
        let (x0, y0) = points[(i + points.len() - 1) % points.len()];
        if (y1 > y) != (y0 > y) && x < (x0 - x1) * (y - y1) / (y0 - y1) + x1 {
            inside = !inside;
        }
    }
    inside
}

/// Corners around the origin for radius 1; the circle has none.
fn corners(shape: Shape) -> Vec<(f32, f32)> {
    let on = |radius: f32, degrees: f32| (radius * degrees.to_radians().sin(), -radius * degrees.to_radians().cos());
    match shape {
        Shape::Circle => Vec::new(),
        Shape::Square => vec![(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
        Shape::Triangle => [0.0, 120.0, 240.0].map(|d| on(1.12, d)).map(|(x, y)| (x, y + 0.2)).to_vec(),
        Shape::Star => (0..10).map(|i| on(if i % 2 == 0 { 1.15 } else { 0.46 }, 36.0 * i as f32)).collect(),
        Shape::Diamond => vec![(0.0, -1.15), (0.72, 0.0), (0.0, 1.15), (-0.72, 0.0)],
        Shape::Cross => {
            let (a, b) = (0.32, 1.02);
            vec![(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        }
    }
}

fn base(colour: Colour) -> [u8; 3] {
    match colour {
        Colour::Red => [214, 40, 40],
        Colour::Green => [46, 158, 68],
        Colour::Blue => [44, 92, 214],
        Colour::Yellow => [246, 216, 48],
        Colour::Orange => [244, 132, 24],
        Colour::Purple => [140, 64, 176],
        Colour::Black => [20, 20, 22],
        Colour::White => [248, 248, 246],
    }
}

fn ground(background: Background) -> [u8; 3] {
    match background {
        Background::Grey => [206, 206, 204],
        Background::Sky => [186, 208, 226],
        Background::Cream => [226, 214, 190],
        Background::Slate => [70, 74, 82],
        Background::Navy => [36, 44, 70],
        Background::Umber => [72, 58, 50],
    }
}

/// A colour a little off its name's middle.
fn shade(colour: [u8; 3], by: i64, rng: &mut Rng) -> [u8; 3] {
    colour.map(|v| (i64::from(v) + rng.range(-by, by)).clamp(0, 255) as u8)
}

/// The pixels of a scene; place, size, turn and shade of things vary with `rng` within what their description allows.
pub(super) fn render(scene: &Scene, size: usize, rng: &mut Rng) -> Canvas {
    let mut canvas = Canvas::new(size, shade(ground(scene.background), 8, rng));
    match &scene.content {
        Content::Shapes(objects) => {
            for object in objects {
                object_at(&mut canvas, object.cell, object.shape, object.small, shade(base(object.colour), 10, rng), rng);
            }
        }
        Content::Word { word, colour } => print(&mut canvas, word, shade(base(*colour), 10, rng), rng),
        Content::Chart(bars) => {
            let line = if scene.background.is_dark() { [225; 3] } else { [40; 3] };
            chart(&mut canvas, bars, line, rng);
        }
    }
    canvas.noise(4, rng);
    canvas
}

/// Uniform in `low..high`.
fn between(low: f32, high: f32, rng: &mut Rng) -> f32 {
    low + (high - low) * rng.uniform() as f32
}

fn object_at(canvas: &mut Canvas, cell: Cell, shape: Shape, small: bool, colour: [u8; 3], rng: &mut Rng) {
    let width = SIDE / GRID as f32;
    let radius = if small { between(6.8, 7.4, rng) } else { between(8.8, 9.4, rng) };
    let free = (width / 2.0 - radius * 1.15).clamp(0.0, 1.5);
    let mut centre = |index: usize| (index as f32 + 0.5) * width + between(-free, free, rng);
    let (x0, y0) = (centre(cell.column()), centre(cell.row()));
    let (sin, cos) = between(-0.15, 0.15, rng).sin_cos();
    let points: Vec<(f32, f32)> =
        corners(shape).into_iter().map(|(x, y)| (x0 + radius * (x * cos - y * sin), y0 + radius * (x * sin + y * cos))).collect();
    let reach = radius * 1.4;
    canvas.fill([x0 - reach, y0 - reach, x0 + reach, y0 + reach], colour, |x, y| match shape {
        Shape::Circle => (x - x0).powi(2) + (y - y0).powi(2) <= radius * radius,
        _ => in_polygon(&points, x, y),
    });
}

fn print(canvas: &mut Canvas, word: &str, colour: [u8; 3], rng: &mut Rng) {
    let letters = word.len() as f32;
    let columns = letters * font::WIDTH as f32 + (letters - 1.0) * font::GAP;
    let scale = between(1.9, 56.0 / columns, rng).min(3.0);
    let (width, height) = (columns * scale, font::HEIGHT as f32 * scale);
    let left = between(3.0, SIDE - 3.0 - width, rng);
    let top = between(4.0, SIDE - 4.0 - height, rng);
    let step = (font::WIDTH as f32 + font::GAP) * scale;
    canvas.fill([left, top, left + width, top + height], colour, |x, y| {
        let letter = ((x - left) / step).floor();
        let (column, row) = ((x - left - letter * step) / scale, (y - top) / scale);
        letter >= 0.0 && row >= 0.0 && word.as_bytes().get(letter as usize).is_some_and(|l| font::is_set(*l, column as usize, row as usize))
    });
}

fn chart(canvas: &mut Canvas, bars: &[Bar], line: [u8; 3], rng: &mut Rng) {
    let (left, right) = (between(6.0, 9.0, rng), between(56.0, 60.0, rng));
    let (floor, unit) = (between(55.0, 58.0, rng), between(3.7, 4.2, rng));
    let step = (right - left) / bars.len() as f32;
    let width = (step * between(0.6, 0.75, rng)).min(14.0);
    for (i, bar) in bars.iter().enumerate() {
        let x0 = left + step * (i as f32 + 0.5) - width / 2.0;
        let y0 = floor - unit * bar.height.min(MOST_HEIGHT) as f32;
        let colour = shade(base(bar.colour), 10, rng);
        canvas.fill([x0, y0, x0 + width, floor], colour, |x, y| (x0..x0 + width).contains(&x) && (y0..floor).contains(&y));
    }
    canvas.fill([left - 2.0, floor, right + 1.0, floor + 1.2], line, |x, y| {
        (left - 2.0..right + 1.0).contains(&x) && (floor..floor + 1.2).contains(&y)
    });
    canvas.fill([left - 2.0, 5.0, left - 0.8, floor], line, |x, y| (left - 2.0..left - 0.8).contains(&x) && (5.0..floor).contains(&y));
}

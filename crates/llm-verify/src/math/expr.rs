//! Expressions, and when two of them are equal. Three ways, the surest first:
//!
//! 1. *exact*: both are fractions of 128 bits;
//! 2. *modular*: both are rational functions (of the variables, of pi and e, of i): they are evaluated in two prime fields at
//!    points drawn by hash. Equal functions agree at every point; different ones of degree d agree at a point with
//!    probability d / p, p about 2^62 (Schwartz 1980, Zippel 1979). Numbers may have any size: `9^{9^9}` is a few products.
//! 3. *floating point*: everything else (roots, logarithms, angles) at points of several sizes and signs. A value carries a bound of its own
//!    rounding error, so `\sin^2 x + \cos^2 x - 1` is 0 while `0.3333333333333` is not `1/3`. Points where one of the two has no
//!    real value are left out.
//!
//! An expression has at most [`super::parse`]'s number of characters, and each way visits every node once, so time is bounded
//! without a clock. The points are a function of the variables' names: no randomness, the same verdict everywhere.

use super::rational::Rational;

/// Functions by name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Function {
    Sqrt,
    Root,
    Abs,
    Factorial,
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Ln,
    Log,
    Exp,
    Floor,
    Ceil,
    Binomial,
}

/// Numbers with a letter of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Constant {
    Pi,
    E,
    I,
    /// Has no value; equal to itself only.
    Infinity,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr {
    /// Digits, at most one point.
    Literal(String),
    Constant(Constant),
    Variable(String),
    Sum(Vec<Expr>),
    Negative(Box<Expr>),
    Product(Vec<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    Call(Function, Vec<Expr>),
}

impl Expr {
    /// A number that is written down, not a calculation: digits, a fraction of them, a mixed number, digits times a power of ten.
    pub(crate) fn is_number(&self) -> bool {
        let digits = |e: &Expr| match e {
            Expr::Negative(inner) => matches!(**inner, Expr::Literal(_)),
            e => matches!(e, Expr::Literal(_)),
        };
        let fraction = |e: &Expr| matches!(e, Expr::Quotient(a, b) if digits(a) && digits(b));
        match self {
            Expr::Negative(inner) => !matches!(**inner, Expr::Negative(_)) && inner.is_number(),
            Expr::Sum(terms) => matches!(terms.as_slice(), [whole, part] if matches!(whole, Expr::Literal(_)) && fraction(part)),
            Expr::Product(factors) => match factors.as_slice() {
                [a, Expr::Power(base, exponent)] => digits(a) && **base == Expr::Literal("10".into()) && digits(exponent),
                _ => false,
            },
            e => digits(e) || fraction(e),
        }
    }
}

/// Points of the floating point way, and how many must have been compared.
const POINTS: usize = 10;
const ENOUGH: usize = 2;
/// Points of the modular way, in each field.
const DRAWS: u64 = 3;
/// How much larger than its own bound a rounding error may be.
const SLACK: f64 = 16.0;
/// Largest error, relative to the value or to 1, of a value that is compared at all.
const MOST_ERROR: f64 = 1e-9;
/// Rounding of one operation.
const EPSILON: f64 = f64::EPSILON;
/// Largest argument whose factorial is multiplied out.
const MOST_FACTORS: i128 = 5000;

/// Are `a` and `b` the same number or the same function?
///
/// `tolerance` is a relative difference that numbers without variables may have; 0 asks for equality.
pub(crate) fn same(a: &Expr, b: &Expr, tolerance: f64) -> bool {
    if a == b {
        return true;
    }
    if let (Some(x), Some(y)) = (exact(a), exact(b)) {
        return x == y || within(x.to_f64(), y.to_f64(), tolerance);
    }
    match modular(a, b) {
        Some(true) => return true,
        Some(false) if tolerance == 0.0 => return false,
        _ => {}
    }
    floating(a, b, tolerance)
}

/// Do the equations `a = 0` and `b = 0` say the same: is one a multiple of the other by a number other than 0?
pub(crate) fn proportional(a: &Expr, b: &Expr) -> bool {
    // a(p) * b(q) = a(q) * b(p) for all p and q.
    let mut compared = 0;
    for point in 1..POINTS {
        let values = [approximate(a, 0), approximate(b, point), approximate(a, point), approximate(b, 0)];
        let [a0, b1, a1, b0] = values;
        let (left, right) = (a0.times(b1), a1.times(b0));
        if !left.known() || !right.known() {
            continue;
        }
        if !left.close(right) || (a1.value == 0.0) != (b1.value == 0.0) {
            return false;
        }
        compared += usize::from(a1.value != 0.0);
    }
    compared >= ENOUGH
}

fn within(x: f64, y: f64, tolerance: f64) -> bool {
    tolerance > 0.0 && (x - y).abs() <= tolerance * x.abs().max(y.abs())
}

fn floating(a: &Expr, b: &Expr, tolerance: f64) -> bool {
    let mut compared = 0;
    for point in 0..POINTS {
        let (x, y) = (approximate(a, point), approximate(b, point));
        if x.known() && y.known() {
            if !x.close(y) && !within(x.value, y.value, tolerance) {
                return false;
            }
            compared += 1;
        }
    }
    compared >= ENOUGH
}

/// The value, where it is a fraction that fits.
pub(crate) fn exact(expr: &Expr) -> Option<Rational> {
    match expr {
        Expr::Literal(digits) => Rational::literal(digits),
        Expr::Constant(_) | Expr::Variable(_) => None,
        Expr::Sum(terms) => terms.iter().try_fold(Rational::whole(0), |sum, term| sum.add(exact(term)?)),
        Expr::Negative(inner) => Some(exact(inner)?.negate()),
        Expr::Product(factors) => factors.iter().try_fold(Rational::whole(1), |product, factor| product.multiply(exact(factor)?)),
        Expr::Quotient(a, b) => exact(a)?.multiply(exact(b)?.reciprocal()?),
        Expr::Power(base, exponent) => {
            let (base, exponent) = (exact(base)?, exact(exponent)?);
            base.root(exponent.denominator())?.power(exponent.numerator())
        }
        Expr::Call(function, arguments) => {
            let x = exact(arguments.first()?)?;
            match function {
                Function::Sqrt => x.root(2),
                Function::Root => x.root(exact(arguments.get(1)?)?.integer()?),
                Function::Abs => Some(if x.numerator() < 0 { x.negate() } else { x }),
                Function::Floor => Some(Rational::whole(x.floor())),
                Function::Ceil => Some(Rational::whole(-x.negate().floor())),
                Function::Factorial => {
                    let n = x.integer().filter(|n| (0..=33).contains(n))?;
                    (1..=n).try_fold(1i128, i128::checked_mul).map(Rational::whole)
                }
                Function::Binomial => {
                    let (n, k) = (x.integer()?, exact(arguments.get(1)?)?.integer().filter(|k| (0..=200).contains(k))?);
                    let step = |value: i128, i: i128| value.checked_mul(n.checked_sub(i)?).map(|product| product / (i + 1));
                    (0..k).try_fold(1i128, step).map(Rational::whole)
                }
                _ => None,
            }
        }
    }
}

/// A prime field in which -1 has a root, and that root.
struct Field {
    prime: u64,
    generator: u64,
}

/// 2^64 - 2^32 + 1 and 29 * 2^57 + 1, with their smallest generators: both leave 1 when divided by 4.
const FIELDS: [Field; 2] = [Field { prime: 0xFFFF_FFFF_0000_0001, generator: 7 }, Field { prime: 4_179_340_454_199_820_289, generator: 3 }];

impl Field {
    fn add(&self, a: u64, b: u64) -> u64 {
        ((u128::from(a) + u128::from(b)) % u128::from(self.prime)) as u64
    }

    fn negate(&self, a: u64) -> u64 {
        if a == 0 { 0 } else { self.prime - a }
    }

    fn times(&self, a: u64, b: u64) -> u64 {
        (u128::from(a) * u128::from(b) % u128::from(self.prime)) as u64
    }

    fn power(&self, mut base: u64, mut exponent: u128) -> u64 {
        let mut result = 1;
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = self.times(result, base);
            }
            base = self.times(base, base);
            exponent >>= 1;
        }
        result
    }

    fn reciprocal(&self, a: u64) -> Option<u64> {
        (a != 0).then(|| self.power(a, u128::from(self.prime - 2)))
    }

    fn whole(&self, value: i128) -> u64 {
        value.rem_euclid(i128::from(self.prime)) as u64
    }

    fn fraction(&self, value: Rational) -> Option<u64> {
        Some(self.times(self.whole(value.numerator()), self.reciprocal(self.whole(value.denominator()))?))
    }

    fn literal(&self, digits: &str) -> Option<u64> {
        let mut value = 0;
        let mut scale = None;
        for byte in digits.bytes() {
            if byte == b'.' {
                scale = Some(1);
            } else {
                value = self.add(self.times(value, 10), u64::from(byte - b'0') % self.prime);
                scale = scale.map(|s| self.times(s, 10));
            }
        }
        scale.map_or(Some(value), |s| Some(self.times(value, self.reciprocal(s)?)))
    }

    fn value(&self, expr: &Expr, draw: u64) -> Option<u64> {
        if let Expr::Call(..) = expr
            && let Some(value) = exact(expr)
        {
            return self.fraction(value);
        }
        match expr {
            Expr::Literal(digits) => self.literal(digits),
            // Transcendental: no polynomial with whole coefficients tells them from a free variable.
            Expr::Constant(Constant::Pi) => Some(hash("\\pi", draw) % self.prime),
            Expr::Constant(Constant::E) => Some(hash("\\e", draw) % self.prime),
            Expr::Constant(Constant::I) => Some(self.power(self.generator, u128::from((self.prime - 1) / 4))),
            Expr::Constant(Constant::Infinity) => None,
            Expr::Variable(name) => Some(hash(name, draw) % self.prime),
            Expr::Sum(terms) => terms.iter().try_fold(0, |sum, term| Some(self.add(sum, self.value(term, draw)?))),
            Expr::Negative(inner) => Some(self.negate(self.value(inner, draw)?)),
            Expr::Product(factors) => factors.iter().try_fold(1, |product, factor| Some(self.times(product, self.value(factor, draw)?))),
            Expr::Quotient(a, b) => Some(self.times(self.value(a, draw)?, self.reciprocal(self.value(b, draw)?)?)),
            Expr::Power(base, exponent) => {
                let exponent = exact(exponent)?.integer()?;
                let base = self.value(base, draw)?;
                let power = self.power(base, exponent.unsigned_abs());
                if exponent < 0 { self.reciprocal(power) } else { Some(power) }
            }
            Expr::Call(Function::Factorial, arguments) => {
                let n = exact(arguments.first()?)?.integer().filter(|n| (0..=MOST_FACTORS).contains(n))?;
                Some((1..=n).fold(1, |product, i| self.times(product, self.whole(i))))
            }
            Expr::Call(Function::Binomial, arguments) => {
                let n = self.value(arguments.first()?, draw)?;
                let k = exact(arguments.get(1)?)?.integer().filter(|k| (0..=MOST_FACTORS).contains(k))?;
                let step = |product: u64, i: i128| {
                    let factor = self.add(n, self.negate(self.whole(i)));
                    Some(self.times(self.times(product, factor), self.reciprocal(self.whole(i + 1))?))
                };
                (0..k).try_fold(1, step)
            }
            Expr::Call(..) => None,
        }
    }
}

/// Are they the same in both fields? `None` where one of the two is no rational function, or has no value at the points.
fn modular(a: &Expr, b: &Expr) -> Option<bool> {
    for field in &FIELDS {
        for draw in 0..DRAWS {
            if field.value(a, draw)? != field.value(b, draw)? {
                return Some(false);
            }
        }
    }
    Some(true)
}

/// A number that depends on the name and the draw.
fn hash(name: &str, draw: u64) -> u64 {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut z = seed ^ (draw + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Value of a variable at a point: medium, small, large, and for the last three negative.
fn place(name: &str, point: usize) -> f64 {
    let unit = (hash(name, 1000 + point as u64) >> 11) as f64 / (1u64 << 53) as f64;
    match point {
        0..=3 => 0.5 + unit * 2.5,
        4 => unit,
        5 | 6 => 3.0 + unit * 20.0,
        _ => -0.1 - unit * 3.0,
    }
}

/// A floating point number and a bound of its error.
#[derive(Debug, Clone, Copy)]
struct Approximate {
    value: f64,
    error: f64,
}

impl Approximate {
    fn rounded(value: f64, error: f64) -> Self {
        Self { value, error: error + EPSILON * value.abs() }
    }

    fn times(self, other: Self) -> Self {
        let error = self.value.abs() * other.error + other.value.abs() * self.error + self.error * other.error;
        Self::rounded(self.value * other.value, error)
    }

    fn plus(self, other: Self) -> Self {
        Self::rounded(self.value + other.value, self.error + other.error)
    }

    fn over(self, other: Self) -> Self {
        // A denominator that may be 0 has no value.
        if other.value.abs() <= other.error {
            return Self { value: f64::NAN, error: 0.0 };
        }
        let value = self.value / other.value;
        Self::rounded(value, (self.error + value.abs() * other.error) / (other.value.abs() - other.error))
    }

    /// Is there a value, and is it one? What is all error, after a cancellation, would be close to anything.
    fn known(self) -> bool {
        self.value.is_finite() && self.error <= MOST_ERROR * self.value.abs().max(1.0)
    }

    fn close(self, other: Self) -> bool {
        (self.value - other.value).abs() <= SLACK * (self.error + other.error)
    }

    /// A function with its slope at the value.
    fn apply(self, function: impl Fn(f64) -> f64, slope: f64) -> Self {
        Self::rounded(function(self.value), slope.abs() * self.error)
    }

    /// The whole number that it is but for its error.
    fn integer(self) -> Option<f64> {
        let nearest = self.value.round();
        ((self.value - nearest).abs() <= SLACK * self.error).then_some(nearest)
    }

    fn root(self, n: f64) -> Self {
        let odd = n.fract() == 0.0 && n % 2.0 != 0.0;
        if self.value < 0.0 && odd {
            let root = Self { value: -self.value, error: self.error }.root(n);
            return Self { value: -root.value, error: root.error };
        }
        let root = |x: f64| match n {
            2.0 => x.sqrt(),
            3.0 => x.cbrt(),
            _ => x.powf(1.0 / n),
        };
        // Slightly below 0 by rounding alone.
        if self.value.abs() <= self.error {
            return Self { value: root(self.value.max(0.0)), error: root(self.error) };
        }
        let value = root(self.value);
        Self::rounded(value, (value / (n * self.value)).abs() * self.error)
    }

    fn power(self, exponent: Self) -> Self {
        if exponent.error == 0.0 && exponent.value.fract() == 0.0 && exponent.value.abs() < 1e6 {
            let value = self.value.powi(exponent.value as i32);
            let slope = if self.value == 0.0 { 0.0 } else { value * exponent.value / self.value };
            return Self::rounded(value, slope.abs() * self.error + EPSILON * value.abs() * exponent.value.abs());
        }
        let value = self.value.powf(exponent.value);
        let slope = if self.value == 0.0 { 0.0 } else { value * exponent.value / self.value };
        let along = if value == 0.0 { 0.0 } else { value * self.value.ln() };
        Self::rounded(value, slope.abs() * self.error + along.abs() * exponent.error)
    }
}

/// The value of an exact literal or whole exponent has no error of its own where floating point holds it.
fn exactly(value: Rational) -> Option<Approximate> {
    let n = value.integer().filter(|n| n.unsigned_abs() < 1 << 53)?;
    Some(Approximate { value: n as f64, error: 0.0 })
}

fn approximate(expr: &Expr, point: usize) -> Approximate {
    let undefined = Approximate { value: f64::NAN, error: 0.0 };
    let value = |e: &Expr| approximate(e, point);
    match expr {
        Expr::Literal(digits) => match Rational::literal(digits).and_then(exactly) {
            Some(exact) => exact,
            None => digits.parse().map_or(undefined, |v| Approximate::rounded(v, 0.0)),
        },
        Expr::Constant(Constant::Pi) => Approximate::rounded(std::f64::consts::PI, 0.0),
        Expr::Constant(Constant::E) => Approximate::rounded(std::f64::consts::E, 0.0),
        Expr::Constant(Constant::Infinity) => undefined,
        // Not a real number: compared like a free variable, so identities that use i^2 = -1 and a root together are not seen.
        Expr::Constant(Constant::I) => Approximate { value: place("\\i", point), error: 0.0 },
        Expr::Variable(name) => Approximate { value: place(name, point), error: 0.0 },
        Expr::Sum(terms) => terms.iter().map(value).reduce(Approximate::plus).unwrap_or(undefined),
        Expr::Negative(inner) => {
            let inner = value(inner);
            Approximate { value: -inner.value, ..inner }
        }
        Expr::Product(factors) => factors.iter().map(value).reduce(Approximate::times).unwrap_or(undefined),
        Expr::Quotient(a, b) => value(a).over(value(b)),
        Expr::Power(base, exponent) => {
            let base_value = value(base);
            match exact(exponent) {
                // A real root of a negative number, as schools have it.
                Some(e) if e.denominator() % 2 == 1 && e.denominator() > 1 && e.denominator() < 64 => {
                    let root = base_value.root(e.denominator() as f64);
                    exactly(Rational::whole(e.numerator())).map_or(undefined, |n| root.power(n))
                }
                Some(e) => base_value.power(exactly(e).unwrap_or_else(|| Approximate::rounded(e.to_f64(), 0.0))),
                None => base_value.power(value(exponent)),
            }
        }
        Expr::Call(function, arguments) => {
            let Some(x) = arguments.first().map(value) else { return undefined };
            let second = arguments.get(1).map(value);
            call(*function, x, second).unwrap_or(undefined)
        }
    }
}

fn call(function: Function, x: Approximate, second: Option<Approximate>) -> Option<Approximate> {
    let one = Approximate { value: 1.0, error: 0.0 };
    let v = x.value;
    Some(match function {
        Function::Sqrt => x.root(2.0),
        Function::Root => x.root(second?.integer()?),
        Function::Abs => Approximate { value: v.abs(), error: x.error },
        Function::Sin => x.apply(f64::sin, 1.0),
        Function::Cos => x.apply(f64::cos, 1.0),
        Function::Tan => x.apply(f64::sin, 1.0).over(x.apply(f64::cos, 1.0)),
        Function::Cot => x.apply(f64::cos, 1.0).over(x.apply(f64::sin, 1.0)),
        Function::Sec => one.over(x.apply(f64::cos, 1.0)),
        Function::Csc => one.over(x.apply(f64::sin, 1.0)),
        Function::Arcsin | Function::Arccos => {
            // At the ends the slope has no bound.
            let slope = (1.0 - v * v).max(EPSILON).sqrt().recip();
            if function == Function::Arcsin { x.apply(f64::asin, slope) } else { x.apply(f64::acos, slope) }
        }
        Function::Arctan => x.apply(f64::atan, 1.0),
        Function::Sinh => x.apply(f64::sinh, v.cosh()),
        Function::Cosh => x.apply(f64::cosh, v.sinh()),
        Function::Tanh => x.apply(f64::tanh, 1.0),
        Function::Ln => x.apply(f64::ln, v.recip()),
        Function::Exp => x.apply(f64::exp, v.exp()),
        Function::Log => {
            let base = second.unwrap_or(Approximate { value: 10.0, error: 0.0 });
            x.apply(f64::ln, v.recip()).over(base.apply(f64::ln, base.value.recip()))
        }
        Function::Floor | Function::Ceil => {
            let near = x.integer();
            let rounded = if function == Function::Floor { v.floor() } else { v.ceil() };
            Approximate { value: near.unwrap_or(rounded), error: 0.0 }
        }
        Function::Factorial => {
            let n = x.integer().filter(|n| (0.0..=170.0).contains(n))?;
            let product: f64 = (1..=n as u32).map(f64::from).product();
            Approximate::rounded(product, EPSILON * n * product)
        }
        Function::Binomial => {
            let k = second?.integer().filter(|k| (0.0..=1000.0).contains(k))?;
            let product: f64 = (0..k as u32).map(|i| (v - f64::from(i)) / (f64::from(i) + 1.0)).product();
            Approximate::rounded(product, 4.0 * EPSILON * k * product.abs())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_fields_and_have_a_root_of_minus_one() {
        for field in &FIELDS {
            for base in [2u64, 3, 5, 7, 11, 13, 1 << 40, 987_654_321] {
                assert_eq!(field.power(base, u128::from(field.prime - 1)), 1, "{} is not prime", field.prime);
            }
            let i = field.value(&Expr::Constant(Constant::I), 0).unwrap();
            assert_eq!(field.times(i, i), field.prime - 1);
            assert_eq!(field.literal("12.5"), field.fraction(Rational::new(25, 2).unwrap()));
        }
    }
}

//! Exact fractions of 128 bits. What does not fit is `None`, so every operation takes bounded time.

/// `numerator / denominator`, reduced, the denominator positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rational {
    numerator: i128,
    denominator: i128,
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Rational {
    pub(crate) fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 || numerator == i128::MIN || denominator == i128::MIN {
            return None;
        }
        let common = i128::try_from(gcd(numerator.unsigned_abs(), denominator.unsigned_abs())).ok()?;
        let sign = if denominator < 0 { -1 } else { 1 };
        Some(Self { numerator: sign * numerator / common, denominator: sign * denominator / common })
    }

    pub(crate) fn whole(value: i128) -> Self {
        Self { numerator: value, denominator: 1 }
    }

    /// Of digits with at most one point.
    pub(crate) fn literal(digits: &str) -> Option<Self> {
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fraction = fraction.trim_end_matches('0');
        let numerator: i128 = format!("0{whole}{fraction}").parse().ok()?;
        Self::new(numerator, 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)
    }

    pub(crate) fn numerator(self) -> i128 {
        self.numerator
    }

    pub(crate) fn denominator(self) -> i128 {
        self.denominator
    }

    /// The value, when it is whole.
    pub(crate) fn integer(self) -> Option<i128> {
        (self.denominator == 1).then_some(self.numerator)
    }

    pub(crate) fn add(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    pub(crate) fn negate(self) -> Self {
        Self { numerator: -self.numerator, ..self }
    }

    pub(crate) fn multiply(self, other: Self) -> Option<Self> {
        // Reduced crosswise first: halves the size of what is multiplied.
        let left = Self::new(self.numerator, other.denominator)?;
        let right = Self::new(other.numerator, self.denominator)?;
        Self::new(left.numerator.checked_mul(right.numerator)?, left.denominator.checked_mul(right.denominator)?)
    }

    pub(crate) fn reciprocal(self) -> Option<Self> {
        Self::new(self.denominator, self.numerator)
    }

    /// To a whole power; `0^0` is 1.
    pub(crate) fn power(self, exponent: i128) -> Option<Self> {
        if exponent < 0 {
            return self.reciprocal()?.power(exponent.checked_neg()?);
        }
        if self.denominator == 1 && matches!(self.numerator, -1..=1) {
            let odd = exponent % 2 != 0;
            return Some(Self::whole(match self.numerator {
                0 => i128::from(exponent == 0),
                1 => 1,
                _ if odd => -1,
                _ => 1,
            }));
        }
        // Anything else is at least 2 or at most 1/2 in size: 2^128 does not fit.
        let exponent = u32::try_from(exponent).ok().filter(|&e| e <= 128)?;
        Self::new(self.numerator.checked_pow(exponent)?, self.denominator.checked_pow(exponent)?)
    }

    /// The real `n`-th root, if it is a fraction.
    pub(crate) fn root(self, n: i128) -> Option<Self> {
        if !(1..=64).contains(&n) {
            return None;
        }
        if n == 1 {
            return Some(self);
        }
        let n = n as u32;
        Self::new(whole_root(self.numerator, n)?, whole_root(self.denominator, n)?)
    }

    pub(crate) fn floor(self) -> i128 {
        self.numerator.div_euclid(self.denominator)
    }

    pub(crate) fn to_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

/// The `n`-th root of `value`, if it is whole.
fn whole_root(value: i128, n: u32) -> Option<i128> {
    if value < 0 {
        return if n % 2 == 1 { whole_root(value.checked_neg()?, n).map(|r| -r) } else { None };
    }
    // Bisection: a root of 127 bits takes at most 127 steps.
    let (mut low, mut high) = (0i128, 1i128 << (127u32.div_ceil(n).min(126)));
    while low <= high {
        let middle = low + (high - low) / 2;
        match middle.checked_pow(n) {
            Some(power) if power == value => return Some(middle),
            Some(power) if power < value => low = middle + 1,
            _ => high = middle - 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_or_nothing() {
        let half = Rational::new(1, 2).unwrap();
        assert_eq!(Rational::literal("0.50"), Some(half));
        assert_eq!(Rational::literal(".125").and_then(|r| r.add(half)), Rational::new(5, 8));
        assert_eq!(Rational::new(4, -6), Rational::new(-2, 3));
        assert_eq!(Rational::whole(-8).root(3), Some(Rational::whole(-2)));
        assert_eq!(Rational::new(9, 16).unwrap().root(2), Rational::new(3, 4));
        assert_eq!(Rational::whole(2).root(2), None);
        assert_eq!(Rational::whole(i128::MAX).root(2), None);
        assert_eq!(Rational::whole(i128::MAX).add(Rational::whole(1)), None);
        assert_eq!(Rational::whole(-1).power(i128::MAX), Some(Rational::whole(-1)));
        assert_eq!((Rational::whole(2).power(129), Rational::whole(0).power(-1), Rational::new(1, 0)), (None, None, None));
        assert_eq!(Rational::new(-7, 2).map(Rational::floor), Some(-4));
        assert_eq!(Rational::literal(&"9".repeat(60)), None);
    }
}

//! Thresholds: one table per profile from which its settings, its checks, its verdict and what-if all follow.
//!
//! A profile measures *signals* (`dup_line_frac`) in a fixed order and holds each against a least value (`min_dup_line_frac`), a
//! greatest value (`max_dup_line_frac`), or both; the first signal outside its limits is the one that counts. A limit itself passes.
//! `inf` and `-inf` switch a limit off.

use crate::step::{Trace, Verdict};

/// A signal and its limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// What is measured, without the profile's name.
    pub signal: &'static str,
    /// Least value that passes; `-inf`: none.
    pub min: f64,
    /// Greatest value that passes; `inf`: none.
    pub max: f64,
}

impl Bound {
    /// True if `value` is outside. A value that is no number (a mean of nothing) is inside, as in the reference.
    pub fn fails(&self, value: f64) -> bool {
        value < self.min || value > self.max
    }
}

/// Limits of a profile, in the order of its checks.
pub trait Limits: Send + Sync {
    /// All of them.
    fn bounds(&self) -> Vec<Bound>;
}

/// Collect `(field, value)` pairs such as `("min_words", 50.0)` into bounds; two limits of one signal that follow each other are one.
pub fn bounds_of(fields: &[(&'static str, f64)]) -> Vec<Bound> {
    let mut bounds: Vec<Bound> = Vec::new();
    for (field, value) in fields {
        let Some((side, signal)) = field.split_at_checked(4) else { continue };
        if bounds.last().is_none_or(|b| b.signal != signal) {
            bounds.push(Bound { signal, min: f64::NEG_INFINITY, max: f64::INFINITY });
        }
        if let Some(bound) = bounds.last_mut() {
            if side == "min_" { bound.min = *value } else { bound.max = *value }
        }
    }
    bounds
}

/// A settings struct: limits, whose names begin with `min_` or `max_` and which are listed in the order of checking, then the rest.
macro_rules! limits {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$fd:meta])* $field:ident = $value:expr,)* } $(also { $($(#[$od:meta])* $other:ident: $kind:ty = $default:expr,)* })?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$fd])* pub $field: f64,)* $($($(#[$od])* pub $other: $kind,)*)? }
        impl Default for $name {
            fn default() -> Self { Self { $($field: $value,)* $($($other: $default,)*)? } }
        }
        impl $crate::filter::limits::Limits for $name {
            fn bounds(&self) -> Vec<$crate::filter::limits::Bound> {
                $crate::filter::limits::bounds_of(&[$((stringify!($field), self.$field),)*])
            }
        }
    };
}
pub(crate) use limits;

/// Takes the signals of one document in the order of the bounds and keeps the verdict.
pub struct Judge<'a> {
    profile: &'static str,
    bounds: &'a [Bound],
    next: usize,
    trace: &'a mut Trace,
    verdict: Verdict,
}

/// Rounded for reading.
pub(crate) fn rounded(value: f64) -> serde_json::Value {
    let value = (value * 1e4).round() / 1e4;
    if value.fract() == 0.0 && value.abs() < 1e15 { (value as i64).into() } else { value.into() }
}

impl<'a> Judge<'a> {
    /// For one document.
    pub fn new(profile: &'static str, bounds: &'a [Bound], trace: &'a mut Trace) -> Self {
        Self { profile, bounds, next: 0, trace, verdict: Verdict::Keep }
    }

    /// Hold `value` against the limits of `signal`. False: the verdict is known and nothing more need be measured.
    pub fn check(&mut self, signal: &'static str, value: f64) -> bool {
        let found = self.bounds[self.next..].iter().position(|b| b.signal == signal);
        debug_assert!(found.is_some(), "{}: `{signal}` is out of order or has no limit", self.profile);
        let Some(at) = found else { return true };
        let bound = self.bounds[self.next + at];
        self.next += at + 1;
        if self.trace.everything {
            let limit = |l: f64| l.is_finite().then_some(l);
            self.trace.signal(format!("{}/{signal}", self.profile), value, limit(bound.min), limit(bound.max));
        }
        if self.verdict == Verdict::Keep && bound.fails(value) {
            let limit = if value < bound.min { bound.min } else { bound.max };
            self.verdict = Verdict::drop(format!("{}/{signal}", self.profile), rounded(value), rounded(limit));
        }
        self.trace.everything || self.verdict == Verdict::Keep
    }

    /// Count something that drops nothing.
    pub fn count(&mut self, what: &str, by: u64) {
        self.trace.count(format!("{}/{what}", self.profile), by);
    }

    /// What the document has come to.
    pub fn verdict(self) -> Verdict {
        self.verdict
    }

    /// True if nothing has failed yet.
    pub fn keeps(&self) -> bool {
        self.verdict == Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    limits! {
        /// Two signals.
        pub struct Two {
            /// Least.
            min_words = 3.0,
            /// Greatest.
            max_words = 5.0,
            /// Greatest.
            max_frac = 0.5,
        }
    }

    fn judged(words: f64, frac: f64, mut trace: Trace) -> (Verdict, Trace) {
        let bounds = Two::default().bounds();
        let mut judge = Judge::new("two", &bounds, &mut trace);
        let _ = judge.check("words", words) && judge.check("frac", frac);
        (judge.verdict(), trace)
    }

    #[test]
    fn limits_pass_and_the_first_failure_counts() {
        assert_eq!(Two::default().bounds().len(), 2);
        for words in [3.0, 5.0, f64::NAN] {
            assert_eq!(judged(words, 0.5, Trace::default()).0, Verdict::Keep);
        }
        assert_eq!(judged(2.0, 0.9, Trace::default()).0, Verdict::drop("two/words", 2, 3));
        let (verdict, trace) = judged(6.0, 0.9, Trace::everything());
        assert_eq!(verdict, Verdict::drop("two/words", 6, 5));
        assert_eq!(trace.signals.iter().map(|s| (s.name.as_str(), s.value)).collect::<Vec<_>>(), [("two/words", 6.0), ("two/frac", 0.9)]);
    }
}

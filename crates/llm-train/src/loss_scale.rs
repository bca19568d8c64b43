//! Loss scaling for float16 (Micikevicius et al. 2018, section 3.2): gradients too small for the format are lifted by a factor that is
//! taken out again before clipping. The factor doubles after `GROWTH_INTERVAL` good steps and halves when a gradient overflows, whose
//! step is not taken; the numbers are those of `torch.amp.GradScaler`.

use llm_tensor::Precision;

const INITIAL: f64 = 65536.0;
const GROWTH_INTERVAL: u64 = 2000;
/// Below this it is not the scale that makes gradients overflow.
const SMALLEST: f64 = 1.0 / 1024.0;

/// The factor and for how many steps it has held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    scale: f64,
    good_steps: u64,
    /// Formats with the range of f32 need none.
    active: bool,
}

impl LossScale {
    /// For a number format; `saved` is what [`LossScale::save`] gave.
    pub fn new(precision: Precision, saved: Option<(f64, u64)>) -> Self {
        let active = precision == Precision::F16;
        let (scale, good_steps) = saved.filter(|_| active).unwrap_or((if active { INITIAL } else { 1.0 }, 0));
        Self { scale, good_steps, active }
    }

    /// What the loss is multiplied by.
    pub fn factor(&self) -> f64 {
        self.scale
    }

    /// Is the loss scaled at all?
    pub fn active(&self) -> bool {
        self.active
    }

    /// For a checkpoint.
    pub fn save(&self) -> Option<(f64, u64)> {
        self.active.then_some((self.scale, self.good_steps))
    }

    /// A step whose gradients were finite.
    pub fn good(&mut self) {
        self.good_steps += 1;
        if self.active && self.good_steps >= GROWTH_INTERVAL {
            self.scale *= 2.0;
            self.good_steps = 0;
        }
    }

    /// A step whose gradients overflowed. False when a smaller factor would not help.
    pub fn overflow(&mut self) -> bool {
        self.good_steps = 0;
        self.scale *= 0.5;
        self.active && self.scale >= SMALLEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, float16 training either never takes a step or rounds small gradients to zero.
    #[test]
    fn grows_when_good_and_halves_when_not() {
        let mut scale = LossScale::new(Precision::F16, None);
        assert_eq!(scale.factor(), 65536.0);
        assert!(scale.overflow());
        assert_eq!(scale.factor(), 32768.0);
        (0..GROWTH_INTERVAL).for_each(|_| scale.good());
        assert_eq!(scale.factor(), 65536.0);
        let back = LossScale::new(Precision::F16, scale.save());
        assert_eq!(back, scale);
        assert!((0..40).map(|_| scale.overflow()).any(|useful| !useful), "a scale that keeps overflowing says so");
        let full = LossScale::new(Precision::Bf16, Some((2.0, 3)));
        assert_eq!((full.factor(), full.save()), (1.0, None));
    }
}

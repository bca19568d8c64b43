//! Products of quantised matrices with inputs rounded to 8 bits: `y = x W^T` in whole numbers.
//!
//! The inputs of a row are rounded in units of 32 (16 where groups are smaller) to signed bytes with a scale each, as llama.cpp does for its
//! products ("Q8"); a unit's dot products are exact whole numbers, multiplied by the scale of the input and summed over the units of a group, and
//! that by the scale of the group and summed over the groups. A zero point or a min is taken off by the sum of the inputs of its group.
//!
//! One loop for any number of rows: 16 rows of the matrix ([`Panels`]) with up to 8 rows of the input, whose codes are read and unpacked once. The
//! order in which an output is summed depends neither on that number nor on threads nor on the processor: all give the same bits.
//!
//! Legend: N rows (tokens), I input features, O output features, G groups, U units, P padded row length.

#[cfg(target_arch = "aarch64")]
use super::dots::Neon;
#[cfg(target_arch = "x86_64")]
use super::dots::{Avx2, Vnni512};
use super::dots::{Dots, LINE, Plain, ROWS};
use super::packed::spread;
use super::{LANES, Shared, filled, fold, larger, split, sum, vectorized};
use crate::quant::{Moved, Numbers, Packed, Panels};
use rayon::prelude::*;
use std::ops::Range;

/// Panels of a task.
const TASK: usize = 4;
/// Bytes of rounded inputs that a task goes through before it takes them up again for its next panel: a part of a level-2 cache.
const BLOCK_BYTES: usize = 1 << 18;
/// How far ahead of the codes that are multiplied others are asked for, in bytes: without it one thread has too few reads under way.
const AHEAD: usize = 4096;
/// Lines of a unit of 6 bits, which is of 16 codes.
const SIX: usize = 3;
/// Inputs below this are zero: their inverse would not be a number.
const SMALLEST: f32 = 1e-30;
/// Elements that are worth a thread when inputs are rounded.
const ROUND_FROM: usize = 1 << 15;

/// Instructions that the products are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// What every machine of the target has.
    Plain,
    /// AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2, F16C and AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// 64-bit ARM.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// 64-bit ARM with dot products.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Isa {
    /// Those of this processor, the best last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 {
                all.push(Self::Avx2);
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                all.push(Self::AvxVnni);
            }
            if avx2 && avx512 {
                all.push(Self::Avx512Vnni);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            all.push(Self::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                all.push(Self::NeonDot);
            }
        }
        all
    }

    /// The best of this processor.
    pub fn best() -> Self {
        use std::sync::OnceLock;
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::Plain))
    }

    /// What its instructions take from every byte of a matrix.
    fn offset(self) -> i32 {
        match self {
            Self::Plain => Plain::OFFSET,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::<false>::OFFSET,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Avx2::<true>::OFFSET,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Vnni512::OFFSET,
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonDot => Neon::<false>::OFFSET,
        }
    }
}

/// Rows of the input, rounded.
struct Rounded {
    /// Four bytes a word, `[N, U, unit / 4]`.
    words: Vec<i32>,
    /// `[N, U]`.
    scales: Vec<f32>,
    /// What a sum of products starts at, `[N, U]`: minus the common zero point times the sum of the unit.
    starts: Vec<i32>,
    /// Sum of the inputs of each group, as rounded, `[N, G]`; empty where nothing is taken off by group.
    sums: Vec<f32>,
}

vectorized! {
    /// One row, unit after unit.
    fn round_row(x: &[f32], unit: usize, zero: i32, words: &mut [i32], scales: &mut [f32], starts: &mut [i32], unit_sums: &mut [f32]) {
        const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even, which is then in the low bits
        for (u, (x, words)) in x.chunks_exact(unit).zip(words.chunks_exact_mut(unit / 4)).enumerate() {
            let (mut most, mut poison) = ([0f32; LANES], [0f32; LANES]);
            for chunk in x.as_chunks::<LANES>().0 {
                for i in 0..LANES {
                    most[i] = larger(most[i], chunk[i].abs());
                    poison[i] += chunk[i] * 0.0; // not a number where one is infinite or none
                }
            }
            let most = fold(most, larger);
            let inverse = if most > SMALLEST { 127.0 / most } else { 0.0 };
            let mut sum = [0i32; LANES];
            for (chunk, words) in x.as_chunks::<LANES>().0.iter().zip(words.as_chunks_mut::<{ LANES / 4 }>().0) {
                let mut bytes = [0u8; LANES];
                for i in 0..LANES {
                    let q = (chunk[i] * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
                    sum[i] = sum[i].wrapping_add(q);
                    bytes[i] = q as u8;
                }
                for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *word = i32::from_le_bytes(*bytes);
                }
            }
            let sum = sum.iter().fold(0i32, |a, b| a.wrapping_add(*b));
            let scale = (if most > SMALLEST { most / 127.0 } else { 0.0 }) + fold(poison, |a, b| a + b);
            scales[u] = scale;
            starts[u] = sum.wrapping_mul(zero).wrapping_neg();
            unit_sums[u] = sum as f32 * scale;
        }
    }
}

/// How inputs are rounded for a matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rounding {
    unit: usize,
    units: usize,
    groups: usize,
    /// The zero point of all codes, as the instructions see them.
    zero: i32,
    /// Is something taken off by group?
    by_group: bool,
}

impl Rounding {
    fn of(panels: &Panels, isa: Isa) -> Self {
        let offset = if panels.bits() == 8 { isa.offset() } else { 0 };
        let (zero, by_group) = match panels.moved() {
            Moved::Same(zero) => (zero - offset, false),
            Moved::Each(_) | Moved::Mins(_) => (-offset, true),
        };
        Self { unit: panels.unit(), units: panels.units(), groups: panels.groups(), zero, by_group }
    }
}

impl Rounded {
    /// From rows in the order and with the padding of the codes, `[N, P]`.
    fn new(x: &[f32], padded: usize, rounding: Rounding) -> Self {
        let Rounding { unit, units, groups, zero, by_group } = rounding;
        let n = x.len() / padded;
        let mut out = Self { words: vec![0; n * units * unit / 4], scales: vec![0.0; n * units], starts: vec![0; n * units], sums: Vec::new() };
        let mut unit_sums = vec![0f32; n * units];
        let rows = out.words.par_chunks_exact_mut(units * unit / 4).zip(out.scales.par_chunks_exact_mut(units));
        let rows = rows.zip(out.starts.par_chunks_exact_mut(units).zip(unit_sums.par_chunks_exact_mut(units))).zip(x.par_chunks_exact(padded));
        rows.with_min_len(ROUND_FROM.div_ceil(padded)).for_each(|(((words, scales), (starts, sums)), x)| {
            round_row(&x[..units * unit], unit, zero, words, scales, starts, sums);
        });
        if by_group {
            out.sums = unit_sums.chunks_exact(units / groups).map(sum).collect();
        }
        out
    }
}

/// What a task needs.
#[derive(Clone, Copy)]
struct Product<'a> {
    panels: &'a Panels,
    x: &'a Rounded,
    rows: usize,
    outputs: usize,
    y: Shared,
}

#[inline(always)]
fn numbers<S: Dots>(numbers: &Numbers, at: usize) -> S::F {
    match numbers {
        Numbers::F16(values) => S::half(&values[at]),
        Numbers::F32(values) => S::load(&values[at]),
    }
}

/// One panel with C rows of the input from row `at`. `LINES` lines hold a unit of `4 * WORDS` codes.
#[inline(always)]
fn tile<S: Dots, const LINES: usize, const WORDS: usize, const C: usize>(p: Product, panel: usize, at: usize) {
    let (units, groups) = (p.panels.units(), p.panels.groups());
    let per_group = units / groups;
    let codes = &p.panels.codes()[panel * units * LINES..][..units * LINES].as_chunks::<LINES>().0[..units];
    let words: [&[[i32; WORDS]]; C] = std::array::from_fn(|c| &p.x.words[(at + c) * units * WORDS..].as_chunks::<WORDS>().0[..units]);
    let scales: [&[f32]; C] = std::array::from_fn(|c| &p.x.scales[(at + c) * units..][..units]);
    let starts: [&[i32]; C] = std::array::from_fn(|c| &p.x.starts[(at + c) * units..][..units]);
    let mut totals = [S::splat(0.0); C];
    for g in 0..groups {
        let mut sums = [S::splat(0.0); C];
        for u in g * per_group..(g + 1) * per_group {
            let mut dots: [S::I; C] = std::array::from_fn(|c| S::start(starts[c][u]));
            for line in &codes[u] {
                S::fetch(line.0.as_ptr().wrapping_add(AHEAD));
            }
            if LINES == SIX {
                let tops = S::tops(&codes[u][2].0);
                for v in 0..2 {
                    let (low, high) = S::halves(&codes[u][v].0);
                    let (low, high) = (S::raised(low, tops, v), S::raised(high, tops, v + 2));
                    for c in 0..C {
                        dots[c] = S::dot_halves(dots[c], low, high, words[c][u][v], words[c][u][v + 2]);
                    }
                }
            }
            for (v, line) in codes[u].iter().enumerate() {
                if LINES == WORDS {
                    let codes = S::bytes(&line.0);
                    for c in 0..C {
                        dots[c] = S::dot_bytes(dots[c], codes, words[c][u][v]);
                    }
                } else if 2 * LINES == WORDS {
                    let (low, high) = S::halves(&line.0);
                    for c in 0..C {
                        dots[c] = S::dot_halves(dots[c], low, high, words[c][u][v], words[c][u][v + LINES]);
                    }
                }
            }
            for c in 0..C {
                sums[c] = S::add(sums[c], S::product(S::float(dots[c]), S::splat(scales[c][u])));
            }
        }
        let (index, input_sum) = (panel * groups + g, |c: usize| S::splat(p.x.sums[(at + c) * groups + g]));
        let scale = numbers::<S>(p.panels.scales(), index);
        match p.panels.moved() {
            Moved::Same(_) => {
                for c in 0..C {
                    totals[c] = S::add(totals[c], S::product(sums[c], scale));
                }
            }
            Moved::Each(zeros) => {
                let zero = S::whole(&zeros[index]);
                for c in 0..C {
                    let moved = S::difference(sums[c], S::product(zero, input_sum(c)));
                    totals[c] = S::add(totals[c], S::product(moved, scale));
                }
            }
            Moved::Mins(mins) => {
                let min = numbers::<S>(mins, index);
                for c in 0..C {
                    let moved = S::difference(S::product(sums[c], scale), S::product(min, input_sum(c)));
                    totals[c] = S::add(totals[c], moved);
                }
            }
        }
    }
    let factor = S::splat(p.panels.factor());
    for (c, total) in totals.into_iter().enumerate() {
        let mut lanes = [0f32; ROWS];
        S::store(&mut lanes, S::product(total, factor));
        let first = panel * ROWS;
        for (o, value) in (first..p.outputs.min(first + ROWS)).zip(lanes) {
            // SAFETY: output o < O of row at + c < N, which only this task writes.
            unsafe { *p.y.at((at + c) * p.outputs + o) = value };
        }
    }
}

/// All rows of the input with some panels.
#[inline(always)]
fn task_of<S: Dots, const LINES: usize, const WORDS: usize>(p: Product, panels: Range<usize>) {
    let block = (BLOCK_BYTES / (4 * WORDS * p.panels.units()).max(1)).max(8) / 8 * 8;
    for first in (0..p.rows).step_by(block) {
        for panel in panels.clone() {
            let (mut at, end) = (first, p.rows.min(first + block));
            while S::WIDE >= 8 && at + 8 <= end {
                tile::<S, LINES, WORDS, 8>(p, panel, at);
                at += 8;
            }
            while S::WIDE >= 4 && at + 4 <= end {
                tile::<S, LINES, WORDS, 4>(p, panel, at);
                at += 4;
            }
            while at + 2 <= end {
                tile::<S, LINES, WORDS, 2>(p, panel, at);
                at += 2;
            }
            if at < end {
                tile::<S, LINES, WORDS, 1>(p, panel, at);
            }
        }
    }
}

#[inline(always)]
fn task<S: Dots>(p: Product, panels: Range<usize>) {
    match (p.panels.bits(), p.panels.unit()) {
        (8, 32) => task_of::<S, 8, 8>(p, panels),
        (8, _) => task_of::<S, 4, 4>(p, panels),
        (6, _) => task_of::<S, SIX, 4>(p, panels),
        (_, 32) => task_of::<S, 4, 8>(p, panels),
        (_, _) => task_of::<S, 2, 4>(p, panels),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Product, Range, Vnni512, task};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub fn vnni512(p: Product, panels: Range<usize>) {
        task::<Vnni512>(p, panels);
    }
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    pub fn avx_vnni(p: Product, panels: Range<usize>) {
        task::<Avx2<true>>(p, panels);
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn avx2(p: Product, panels: Range<usize>) {
        task::<Avx2<false>>(p, panels);
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Neon, Product, Range, task};

    #[target_feature(enable = "neon,dotprod")]
    pub fn dot(p: Product, panels: Range<usize>) {
        task::<Neon<true>>(p, panels);
    }
}

fn run(isa: Isa, p: Product, panels: Range<usize>) {
    match isa {
        Isa::Plain => task::<Plain>(p, panels),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `linear_with` is called with instructions that `Isa::available` found on the running processor.
        Isa::Avx2 => unsafe { x86::avx2(p, panels) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { x86::avx_vnni(p, panels) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512Vnni => unsafe { x86::vnni512(p, panels) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => task::<Neon<false>>(p, panels),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDot => unsafe { arm::dot(p, panels) },
    }
}

/// `y[N, O] = x[N, I] W^T`, where `panels` is the body of `w`.
pub(crate) fn linear(x: &[f32], w: &Packed, panels: &Panels) -> Vec<f32> {
    // SAFETY: the best instructions are among the available ones.
    unsafe { linear_with(Isa::best(), x, w, panels) }
}

/// [`linear`] with given instructions.
///
/// # Safety
/// The processor must have them ([`Isa::available`]).
///
/// # Panics
/// When `x` is no whole number of rows: the caller's arithmetic is wrong.
unsafe fn linear_with(isa: Isa, x: &[f32], w: &Packed, panels: &Panels) -> Vec<f32> {
    let (inputs, outputs) = (w.inputs(), w.outputs());
    assert!(x.len().is_multiple_of(inputs), "packed product: input is no whole number of rows");
    let rows = x.len() / inputs;
    let spread = spread(x, w);
    let x = &Rounded::new(&spread, w.padded(), Rounding::of(panels, isa));
    let count = outputs.div_ceil(ROWS);
    debug_assert_eq!(panels.codes().len() * LINE, count * panels.units() * panels.lines() * LINE);
    // SAFETY: the ranges of `split` cover all panels without overlap, and each task writes its outputs of all rows.
    unsafe {
        filled(rows * outputs, |y| {
            let y = Shared(y.as_mut_ptr().cast());
            split(count, TASK, rows * outputs * inputs, |range| run(isa, Product { panels, x, rows, outputs, y }, range));
        })
    }
}

/// Products of the same inputs with several matrices as one job: the inputs are rounded once, and threads meet once. None where the
/// matrices take their inputs differently.
pub(crate) fn linear_all(x: &[f32], all: &[(&Packed, &Panels)]) -> Option<Vec<Vec<f32>>> {
    let (isa, (first, panels)) = (Isa::best(), all.first()?);
    let rounding = Rounding::of(panels, isa);
    let layout = |w: &Packed| (w.inputs(), w.group(), w.stride(), w.padded(), w.order().is_none());
    if first.order().is_some() || all.iter().any(|(w, panels)| Rounding::of(panels, isa) != rounding || layout(w) != layout(first)) {
        return None;
    }
    let inputs = first.inputs();
    assert!(x.len().is_multiple_of(inputs), "packed product: input is no whole number of rows");
    let rows = x.len() / inputs;
    let spread = spread(x, first);
    let x = &Rounded::new(&spread, first.padded(), rounding);
    let mut ys: Vec<Vec<f32>> = all.iter().map(|(w, _)| vec![0f32; rows * w.outputs()]).collect();
    let mut end = 0;
    // The panels of all matrices in a row: each with the number of its first one and of the one after its last.
    let parts: Vec<(Range<usize>, Product)> = all
        .iter()
        .zip(&mut ys)
        .map(|((w, panels), y)| {
            let first = end;
            end += w.outputs().div_ceil(ROWS);
            (first..end, Product { panels, x, rows, outputs: w.outputs(), y: Shared(y.as_mut_ptr()) })
        })
        .collect();
    let outputs: usize = all.iter().map(|(w, _)| w.outputs()).sum();
    split(end, TASK, rows * outputs * inputs, |range| {
        for (panels, product) in &parts {
            let (from, to) = (range.start.max(panels.start), range.end.min(panels.end));
            if from < to {
                run(isa, *product, from - panels.start..to - panels.start);
            }
        }
    });
    Some(ys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Activations, Body, Meaning};

    /// If this fails, a model gives other answers where its projections are computed together.
    #[test]
    fn matrices_together_give_the_bits_of_each_alone() {
        let x: Vec<f32> = (0..3 * 96).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.4).collect();
        for kind in 0..8 {
            let all = [70, 16, 33, 1].map(|outputs| matrix(outputs, 96, if kind == 6 { 16 } else { 32 }, kind));
            let with_panels: Vec<(&Packed, &Panels)> = all.iter().map(|w| (w, panels(w))).collect();
            let together = linear_all(&x, &with_panels).unwrap();
            for (w, y) in all.iter().zip(together) {
                assert_eq!(y.into_iter().map(f32::to_bits).collect::<Vec<_>>(), bits(Isa::best(), &x, w), "kind {kind}");
            }
        }
        let (a, b) = (matrix(16, 96, 32, 0), matrix(16, 96, 32, 1));
        assert!(linear_all(&x, &[(&a, panels(&a)), (&b, panels(&b))]).is_none(), "4 and 8 bits have other starts");
    }

    fn panels(w: &Packed) -> &Panels {
        let Body::Panels(panels) = w.body() else { panic!("panels") };
        panels
    }

    fn matrix(outputs: usize, inputs: usize, group: usize, kind: usize) -> Packed {
        let mut state = 7u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        let groups = inputs.div_ceil(group);
        let code = |random: u32| match kind {
            6 => 96 + random % 64, // Q6_K
            7 => random % 32,      // Q5_K
            _ => random % if kind % 2 == 1 { 256 } else { 16 },
        };
        let codes: Vec<u8> = (0..outputs * inputs).map(|_| code(next()) as u8).collect();
        let meaning = if kind % 2 == 1 || kind == 6 { Meaning::Bits8 } else { Meaning::Bits4 };
        let mut numbers = |scale: f32| (0..outputs * groups).map(|_| (next() % 1000) as f32 * scale + scale).collect::<Vec<f32>>();
        let (scales, mins) = (numbers(1e-5), numbers(1e-4));
        let w = match kind {
            0 | 1 | 6 => {
                Packed::new([outputs, inputs], group, None, &codes, meaning, scales, Some(vec![if kind == 0 { 8 } else { 128 }; outputs * groups]))
            }
            2 | 3 => {
                let zeros = (0..outputs * groups).map(|i| (i * 7 % 16) as i16).collect();
                Packed::new([outputs, inputs], group, None, &codes, meaning, scales, Some(zeros))
            }
            _ => Packed::with_mins([outputs, inputs], group, &codes, meaning, scales, mins),
        };
        let w = w.with_activations(Activations::Int8);
        assert_eq!(w.bits(), [4, 8, 4, 8, 4, 8, 6, 6][kind]);
        w
    }

    fn bits(isa: Isa, x: &[f32], w: &Packed) -> Vec<u32> {
        // SAFETY: callers take the instructions from `Isa::available`.
        unsafe { linear_with(isa, x, w, panels(w)) }.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn all_instructions_give_the_same_bits_for_any_number_of_rows() {
        for (outputs, inputs, group) in [(16, 32, 32), (37, 100, 32), (70, 176, 16), (33, 96, 96), (5, 7, 3), (20, 300, 64), (40, 256, 128)] {
            let x: Vec<f32> = (0..32 * inputs).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.4).collect();
            for kind in 0..8 {
                let w = matrix(outputs, inputs, group, kind);
                let want = bits(Isa::Plain, &x, &w);
                for isa in Isa::available() {
                    assert_eq!(bits(isa, &x, &w), want, "{isa:?}, kind {kind}, {outputs} x {inputs}, groups of {group}");
                    for n in [1, 2, 3, 7, 8] {
                        assert_eq!(bits(isa, &x[..n * inputs], &w), want[..n * outputs], "{isa:?}, kind {kind}, {n} rows");
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_codes_and_inputs_do_not_overflow() {
        // -128 is a code of 8 bits, and its products with 127 must fit where pairs are added in 16 bits.
        let (outputs, inputs) = (16, 64);
        for code in [0u8, 255] {
            let zeros = vec![128i16; outputs];
            let w = Packed::new([outputs, inputs], inputs, None, &vec![code; outputs * inputs], Meaning::Bits8, vec![1.0; outputs], Some(zeros));
            let w = w.with_activations(Activations::Int8);
            for sign in [1.0, -1.0] {
                let want = sign * 127.0 * inputs as f32 * (f32::from(code) - 128.0);
                for isa in Isa::available() {
                    assert!(bits(isa, &vec![sign * 127.0; inputs], &w).iter().all(|b| f32::from_bits(*b) == want), "{isa:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let w = matrix(16, 64, 32, 0);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![0.5; 128];
            x[70] = bad;
            let y = bits(Isa::best(), &x, &w);
            assert!(y[..16].iter().all(|b| f32::from_bits(*b).is_finite()) && y[16..].iter().all(|b| f32::from_bits(*b).is_nan()));
        }
        assert!(bits(Isa::best(), &[0.0; 64], &w).iter().all(|b| f32::from_bits(*b) == 0.0));
    }
}

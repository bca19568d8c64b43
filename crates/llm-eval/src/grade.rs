//! From generated text to right or wrong: pure functions, equal to those of the harnesses that the task names promise.
//!
//! | module | of | what |
//! |---|---|---|
//! | [`filter`] | lm-eval `filters/`, `exact_match` | regex filters with Python's `findall`, normalised comparison |
//! | [`minerva`] | lm-eval `minerva_math` | answer extraction and the normalisation of Lewkowycz et al. 2022, appendix D |
//! | [`hendrycks`] | lm-eval `hendrycks_math` | `strip_string` and `is_equiv` of Hendrycks et al. 2021 |
//! | [`bbh`] | lm-eval `bbh`, ours | the answer after "the answer is" |
//! | [`chart`] | lmms-eval `chartqa` | relaxed accuracy |
//! | [`pass_at_k`] | Chen et al. 2021 | unbiased pass@k |
//!
//! Whether two LaTeX expressions are the same number or function is for `llm_verify::math` to say.
//!
//! `fixtures/eval/graders.json` holds strings, ordinary and nasty, with what the harnesses' own functions made of them
//! (`benches/peers/grader_vectors.py`).

pub mod bbh;
pub mod chart;
pub mod filter;
pub mod hendrycks;
pub mod minerva;
mod text;

/// Share of programs that would pass if the best of `k` counted: `1 - C(n - c, k) / C(n, k)` for `c` of `n` that passed.
///
/// Chen et al. 2021, section 2.1. `k` above `n` cannot be estimated: `None`.
pub fn pass_at_k(n: u64, c: u64, k: u64) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    if n - c < k {
        return Some(1.0);
    }
    Some(1.0 - ((n - c + 1)..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>())
}

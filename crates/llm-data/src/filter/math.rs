//! Documents with mathematics in them, in the manner of OpenWebMath (Paster et al., 2023): profile `math`.
//!
//! OpenWebMath looks for LaTeX commands and MathML and asks a classifier; this profile counts. A *mark* is a LaTeX command of
//! mathematics (`\frac`), a formula between delimiters (`$x^2$`, `\(…\)`, `\[…\]`, `$$…$$`, `\begin{align}`), a MathML element, or a
//! character that only mathematics uses (U+2200 to U+22FF and the like); plain equations (`x = 2y + 1`) count for a quarter. The density
//! is marks per thousand characters.

use super::limits::{Bound, Judge, Limits, limits};
use super::lines::chars;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::step::{Rule, Step, Trace, Verdict};
use regex::Regex;

/// Name of the profile.
pub const NAME: &str = "math";

limits! {
    /// Limits of `math`.
    pub struct MathLimits {
        /// Characters.
        min_chars = 100.0,
        /// Marks of mathematics, whatever the length.
        min_marks = 2.0,
        /// Marks per thousand characters.
        min_marks_per_1000 = 2.0,
        /// Share of characters that are letters of prose, outside formulas and commands: less is a bare table of formulas.
        min_prose = 0.15,
    }
}

/// The profile.
#[derive(Debug)]
pub struct Math {
    pub(super) bounds: Vec<Bound>,
    patterns: [Regex; 4],
}

impl Math {
    /// With these limits.
    pub fn new(limits: &MathLimits) -> Result<Self> {
        let regex = |pattern: &str| Regex::new(pattern).map_err(|e| Error::Config(format!("math: {e}")));
        let commands = "frac|dfrac|tfrac|sqrt|sum|prod|int|iint|oint|lim|limsup|liminf|infty|partial|nabla|cdot|cdots|ldots|times|div|pm|mp|leq?|geq?|neq?|\
            approx|equiv|sim|simeq|cong|propto|subset|subseteq|supset|in|notin|cup|cap|setminus|emptyset|forall|exists|neg|land|lor|implies|iff|to|\
            rightarrow|leftarrow|Rightarrow|Leftrightarrow|mapsto|alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|\
            sigma|tau|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|mathbb|mathcal|mathbf|mathrm|mathfrak|operatorname|\
            overline|underline|hat|bar|vec|tilde|binom|choose|pmod|bmod|mod|gcd|log|ln|exp|sin|cos|tan|det|dim|ker|left|right|langle|rangle|lfloor|rfloor|\
            lceil|rceil|boxed|triangle|angle|circ|perp|parallel";
        Ok(Self {
            bounds: limits.bounds(),
            patterns: [
                regex(&format!(r"\\(?:{})(?:[^a-zA-Z]|$)", commands.replace(' ', "")))?,
                regex(
                    r"\$\$[^$]{1,2000}\$\$|\$(?:[^$\n\s][^$\n]{0,198}[^$\n\s]|[a-zA-Z0-9])\$|\\\([^\n]{1,300}?\\\)|\\\[[\s\S]{1,2000}?\\\]|\\begin\{(?:equation|align|gather|eqnarray|matrix|pmatrix|bmatrix|cases|array|multline)\*?\}",
                )?,
                regex(r"<(?:math|mi|mo|mn|mrow|msup|msub|mfrac|msqrt)\b")?,
                regex(r"\b[a-zA-Z0-9)\]]{1,4} ?= ?-?[a-zA-Z0-9(\[]{1,8}(?: ?[-+*/^] ?[a-zA-Z0-9(]{1,8})+")?,
            ],
        })
    }
}

fn symbol(c: char) -> bool {
    matches!(c,
        '±' | '×' | '÷' | '¬' | '∀'..='⋿' | '\u{27c0}'..='\u{27ef}' | '\u{2980}'..='\u{2aff}' | '\u{1d400}'..='\u{1d7ff}' | 'ℝ' | 'ℤ' | 'ℕ' | 'ℚ' | 'ℂ'
        | '⇒' | '⇔' | '↦')
}

impl Step for Math {
    fn name(&self) -> &str {
        NAME
    }

    fn checks(&self) -> Vec<String> {
        super::check_names(NAME, &self.bounds)
    }

    fn rules(&self) -> Vec<Rule> {
        super::rules_of(NAME, &self.bounds)
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let text = document.text.as_str();
        let all = chars(text);
        let [commands, formulas, elements, equations] = &self.patterns;
        let mut in_formulas = 0;
        let mut marks = 0.0;
        for (pattern, weight) in [(formulas, 1.0), (commands, 1.0), (elements, 1.0), (equations, 0.25)] {
            for found in pattern.find_iter(text) {
                marks += weight;
                in_formulas += if std::ptr::eq(pattern, formulas) { chars(found.as_str()) } else { 0 };
            }
        }
        let (mut letters, mut symbols) = (0usize, 0usize);
        for c in text.chars() {
            letters += usize::from(c.is_alphabetic());
            symbols += usize::from(symbol(c));
        }
        marks += symbols as f64;
        let mut judge = Judge::new(NAME, &self.bounds, trace);
        let prose = letters.saturating_sub(in_formulas) as f64 / all.max(1) as f64;
        let _ = judge.check("chars", all as f64)
            && judge.check("marks", marks)
            && judge.check("marks_per_1000", marks * 1000.0 / all.max(1) as f64)
            && judge.check("prose", prose);
        Ok(judge.verdict())
    }
}

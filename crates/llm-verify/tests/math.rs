//! Answers as models and data sets write them: a table by kind, what must never be called equal, algebra, and hostile input.

use llm_verify::math::{Extract, MOST_CHARS, equal_expressions, grade, same};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// Reference, answer, verdict.
type Case = (&'static str, &'static str, Option<bool>);

fn check(cases: &[Case]) {
    let wrong: Vec<_> = cases.iter().map(|&(gold, answer, expected)| (gold, answer, expected, same(gold, answer))).filter(|c| c.2 != c.3).collect();
    assert!(wrong.is_empty(), "reference, answer, expected, got: {wrong:#?}");
}

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);

#[test]
fn numbers() {
    check(&[
        ("18", "18", YES),
        ("18", "18.0", YES),
        ("18", "18.", YES),
        ("18", "$18", YES),
        ("18", "\\$18.00", YES),
        ("18", "+18", YES),
        ("18", "19", NO),
        ("18", "-18", NO),
        ("18", "", NO),
        ("70000", "70,000", YES),
        ("70,000", "70000", YES),
        ("1,234,567", "1234567", YES),
        ("1{,}000", "1000", YES),
        ("10\\,000", "10000", YES),
        ("11,\\! 111,\\! 100", "11111100", YES),
        ("12 000", "12000", YES),
        ("1,000", "1", NO),
        ("0.5", "\\frac{1}{2}", YES),
        ("\\frac{1}{2}", ".5", YES),
        ("\\frac12", "1/2", YES),
        ("\\dfrac{3}{4}", "0.75", YES),
        ("\\frac{2}{4}", "\\frac{1}{2}", YES),
        ("-\\frac{1}{2}", "\\frac{-1}{2}", YES),
        ("-\\frac{1}{2}", "\\frac{1}{-2}", YES),
        ("\\frac{1}{3}", "0.33", NO),
        ("\\frac{1}{3}", "0.3333333333333333", NO),
        ("3\\frac{1}{2}", "3.5", YES),
        ("3\\frac12", "\\frac{7}{2}", YES),
        ("-2\\frac{1}{4}", "-2.25", YES),
        ("3 1/2", "3.5", YES),
        ("2½", "2.5", YES),
        ("1.5e3", "1500", YES),
        ("3\\times 10^{-4}", "0.0003", YES),
        ("6.02 \\times 10^{23}", "602000000000000000000000", YES),
        ("2^{10}", "1024", YES),
        ("5!", "120", YES),
        ("\\binom{6}{2}", "15", YES),
        ("12345678901234567890", "12345678901234567891", NO),
        ("3:4", "3/4", YES),
        ("1010_2", "1010_{2}", YES),
        ("1010_2", "1010", YES),
        ("1010_2", "1010_3", NO),
        ("2516_8", "2516_{\\text{8}}", YES),
    ]);
}

#[test]
fn per_cents_and_units() {
    check(&[
        ("50\\%", "50", YES),
        ("50", "50\\%", YES),
        ("50%", "0.5", YES),
        ("0.5", "50%", YES),
        ("\\frac{1}{4}", "25\\%", YES),
        ("50%", "5%", NO),
        ("50", "0.5", NO),
        ("12.5\\%", "12.5 percent", YES),
        ("5", "5 \\text{ cm}", YES),
        ("5\\text{ cm}", "5 cm", YES),
        ("5\\text{ cm}", "5\\,\\mathrm{cm}", YES),
        ("5\\text{ cm}", "5 \\text{ centimeters}", YES),
        ("5\\text{ cm}", "5 \\text{ m}", NO),
        ("5\\text{ cm}", "6 \\text{ cm}", NO),
        ("20\\text{ square units}", "20", YES),
        ("24\\text{ cm}^2", "24", YES),
        ("60", "60 miles per hour", YES),
        ("60\\text{ mph}", "60", YES),
        ("3", "3 apples", YES),
        ("3", "3\\text{ apples}", YES),
        ("18", "18 dollars", YES),
        ("4", "4 hours", YES),
        ("4\\text{ hours}", "4\\text{ minutes}", NO),
        ("90^\\circ", "90", YES),
        ("90", "90^{\\circ}", YES),
        ("90°", "90 degrees", YES),
        ("45^\\circ", "54^\\circ", NO),
    ]);
}

#[test]
fn expressions() {
    check(&[
        ("2\\sqrt{3}", "\\sqrt{12}", YES),
        ("2\\sqrt3", "2*sqrt(3)", YES),
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", YES),
        ("\\frac{\\sqrt{3}}{3}", "1/\\sqrt{3}", YES),
        ("2\\sqrt{3}", "3\\sqrt{2}", NO),
        ("\\sqrt{2}", "1.414", NO),
        ("\\sqrt[3]{-8}", "-2", YES),
        ("(-8)^{1/3}", "-2", YES),
        ("\\pi", "3.14", NO),
        ("\\frac{\\pi}{4}", "pi/4", YES),
        ("\\frac{\\pi}{4}", "π/4", YES),
        ("4\\pi", "4 \\pi", YES),
        ("\\frac{3\\pi}{2}", "1.5\\pi", YES),
        ("\\sin 30^\\circ", "\\frac{1}{2}", YES),
        ("\\cos\\frac{\\pi}{3}", "0.5", YES),
        ("\\tan^{-1} 1", "\\frac{\\pi}{4}", YES),
        ("\\log_2 8", "3", YES),
        ("\\ln e^2", "2", YES),
        ("e^{2}", "\\exp(2)", YES),
        ("x^2+2x+1", "(x+1)^2", YES),
        ("x^2+2x+1", "x^2+2x+2", NO),
        ("(x-3)(x+3)", "x^2-9", YES),
        ("\\frac{x^2-1}{x-1}", "x+1", YES),
        ("\\sqrt{x^2}", "|x|", YES),
        ("\\sqrt{x^2}", "x", NO),
        ("\\sin^2 x", "1-\\cos^2 x", YES),
        ("\\sin 2x", "2\\sin x\\cos x", YES),
        ("\\ln(xy)", "\\ln x + \\ln y", YES),
        ("2^{x+1}", "2\\cdot 2^x", YES),
        ("x^{1/2}", "\\sqrt{x}", YES),
        ("3x", "3y", NO),
        ("2x", "x^2", NO),
        ("x_1 + x_2", "x_{2} + x_{1}", YES),
        ("a+b", "b+a", YES),
        ("3+2i", "2i+3", YES),
        ("(1+i)^2", "2i", YES),
        ("3+2i", "3-2i", NO),
        ("n(n+1)/2", "\\frac{n^2+n}{2}", YES),
        ("x**2", "x^2", YES),
        ("\\lfloor 3.7 \\rfloor", "3", YES),
        ("\\left(\\frac{1}{2}\\right)^{2}", "\\frac14", YES),
        ("2\\frac{3}{4}x", "\\frac{3}{2}x", YES),
        ("\\frac{1}{3}\\pi r^2 h", "\\frac{\\pi r^2 h}{3}", YES),
        ("9^{9^9}", "9^{387420489}", YES),
        ("9^{9^9}", "9^{9^9}+1", NO),
    ]);
}

#[test]
fn equations_and_inequalities() {
    check(&[
        ("x = 5", "5", YES),
        ("5", "x=5", YES),
        ("5", "x = 2 + 3 = 5", YES),
        ("5", "5 = x", YES),
        ("f(x) = x^2", "x^2", YES),
        ("y = 2x + 1", "y=1+2x", YES),
        ("y = 2x + 1", "2x - y + 1 = 0", YES),
        ("2x + 3y = 6", "4x + 6y = 12", YES),
        ("2x + 3y = 6", "2x + 3y = 7", NO),
        ("x^2+y^2=1", "1 = x^2 + y^2", YES),
        ("x = 5", "x = 6", NO),
        ("x > 3", "(3, \\infty)", YES),
        ("(3,\\infty)", "x>3", YES),
        ("x \\ge 3", "[3,\\infty)", YES),
        ("x \\geq 3", "x > 3", NO),
        ("1 < x \\le 2", "(1,2]", YES),
        ("-2 \\leq x \\leq 2", "[-2,2]", YES),
        ("x<-1 \\text{ or } x>3", "(-\\infty,-1)\\cup(3,\\infty)", YES),
        ("3 < x", "x > 3", YES),
    ]);
}

#[test]
fn sets_tuples_intervals_matrices() {
    check(&[
        ("1, 2, 3", "3, 2, 1", YES),
        ("1,2,3", "1, 2 and 3", YES),
        ("1,2", "1,2,3", NO),
        ("1,1,2", "1,2,2", NO),
        ("\\{1,2\\}", "\\{2,1\\}", YES),
        ("\\{1,2\\}", "1, 2", YES),
        ("\\{5\\}", "5", YES),
        ("\\emptyset", "\\{\\}", YES),
        ("x=1 \\text{ or } x=2", "1, 2", YES),
        ("-1, 2", "x = 2, x = -1", YES),
        ("\\pm 2", "2, -2", YES),
        ("1 \\pm \\sqrt{2}", "1+\\sqrt{2}, 1-\\sqrt{2}", YES),
        ("1 \\pm \\sqrt{2}", "1+\\sqrt{2}", NO),
        ("\\{1\\pm\\sqrt{5},-2\\}", "\\{-2, 1-\\sqrt5, 1+\\sqrt5\\}", YES),
        ("(1,2)", "(1, 2)", YES),
        ("(1,2)", "(2,1)", NO),
        ("(1,2)", "1, 2", YES),
        ("(1,2)", "\\left(\\frac{2}{2}, 2.0\\right)", YES),
        ("(x,y) = (1,2)", "(1,2)", YES),
        ("(1,2)", "[1,2]", NO),
        ("[1,2)", "[1,2)", YES),
        ("[1,2)", "(1,2)", NO),
        ("(-\\infty, 3]", "(-\\infty,3]", YES),
        ("(-\\infty, 3]", "(\\infty,3]", NO),
        ("x\\in[0,1]", "[0,1]", YES),
        ("(-1,0)\\cup(0,1)", "(0,1) \\cup (-1,0)", YES),
        ("(-1,0)\\cup(0,1)", "(-1,1)", NO),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", YES),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{pmatrix}1&2\\\\4&3\\end{pmatrix}", NO),
        ("\\begin{pmatrix} \\frac12 \\\\ 3 \\end{pmatrix}", "\\left(\\begin{array}{c} 0.5 \\\\ 3 \\end{array}\\right)", YES),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "(1,2)", YES),
        ("(1,2),(3,4)", "(3,4),(1,2)", YES),
        ("\\infty", "∞", YES),
        ("\\infty", "-\\infty", NO),
    ]);
}

#[test]
fn words_and_choices() {
    check(&[
        ("\\text{Yes}", "yes", YES),
        ("Yes", "\\text{No}", NO),
        ("no", "No.", YES),
        ("x", "-x", NO),
        ("x", "-X", NO),
        ("\\text{even}", "Even.", YES),
        ("\\text{(B)}", "B", YES),
        ("B", "(B)", YES),
        ("C", "\\text{C}", YES),
        ("C", "D", NO),
        ("Monday", "**Monday**", YES),
        ("\\text{Evelyn}", "Evelyn", YES),
        ("red, blue", "blue and red", YES),
        // References that cannot be read are skipped, whatever the answer.
        ("\\frac{1", "1", None),
        ("", "1", None),
        ("\\begin{tikzpicture}", "1", None),
        ("@#&", "@#&", None),
        // Answers that cannot be read are wrong.
        ("1", "\\frac{1", NO),
        ("1", "}{", NO),
        ("1", "???", NO),
    ]);
}

#[test]
fn whole_responses() {
    let rules = Extract::default_order();
    for (response, gold, expected) in [
        ("First 3, then 4. So $\\boxed{\\frac{7}{2}}$.", "3.5", YES),
        ("\\boxed{1} was wrong, \\boxed{2} it is", "2", YES),
        ("\\boxed{1} was wrong, \\boxed{2} it is", "1", NO),
        ("She makes $18 every day.\n#### 18", "16 - 3 - 4 = <<16-3-4=9>>9\n#### 18", YES),
        ("The answer is 72 clips.", "48+24 = 72\n#### 72", YES),
        ("**Answer:** $x = 4$", "4", YES),
        ("That makes 42.", "42", YES),
        ("That makes 42.", "We see that $\\boxed{42}$.", YES),
        ("I do not know.", "42", NO),
        ("", "42", NO),
        ("\\boxed{}", "42", NO),
        ("\\boxed{42", "42", YES), // an unfinished box is no box: the last number
    ] {
        assert_eq!(grade(response, gold, &rules, 0.0), expected, "{response} against {gold}");
    }
    assert_eq!(grade("\\boxed{3.14}", "\\pi", &rules, 0.01), YES);
    assert_eq!(grade("\\boxed{3.2}", "\\pi", &rules, 0.01), NO);
    assert_eq!(grade("\\boxed{1} The answer is 2", "2", &[Extract::AnswerIs, Extract::Boxed], 0.0), YES);
}

/// Equal, but not worked out: what a policy would learn that is paid for repeating the question.
#[test]
fn calculations_are_told_from_numbers() {
    let rules = [Extract::Whole];
    for answer in ["12\\cdot 34", "400+8", "\\frac{816}{1+1}", "\\sqrt{166464}", "x = 12*34", "\\log 10^{408}", "408^1"] {
        assert!(llm_verify::math::is_calculation(answer, "#### 408", &rules), "{answer}");
    }
    for answer in [
        "408",
        "-408",
        "x = 408",
        "408.0",
        "\\frac{816}{2}",
        "3\\frac12",
        "4.08\\times 10^2",
        "$408",
        "408\\text{ km}",
        "408 apples",
        "(1,2)",
        "none",
    ] {
        assert!(!llm_verify::math::is_calculation(answer, "408", &rules), "{answer}");
    }
    assert!(!llm_verify::math::is_calculation("(x+1)^2", "x^2+2x+1", &rules));
}

/// A small expression with its value at a point, so that rewriting can be checked against arithmetic.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (1u32..30).prop_map(|n| n.to_string()),
        Just("x".to_string()),
        Just("y".to_string()),
        Just("\\pi".to_string()),
        Just("\\sin(x)".to_string())
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}+{b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}-{b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}\\cdot {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("\\frac{{{a}}}{{{b}+41.5}}")),
            (inner.clone(), 0u32..3).prop_map(|(a, n)| format!("({a})^{{{n}}}")),
            inner.prop_map(|a| format!("\\sqrt{{({a})^2+1}}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Rewriting by the laws of algebra changes no value, and one more is another value.
    #[test]
    fn rewriting_keeps_and_changing_changes(a in expression(), b in expression()) {
        for (left, right) in [
            (format!("{a}+{b}"), format!("{b}+{a}")),
            (format!("({a})({b})"), format!("({b})({a})")),
            (format!("({a}+{b})^2"), format!("({a})^2+2({a})({b})+({b})^2")),
            (format!("\\frac{{{a}}}{{2}}"), format!("0.5({a})")),
            (format!("{a}-({b})"), format!("-({b}-({a}))")),
        ] {
            prop_assert!(equal_expressions(&left, &right), "{} = {}", left, right);
        }
        prop_assert!(!equal_expressions(&a, &format!("{a}+1")), "{} = itself + 1", a);
        prop_assert!(!equal_expressions(&format!("{a}+x"), &format!("{a}+y")), "{} + x = + y", a);
    }

    /// Equality of fractions is that of cross multiplication.
    #[test]
    fn fractions(p in -200i64..200, q in 1i64..60, r in -200i64..200, s in 1i64..60, k in 1i64..50) {
        let latex = |p: i64, q: i64| format!("\\frac{{{p}}}{{{q}}}");
        prop_assert_eq!(same(&latex(p, q), &latex(r, s)), Some(p * s == q * r));
        prop_assert_eq!(same(&latex(p, q), &format!("{}/{}", p * k, q * k)), YES);
    }

    #[test]
    fn numbers_in_many_spellings(n in 0u64..10_000_000_000, places in 0usize..4) {
        let digits = n.to_string();
        let grouped: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).unwrap()).collect();
        for spelling in [grouped.join(","), grouped.join("{,}"), grouped.join("\\,"), format!("\\${digits}"), format!("{digits}.{}", "0".repeat(places)),
            format!("{digits}\\text{{ km}}"), format!("x = {digits}"), format!("\\text{{{digits}}}")] {
            prop_assert_eq!(same(&digits, &spelling), YES, "{}", spelling);
            prop_assert_eq!(same(&(n + 1).to_string(), &spelling), NO, "{}", spelling);
        }
    }

    /// Nothing that a model may write panics or takes long.
    #[test]
    fn any_text(gold in any::<String>(), answer in any::<String>()) {
        let _ = grade(&answer, &gold, &Extract::default_order(), 0.0);
        let _ = same(&gold, &answer);
    }

    /// Pieces of LaTeX in any order reach further than random characters.
    #[test]
    fn any_latex(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40), other in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)) {
        let start = Instant::now();
        let (a, b) = (pieces.concat(), other.concat());
        let _ = same(&a, &b);
        let _ = grade(&a, &b, &Extract::default_order(), 0.01);
        // Whatever can be read is equal to itself, but for numbers that do not exist.
        prop_assert!(start.elapsed() < Duration::from_secs(2));
    }
}

const PIECES: &[&str] = &[
    "1",
    "23",
    "0",
    ".5",
    "x",
    "y",
    "e",
    "i",
    "\\pi",
    "\\frac",
    "\\sqrt",
    "[3]",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\\{",
    "\\}",
    "+",
    "-",
    "*",
    "/",
    "^",
    "_",
    "!",
    "|",
    "=",
    "<",
    "\\le",
    ",",
    "\\cup",
    "\\infty",
    "\\pm",
    "\\text{ cm}",
    "\\text{",
    "%",
    "°",
    "^\\circ",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "\\sin",
    "\\log_",
    "\\binom",
    "\\boxed{",
    "#### ",
    "the answer is ",
    " and ",
    "\\lfloor",
    "\\rfloor",
    " ",
    "$",
    "99999999999999999999",
    "\\left",
    "\\right",
];

#[test]
fn hostile_answers_are_bounded() {
    let long = "1+".repeat(MOST_CHARS / 2 - 1) + "1";
    let answers = [
        "9^{9^{9^{9^{9}}}}".to_string(),
        "9^9^9^9".to_string(),
        "((((((((((10!)!)!)!)!)!)!)!)!)!)!".to_string(),
        "99999999999999!".to_string(),
        "\\binom{99999999999}{88888888888}".to_string(),
        "2^{-99999999999999999999999}".to_string(),
        "0^{-1}".to_string(),
        "\\frac{1}{0}".to_string(),
        "(".repeat(MOST_CHARS),
        "{".repeat(MOST_CHARS),
        "-".repeat(MOST_CHARS),
        "!".repeat(MOST_CHARS),
        format!("5{}", "!".repeat(MOST_CHARS - 1)),
        "\\sqrt".repeat(300),
        "\\frac".repeat(300),
        "x^".repeat(MOST_CHARS / 2),
        "1/".repeat(MOST_CHARS / 2 - 1) + "1",
        "x".repeat(MOST_CHARS),
        "±".repeat(MOST_CHARS),
        "1,".repeat(MOST_CHARS / 2),
        "(1,".repeat(MOST_CHARS / 3),
        "\\text{".repeat(300),
        "\\boxed{".repeat(300),
        "3\\frac12".repeat(200),
        "|".repeat(MOST_CHARS),
        "9".repeat(MOST_CHARS),
        long.clone(),
        "1".repeat(10 * MOST_CHARS),
        "\u{1}\u{2}⦃⦄∪∈".repeat(100),
    ];
    // A small stack, as threads of a pool have.
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            for answer in &answers {
                let start = Instant::now();
                for gold in ["7", "x^2", "(1,2)", "\\{1,2\\}", answer.as_str()] {
                    let verdict = same(gold, answer);
                    assert!(gold == answer.as_str() || verdict != Some(true), "{gold} = {answer:.60}");
                    let _ = grade(answer, gold, &Extract::default_order(), 0.0);
                }
                assert!(start.elapsed() < Duration::from_secs(2), "{:?} for {answer:.60}", start.elapsed());
            }
        })
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(same(&long, &(MOST_CHARS / 2).to_string()), YES);
}

/// The 500 problems of MATH-500: every reference can be read, is itself, and is what its worked solution has in the box.
#[test]
fn references_of_math_500_can_be_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/benchmarks/math/math500_test.jsonl");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: {path} is not there");
        return;
    };
    let mut unread = Vec::new();
    let mut unequal = Vec::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let (answer, solution) = (row["answer"].as_str().unwrap(), row["solution"].as_str().unwrap());
        match (same(answer, answer), grade(solution, answer, &[Extract::Boxed], 0.0)) {
            (Some(true), Some(true)) => {}
            (None, _) => unread.push(answer.to_string()),
            _ => unequal.push(answer.to_string()),
        }
    }
    assert!(unequal.is_empty(), "not equal to themselves: {unequal:#?}");
    assert!(unread.len() <= 5, "{} of 500 cannot be read: {unread:#?}", unread.len());
}

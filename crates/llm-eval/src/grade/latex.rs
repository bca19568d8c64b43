//! Are two LaTeX expressions the same number or the same function?
//!
//! Both are read by a small grammar (numbers, fractions, roots, powers, products with and without a sign, elementary
//! functions, absolute values, factorials; letters are variables) and evaluated at a few fixed points; they are the same when
//! they agree at every point where both are defined, and there is one. An expression that the grammar does not cover
//! (intervals, tuples, matrices, words) equals nothing but itself, which the caller checks. SymPy, which the harness asks,
//! decides the same question by simplification.
//!
//! Hostile input: at most `MOST_CHARS` characters and `MOST_DEPTH` levels, so time and stack are bounded.

/// Longest expression.
const MOST_CHARS: usize = 2000;
/// Deepest nesting.
const MOST_DEPTH: usize = 40;
/// Points at which two functions are compared.
const POINTS: usize = 6;
/// Largest relative difference: well above rounding, below any rounded decimal somebody would write.
const CLOSE: f64 = 1e-12;

/// Equal in value at every point that can be evaluated.
pub fn equal(a: &str, b: &str) -> bool {
    let (Some(left), Some(right)) = (parse(a), parse(b)) else { return false };
    // Whole numbers beyond 2^53 are not all floating point numbers.
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return a == b;
    }
    let mut compared = 0;
    for point in 0..POINTS {
        let (x, y) = (left.value(point), right.value(point));
        match (x.is_finite(), y.is_finite()) {
            (true, true) => {
                if (x - y).abs() > CLOSE * x.abs().max(y.abs()).max(1e-300) && (x - y).abs() > f64::MIN_POSITIVE {
                    return false;
                }
                compared += 1;
            }
            (false, false) => {}
            _ => return false,
        }
    }
    compared > 0
}

/// Sign and digits of a plain whole number, without leading zeros.
fn whole(text: &str) -> Option<String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let bare = digits.trim_start_matches('0');
    plain.then(|| if bare.is_empty() { "0".to_string() } else { format!("{}{bare}", if text.starts_with('-') { "-" } else { "" }) })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
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

#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Number(f64),
    Variable(String),
    Sum(Vec<Expr>),
    Negative(Box<Expr>),
    Product(Vec<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    Call(Function, Vec<Expr>),
}

/// Value of a variable at a point: positive numbers without simple relations, the same for the same name.
fn place(name: &str, point: usize) -> f64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (point as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    0.3 + (mixed >> 40) as f64 / (1u64 << 24) as f64 * [0.6, 1.5, 4.0][point % 3]
}

impl Expr {
    fn value(&self, point: usize) -> f64 {
        let value = |e: &Expr| e.value(point);
        match self {
            Expr::Number(n) => *n,
            Expr::Variable(name) => place(name, point),
            Expr::Sum(terms) => terms.iter().map(value).sum(),
            Expr::Negative(e) => -value(e),
            Expr::Product(factors) => factors.iter().map(value).product(),
            Expr::Quotient(a, b) => value(a) / value(b),
            Expr::Power(a, b) => power(value(a), value(b)),
            Expr::Call(function, arguments) => {
                let x = arguments.first().map_or(f64::NAN, value);
                let y = || arguments.get(1).map_or(f64::NAN, value);
                match function {
                    Function::Sqrt => x.sqrt(),
                    Function::Root => root(x, y()),
                    Function::Abs => x.abs(),
                    Function::Factorial => factorial(x),
                    Function::Sin => x.sin(),
                    Function::Cos => x.cos(),
                    Function::Tan => x.tan(),
                    Function::Cot => x.tan().recip(),
                    Function::Sec => x.cos().recip(),
                    Function::Csc => x.sin().recip(),
                    Function::Arcsin => x.asin(),
                    Function::Arccos => x.acos(),
                    Function::Arctan => x.atan(),
                    Function::Sinh => x.sinh(),
                    Function::Cosh => x.cosh(),
                    Function::Tanh => x.tanh(),
                    Function::Ln => x.ln(),
                    Function::Log => x.ln() / if arguments.len() > 1 { y().ln() } else { 10f64.ln() },
                    Function::Exp => x.exp(),
                    Function::Floor => x.floor(),
                    Function::Ceil => x.ceil(),
                    Function::Binomial => binomial(x, y()),
                }
            }
        }
    }
}

fn power(a: f64, b: f64) -> f64 {
    if b.fract() == 0.0 && b.abs() < 1e6 { a.powi(b as i32) } else { a.powf(b) }
}

fn root(x: f64, n: f64) -> f64 {
    if n == 3.0 { x.cbrt() } else { x.powf(1.0 / n) }
}

fn factorial(x: f64) -> f64 {
    if x < 0.0 || x.fract() != 0.0 || x > 170.0 { f64::NAN } else { (1..=x as u32).map(f64::from).product() }
}

fn binomial(n: f64, k: f64) -> f64 {
    if k < 0.0 || k.fract() != 0.0 || k > 1000.0 { f64::NAN } else { (0..k as u32).map(|i| (n - f64::from(i)) / (f64::from(i) + 1.0)).product() }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(f64),
    Letter(char),
    Command(String),
    Sign(char),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() > MOST_CHARS {
        return None;
    }
    let mut out = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '\\' {
            let end = (i + 1..chars.len()).find(|&j| !chars[j].is_ascii_alphabetic()).unwrap_or(chars.len());
            if end == i + 1 {
                // A command of one sign: spaces mean nothing, \{ and \| are brackets, \\ is a new line.
                match *chars.get(end)? {
                    ',' | ';' | ':' | '!' | ' ' => {}
                    bracket @ ('{' | '}') => out.push(Token::Sign(if bracket == '{' { '(' } else { ')' })),
                    '|' => out.push(Token::Sign('|')),
                    _ => return None,
                }
                i = end + 1;
                continue;
            }
            let name: String = chars[i + 1..end].iter().collect();
            if !matches!(name.as_str(), "left" | "right" | "displaystyle" | "big" | "Big" | "bigl" | "bigr" | "quad" | "qquad") {
                out.push(Token::Command(name));
            }
            i = end;
        } else if c.is_ascii_digit() || (c == '.' && chars.get(i + 1).is_some_and(char::is_ascii_digit)) {
            let mut end = i;
            let mut point = false;
            while end < chars.len() && (chars[end].is_ascii_digit() || (chars[end] == '.' && !point)) {
                point |= chars[end] == '.';
                end += 1;
            }
            let digits: String = chars[i..end].iter().collect();
            out.push(Token::Number(digits.parse().ok()?));
            i = end;
        } else {
            match c {
                c if c.is_whitespace() => {}
                c if c.is_ascii_alphabetic() => out.push(Token::Letter(c)),
                '+' | '-' | '*' | '/' | '^' | '_' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '!' => out.push(Token::Sign(c)),
                '\u{2212}' => out.push(Token::Sign('-')),
                '\u{00d7}' | '\u{00b7}' => out.push(Token::Sign('*')),
                '\u{03c0}' => out.push(Token::Command("pi".to_string())),
                _ => return None,
            }
            i += 1;
        }
    }
    Some(out)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Bars of absolute values that are open: the next bar closes.
    bars: usize,
}

fn parse(text: &str) -> Option<Expr> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0, bars: 0 };
    let expr = parser.sum()?;
    (parser.at == parser.tokens.len()).then_some(expr)
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn sees(&self, sign: char) -> bool {
        self.peek() == Some(&Token::Sign(sign))
    }

    fn sees_command(&self, names: &[&str]) -> bool {
        matches!(self.peek(), Some(Token::Command(name)) if names.contains(&name.as_str()))
    }

    fn take(&mut self, sign: char) -> Option<()> {
        let there = self.sees(sign);
        self.at += usize::from(there);
        there.then_some(())
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        let result = if self.depth > MOST_DEPTH { None } else { parse(self) };
        self.depth -= 1;
        result
    }

    fn sum(&mut self) -> Option<Expr> {
        self.nested(|p| {
            let mut terms = vec![p.product()?];
            loop {
                if p.take('+').is_some() {
                    terms.push(p.product()?);
                } else if p.take('-').is_some() {
                    terms.push(Expr::Negative(Box::new(p.product()?)));
                } else {
                    break;
                }
            }
            Some(if terms.len() == 1 { terms.remove(0) } else { Expr::Sum(terms) })
        })
    }

    fn product(&mut self) -> Option<Expr> {
        let mut left = self.signed()?;
        loop {
            if self.take('*').is_some() || self.sees_command(&["cdot", "times"]) {
                if self.sees_command(&["cdot", "times"]) {
                    self.at += 1;
                }
                left = Expr::Product(vec![left, self.signed()?]);
            } else if self.sees('/') || self.sees_command(&["div"]) {
                self.at += 1;
                left = Expr::Quotient(Box::new(left), Box::new(self.signed()?));
            } else if self.begins_factor() {
                left = Expr::Product(vec![left, self.powered()?]);
            } else {
                return Some(left);
            }
        }
    }

    fn begins_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Letter(_) | Token::Number(_)) => true,
            Some(Token::Sign('|')) => self.bars == 0,
            Some(Token::Sign(c)) => matches!(c, '(' | '{' | '['),
            Some(Token::Command(name)) => !matches!(name.as_str(), "cdot" | "times" | "div" | "rfloor" | "rceil"),
            None => false,
        }
    }

    fn signed(&mut self) -> Option<Expr> {
        let mut negative = false;
        let mut signs = 0;
        while self.sees('-') || self.sees('+') {
            negative ^= self.sees('-');
            self.at += 1;
            signs += 1;
            if signs > MOST_DEPTH {
                return None;
            }
        }
        let expr = self.powered()?;
        Some(if negative { Expr::Negative(Box::new(expr)) } else { expr })
    }

    fn powered(&mut self) -> Option<Expr> {
        let mut base = self.atom()?;
        while self.take('!').is_some() {
            base = Expr::Call(Function::Factorial, vec![base]);
        }
        if self.take('^').is_none() {
            return Some(base);
        }
        let exponent = self.nested(Self::argument)?;
        Some(Expr::Power(Box::new(base), Box::new(exponent)))
    }

    /// What a command or an exponent applies to: a group, a command with its own arguments, or one character.
    fn argument(&mut self) -> Option<Expr> {
        match self.peek()?.clone() {
            Token::Sign('{') => self.atom(),
            // Of a number, one digit: \frac12, x^12.
            Token::Number(n) if n.fract() == 0.0 && n >= 10.0 => {
                let digits = format!("{n}");
                let (first, rest) = digits.split_at(1);
                self.tokens[self.at] = Token::Number(rest.parse().ok()?);
                Some(Expr::Number(first.parse().ok()?))
            }
            Token::Sign('-') => {
                self.at += 1;
                Some(Expr::Negative(Box::new(self.nested(Self::argument)?)))
            }
            _ => self.atom(),
        }
    }

    fn atom(&mut self) -> Option<Expr> {
        self.nested(|p| {
            let token = p.peek()?.clone();
            p.at += 1;
            match token {
                Token::Number(n) => Some(Expr::Number(n)),
                Token::Letter(c) => p.variable(c.to_string()),
                Token::Sign('(') => p.until(')'),
                Token::Sign('[') => p.until(']'),
                Token::Sign('{') => p.until('}'),
                Token::Sign('|') => {
                    p.bars += 1;
                    let inner = p.sum();
                    p.bars -= 1;
                    p.take('|')?;
                    Some(Expr::Call(Function::Abs, vec![inner?]))
                }
                Token::Sign(_) => None,
                Token::Command(name) => p.command(&name),
            }
        })
    }

    fn until(&mut self, close: char) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let inner = self.sum();
        self.bars = bars;
        self.take(close)?;
        inner
    }

    /// A letter and its index.
    fn variable(&mut self, mut name: String) -> Option<Expr> {
        if self.take('_').is_some() {
            let start = self.at;
            self.nested(Self::argument)?;
            name.push_str(&format!("_{:?}", &self.tokens[start..self.at]));
        }
        Some(Expr::Variable(name))
    }

    fn command(&mut self, name: &str) -> Option<Expr> {
        let call = |function, arguments| Some(Expr::Call(function, arguments));
        match name {
            "frac" | "dfrac" | "tfrac" | "cfrac" => {
                let (a, b) = (self.argument()?, self.argument()?);
                Some(Expr::Quotient(Box::new(a), Box::new(b)))
            }
            "binom" | "dbinom" | "tbinom" => {
                let arguments = vec![self.argument()?, self.argument()?];
                call(Function::Binomial, arguments)
            }
            "sqrt" => {
                let index = if self.take('[').is_some() { Some(self.until(']')?) } else { None };
                let inner = self.argument()?;
                match index {
                    Some(index) => call(Function::Root, vec![inner, index]),
                    None => call(Function::Sqrt, vec![inner]),
                }
            }
            "pi" => Some(Expr::Number(std::f64::consts::PI)),
            "infty" => Some(Expr::Number(f64::INFINITY)),
            "lfloor" | "lceil" => {
                let inner = self.sum()?;
                let close = if name == "lfloor" { "rfloor" } else { "rceil" };
                if !self.sees_command(&[close]) {
                    return None;
                }
                self.at += 1;
                call(if name == "lfloor" { Function::Floor } else { Function::Ceil }, vec![inner])
            }
            "log" => {
                let base = if self.take('_').is_some() { Some(self.argument()?) } else { None };
                let (inner, exponent) = self.applied()?;
                let log = Expr::Call(Function::Log, std::iter::once(inner).chain(base).collect());
                Some(raised(log, exponent))
            }
            "alpha" | "beta" | "gamma" | "delta" | "epsilon" | "theta" | "lambda" | "mu" | "phi" | "varphi" | "rho" | "sigma" | "tau" | "omega"
            | "ell" => self.variable(format!("\\{name}")),
            _ => {
                let function = match name {
                    "sin" => Function::Sin,
                    "cos" => Function::Cos,
                    "tan" => Function::Tan,
                    "cot" => Function::Cot,
                    "sec" => Function::Sec,
                    "csc" => Function::Csc,
                    "arcsin" => Function::Arcsin,
                    "arccos" => Function::Arccos,
                    "arctan" => Function::Arctan,
                    "sinh" => Function::Sinh,
                    "cosh" => Function::Cosh,
                    "tanh" => Function::Tanh,
                    "ln" => Function::Ln,
                    "exp" => Function::Exp,
                    _ => return None,
                };
                let (inner, exponent) = self.applied()?;
                Some(raised(Expr::Call(function, vec![inner]), exponent))
            }
        }
    }

    /// The argument of a function by name, and the exponent between the two: `\sin^2 x`.
    fn applied(&mut self) -> Option<(Expr, Option<Expr>)> {
        let exponent = if self.take('^').is_some() { Some(self.argument()?) } else { None };
        let mut inner = self.signed()?;
        // `\sin 2x` is the sine of all of it; `\sin(x) y` is not.
        if !matches!(self.tokens.get(self.at.wrapping_sub(1)), Some(Token::Sign(')' | '}' | ']'))) {
            while matches!(self.peek(), Some(Token::Letter(_) | Token::Number(_))) || self.sees_command(&["pi", "theta", "alpha"]) {
                inner = Expr::Product(vec![inner, self.powered()?]);
            }
        }
        Some((inner, exponent))
    }
}

fn raised(expr: Expr, exponent: Option<Expr>) -> Expr {
    match exponent {
        Some(exponent) => Expr::Power(Box::new(expr), Box::new(exponent)),
        None => expr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The variables of an expression.
    fn variables(expr: &Expr, found: &mut BTreeMap<String, ()>) {
        match expr {
            Expr::Variable(name) => {
                found.insert(name.clone(), ());
            }
            Expr::Number(_) => {}
            Expr::Sum(all) | Expr::Product(all) | Expr::Call(_, all) => all.iter().for_each(|e| variables(e, found)),
            Expr::Negative(e) => variables(e, found),
            Expr::Quotient(a, b) | Expr::Power(a, b) => [a, b].iter().for_each(|e| variables(e, found)),
        }
    }

    #[test]
    fn equal_expressions() {
        for (a, b) in [
            ("0.5", "\\frac{1}{2}"),
            ("\\frac12", "1/2"),
            ("\\frac{3\\sqrt{2}}{2}", "\\frac{3}{\\sqrt{2}}"),
            ("2\\sqrt{3}", "\\sqrt{12}"),
            ("\\sqrt[3]{8}", "2"),
            ("x^2+2x+1", "(x+1)^2"),
            ("\\frac{\\pi}{2}", "\\pi/2"),
            ("10^{-3}", ".001"),
            ("-(-3)", "3"),
            ("5!", "120"),
            ("|{-3}|", "3"),
            ("\\sin^2 x+\\cos^2 x", "1"),
            ("\\log_2 8", "3"),
            ("\\binom{5}{2}", "10"),
            ("x_1+x_2", "x_2+x_1"),
            ("\\left(\\frac{1}{2}\\right)^2", "0.25"),
            ("2\\cdot3", "6"),
            ("0", "-0"),
        ] {
            assert!(equal(a, b), "{a} = {b}");
        }
    }

    #[test]
    fn unequal_and_unreadable_expressions() {
        for (a, b) in [
            ("0.333333333", "\\frac{1}{3}"),
            ("12345678901234567890", "12345678901234567891"),
            ("x", "y"),
            ("x_1", "x_2"),
            ("x^2", "x"),
            ("1,2", "1,2"),
            ("(1,2)", "(1,2)"),
            ("\\text{Yes}", "\\text{Yes}"),
            ("", ""),
            ("\\frac{1}", "1"),
            ("1/0", "2/0"),
            ("\\begin{pmatrix}1\\end{pmatrix}", "1"),
        ] {
            assert!(!equal(a, b), "{a} ≠ {b}");
        }
        let deep = format!("{}1{}", "(".repeat(900), ")".repeat(900));
        assert!(!equal(&deep, "1"));
        assert!(!equal(&"-".repeat(1900), "1") && !equal(&"\\sqrt".repeat(300), "1") && !equal(&"x^".repeat(900), "1"));
        let mut found = BTreeMap::new();
        variables(&parse("a_{12}x+\\theta").unwrap(), &mut found);
        assert_eq!(found.len(), 3);
    }
}

//! Seeded damage to a text: the negative examples of the quality model.

use llm_run::{Rng, Seed};

/// The kinds of damage, in the order of the index that [`corrupt`] returns.
pub const KINDS: [&str; 5] = ["shuffled words", "boilerplate", "repeated fragments", "symbol soup", "navigation menu"];

const BOILERPLATE: &[&str] = &[
    "All rights reserved.",
    "Terms of use",
    "Privacy policy",
    "We use cookies to improve your experience",
    "Accept all cookies",
    "Subscribe to our newsletter",
    "Share this page",
    "Read more",
    "Sign in",
    "Log in to continue",
    "Back to top",
    "Copyright ©",
    "Posted by admin",
    "0 comments",
    "Leave a reply",
    "Related articles",
    "Add to cart",
    "Free shipping",
    "Follow us on",
    "Click here",
    "Alle Rechte vorbehalten",
    "Datenschutz",
    "Impressum",
    "Wir verwenden Cookies",
    "Mehr erfahren",
    "Newsletter abonnieren",
    "In den Warenkorb",
    "Zum Seitenanfang",
    "Anmelden",
    "Todos los derechos reservados",
    "Política de privacidad",
    "Aviso legal",
    "Utilizamos cookies",
    "Leer más",
    "Suscríbase al boletín",
    "Añadir al carrito",
    "Iniciar sesión",
    "Volver arriba",
];
const MENU: &[&str] = &[
    "Home",
    "About",
    "About us",
    "Contact",
    "Products",
    "Services",
    "Blog",
    "News",
    "Login",
    "Register",
    "Search",
    "Help",
    "FAQ",
    "Imprint",
    "Sitemap",
    "Careers",
    "Startseite",
    "Über uns",
    "Kontakt",
    "Produkte",
    "Leistungen",
    "Aktuelles",
    "Hilfe",
    "Suche",
    "Warenkorb",
    "Inicio",
    "Quiénes somos",
    "Contacto",
    "Productos",
    "Servicios",
    "Noticias",
    "Ayuda",
    "Buscar",
    "Next",
    "Previous",
    "Menu",
    "Skip to content",
];

/// A damaged version of `text` and the index of its kind in [`KINDS`].
pub fn corrupt(text: &str, seed: Seed) -> (String, usize) {
    let mut rng = seed.rng();
    let kind = rng.below(KINDS.len());
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() {
        return (symbols(&mut rng, &["x"]), 3);
    }
    let damaged = match kind {
        0 => shuffled(&mut rng, words),
        1 => boilerplate(&mut rng, &words),
        2 => repeated(&mut rng, &words),
        3 => symbols(&mut rng, &words),
        _ => menu(&mut rng, &words),
    };
    (damaged, kind)
}

/// All words in random order, in lines as long as the original's.
fn shuffled(rng: &mut Rng, mut words: Vec<&str>) -> String {
    rng.shuffle(&mut words);
    let width = 8 + rng.below(60);
    words.chunks(width).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
}

/// Legal and shop phrases with words of the document between them.
fn boilerplate(rng: &mut Rng, words: &[&str]) -> String {
    (0..20 + rng.below(40))
        .map(|_| match rng.below(3) {
            0 => format!("{} {}", rng.pick(words), rng.pick(BOILERPLATE)),
            _ => (*rng.pick(BOILERPLATE)).to_string(),
        })
        .collect::<Vec<_>>()
        .join(if rng.chance(0.5) { "\n" } else { " " })
}

/// One to three fragments over and over.
fn repeated(rng: &mut Rng, words: &[&str]) -> String {
    let fragments: Vec<String> = (0..1 + rng.below(3))
        .map(|_| {
            let length = (3 + rng.below(15)).min(words.len());
            let start = rng.below(words.len() - length + 1);
            words[start..start + length].join(" ")
        })
        .collect();
    let separator = *rng.pick(&["\n", ". ", " "]);
    (0..15 + rng.below(40)).map(|_| rng.pick(&fragments).as_str()).collect::<Vec<_>>().join(separator)
}

/// Punctuation, digits, hexadecimal and torn words.
fn symbols(rng: &mut Rng, words: &[&str]) -> String {
    const SIGNS: &[char] =
        &['#', '$', '%', '&', '*', '+', '/', '<', '=', '>', '@', '^', '|', '~', '\\', '_', '{', '}', '[', ']', ';', '€', '¤', '\u{fffd}'];
    let mut out = String::new();
    for i in 0..100 + rng.below(150) {
        match rng.below(4) {
            0 => out.extend((0..1 + rng.below(8)).map(|_| *rng.pick(SIGNS))),
            1 => out.push_str(&format!("{:x}", rng.next_u64() >> (rng.below(12) * 4))),
            2 => out.push_str(&rng.below(1_000_000).to_string()),
            _ => {
                let word = rng.pick(words);
                let keep = 1 + rng.below(4);
                out.extend(word.chars().rev().take(keep));
            }
        }
        out.push(if i % 12 == 11 { '\n' } else { ' ' });
    }
    out
}

/// Entries of one to three words, one per line or separated by bars.
fn menu(rng: &mut Rng, words: &[&str]) -> String {
    let separator = *rng.pick(&["\n", " | ", " » ", "\n- ", " "]);
    (0..30 + rng.below(60))
        .map(|_| match rng.below(2) {
            0 => (*rng.pick(MENU)).to_string(),
            _ => (0..1 + rng.below(3)).map(|_| *rng.pick(words)).collect::<Vec<_>>().join(" "),
        })
        .collect::<Vec<_>>()
        .join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_kinds_occur_and_repeat_with_the_seed() {
        let text = "one two three four five six seven eight nine ten eleven twelve";
        let mut seen = [false; KINDS.len()];
        for i in 0..60 {
            let (damaged, kind) = corrupt(text, Seed(i));
            assert_eq!(corrupt(text, Seed(i)).0, damaged);
            assert_ne!(damaged, text);
            seen[kind] = true;
        }
        assert_eq!(seen, [true; KINDS.len()]);
    }

    proptest! {
        #[test]
        fn any_text_can_be_damaged(text in any::<String>(), seed: u64) {
            let _ = corrupt(&text, Seed(seed));
        }
    }
}

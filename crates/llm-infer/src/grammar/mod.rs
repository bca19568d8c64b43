//! Structured output: which tokens may come next, so that the whole answer is in a language.
//!
//! | file | job |
//! |---|---|
//! | `vocabulary` | a tokenizer's tokens as a trie of bytes |
//! | `limits` | what a stranger's grammar may cost |
//! | [`tools`] | tool calls as a grammar |
//!
//! Compiling and matching are the `llguidance` library's: an Earley parser over lexemes that are matched by derivatives of regular
//! expressions, walked along the trie of all tokens. A mask of 128k tokens takes tens of microseconds for most grammars.
//!
//! What a grammar forces it forces as the tokenizer would spell it: where the next bytes are known, only the canonical token is allowed.
//! JSON may have blanks between its parts, but no more than one line's indentation at a time, so no model can go on with blanks for
//! ever.

mod limits;
pub mod tools;
mod vocabulary;

use crate::{Error, Result};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use llm_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::fmt;
use std::sync::{Arc, OnceLock};
use toktrie::SimpleVob;
pub use tools::{Tool, ToolRules, lark_tools};
use vocabulary::Vocabulary;

/// Between the parts of a JSON text: a blank, or a line break and the indentation of the next line.
const JSON_SPACE: &str = r"[ \t]|\r?\n[ \t]{0,64}";

/// A language that an answer must be in.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that satisfies a schema (draft 4 to 2020-12; a keyword that is not enforced is an error). Properties come in the
    /// order of the schema.
    JsonSchema(Value),
    /// The whole answer matches (syntax of the `regex` crate, without look-around).
    Regex(String),
    /// A grammar in the Lark dialect of llguidance, with `%json {...}` for schemas and `<name>` for control tokens.
    Lark(String),
}

impl Constraint {
    /// One of these texts.
    pub fn choice<T: AsRef<str>>(texts: &[T]) -> Self {
        let texts: Vec<String> = texts.iter().map(|t| quoted(t.as_ref())).collect();
        Self::Lark(format!("start: {}\n", texts.join(" | ")))
    }
}

/// A text as a Lark string, which is written as in JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Our rule for blanks, unless the schema says something itself.
fn with_space(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        let options = object.entry("x-guidance").or_insert_with(|| json!({}));
        if let Some(options) = options.as_object_mut()
            && !options.contains_key("whitespace_flexible")
        {
            options.entry("whitespace_pattern").or_insert_with(|| JSON_SPACE.into());
        }
    }
    schema
}

/// Compiles grammars for one vocabulary; cloning shares it. The trie over the vocabulary is built at the first use.
#[derive(Clone)]
pub struct Grammars {
    tokenizer: Tokenizer,
    end_ids: Arc<[u32]>,
    factory: Arc<OnceLock<Result<Arc<ParserFactory>, String>>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("end_ids", &self.end_ids).field("built", &self.factory.get().is_some()).finish_non_exhaustive()
    }
}

impl Grammars {
    /// `end_ids` end an answer: they are allowed exactly where the grammar may end, and nowhere else.
    pub fn new(tokenizer: &Tokenizer, end_ids: &[u32]) -> Self {
        Self { tokenizer: tokenizer.clone(), end_ids: end_ids.into(), factory: Arc::default() }
    }

    /// Build the trie now, so that the first request need not wait: a fifth of a second for 128k tokens.
    pub fn prepare(&self) -> Result<()> {
        self.factory().map(|_| ())
    }

    fn factory(&self) -> Result<&Arc<ParserFactory>> {
        let made = self.factory.get_or_init(|| {
            let vocabulary = Vocabulary::new(&self.tokenizer, &self.end_ids)?;
            let mut factory = ParserFactory::new_simple(&vocabulary.into_env()).map_err(|e| limits::message(&e.to_string()))?;
            factory.quiet();
            *factory.limits_mut() = limits::parser();
            Ok(Arc::new(factory))
        });
        made.as_ref().map_err(|message| Error::Grammar(message.clone()))
    }

    /// The state before the first token. An error says what is wrong with the schema or grammar, or which bound it exceeds; nothing a
    /// stranger can write makes this panic or run for long.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar> {
        limits::check(constraint)?;
        let (kind, grammar) = match constraint {
            Constraint::JsonObject => ("JSON", TopLevelGrammar::from_json_schema(with_space(json!({"type": "object"})))),
            Constraint::JsonSchema(schema) => ("JSON schema", TopLevelGrammar::from_json_schema(with_space(schema.clone()))),
            Constraint::Regex(pattern) => ("regular expression", TopLevelGrammar::from_regex(unanchored(pattern))),
            Constraint::Lark(text) => ("grammar", TopLevelGrammar::from_lark(text.clone())),
        };
        let factory = Arc::clone(self.factory()?);
        let wrong = |message: String| Error::Grammar(format!("{kind}: {}", limits::message(&message)));
        let matcher = limits::guarded(move || {
            let mut matcher = Matcher::new(factory.create_parser(grammar));
            // Also finds what can only fail: no token of this vocabulary begins an answer.
            matcher.compute_mask_or_eos().map_err(|e| e.to_string())?;
            Ok(matcher)
        });
        Ok(Grammar { matcher: matcher.map_err(wrong)?, mask: None, end_ids: Arc::clone(&self.end_ids), ends: 0 })
    }
}

/// A pattern is matched as a whole, so anchors at its ends say nothing new, and the library has none.
fn unanchored(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        Some(rest) if rest.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 0 => rest,
        _ => pattern,
    }
}

/// Tokens that may come next, one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask(SimpleVob);

impl TokenMask {
    /// False also for ids outside the vocabulary.
    pub fn allows(&self, token: u32) -> bool {
        self.words().get(token as usize / 32).is_some_and(|word| (word >> (token % 32)) & 1 == 1)
    }

    /// Token `i` is bit `i % 32` of word `i / 32`.
    pub fn words(&self) -> &[u32] {
        self.0.as_slice()
    }

    /// How many are allowed.
    pub fn count(&self) -> usize {
        self.0.num_set()
    }

    /// Those that are allowed, in order.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        self.0.iter()
    }
}

/// Where one sequence stands in its language. A clone goes its own way.
///
/// The loop: [`apply`](Self::apply) to the logits, choose, [`accept`](Self::accept), until [`must_stop`](Self::must_stop) or an end token.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    /// Of the present state, once somebody asked.
    mask: Option<TokenMask>,
    end_ids: Arc<[u32]>,
    /// End tokens accepted after the language left no other choice.
    ends: usize,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("state", &self.matcher.stop_reason()).finish_non_exhaustive()
    }
}

fn failed(e: impl fmt::Display) -> Error {
    Error::Grammar(limits::message(&e.to_string()))
}

impl Grammar {
    /// The tokens that may come next; only end tokens once the answer [must stop](Self::must_stop).
    pub fn mask(&mut self) -> Result<&TokenMask> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None => TokenMask(self.matcher.compute_mask_or_eos().map_err(failed)?),
        };
        Ok(self.mask.insert(mask))
    }

    /// Minus infinity for every token that may not come next. `logits` may be longer than the vocabulary, as tables of models are.
    pub fn apply(&mut self, logits: &mut [f32]) -> Result<()> {
        let words = self.mask()?.words();
        for (i, logits) in logits.chunks_mut(32).enumerate() {
            let word = words.get(i).copied().unwrap_or(0);
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if (word >> bit) & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Ok(())
    }

    /// The sequence goes on with `token`. A token that may not come here is an error that changes nothing.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        if self.must_stop() && self.end_ids.contains(&token) {
            self.ends += 1;
            return Ok(());
        }
        let known = self.vocab_size()? > token as usize;
        if !known || self.matcher.try_consume_tokens(&[token]).map_err(failed)? == 0 {
            return Err(Error::Grammar(format!("token {token} does not continue an answer of this grammar")));
        }
        self.mask = None;
        Ok(())
    }

    /// How many of `tokens`, from the first on, could come next. Nothing changes.
    pub fn validate(&mut self, tokens: &[u32]) -> usize {
        let Ok(vocab) = self.vocab_size() else { return 0 };
        let known = tokens.iter().take_while(|&&token| (token as usize) < vocab).count();
        self.matcher.validate_tokens(&tokens[..known]).unwrap_or(0)
    }

    /// Take the last `n` accepted tokens back.
    pub fn rollback(&mut self, n: usize) -> Result<()> {
        let ends = n.min(self.ends);
        self.ends -= ends;
        if n > ends {
            self.mask = None;
            self.matcher.rollback(n - ends).map_err(failed)?;
        }
        Ok(())
    }

    /// The answer may end here: what was accepted is in the language.
    pub fn is_complete(&mut self) -> bool {
        self.matcher.is_accepting().unwrap_or(false)
    }

    /// The answer is complete and nothing can follow: no token need be asked for.
    pub fn must_stop(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    fn vocab_size(&self) -> Result<usize> {
        Ok(self.matcher.tok_env().map_err(failed)?.tok_trie().vocab_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_at_the_ends_are_dropped_and_escaped_dollars_are_not() {
        for (pattern, rest) in [("^a$", "a"), ("a", "a"), (r"\$", r"\$"), (r"a\\$", r"a\\"), (r"^\\\$", r"\\\$"), ("^$", "")] {
            assert_eq!(unanchored(pattern), rest, "{pattern}");
        }
    }

    #[test]
    fn a_schemas_own_word_on_blanks_is_kept() {
        assert_eq!(with_space(json!({}))["x-guidance"], json!({"whitespace_pattern": JSON_SPACE}));
        let own = json!({"x-guidance": {"whitespace_flexible": false}});
        assert_eq!(with_space(own.clone()), own);
        assert_eq!(with_space(json!({"x-guidance": {"coerce_one_of": true}}))["x-guidance"]["coerce_one_of"], true);
        assert_eq!(with_space(json!(true)), json!(true));
    }
}

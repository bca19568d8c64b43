//! What a stranger's grammar may cost.
//!
//! The library counts its own work while it compiles a lexer and computes a mask; its recursion and the text it is given are bounded
//! here. It catches its own panics; an overflowing stack nobody can catch, hence the depths and the roomy thread.

use super::Constraint;
use crate::{Error, Result};
use llguidance::api::ParserLimits;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Bytes of a schema, pattern or grammar.
const TEXT: usize = 512 << 10;
/// Brackets within brackets of a schema.
const DEPTH: usize = 100;
/// Lines of a grammar; a rule takes at least one, and rules that name each other in a chain are compiled recursively.
const LINES: usize = 4096;
/// Stack of the compiling thread. Memory is used only as far as recursion goes.
const STACK: usize = 512 << 20;
/// Time to compile.
const TIME: Duration = Duration::from_secs(10);
/// Grammars that compile at the same time, those included that nobody waits for any more.
const THREADS: usize = 8;
/// Characters of an error.
const MESSAGE: usize = 1000;

/// The library's own bounds. A lexer state takes about 2 KB, so the largest grammar takes 60 MB while it is in use.
pub fn parser() -> ParserLimits {
    ParserLimits { max_lexer_states: 30_000, verbose_errors: false, ..ParserLimits::default() }
}

/// Size and depth.
pub fn check(constraint: &Constraint) -> Result<()> {
    let (kind, length) = match constraint {
        Constraint::JsonObject => return Ok(()),
        Constraint::JsonSchema(schema) => {
            if depth_exceeds(schema, DEPTH) {
                return Err(Error::Grammar(format!("JSON schema: objects and arrays are nested more than {DEPTH} deep")));
            }
            ("JSON schema", schema.to_string().len())
        }
        Constraint::Regex(pattern) => ("regular expression", pattern.len()),
        Constraint::Lark(text) => {
            if text.lines().count() > LINES {
                return Err(Error::Grammar(format!("grammar: more than {LINES} lines")));
            }
            ("grammar", text.len())
        }
    };
    if length > TEXT {
        return Err(Error::Grammar(format!("{kind}: {length} bytes, at most {TEXT} are compiled")));
    }
    Ok(())
}

fn depth_exceeds(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth == 0 || items.iter().any(|v| depth_exceeds(v, depth - 1)),
        Value::Object(fields) => depth == 0 || fields.values().any(|v| depth_exceeds(v, depth - 1)),
        _ => false,
    }
}

/// Run `compile` on a thread of its own with a large stack, and wait for it, but not for ever.
pub fn guarded<T: Send + 'static>(compile: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            RUNNING.fetch_sub(1, Ordering::AcqRel);
        }
    }
    let before = RUNNING.fetch_add(1, Ordering::AcqRel);
    let running = Running;
    if before >= THREADS {
        return Err("too many grammars are being compiled; try again".into());
    }
    let (send, receive) = mpsc::channel();
    let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK).spawn(move || {
        let result = compile();
        drop(running);
        send.send(result).ok();
    });
    thread.map_err(|e| format!("no thread to compile on: {e}"))?;
    receive.recv_timeout(TIME).unwrap_or_else(|e| match e {
        mpsc::RecvTimeoutError::Timeout => Err(format!("takes more than {} seconds to compile; make it simpler", TIME.as_secs())),
        mpsc::RecvTimeoutError::Disconnected => Err("the compiler failed".into()),
    })
}

/// The library's message without its state dumps.
pub fn message(text: &str) -> String {
    let end = ["<state>", "<non-verbose/>", "<backtrace>"].iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
    let text = text[..end].trim();
    match text.char_indices().nth(MESSAGE) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn size_and_depth_are_bounded() {
        let mut nested = json!({"type": "string"});
        for _ in 0..98 {
            nested = json!([nested]);
        }
        assert!(check(&Constraint::JsonSchema(nested.clone())).is_ok());
        for constraint in [
            Constraint::JsonSchema(json!([[[nested]]])),
            Constraint::JsonSchema(json!({"description": "x".repeat(TEXT)})),
            Constraint::Regex("a".repeat(TEXT + 1)),
            Constraint::Lark("\n".repeat(LINES + 1)),
        ] {
            assert!(matches!(check(&constraint), Err(Error::Grammar(_))));
        }
    }

    #[test]
    fn messages_end_before_the_librarys_internals() {
        assert_eq!(message("bad\n<non-verbose/>"), "bad");
        assert_eq!(message("panic: x\n<backtrace>\n1: f"), "panic: x");
        assert_eq!(message(&"é".repeat(2000)).chars().count(), MESSAGE + 3);
    }

    #[test]
    fn a_compiler_that_panics_is_an_error() {
        assert!(guarded::<()>(|| panic!("as a test")).unwrap_err().contains("failed"));
        assert_eq!(guarded(|| Ok(7)), Ok(7));
    }
}

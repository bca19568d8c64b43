//! The chat page at `/` and `/chat`: HTML, CSS and JavaScript that are part of the program.
//!
//! No build step, no network: the page loads nothing but its own files and talks to this server only. The content
//! security policy says so to the browser: scripts and styles from here, none inline, images from here, from memory and from
//! `data:` URLs, no frames, no forms. What a model writes goes through `markdown.js`, which makes elements from an escaped text
//! and never markup from it; the policy is the second wall behind that.
//!
//! The files need no key (they hold nothing); what the page asks for does.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What is served, besides the page itself: path, type, text.
const FILES: [(&str, &str, &str); 6] = [
    ("/chat/chat.css", CSS, include_str!("chat.css")),
    ("/chat/chat.js", SCRIPT, include_str!("chat.js")),
    ("/chat/markdown.js", SCRIPT, include_str!("markdown.js")),
    ("/chat/store.js", SCRIPT, include_str!("store.js")),
    ("/chat/stream.js", SCRIPT, include_str!("stream.js")),
    ("/chat/tree.js", SCRIPT, include_str!("tree.js")),
];

const PAGE: &str = include_str!("chat.html");

/// The paths of the page, for any router.
pub fn paths<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = || async { file(HTML, PAGE) };
    let router = Router::new().route("/", get(page)).route("/chat", get(page));
    FILES.into_iter().fold(router, |router, (path, kind, text)| router.route(path, get(move || async move { file(kind, text) })))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // A new program has a new page: it is asked for each time, and it is small.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What stands between `before` and the next quote.
    fn quoted<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split(['"', '\'']).next())
    }

    #[test]
    fn every_file_that_is_asked_for_is_served_and_nothing_else_is_asked_for() {
        let mut asked: BTreeSet<String> =
            quoted(PAGE, "src=\"").chain(quoted(PAGE, "<link rel=\"stylesheet\" href=\"")).map(str::to_string).collect();
        for (_, _, text) in FILES.iter().filter(|(_, kind, _)| *kind == SCRIPT) {
            asked.extend(quoted(text, "from './").map(|name| format!("/chat/{name}")));
        }
        assert_eq!(asked, FILES.iter().map(|(path, _, _)| path.to_string()).collect());
        let elsewhere =
            |text: &str| ["http://", "https://", "url(", "@import"].iter().any(|word| text.replace("http://www.w3.org/2000/svg", "").contains(word));
        for (path, _, text) in FILES.iter().filter(|(path, _, _)| *path != "/chat/markdown.js") {
            assert!(!elsewhere(text), "{path} names another place");
        }
        assert!(!elsewhere(PAGE));
    }

    #[test]
    fn nothing_needs_an_exception_from_the_policy() {
        for word in ["<style", "style=\"", "onclick", "onload", "<script>", "javascript:", "<iframe"] {
            assert!(!PAGE.contains(word), "{word} in the page");
        }
        for (path, _, text) in FILES {
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!text.contains(word), "{word} in {path}");
            }
        }
        assert!(!POLICY.contains("unsafe"));
    }
}

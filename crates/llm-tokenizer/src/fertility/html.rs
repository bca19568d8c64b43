//! HTML in pieces. [`Html`] is finished markup; text becomes markup only through [`text`], which escapes it, so nothing from a
//! sample, a vocabulary or a folder's name can end up as a tag.

/// Finished markup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Html(String);

/// Escape for element content and for quoted attributes; control characters that HTML forbids are dropped.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Text as markup.
pub(super) fn text(text: impl AsRef<str>) -> Html {
    Html(escape(text.as_ref()))
}

/// An element; `open` is the tag name with attributes we wrote or escaped ourselves, e.g. `td class=n`.
pub(super) fn tag(open: &str, inner: impl Into<Html>) -> Html {
    let name = open.split(' ').next().unwrap_or(open);
    Html(format!("<{open}>{}</{name}>", inner.into().0))
}

/// Pieces one after the other.
pub(super) fn join(pieces: impl IntoIterator<Item = Html>) -> Html {
    Html(pieces.into_iter().map(|p| p.0).collect())
}

impl From<&str> for Html {
    fn from(value: &str) -> Self {
        text(value)
    }
}

impl From<String> for Html {
    fn from(value: String) -> Self {
        text(value)
    }
}

impl<const N: usize> From<[Html; N]> for Html {
    fn from(value: [Html; N]) -> Self {
        join(value)
    }
}

impl From<Vec<Html>> for Html {
    fn from(value: Vec<Html>) -> Self {
        join(value)
    }
}

impl Html {
    /// Markup written in this crate.
    pub fn trusted(markup: String) -> Self {
        Self(markup)
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The markup.
    pub fn into_string(self) -> String {
        self.0
    }
}

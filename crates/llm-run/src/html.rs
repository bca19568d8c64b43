//! HTML in pieces, for reports. [`Html`] is finished markup; text becomes markup only through [`text`], which escapes it, so nothing from
//! a document, a model, a vocabulary or a configuration can end up as a tag.

/// Finished markup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

/// Escape for element content and for quoted attributes; control characters that HTML forbids are dropped.
pub fn escape(text: &str) -> String {
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
pub fn text(text: impl AsRef<str>) -> Html {
    Html(escape(text.as_ref()))
}

/// An element; `open` is the tag name with attributes we wrote ourselves, e.g. `td class=n`.
pub fn tag(open: &str, inner: impl Into<Html>) -> Html {
    let name = open.split(' ').next().unwrap_or(open);
    Html(format!("<{open}>{}</{name}>", inner.into().0))
}

/// Pieces one after the other.
pub fn join(pieces: impl IntoIterator<Item = Html>) -> Html {
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
    /// Markup that we wrote ourselves.
    pub fn trusted(markup: String) -> Self {
        Self(markup)
    }

    /// Append.
    pub fn push(&mut self, piece: impl Into<Html>) {
        self.0.push_str(&piece.into().0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_a_tag_or_leave_an_attribute() {
        assert_eq!(escape("<a href='x' \"y\">&\u{0}\u{1b}"), "&lt;a href=&#39;x&#39; &quot;y&quot;&gt;&amp;");
        assert_eq!(tag("b", "<i>").into_string(), "<b>&lt;i&gt;</b>");
    }
}

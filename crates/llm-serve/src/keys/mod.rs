//! API keys: who may call, for what, how fast and how much.
//!
//! | file | noun | job |
//! |---|---|---|
//! | [`mod@self`] | `Key`, `Scope`, `Limits`, `Secret` | what a key is |
//! | [`store`] | `KeyStore` | keys in the file, found by their secret |
//! | [`command`] | `KeysCommand` | `llm-serve keys` |
//!
//! A secret is `sk-llm-` and 256 bits from the operating system in base64. It is shown once; the file holds its BLAKE3 hash only. A slow
//! password hash would protect guessable secrets; these cannot be guessed, and a fast hash keeps 401 cheap under attack.

pub mod command;
pub mod store;

use crate::error::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::str::FromStr;

/// What every secret starts with, so that scanners of repositories find leaked ones.
pub const PREFIX: &str = "sk-llm-";

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Chat in OpenAI's and Anthropic's form.
    Chat,
    /// Plain completions.
    Completions,
    /// Embeddings and ranking.
    Embeddings,
    /// `/metrics`.
    Metrics,
    /// Adapters and everything else that changes the server; includes `Metrics`.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Chat, Self::Completions, Self::Embeddings, Self::Metrics, Self::Admin];

    /// As in `--scopes`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| format!("there is no scope `{text}`; there are {}", known()))
    }
}

/// When a quota starts again (UTC).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Period {
    /// Never.
    #[default]
    Ever,
    /// On the first of the month.
    Month,
    /// At midnight.
    Day,
}

impl Period {
    /// As in `--quota-period`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ever => "ever",
            Self::Month => "month",
            Self::Day => "day",
        }
    }
}

/// How fast and how much. `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests in a minute.
    pub requests_per_minute: Option<u64>,
    /// Prompt and completion tokens in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens in a period.
    pub quota_tokens: Option<u64>,
    /// The period of the quota.
    pub period: Period,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Names the key for good, in the ledger too.
    pub id: String,
    /// For people; one key that is not revoked per name.
    pub name: String,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// Bounds.
    pub limits: Limits,
    /// Priority of its requests in the engine: lower is sooner.
    pub priority: i32,
    /// Unix seconds.
    pub created: u64,
    /// Unix seconds from which it is refused.
    pub expires: Option<u64>,
    /// Unix seconds of its end.
    pub revoked: Option<u64>,
}

impl Key {
    /// It may be used for that.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || (scope == Scope::Metrics && self.scopes.contains(&Scope::Admin))
    }

    /// Neither revoked nor expired.
    pub fn is_valid(&self, now: u64) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|at| now < at)
    }
}

/// The hash under which a secret is stored.
pub fn hash(secret: &str) -> blake3::Hash {
    // Its own context: the same text hashed elsewhere for another purpose is no key.
    blake3::Hash::from_bytes(blake3::derive_key("llm-serve 2026 API key", secret.as_bytes()))
}

/// A secret, whose debug form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new one.
    pub fn generate() -> Result<Self> {
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>()?))))
    }

    /// The text that a client sends.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Bytes from the operating system, through the cryptography that TLS uses.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| Error::Io(std::io::Error::other("the operating system gives no random numbers")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_different_and_hidden() {
        let (a, b) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.reveal().len(), PREFIX.len() + 43, "256 bits");
        assert!(!format!("{a:?}").contains(&a.reveal()[PREFIX.len()..]));
        assert_ne!(hash(a.reveal()), hash(b.reveal()));
        assert_ne!(hash("x").as_bytes(), blake3::hash(b"x").as_bytes());
    }

    #[test]
    fn scopes_have_names() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse::<Scope>(), Ok(scope));
        }
        assert!("chats".parse::<Scope>().unwrap_err().contains("chat, completions"));
    }
}

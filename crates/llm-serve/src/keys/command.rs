//! `llm-serve keys`: make, list, end and renew keys.

use super::store::{self, NewKey};
use super::{Key, Limits, Period, Scope, Secret};
use crate::clock;
use crate::error::Result;
use crate::ledger::database;
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::path::PathBuf;

/// What to do with the keys of a file.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key; its secret is shown this once. The file is made if it is not there.
    Create(Create),
    /// Show all keys, without their secrets.
    List {
        /// The file that `serve --keys` takes.
        #[arg(long, value_name = "FILE")]
        db: PathBuf,
    },
    /// End a key for good.
    Revoke(Which),
    /// Give a key a new secret; the old one is refused at once.
    Rotate(Which),
}

/// A key and its file.
#[derive(Debug, Args)]
pub struct Which {
    /// The file that `serve --keys` takes.
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// Name or id of the key.
    key: String,
}

/// A new key.
#[derive(Debug, Args)]
pub struct Create {
    /// The file that `serve --keys` takes.
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// For people: shown in logs and reports.
    #[arg(long)]
    name: String,
    /// What it may be used for: chat, completions, embeddings, metrics, admin.
    #[arg(long, value_delimiter = ',', default_value = "chat,completions,embeddings")]
    scopes: Vec<Scope>,
    /// Requests in a minute [default: no limit].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests_per_minute: Option<u64>,
    /// Prompt and completion tokens in a minute [default: no limit].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens in a period [default: no limit].
    #[arg(long, value_name = "N")]
    quota_tokens: Option<u64>,
    /// When the quota starts again (UTC).
    #[arg(long, value_enum, default_value_t)]
    quota_period: Period,
    /// Requests of keys with a lower number go first.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// How long it is valid: 12h, 30d, 52w [default: until it is revoked].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires: Option<u64>,
}

/// Seconds of `90s`, `30m`, `12h`, `30d`, `52w`.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}`: expected a time such as 12h, 30d or 52w");
    let unit = text.chars().last().ok_or_else(expected)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => clock::DAY,
        'w' => 7 * clock::DAY,
        _ => return Err(expected()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| expected())?;
    number.checked_mul(factor).filter(|&s| s > 0 && s < 1 << 40).ok_or_else(expected)
}

/// Do it; returns what to print.
pub fn run(command: KeysCommand) -> Result<String> {
    match command {
        KeysCommand::Create(args) => {
            let connection = database::create(&args.db)?;
            let limits = Limits {
                requests_per_minute: args.requests_per_minute,
                tokens_per_minute: args.tokens_per_minute,
                quota_tokens: args.quota_tokens,
                period: args.quota_period,
            };
            let expires = args.expires.map(|seconds| clock::now() + seconds);
            let new = NewKey { name: args.name, scopes: args.scopes, limits, priority: args.priority, expires };
            store::create(&connection, &args.db, new).map(|(key, secret)| shown_once(&key, &secret))
        }
        KeysCommand::List { db } => Ok(table(&store::list(&database::open(&db)?, &db)?)),
        KeysCommand::Revoke(Which { db, key }) => {
            let key = store::revoke(&database::open(&db)?, &db, &key)?;
            Ok(format!("{} ({}) is refused from now on\n", key.name, key.id))
        }
        KeysCommand::Rotate(Which { db, key }) => store::rotate(&database::open(&db)?, &db, &key).map(|(key, secret)| shown_once(&key, &secret)),
    }
}

fn shown_once(key: &Key, secret: &Secret) -> String {
    format!("{} ({}); this is shown only once:\n{}\n", key.name, key.id, secret.reveal())
}

fn table(keys: &[Key]) -> String {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_string(), |n| n.to_string());
    let day = |seconds: u64| clock::date_text(clock::day(seconds));
    let state = |key: &Key| match (key.revoked, key.expires) {
        (Some(at), _) => format!("revoked {}", day(at)),
        (None, Some(at)) if !key.is_valid(clock::now()) => format!("expired {}", day(at)),
        (None, Some(at)) => format!("until {}", day(at)),
        (None, None) => "valid".into(),
    };
    let mut rows = vec![["name", "id", "scopes", "requests/min", "tokens/min", "quota", "priority", "created", "state"].map(str::to_string)];
    rows.extend(keys.iter().map(|key| {
        let quota = match key.limits.quota_tokens {
            Some(tokens) if key.limits.period != Period::Ever => format!("{tokens}/{}", key.limits.period.name()),
            tokens => number(tokens),
        };
        [
            key.name.clone(),
            key.id.clone(),
            key.scopes.iter().map(|s| s.name()).collect::<Vec<_>>().join(","),
            number(key.limits.requests_per_minute),
            number(key.limits.tokens_per_minute),
            quota,
            key.priority.to_string(),
            day(key.created),
            state(key),
        ]
    }));
    let widths: [usize; 9] = std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("30d"), Ok(30 * 86_400));
        assert_eq!(parse_time("90s"), Ok(90));
        for wrong in ["", "d", "30", "3x", "-1d", "0d", "99999999999999999999d", "18446744073709551615w", "1é"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}

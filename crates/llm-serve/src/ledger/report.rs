//! `llm-serve usage`: a table of who used what.

use super::database::failed;
use crate::clock;
use crate::error::Result;
use rusqlite::{Connection, params};
use std::fmt::Write as _;
use std::path::Path;

/// What the rows of the table are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// One row for each key.
    #[default]
    Key,
    /// One row for each day (UTC).
    Day,
    /// One row for each model.
    Model,
}

/// One row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Key name and id, day or model.
    pub name: String,
    /// Finished requests.
    pub requests: i64,
    /// Tokens of prompts.
    pub prompt_tokens: i64,
    /// How many of them were in the cache.
    pub cached_tokens: i64,
    /// Tokens generated.
    pub completion_tokens: i64,
}

/// Sums since a day (`i64::MIN` = all), the largest first; days in order.
pub fn usage(connection: &Connection, path: &Path, by: By, since: i64) -> Result<Vec<Usage>> {
    let most = "sum(prompt_tokens + completion_tokens) DESC, 1";
    let (name, order) = match by {
        By::Key => ("coalesce((SELECT keys.name || ' (' || keys.id || ')' FROM keys WHERE keys.id = totals.key), nullif(totals.key, ''), '-')", most),
        By::Day => ("totals.day", "totals.day"),
        By::Model => ("totals.model", most),
    };
    let sql = format!(
        "SELECT cast({name} AS TEXT), sum(requests), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens) \
         FROM totals WHERE day >= ?1 GROUP BY 1 ORDER BY {order}"
    );
    let mut statement = connection.prepare(&sql).map_err(failed(path))?;
    let rows = statement.query_map(params![since], |row| {
        let name: String = row.get(0)?;
        Ok(Usage {
            name: if by == By::Day { name.parse().map_or(name, clock::date_text) } else { name },
            requests: row.get(1)?,
            prompt_tokens: row.get(2)?,
            cached_tokens: row.get(3)?,
            completion_tokens: row.get(4)?,
        })
    });
    rows.map_err(failed(path))?.collect::<rusqlite::Result<_>>().map_err(failed(path))
}

/// The rows under headings, with a last row of sums.
pub fn table(by: By, rows: &[Usage]) -> String {
    let first = match by {
        By::Key => "key",
        By::Day => "day",
        By::Model => "model",
    };
    let mut total = Usage { name: "all".into(), ..Usage::default() };
    for row in rows {
        total.requests += row.requests;
        total.prompt_tokens += row.prompt_tokens;
        total.cached_tokens += row.cached_tokens;
        total.completion_tokens += row.completion_tokens;
    }
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(first.len()).max(3);
    let mut text = format!("{first:width$}  {:>10}  {:>14}  {:>14}  {:>14}  {:>14}\n", "requests", "prompt", "of it cached", "completion", "tokens");
    for row in rows.iter().chain([&total]) {
        let tokens = row.prompt_tokens + row.completion_tokens;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:width$}  {:>10}  {:>14}  {:>14}  {:>14}  {:>14}",
            row.name, row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens, tokens
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::database;
    use super::*;

    #[test]
    fn sums_by_key_day_and_model() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.db");
        let connection = database::create(&file).unwrap();
        connection
            .execute_batch(
                "INSERT INTO keys VALUES ('key-a', 'alice', x'01', 'chat', NULL, NULL, NULL, 'ever', 0, 0, NULL, NULL);
                 INSERT INTO totals VALUES ('key-a', 20786, 'm', 2, 10, 4, 5), ('key-a', 20785, 'n', 1, 1, 0, 1), ('', 20786, 'm', 1, 100, 0, 0);",
            )
            .unwrap();
        let names = |by, since| usage(&connection, &file, by, since).unwrap().into_iter().map(|u| (u.name, u.requests)).collect::<Vec<_>>();
        assert_eq!(names(By::Key, i64::MIN), [("-".to_string(), 1), ("alice (key-a)".to_string(), 3)]);
        assert_eq!(names(By::Day, i64::MIN), [("2026-11-28".to_string(), 1), ("2026-11-29".to_string(), 3)]);
        assert_eq!(names(By::Model, 20786), [("m".to_string(), 3)]);
        let text = table(By::Key, &usage(&connection, &file, By::Key, i64::MIN).unwrap());
        let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["all", "4", "111", "4", "6", "117"]);
    }
}

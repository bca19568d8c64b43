//! The SQLite file of keys and usage: how it is opened, and its tables.
//!
//! One file, so that a key and what it used are backed up together. WAL: the program that makes keys, the usage report and the server
//! work on it at the same time. `synchronous = FULL`: a commit that returned survives a crash of the machine, not only of the process.

use crate::error::{Error, Result};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// Goes up when a table changes its form.
const VERSION: i64 = 1;

/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(10);

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, scopes TEXT NOT NULL,
    requests_per_minute INTEGER, tokens_per_minute INTEGER, quota_tokens INTEGER, quota_period TEXT NOT NULL,
    priority INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS keys_name ON keys (name) WHERE revoked IS NULL;

-- A number that changes with the keys, and not with the usage.
CREATE TABLE IF NOT EXISTS keys_version (version INTEGER NOT NULL) STRICT;
INSERT INTO keys_version SELECT 0 WHERE NOT EXISTS (SELECT * FROM keys_version);
CREATE TRIGGER IF NOT EXISTS keys_inserted AFTER INSERT ON keys BEGIN UPDATE keys_version SET version = version + 1; END;
CREATE TRIGGER IF NOT EXISTS keys_updated AFTER UPDATE ON keys BEGIN UPDATE keys_version SET version = version + 1; END;
CREATE TRIGGER IF NOT EXISTS keys_deleted AFTER DELETE ON keys BEGIN UPDATE keys_version SET version = version + 1; END;

CREATE TABLE IF NOT EXISTS requests (
    time INTEGER NOT NULL, id TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL, status INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    queue_ms REAL NOT NULL, first_token_ms REAL NOT NULL, total_ms REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS requests_time ON requests (time);

-- The same sums by day, so that a quota is a short range and not a scan.
CREATE TABLE IF NOT EXISTS totals (
    key TEXT NOT NULL, day INTEGER NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, day, model)
) STRICT, WITHOUT ROWID;
";

/// An error of SQLite with the file it happened in.
pub(crate) fn failed(path: &Path) -> impl Fn(rusqlite::Error) -> Error + '_ {
    |cause| Error::Database { path: path.to_path_buf(), message: cause.to_string() }
}

/// Open the file; it must be there.
pub fn open(path: &Path) -> Result<Connection> {
    if !path.is_file() {
        let message = "there is no such file; make it with `llm-serve keys create --db FILE --name NAME`";
        return Err(Error::Database { path: path.to_path_buf(), message: message.into() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed(path))?;
    prepare(&connection, path)?;
    Ok(connection)
}

/// Open the file, or make an empty one that only its owner can read.
pub fn create(path: &Path) -> Result<Connection> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|cause| Error::Database { path: path.to_path_buf(), message: cause.to_string() })?;
    open(path)
}

fn prepare(connection: &Connection, path: &Path) -> Result<()> {
    let failed = failed(path);
    connection.busy_timeout(BUSY).map_err(&failed)?;
    // Answers with the mode, hence a query.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(&failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(&failed)?;
    // Kibibytes (negative). Rows are only appended, and a server's memory should not creep up with their number.
    connection.pragma_update(None, "cache_size", -512).map_err(&failed)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(&failed)?;
    match version {
        VERSION => return Ok(()),
        0 => {}
        other => {
            let message = format!("it has version {other} of the tables, this program writes version {VERSION}");
            return Err(Error::Database { path: path.to_path_buf(), message });
        }
    }
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")).map_err(&failed)
}

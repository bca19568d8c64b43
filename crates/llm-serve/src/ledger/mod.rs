//! Who used how much: one row per finished request, and quotas that hold.
//!
//! | file | noun | job |
//! |---|---|---|
//! | [`database`] | | the SQLite file and its tables |
//! | [`mod@self`] | `Ledger`, `Row` | one writer thread, group commit, quotas |
//! | [`report`] | `Usage`, `By` | `llm-serve usage` |
//!
//! The order is: *reserve* what a request may cost at most (in memory), generate, *write* the row, and only when SQLite has it on the disk
//! tell the client that its reply is complete. So whatever kills the process, no reply that was acknowledged as complete is missing from
//! the ledger; a reply that was cut by the kill was not acknowledged and is not charged. The thread commits all rows that wait at once
//! (group commit), so that a busy server pays one `fsync` for many replies.

pub mod database;
pub mod report;

use crate::clock;
use crate::error::{Error, Result};
use crate::keys::{Key, Period};
use database::failed;
use rusqlite::{Connection, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// Rows of one transaction.
const GROUP: usize = 1024;

/// What a finished request used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// `x-request-id`.
    pub id: String,
    /// Id of the key; empty without one.
    pub key: String,
    /// The model's name in the API.
    pub model: String,
    /// The path.
    pub endpoint: String,
    /// HTTP status, 499 if the client left first.
    pub status: u16,
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// How many of them were in the cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// Time in the queue.
    pub queue: Duration,
    /// From the request to its first token.
    pub first_token: Duration,
    /// From the request to its end.
    pub total: Duration,
}

type Written = oneshot::Sender<bool>;

enum Message {
    Row(Box<Row>, SystemTime, Option<Written>),
    Close(mpsc::Sender<()>),
}

/// The usage of all keys. Clones share it.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
    messages: mpsc::Sender<Message>,
    reader: Arc<Mutex<Connection>>,
    reserved: Arc<Mutex<HashMap<String, u64>>>,
}

/// Why a quota refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// The quota.
    pub quota: u64,
    /// What is left of it, reservations of running requests taken off.
    pub left: u64,
    /// When it starts again.
    pub again: Option<Duration>,
}

/// Tokens set aside for a running request; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    reserved: Arc<Mutex<HashMap<String, u64>>>,
    key: String,
    tokens: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = reserved.get_mut(&self.key) {
            *tokens = tokens.saturating_sub(self.tokens);
            if *tokens == 0 {
                reserved.remove(&self.key);
            }
        }
    }
}

impl Ledger {
    /// Open the file and start the thread that writes.
    pub fn open(path: &Path) -> Result<Self> {
        let writer = database::open(path)?;
        let reader = database::open(path)?;
        let (messages, inbox) = mpsc::channel();
        let file = path.to_path_buf();
        std::thread::Builder::new().name("ledger".into()).spawn(move || write_all(writer, &inbox, &file))?;
        Ok(Self { path: path.to_path_buf(), messages, reader: Arc::new(Mutex::new(reader)), reserved: Arc::default() })
    }

    /// Write a row and wait until it is on the disk. An error means that nobody will find it there.
    pub async fn write(&self, row: Row) -> Result<()> {
        let lost = || Error::Database { path: self.path.clone(), message: "the usage could not be written".into() };
        let (written, done) = oneshot::channel();
        self.messages.send(Message::Row(Box::new(row), SystemTime::now(), Some(written))).map_err(|_| lost())?;
        if done.await.unwrap_or(false) { Ok(()) } else { Err(lost()) }
    }

    /// Write a row soon; for replies that nobody waits for.
    pub fn note(&self, row: Row) {
        // The thread ends with the server, and then nothing is generated any more.
        let _ = self.messages.send(Message::Row(Box::new(row), SystemTime::now(), None));
    }

    /// Set tokens aside, if the key's quota has room for them beside what was used and what running requests may still use.
    pub fn reserve(&self, key: &Key, tokens: u64) -> Result<Result<Reservation, Exhausted>> {
        let now = clock::now();
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let running = reserved.get(&key.id).copied().unwrap_or(0);
        if let Some(quota) = key.limits.quota_tokens {
            let used = self.used(&key.id, key.limits.period.first_day(clock::day(now)))?;
            let left = quota.saturating_sub(used).saturating_sub(running);
            if tokens > left {
                return Ok(Err(Exhausted { quota, left, again: key.limits.period.again(now).map(Duration::from_secs) }));
            }
        }
        reserved.insert(key.id.clone(), running + tokens);
        Ok(Ok(Reservation { reserved: Arc::clone(&self.reserved), key: key.id.clone(), tokens }))
    }

    /// Prompt and completion tokens of a key from a day on.
    pub fn used(&self, key: &str, first_day: i64) -> Result<u64> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = "SELECT coalesce(sum(prompt_tokens + completion_tokens), 0) FROM totals WHERE key = ?1 AND day >= ?2";
        let used: i64 = reader.query_row(sum, params![key, first_day], |row| row.get(0)).map_err(failed(&self.path))?;
        Ok(u64::try_from(used).unwrap_or(0))
    }

    /// Wait until all rows that were sent so far are written, and end the thread.
    pub fn close(&self, limit: Duration) {
        let (closed, wait) = mpsc::channel();
        if self.messages.send(Message::Close(closed)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

fn write_all(mut connection: Connection, inbox: &mpsc::Receiver<Message>, path: &Path) {
    while let Ok(first) = inbox.recv() {
        let (mut rows, mut close) = (Vec::new(), None);
        for message in std::iter::once(first).chain(inbox.try_iter()) {
            match message {
                Message::Row(row, time, written) => rows.push((row, time, written)),
                Message::Close(closed) => close = Some(closed),
            }
            if close.is_some() || rows.len() == GROUP {
                break;
            }
        }
        let start = Instant::now();
        let outcome = insert(&mut connection, &rows);
        if let Err(error) = &outcome {
            eprintln!("ledger: {}: {} row(s) lost after {:.1?}: {error}", path.display(), rows.len(), start.elapsed());
        }
        for (_, _, written) in rows {
            // Whoever waited may have gone.
            let _ = written.map(|written| written.send(outcome.is_ok()));
        }
        if let Some(closed) = close {
            drop(connection);
            let _ = closed.send(());
            return;
        }
    }
}

fn insert(connection: &mut Connection, rows: &[(Box<Row>, SystemTime, Option<Written>)]) -> rusqlite::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    {
        let mut request = transaction.prepare("INSERT INTO requests VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)")?;
        let mut total = transaction.prepare(
            "INSERT INTO totals VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET requests = requests + 1, \
             prompt_tokens = prompt_tokens + excluded.prompt_tokens, cached_tokens = cached_tokens + excluded.cached_tokens, \
             completion_tokens = completion_tokens + excluded.completion_tokens",
        )?;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        for (row, time, _) in rows {
            let (prompt, cached, completion) = (number(row.prompt_tokens), number(row.cached_tokens), number(row.completion_tokens));
            let seconds = clock::seconds(*time);
            request.execute(params![
                number(clock::millis(*time)),
                row.id,
                row.key,
                row.model,
                row.endpoint,
                row.status,
                prompt,
                cached,
                completion,
                ms(row.queue),
                ms(row.first_token),
                ms(row.total)
            ])?;
            total.execute(params![row.key, clock::day(seconds), row.model, prompt, cached, completion])?;
        }
    }
    transaction.commit()
}

impl Period {
    /// The first day that counts, if today is `day` (days since 1970).
    pub fn first_day(self, day: i64) -> i64 {
        match self {
            Self::Ever => i64::MIN,
            Self::Month => day - i64::from(clock::date(day).2 - 1),
            Self::Day => day,
        }
    }

    /// Seconds until the quota starts again.
    pub fn again(self, now: u64) -> Option<u64> {
        let today = clock::day(now);
        let next = match self {
            Self::Ever => return None,
            // Day 1 to 28 exist in every month: step over the end of this one, then back to its first day.
            Self::Month => self.first_day(self.first_day(today) + 31),
            Self::Day => today + 1,
        };
        u64::try_from(next).ok().map(|next| (next * clock::DAY).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Limits, Scope};

    fn key(quota: Option<u64>) -> Key {
        Key {
            id: "key-1".into(),
            name: "alice".into(),
            scopes: vec![Scope::Chat],
            limits: Limits { quota_tokens: quota, ..Limits::default() },
            priority: 0,
            created: 0,
            expires: None,
            revoked: None,
        }
    }

    fn row(tokens: u64) -> Row {
        Row { key: "key-1".into(), model: "m".into(), endpoint: "/v1/completions".into(), status: 200, prompt_tokens: tokens, ..Row::default() }
    }

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.db");
        database::create(&file).unwrap();
        let ledger = Ledger::open(&file).unwrap();
        (dir, ledger)
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// If this fails, two requests at once use more than the quota.
    #[test]
    fn what_runs_counts_against_the_quota_and_comes_back() {
        let (_dir, ledger) = ledger();
        let key = key(Some(100));
        let first = ledger.reserve(&key, 60).unwrap().unwrap();
        assert_eq!(ledger.reserve(&key, 50).unwrap().unwrap_err(), Exhausted { quota: 100, left: 40, again: None });
        wait(ledger.write(row(10))).unwrap();
        drop(first);
        assert_eq!(ledger.reserve(&key, 91).unwrap().unwrap_err().left, 90);
        let all = ledger.reserve(&key, 90).unwrap().unwrap();
        assert!(ledger.reserve(&key, 1).unwrap().is_err());
        drop(all);
        assert!(ledger.reserved.lock().unwrap().is_empty());
    }

    #[test]
    fn rows_and_totals_agree_after_reopening() {
        let (dir, ledger) = ledger();
        wait(async {
            for tokens in 1..=50 {
                ledger.note(row(tokens));
            }
            ledger.write(row(1000)).await.unwrap();
        });
        // No close: what was acknowledged is there for another process.
        let file = dir.path().join("keys.db");
        let other = database::open(&file).unwrap();
        let sum = |sql: &str| other.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(sum("SELECT sum(prompt_tokens) FROM requests"), 1275 + 1000);
        assert_eq!(sum("SELECT sum(prompt_tokens) FROM totals"), 1275 + 1000);
        assert_eq!(sum("SELECT sum(requests) FROM totals"), 51);
        assert_eq!(ledger.used("key-1", i64::MIN).unwrap(), 2275);
        assert_eq!(ledger.used("key-2", i64::MIN).unwrap(), 0);
        ledger.close(Duration::from_secs(10));
        assert!(wait(ledger.write(row(1))).is_err(), "a closed ledger must not pretend");
    }

    #[test]
    fn quotas_start_again_at_midnight_and_on_the_first() {
        // 2024-02-28 23:00 UTC; 2024 has a 29th of February.
        let now = 1_709_161_200;
        let day = clock::day(now);
        assert_eq!(clock::date(day), (2024, 2, 28));
        assert_eq!(clock::date(Period::Month.first_day(day)), (2024, 2, 1));
        assert_eq!(Period::Month.again(now), Some(3600 + 86400));
        assert_eq!(Period::Day.again(now), Some(3600));
        assert_eq!(Period::Ever.again(now), None);
        assert_eq!(Period::Day.first_day(day), day);
    }
}

//! Keys in the file: made and ended by `llm-serve keys`, found by the server.
//!
//! The server keeps all keys in memory under the first bytes of their hash and asks SQLite at every request whether the file changed (a
//! read of shared memory), so a revoked key is refused from the next request on, without a restart. The full hashes are compared in
//! constant time.

use super::{Key, Limits, Period, Scope, Secret, hash};
use crate::clock;
use crate::error::{Error, Result};
use crate::ledger::database::{self, failed};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::{Connection, Row, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const COLUMNS: &str =
    "id, name, hash, scopes, requests_per_minute, tokens_per_minute, quota_tokens, quota_period, priority, created, expires, revoked";

/// What a new key is.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// At least one.
    pub scopes: Vec<Scope>,
    /// Bounds.
    pub limits: Limits,
    /// Lower is sooner.
    pub priority: i32,
    /// Unix seconds.
    pub expires: Option<u64>,
}

/// The keys of a file.
#[derive(Debug)]
pub struct KeyStore {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    /// SQLite's number of the last change by anybody, usage included.
    file_version: i64,
    /// Our number of the last change of a key.
    keys_version: i64,
    keys: HashMap<[u8; 8], Vec<(blake3::Hash, Arc<Key>)>>,
}

impl KeyStore {
    /// Open the file; it must be there.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = database::open(path)?;
        let state = State { connection, file_version: -1, keys_version: -1, keys: HashMap::new() };
        let store = Self { path: path.to_path_buf(), state: Mutex::new(state) };
        store.find("")?;
        Ok(store)
    }

    /// The key with this secret, whether it is still valid or not.
    pub fn find(&self, secret: &str) -> Result<Option<Arc<Key>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refresh(&self.path)?;
        let wanted = hash(secret);
        let candidates = state.keys.get(&bucket(&wanted));
        // `blake3::Hash` compares in constant time.
        Ok(candidates.into_iter().flatten().find(|(hash, _)| *hash == wanted).map(|(_, key)| Arc::clone(key)))
    }

    /// How many keys there are, ended ones included.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).keys.values().map(Vec::len).sum()
    }

    /// Nobody can call.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn bucket(hash: &blake3::Hash) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    first
}

impl State {
    fn refresh(&mut self, path: &Path) -> Result<()> {
        let failed = failed(path);
        let file_version: i64 = self.connection.pragma_query_value(None, "data_version", |row| row.get(0)).map_err(&failed)?;
        if file_version == self.file_version {
            return Ok(());
        }
        let keys_version = self.connection.query_row("SELECT version FROM keys_version", [], |row| row.get(0)).map_err(&failed)?;
        if keys_version != self.keys_version {
            let mut keys: HashMap<_, Vec<_>> = HashMap::new();
            for (hash, key) in read(&self.connection).map_err(&failed)? {
                keys.entry(bucket(&hash)).or_default().push((hash, Arc::new(key)));
            }
            self.keys = keys;
        }
        (self.file_version, self.keys_version) = (file_version, keys_version);
        Ok(())
    }
}

/// All keys, the oldest first.
pub fn list(connection: &Connection, path: &Path) -> Result<Vec<Key>> {
    Ok(read(connection).map_err(failed(path))?.into_iter().map(|(_, key)| key).collect())
}

/// Write a new key; returns it with its secret, which is nowhere else.
pub fn create(connection: &Connection, path: &Path, new: NewKey) -> Result<(Key, Secret)> {
    let invalid = |message: String| Error::Database { path: path.to_path_buf(), message };
    if new.name.is_empty() || new.name.len() > 100 || new.name.chars().any(char::is_control) {
        return Err(invalid("a name has 1 to 100 characters, none of them control characters".into()));
    }
    if new.scopes.is_empty() {
        return Err(invalid("a key without a scope is of no use".into()));
    }
    if list(connection, path)?.iter().any(|key| key.revoked.is_none() && key.name == new.name) {
        return Err(invalid(format!("there is a key `{}` already; `llm-serve keys rotate` gives it a new secret", new.name)));
    }
    let id = format!("key-{}", URL_SAFE_NO_PAD.encode(super::random::<9>()?).replace(['-', '_'], "x"));
    let secret = Secret::generate()?;
    let NewKey { name, mut scopes, limits, priority, expires } = new;
    scopes.sort_unstable();
    scopes.dedup();
    let key = Key { id, name, scopes, limits, priority, created: clock::now(), expires, revoked: None };
    let number = |n: Option<u64>| n.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let hash = hash(secret.reveal());
    let row = params![
        key.id,
        key.name,
        hash.as_bytes(),
        key.scopes.iter().map(|s| s.name()).collect::<Vec<_>>().join(","),
        number(key.limits.requests_per_minute),
        number(key.limits.tokens_per_minute),
        number(key.limits.quota_tokens),
        key.limits.period.name(),
        key.priority,
        number(Some(key.created)),
        number(key.expires),
        number(key.revoked),
    ];
    let insert = format!("INSERT INTO keys ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)");
    connection.execute(&insert, row).map_err(failed(path))?;
    Ok((key, secret))
}

/// End a key, named by its name or id, for good.
pub fn revoke(connection: &Connection, path: &Path, which: &str) -> Result<Key> {
    let key = living(connection, path, which)?;
    let now = i64::try_from(clock::now()).unwrap_or(i64::MAX);
    connection.execute("UPDATE keys SET revoked = ?2 WHERE id = ?1", params![key.id, now]).map_err(failed(path))?;
    Ok(key)
}

/// Give a key a new secret; the old one is refused from now on. Id, limits and usage stay.
pub fn rotate(connection: &Connection, path: &Path, which: &str) -> Result<(Key, Secret)> {
    let key = living(connection, path, which)?;
    let secret = Secret::generate()?;
    let hash = hash(secret.reveal());
    let row = params![key.id, hash.as_bytes()];
    connection.execute("UPDATE keys SET hash = ?2 WHERE id = ?1", row).map_err(failed(path))?;
    Ok((key, secret))
}

fn living(connection: &Connection, path: &Path, which: &str) -> Result<Key> {
    let found = list(connection, path)?.into_iter().find(|key| key.revoked.is_none() && (key.name == which || key.id == which));
    found.ok_or_else(|| Error::Database { path: path.to_path_buf(), message: format!("there is no key `{which}` that is not revoked") })
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<(blake3::Hash, Key)>> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM keys ORDER BY created, id"))?;
    let rows = statement.query_map([], key_of)?;
    rows.collect()
}

fn key_of(row: &Row<'_>) -> rusqlite::Result<(blake3::Hash, Key)> {
    let number = |at: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(|n| u64::try_from(n).unwrap_or(0)));
    let hash: [u8; 32] = row.get(2)?;
    let scopes: String = row.get(3)?;
    let period: String = row.get(7)?;
    let key = Key {
        id: row.get(0)?,
        name: row.get(1)?,
        // A scope of a newer program is none to this one.
        scopes: scopes.split(',').filter_map(|name| name.parse().ok()).collect(),
        limits: Limits {
            requests_per_minute: number(4)?,
            tokens_per_minute: number(5)?,
            quota_tokens: number(6)?,
            period: [Period::Month, Period::Day].into_iter().find(|p| p.name() == period).unwrap_or_default(),
        },
        priority: row.get(8)?,
        created: number(9)?.unwrap_or(0),
        expires: number(10)?,
        revoked: number(11)?,
    };
    Ok((blake3::Hash::from_bytes(hash), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewKey {
        let limits = Limits { requests_per_minute: Some(60), quota_tokens: Some(5), period: Period::Month, ..Limits::default() };
        NewKey { name: name.into(), scopes: vec![Scope::Chat, Scope::Admin, Scope::Chat], limits, priority: -2, expires: Some(u64::MAX >> 2) }
    }

    /// If this fails, a key that was taken away still works, or a new one does not.
    #[test]
    fn changes_are_seen_by_an_open_store() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.db");
        assert!(KeyStore::open(&file).unwrap_err().to_string().contains("keys create"));
        let connection = database::create(&file).unwrap();
        let store = KeyStore::open(&file).unwrap();
        assert!(store.is_empty());

        let (key, secret) = create(&connection, &file, new("alice")).unwrap();
        assert_eq!(key.scopes, [Scope::Chat, Scope::Admin]);
        assert_eq!(store.find(secret.reveal()).unwrap().as_deref(), Some(&key));
        assert!(store.find("sk-llm-x").unwrap().is_none());
        assert!(create(&connection, &file, new("alice")).unwrap_err().to_string().contains("rotate"));

        let (same, second) = rotate(&connection, &file, "alice").unwrap();
        assert_eq!(same.id, key.id);
        assert!(store.find(secret.reveal()).unwrap().is_none());
        assert!(store.find(second.reveal()).unwrap().unwrap().is_valid(clock::now()));

        revoke(&connection, &file, &key.id).unwrap();
        assert!(!store.find(second.reveal()).unwrap().unwrap().is_valid(clock::now()));
        assert!(revoke(&connection, &file, "alice").is_err());
        create(&connection, &file, new("alice")).unwrap();
    }

    #[test]
    fn the_file_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.db");
        let connection = database::create(&file).unwrap();
        let (_, secret) = create(&connection, &file, new("alice")).unwrap();
        drop(connection);
        let needle = &secret.reveal().as_bytes()[super::super::PREFIX.len()..];
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(needle.len()).any(|w| w == needle), "{:?}", entry.path());
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
            }
        }
    }
}

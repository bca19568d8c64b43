//! Where bytes lie: a disk, or a bucket of S3, Google Cloud Storage or Azure, behind one blocking interface.
//!
//! | address | store |
//! |---|---|
//! | `a/b`, `/a/b`, `file:///a/b` | the file system, read and written directly |
//! | `s3://bucket/a/b` | Amazon S3 and whatever speaks its protocol (`AWS_ENDPOINT`) |
//! | `gs://bucket/a/b` | Google Cloud Storage |
//! | `az://container/a/b` | Azure Blob Storage |
//! | `memory://name/a/b` | this process's memory, for tests |
//!
//! Buckets go through the crate `object_store`, which reads the usual environment variables for credentials. It is asynchronous;
//! [`runtime`] hides that. What this module adds: large ranged reads with one block in advance ([`read`]), objects that appear
//! whole or not at all, and only once if asked ([`write`](mod@write)), another attempt after answers that pass ([`retry`]), and errors that name the
//! object and say what to do.

pub mod read;
pub mod retry;
pub mod runtime;
pub mod write;

use crate::error::{Error, Result, io};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use read::{Object, ObjectAccess, ObjectReader, get, get_range, list, open, stat};
pub use write::{Outcome, Writer, create, delete, put};

/// Stores that were opened or [`register`]ed, by scheme and bucket.
static STORES: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>> = Mutex::new(BTreeMap::new());

/// Use `store` for every address that begins with `root` (`s3://bucket`, `memory://name`): a store with settings of its own, or
/// one that fails on purpose.
pub fn register(root: &str, store: Arc<dyn ObjectStore>) {
    STORES.lock().unwrap_or_else(PoisonError::into_inner).insert(root.trim_end_matches('/').to_string(), store);
}

/// The address of a file, an object, or everything below a folder or prefix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location {
    /// `s3://bucket`; empty for the file system.
    root: String,
    /// What follows, without a slash at either end; a path for the file system.
    path: String,
}

impl Location {
    /// Understand an address.
    pub fn parse(address: &str) -> Result<Self> {
        let Some((scheme, rest)) = address.split_once("://") else {
            return Ok(Self { root: String::new(), path: address.to_string() });
        };
        let bad = |message: String| Err(Error::Config(format!("{address}: {message}")));
        match scheme {
            "file" => match rest.strip_prefix("localhost").unwrap_or(rest) {
                path if path.starts_with('/') => Ok(Self { root: String::new(), path: path.to_string() }),
                _ => bad("expected file:///absolute/path".into()),
            },
            "s3" | "gs" | "az" | "memory" => {
                let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return bad(format!("no bucket; expected {scheme}://BUCKET/path"));
                }
                if let Err(e) = Key::parse(path.trim_matches('/')) {
                    return bad(format!("not a path of an object store ({e})"));
                }
                Ok(Self { root: format!("{scheme}://{bucket}"), path: path.trim_matches('/').to_string() })
            }
            other => bad(format!("unknown kind of address `{other}://`; known are s3://, gs://, az://, file:// and plain paths")),
        }
    }

    /// A path of the file system.
    pub fn local(path: impl AsRef<Path>) -> Self {
        Self { root: String::new(), path: path.as_ref().to_string_lossy().into_owned() }
    }

    /// The path, when this is the file system.
    pub fn as_local(&self) -> Option<&Path> {
        self.root.is_empty().then(|| Path::new(&self.path))
    }

    /// For messages and [`Error`] variants that want a path.
    pub fn display_path(&self) -> PathBuf {
        PathBuf::from(self.to_string())
    }

    /// Something below this.
    pub fn join(&self, below: &str) -> Self {
        let path = match self.path.as_str() {
            "" => below.to_string(),
            path => format!("{}/{below}", path.trim_end_matches('/')),
        };
        Self { root: self.root.clone(), path }
    }

    /// The last part of the path; the bucket when there is none.
    pub fn name(&self) -> String {
        let absolute = self.as_local().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()));
        let path = absolute.map_or_else(|| self.path.clone(), |p| p.to_string_lossy().into_owned());
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_string();
        if last.is_empty() { self.root.rsplit('/').next().unwrap_or_default().to_string() } else { last }
    }

    /// The store and the key in it; `None` for the file system.
    fn remote(&self) -> Result<Option<(Arc<dyn ObjectStore>, Key)>> {
        if self.root.is_empty() {
            return Ok(None);
        }
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match stores.get(&self.root) {
            Some(store) => Arc::clone(store),
            None => {
                let store = self.connect()?;
                stores.insert(self.root.clone(), Arc::clone(&store));
                store
            }
        };
        let key = Key::parse(&self.path).map_err(|e| Error::Config(format!("{self}: not a path of an object store ({e})")))?;
        Ok(Some((store, key)))
    }

    #[cfg(feature = "cloud")]
    fn connect(&self) -> Result<Arc<dyn ObjectStore>> {
        use object_store::aws::AmazonS3Builder;
        use object_store::azure::MicrosoftAzureBuilder;
        use object_store::gcp::GoogleCloudStorageBuilder;
        runtime::install_tls();
        let (retry, options) = (retry::of_requests(), retry::client_options());
        let url = self.root.as_str();
        let store: object_store::Result<Arc<dyn ObjectStore>> = match url.split(':').next().unwrap_or_default() {
            "memory" => Ok(Arc::new(InMemory::new())),
            "s3" => AmazonS3Builder::from_env().with_url(url).with_retry(retry).build().map(|s| Arc::new(s) as _),
            "gs" => {
                GoogleCloudStorageBuilder::from_env().with_url(url).with_client_options(options).with_retry(retry).build().map(|s| Arc::new(s) as _)
            }
            _ => MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retry).build().map(|s| Arc::new(s) as _),
        };
        store.map_err(|e| self.failed("cannot connect", &e))
    }

    #[cfg(not(feature = "cloud"))]
    fn connect(&self) -> Result<Arc<dyn ObjectStore>> {
        match self.root.split(':').next().unwrap_or_default() {
            "memory" => Ok(Arc::new(InMemory::new())),
            _ => Err(Error::Config(format!("{self}: this build reads no buckets; build llm-data with its feature `cloud`"))),
        }
    }

    /// What went wrong at this object, and what to do.
    fn failed(&self, action: &'static str, error: &object_store::Error) -> Error {
        Error::Store { object: self.to_string(), action, message: self.advice(error) }
    }

    fn advice(&self, error: &object_store::Error) -> String {
        use object_store::Error as E;
        let text = retry::chain(error);
        let scheme = self.root.split(':').next().unwrap_or_default();
        let credentials = match scheme {
            "s3" => {
                "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION (AWS_ENDPOINT for a server of your own), or AWS_SKIP_SIGNATURE=true for a public bucket"
            }
            "gs" => "set GOOGLE_SERVICE_ACCOUNT to the JSON file of a service account",
            "az" => "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            _ => "check the store's settings",
        };
        let bucket = ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|known| text.contains(known));
        if bucket {
            return format!("there is no bucket {}; check its name, and the region or endpoint it lies in", self.root);
        }
        if retry::no_credentials(&text) {
            return format!("no credentials ({}); {credentials}", retry::first_line(&text));
        }
        let text = retry::first_line(&text);
        match error {
            E::NotFound { .. } => "no such object; check the address".to_string(),
            E::PermissionDenied { .. } => format!("not allowed ({text}); these credentials may not do this here: ask the owner of the bucket"),
            E::Unauthenticated { .. } => format!("the credentials were refused ({text}); {credentials}"),
            _ => format!("{text}; after {} attempts: try again later, what is complete stays", retry::ATTEMPTS),
        }
    }
}

impl TryFrom<String> for Location {
    type Error = Error;

    fn try_from(address: String) -> Result<Self> {
        Self::parse(&address)
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.root.is_empty() { f.write_str(&self.path) } else { write!(f, "{}/{}", self.root, self.path) }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An error of the file system at `path`.
fn local_error(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    io(path, action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_put_together() {
        for (address, root, path) in [
            ("a/b", "", "a/b"),
            ("/a/b", "", "/a/b"),
            ("file:///a/b", "", "/a/b"),
            ("s3://bucket/a/b/", "s3://bucket", "a/b"),
            ("gs://bucket", "gs://bucket", ""),
            ("az://container/x", "az://container", "x"),
        ] {
            let location = Location::parse(address).unwrap();
            assert_eq!((location.root.as_str(), location.path.as_str()), (root, path), "{address}");
        }
        assert_eq!(Location::parse("s3://bucket/a").unwrap().join("b/c").to_string(), "s3://bucket/a/b/c");
        assert_eq!(Location::parse("s3://bucket").unwrap().join("b").to_string(), "s3://bucket/b");
        assert_eq!(Location::parse("s3://bucket").unwrap().name(), "bucket");
        assert_eq!(Location::parse("runs/x/").unwrap().name(), "x");
        for (address, expected) in [("ftp://host/x", "ftp://"), ("s3:///x", "no bucket"), ("file://x", "file:///"), ("s3://b/a//c", "not a path")] {
            assert!(Location::parse(address).unwrap_err().to_string().contains(expected), "{address}");
        }
    }
}

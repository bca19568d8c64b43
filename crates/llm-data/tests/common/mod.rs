//! What the tests of stores and of `process` share: a store that fails on purpose, and documents to process.

#![allow(dead_code, reason = "each test file uses a part")]

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Hands operations on to another store, but answers about `share` of them with 429, 500, a timeout or half of the bytes; never more
/// than three times in a row for one object, so that patience wins (with a share above 1 it always fails).
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    share: f64,
    operations: AtomicU64,
    in_a_row: Mutex<BTreeMap<String, u32>>,
    /// Failures so far, by kind: 429, 500, timeout, half of the bytes.
    pub failures: [AtomicU64; 4],
    /// Bytes of the largest and the number of all ranged reads.
    pub reads: [AtomicU64; 2],
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>, share: f64) -> Self {
        Self { inner, share, operations: AtomicU64::new(0), in_a_row: Mutex::default(), failures: Default::default(), reads: Default::default() }
    }

    /// The kind of failure of this operation, if it is to fail.
    async fn strike(&self, key: &Key) -> Option<usize> {
        let n = self.operations.fetch_add(1, Ordering::SeqCst);
        let draw = llm_run::Seed(7).stream("faults").at(n).0;
        {
            let mut in_a_row = self.in_a_row.lock().unwrap();
            let count = in_a_row.entry(key.to_string()).or_default();
            if (draw >> 11) as f64 / (1u64 << 53) as f64 >= self.share || *count >= 3 && self.share <= 1.0 {
                *count = 0;
                return None;
            }
            *count += 1;
        }
        let kind = (draw % 4) as usize;
        self.failures[kind].fetch_add(1, Ordering::SeqCst);
        if kind == 2 {
            tokio::time::sleep(Duration::from_millis(20)).await; // latency, then a timeout
        }
        Some(kind)
    }

    fn error(kind: usize) -> Error {
        let text = ["429 Too Many Requests: SlowDown", "500 Internal Server Error", "operation timed out", "connection reset"][kind];
        Error::Generic { store: "faulty", source: text.into() }
    }

    pub fn all_failures(&self) -> u64 {
        self.failures.iter().map(|f| f.load(Ordering::SeqCst)).sum()
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match self.strike(location).await {
            Some(kind) => Err(Self::error(kind)),
            None => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, location: &Key, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        match self.strike(location).await {
            Some(kind) => Err(Self::error(kind)),
            None => self.inner.put_multipart_opts(location, opts).await,
        }
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        match self.strike(location).await {
            Some(3) if !options.head => {
                let whole = self.inner.get_opts(location, options).await?;
                let (meta, range, attributes, extensions) =
                    (whole.meta.clone(), whole.range.clone(), whole.attributes.clone(), whole.extensions.clone());
                let bytes = whole.bytes().await?;
                let half = bytes.slice(..bytes.len() / 2);
                Ok(GetResult { payload: GetResultPayload::Stream(stream::once(async { Ok(half) }).boxed()), meta, range, attributes, extensions })
            }
            Some(kind) => Err(Self::error(kind)),
            None => {
                let answer = self.inner.get_opts(location, options).await?;
                self.reads[0].fetch_max(answer.range.end - answer.range.start, Ordering::SeqCst);
                self.reads[1].fetch_add(1, Ordering::SeqCst);
                Ok(answer)
            }
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Sentences in three languages, some short, some with an address in them, as JSON lines.
pub fn json_lines(documents: std::ops::Range<usize>) -> String {
    const SENTENCES: [&str; 6] = [
        "When the winter came they would often walk through quiet streets and speak about what had happened. ",
        "The old captain wrote a letter to jane.doe@mail.uni-ulm.de and asked for an answer before the summer. ",
        "Als der Winter kam, gingen sie oft durch die stillen Straßen und sprachen über das, was geschehen war. ",
        "Der Übersetzer prüft, ob alle Verweise gültig sind, und lehnt das Programm sonst mit einer Meldung ab. ",
        "Cuando llegó el invierno, caminaban a menudo por las calles tranquilas y hablaban de lo que había pasado. ",
        "El viejo capitán escribió una carta y pidió una respuesta antes del verano, pero nadie quiso contestarle. ",
    ];
    let mut text = String::new();
    for i in documents {
        let language = (i % 3) * 2;
        let body: String = (0..1 + i * 7 % 23).map(|j| format!("{}{} ", SENTENCES[language + (i + j) % 2], i * 31 + j)).collect();
        text += &format!("{}\n", serde_json::json!({ "text": body, "url": format!("https://example.org/{i}") }));
    }
    text
}

/// Every visible file below a folder but the manifest (times) with its content.
pub fn snapshot(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files: Vec<PathBuf> = llm_run::atomic::walk(folder).unwrap();
    files
        .into_iter()
        .filter(|p| p.file_name().is_some_and(|n| n != "manifest.json"))
        .map(|p| (p.strip_prefix(folder).unwrap().display().to_string(), std::fs::read(&p).unwrap()))
        .collect()
}

/// Names of the files that differ.
pub fn difference(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|n| a.get(*n) != b.get(*n)).cloned().collect()
}

//! LoRA adapters at run time: `POST /v1/load_lora_adapter`, `/v1/unload_lora_adapter`, and the names that requests use.
//!
//! A client names a folder, so the path is judged: it has to lie within the one directory that the operator gave (`--adapters`), after
//! all links are resolved, and so has every file in it. Without that directory the endpoints refuse.

use crate::api::adapters::{AdapterReply, LoadRequest, UnloadRequest};
use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use llm_infer::adapters::AdapterId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Files of one folder; PEFT writes a handful.
const MAX_FILES: usize = 1000;

/// A loaded adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Its name within the engine.
    pub id: AdapterId,
    /// Unix seconds of loading.
    pub created: u64,
}

/// Adapters by name.
#[derive(Debug, Default)]
pub struct Adapters {
    /// Where they may come from, without links; `None`: nowhere.
    root: Option<PathBuf>,
    by_name: RwLock<BTreeMap<String, Loaded>>,
    /// One change at a time: a name is not given twice.
    changing: tokio::sync::Mutex<()>,
}

impl Adapters {
    /// From this directory, which has to exist.
    pub fn new(root: Option<&Path>) -> std::io::Result<Self> {
        Ok(Self { root: root.map(Path::canonicalize).transpose()?, ..Self::default() })
    }

    /// The adapter of this name.
    pub fn find(&self, name: &str) -> Option<AdapterId> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).map(|loaded| loaded.id)
    }

    /// All of them.
    pub fn list(&self) -> Vec<(String, Loaded)> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(name, loaded)| (name.clone(), *loaded)).collect()
    }

    fn insert(&self, name: String, loaded: Loaded) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).insert(name, loaded);
    }

    fn remove(&self, name: &str) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn root(&self) -> Result<PathBuf, ApiError> {
        let message = "adapters cannot be loaded here: the server was started without --adapters DIR";
        self.root.clone().ok_or_else(|| ApiError { status: StatusCode::FORBIDDEN, ..ApiError::bad_request(message).with_code("adapters_disabled") })
    }
}

/// `POST /v1/load_lora_adapter`.
pub async fn load(State(app): State<Arc<App>>, body: Result<Bytes, BytesRejection>) -> Result<Json<AdapterReply>, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let LoadRequest { name, path } = LoadRequest::parse(&body)?;
    let root = served.adapters.root()?;
    let _one = served.adapters.changing.lock().await;
    if name == served.name || served.adapters.find(&name).is_some() {
        return Err(ApiError::conflict("lora_name", format!("the name '{name}' is taken; unload it first or choose another")));
    }
    let dir = tokio::task::spawn_blocking(move || resolve(&root, &path)).await.map_err(|_| ApiError::internal("looking for the adapter panicked"))?;
    let dir = dir.ok_or_else(|| ApiError::invalid("lora_path", "there is no such adapter in the server's directory of adapters"))?;
    let id = served.worker.load_adapter(dir).await.map_err(|e| ApiError { param: Some("lora_path".into()), ..e })?;
    served.adapters.insert(name.clone(), Loaded { id, created: crate::app::now() });
    Ok(Json(AdapterReply { status: "loaded", lora_name: name }))
}

/// `POST /v1/unload_lora_adapter`.
pub async fn unload(State(app): State<Arc<App>>, body: Result<Bytes, BytesRejection>) -> Result<Json<AdapterReply>, ApiError> {
    let served = app.ready()?;
    let body = app.body(body)?;
    let UnloadRequest { name } = UnloadRequest::parse(&body)?;
    let _one = served.adapters.changing.lock().await;
    let Some(id) = served.adapters.find(&name) else {
        return Err(ApiError { status: StatusCode::NOT_FOUND, ..ApiError::invalid("lora_name", format!("there is no adapter '{name}'")) });
    };
    // Refused while a reply uses it.
    served
        .worker
        .unload_adapter(id)
        .await
        .map_err(|e| if e.status == StatusCode::BAD_REQUEST { ApiError::conflict("lora_name", e.message) } else { e })?;
    served.adapters.remove(&name);
    Ok(Json(AdapterReply { status: "unloaded", lora_name: name }))
}

/// The folder without links, if it and all of its files lie within `root`. One answer for whatever is wrong: a stranger does not learn
/// what else there is on the disk.
fn resolve(root: &Path, path: &str) -> Option<PathBuf> {
    let dir = root.join(path).canonicalize().ok()?;
    if !dir.starts_with(root) || dir == root || !dir.is_dir() {
        return None;
    }
    for (i, entry) in dir.read_dir().ok()?.enumerate() {
        let inside = entry.ok()?.path().canonicalize().is_ok_and(|file| file.starts_with(root));
        if !inside || i >= MAX_FILES {
            return None;
        }
    }
    Some(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a client reads files that are none of its business.
    #[cfg(unix)]
    #[test]
    fn only_folders_within_the_directory() {
        use std::os::unix::fs::symlink;
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let root = base.join("adapters");
        for dir in ["adapters/good", "adapters/leaky", "outside", "adapters-too"] {
            std::fs::create_dir_all(base.join(dir)).unwrap();
        }
        std::fs::write(base.join("outside/secret"), "x").unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        symlink(base.join("outside"), root.join("link")).unwrap();
        symlink(base.join("outside/secret"), root.join("leaky/adapter_model.safetensors")).unwrap();
        symlink(root.join("good"), root.join("alias")).unwrap();

        assert_eq!(resolve(&root, "good"), Some(root.join("good")));
        assert_eq!(resolve(&root, "alias"), Some(root.join("good")));
        assert_eq!(resolve(&root, root.join("good").to_str().unwrap()), Some(root.join("good")));
        let outside = base.join("outside").display().to_string();
        for path in ["", ".", "..", "../outside", "../adapters-too", "link", "leaky", "good/../../outside", "file", "nothing", "good\0", &outside] {
            assert_eq!(resolve(&root, path), None, "{path}");
        }
    }
}

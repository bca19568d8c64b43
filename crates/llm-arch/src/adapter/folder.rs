//! From an adapter's folder to the model that it changes.

use crate::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Does the folder hold an adapter, and no model?
pub fn is_folder(dir: &Path) -> bool {
    dir.join("adapter_config.json").is_file() && !dir.join("config.json").exists()
}

/// The folder of its model: `base_model_name_or_path`, seen from where the program runs or from the adapter.
pub fn base_of(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("adapter_config.json");
    let bad = |message: String| Error::File { path: path.clone(), message };
    let text = std::fs::read_to_string(&path).map_err(|e| bad(format!("cannot read the adapter's configuration: {e}")))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    let Some(name) = value["base_model_name_or_path"].as_str().filter(|name| !name.is_empty()) else {
        return Err(bad("`base_model_name_or_path` is missing; expected the folder of the model".into()));
    };
    let places = [PathBuf::from(name), dir.join(name)];
    let found = places.into_iter().find(|place| place.join("config.json").is_file());
    found.ok_or_else(|| bad(format!("`base_model_name_or_path` = \"{name}\" is no model folder here; fetch that model and set the path")))
}

//! Weight files: safetensors in Hugging Face layout, one file or shards with `model.safetensors.index.json`.

use crate::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major elements.
    pub values: Vec<f32>,
}

/// The tensors of a model folder or file, memory-mapped; each is converted to `f32` when asked for.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(PathBuf, Mmap)>,
    index: HashMap<String, usize>,
}

impl Weights {
    /// Open `dir/model.safetensors`, a sharded `dir`, or a single file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::open_files(vec![path.to_path_buf()]);
        }
        let index = path.join("model.safetensors.index.json");
        if !index.exists() {
            return Self::open_files(vec![path.join("model.safetensors")]);
        }
        let bad = |message: String| Error::Weights { path: index.clone(), message };
        let text = std::fs::read_to_string(&index).map_err(|e| bad(format!("cannot read: {e}")))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
        let map = json.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| bad("expected an object `weight_map`".into()))?;
        let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if let Some(name) = names.iter().find(|n| n.contains(['/', '\\'])) {
            return Err(bad(format!("shard name `{name}` leaves the folder")));
        }
        Self::open_files(names.into_iter().map(|n| path.join(n)).collect())
    }

    fn open_files(paths: Vec<PathBuf>) -> Result<Self> {
        let (mut files, mut index) = (Vec::new(), HashMap::new());
        for path in paths {
            let bad = |message: String| Error::Weights { path: path.clone(), message };
            let file = File::open(&path).map_err(|e| bad(format!("cannot read weights: {e}")))?;
            // SAFETY: the map is read-only and private; a file truncated by someone else while mapped can end the process with
            // SIGBUS but cannot corrupt memory. Weight files are replaced by rename, never rewritten in place.
            let map = unsafe { Mmap::map(&file) }.map_err(|e| bad(format!("cannot map: {e}")))?;
            let tensors =
                SafeTensors::deserialize(&map).map_err(|e| bad(format!("not a complete safetensors file ({e}); copy or download it again")))?;
            for name in tensors.names() {
                index.insert(name.to_string(), files.len());
            }
            files.push((path, map));
        }
        Ok(Self { files, index })
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.index.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// True when a tensor of that name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Read one tensor as `f32`.
    pub fn get(&self, name: &str) -> Result<HostTensor> {
        let Some(&file) = self.index.get(name) else {
            let path = self.files.first().map(|f| f.0.clone()).unwrap_or_default();
            return Err(Error::Weights { path, message: format!("no tensor `{name}`") });
        };
        let (path, map) = &self.files[file];
        let bad = |message: String| Error::Weights { path: path.clone(), message };
        let tensors = SafeTensors::deserialize(map).map_err(|e| bad(e.to_string()))?;
        let view = tensors.tensor(name).map_err(|e| bad(e.to_string()))?;
        let values = to_f32(view.dtype(), view.data())
            .ok_or_else(|| bad(format!("tensor `{name}` has dtype {:?}; expected F32, F16, BF16 or F64", view.dtype())))?;
        Ok(HostTensor { shape: view.shape().to_vec(), values })
    }
}

fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
        _ => return None,
    })
}

/// Write tensors as one `f32` safetensors file, atomically. Equal tensors give equal bytes.
pub fn save(path: impl AsRef<Path>, tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
    let path = path.as_ref();
    let bad = |message: String| Error::Weights { path: path.to_path_buf(), message };
    let bytes: BTreeMap<&str, Vec<u8>> = tensors.iter().map(|(n, t)| (n.as_str(), t.values.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &bytes[name.as_str()]).map_err(|e| bad(format!("tensor `{name}`: {e}")))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|e| bad(e.to_string()))?;
    Ok(llm_run::atomic::write(path, file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back_and_a_truncated_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensor = HostTensor { shape: vec![2, 3], values: vec![1.0, -2.0, 3.5, f32::MIN_POSITIVE, 0.0, 6.0] };
        save(&path, &BTreeMap::from([("a.weight".to_string(), tensor.clone())])).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        assert_eq!(weights.names(), ["a.weight"]);
        assert_eq!(weights.get("a.weight").unwrap(), tensor);
        assert!(weights.get("b").unwrap_err().to_string().contains("`b`"));

        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 4, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let message = Weights::open(dir.path()).unwrap_err().to_string();
            assert!(message.contains("model.safetensors"), "{message}");
        }
    }
}

//! Weight files: safetensors in Hugging Face layout, one file or shards with `model.safetensors.index.json`.
//!
//! Reading is memory-mapped; headers are parsed once, data is converted when asked for. Writing streams one tensor at a time,
//! so a model is never in memory twice.

mod rewrite;

use crate::dtype::Precision;
use crate::{Error, Result};
use llm_run::atomic::AtomicFile;
use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use safetensors::Dtype;

/// A tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major elements.
    pub values: Vec<f32>,
}

/// A file of weights as it lies on disk, memory-mapped: what is not looked at is not read.
#[derive(Debug)]
pub struct Mapped(Mmap);

impl Mapped {
    /// Map a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |message: String| Error::Weights { path: path.to_path_buf(), message };
        let file = File::open(path).map_err(|e| bad(format!("cannot read weights: {e}")))?;
        // SAFETY: the map is read-only and private; a file truncated by someone else while mapped can end the process with
        // SIGBUS but cannot corrupt memory. Weight files are replaced by rename, never rewritten in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| bad(format!("cannot map: {e}")))?;
        Ok(Self(map))
    }
}

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The tensors of a model folder or file, memory-mapped; each is converted to `f32` when asked for.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(PathBuf, Mapped)>,
    index: HashMap<String, Entry>,
    /// Rows and columns of the blocks that share a scale in 8-bit checkpoints.
    block: [usize; 2],
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
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
            let single = path.join("model.safetensors");
            if !single.exists() && path.join("pytorch_model.bin").exists() {
                let message = "only pytorch_model.bin is there, a Python pickle; convert it with transformers' save_pretrained".into();
                return Err(Error::Weights { path: path.to_path_buf(), message });
            }
            return Self::open_files(vec![single]);
        }
        let bad = |message: String| Error::Weights { path: index.clone(), message };
        let text = std::fs::read_to_string(&index).map_err(|e| bad(format!("cannot read: {e}")))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
        let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(|| bad("expected an object `weight_map`".into()))?;
        let mut shards: BTreeMap<&str, &str> = BTreeMap::new();
        for (tensor, file) in map {
            let file = file.as_str().ok_or_else(|| bad(format!("weight_map: the file of `{tensor}` is not a text")))?;
            if file.contains(['/', '\\']) {
                return Err(bad(format!("shard name `{file}` leaves the folder")));
            }
            shards.entry(file).or_insert(tensor);
        }
        if let Some((file, tensor)) = shards.iter().find(|(file, _)| !path.join(file).is_file()) {
            return Err(bad(format!("names the shard `{file}` (for `{tensor}`), which is not in the folder; copy or download it")));
        }
        let weights = Self::open_files(shards.keys().map(|n| path.join(n)).collect())?;
        if let Some(tensor) = map.keys().find(|name| !weights.contains(name)) {
            return Err(bad(format!("promises `{tensor}` in {}, which does not hold it", map[tensor])));
        }
        Ok(weights)
    }

    fn open_files(paths: Vec<PathBuf>) -> Result<Self> {
        let (mut files, mut index) = (Vec::new(), HashMap::new());
        for path in paths {
            let bad = |message: String| Error::Weights { path: path.clone(), message };
            let map = Mapped::open(&path)?;
            let tensors =
                SafeTensors::deserialize(&map).map_err(|e| bad(format!("not a complete safetensors file ({e}); copy or download it again")))?;
            for (name, view) in tensors.iter() {
                // The view's data is a part of the map; keep where.
                let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
                let bytes = start..start + view.data().len();
                let entry = Entry { file: files.len(), dtype: view.dtype(), shape: view.shape().to_vec(), bytes };
                index.insert(name.to_string(), entry);
            }
            files.push((path, map));
        }
        Ok(Self { files, index, block: [128, 128] })
    }

    /// Blocks that share one scale in 8-bit checkpoints (`weight_block_size` of `quantization_config`).
    pub fn with_block_size(mut self, rows: usize, columns: usize) -> Self {
        self.block = [rows.max(1), columns.max(1)];
        self
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

    /// Dimensions, without reading data.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.index.get(name).map(|e| e.shape.as_slice())
    }

    /// The file a tensor lies in.
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.index.get(name).map(|e| self.files[e.file].0.as_path())
    }

    /// Bytes on disk of all tensors.
    pub fn total_bytes(&self) -> usize {
        self.index.values().map(|e| e.bytes.len()).sum()
    }

    fn entry(&self, name: &str) -> Result<(&Entry, &Path, &[u8])> {
        let Some(entry) = self.index.get(name) else {
            let path = self.files.first().map(|f| f.0.clone()).unwrap_or_default();
            return Err(Error::Weights { path, message: format!("no tensor `{name}`") });
        };
        let (path, map) = &self.files[entry.file];
        Ok((entry, path, &map[entry.bytes.clone()]))
    }

    /// Read one tensor as `f32`. 8-bit floats are multiplied with the block scales in `NAME_scale_inv` (DeepSeek-V3).
    pub fn get(&self, name: &str) -> Result<HostTensor> {
        let (entry, path, bytes) = self.entry(name)?;
        let bad = |message: String| Error::Weights { path: path.to_path_buf(), message };
        let values = match entry.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
            Dtype::F8_E4M3 => self.blockwise(name, &entry.shape, bytes)?,
            other => {
                return Err(bad(format!("tensor `{name}` has dtype {other:?}; expected F32, F16, BF16, F64 or F8_E4M3 with block scales")));
            }
        };
        Ok(HostTensor { shape: entry.shape.clone(), values })
    }

    fn blockwise(&self, name: &str, shape: &[usize], bytes: &[u8]) -> Result<Vec<f32>> {
        let scale_name = format!("{name}_scale_inv");
        let (scales, path, scale_bytes) = self.entry(&scale_name)?;
        let bad = |message: String| Error::Weights { path: path.to_path_buf(), message };
        let [rows, columns] = *shape else { return Err(bad(format!("8-bit tensor `{name}` has shape {shape:?}, expected a matrix"))) };
        let [block_rows, block_columns] = self.block;
        let expected = [rows.div_ceil(block_rows), columns.div_ceil(block_columns)];
        if scales.dtype != Dtype::F32 || scales.shape != expected {
            let message = format!("`{scale_name}` is {:?} {:?}, expected F32 {expected:?} (blocks of {:?})", scales.dtype, scales.shape, self.block);
            return Err(bad(message));
        }
        let scales: Vec<f32> = scale_bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let table: Vec<f32> = (0..=255).map(e4m3).collect();
        let value = |(i, &b): (usize, &u8)| {
            let (r, c) = (i / columns, i % columns);
            table[usize::from(b)] * scales[r / block_rows * expected[1] + c / block_columns]
        };
        Ok(bytes.iter().enumerate().map(value).collect())
    }

    /// Number format, dimensions and bytes as they lie in the file.
    pub fn raw(&self, name: &str) -> Result<(Dtype, &[usize], &[u8])> {
        self.entry(name).map(|(entry, _, bytes)| (entry.dtype, entry.shape.as_slice(), bytes))
    }

    /// Token ids and other whole numbers, for fixtures and indices.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let (entry, path, bytes) = self.entry(name)?;
        match entry.dtype {
            Dtype::I64 => Ok(bytes.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            Dtype::I32 => Ok(bytes.as_chunks::<4>().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect()),
            other => Err(Error::Weights { path: path.to_path_buf(), message: format!("tensor `{name}` has dtype {other:?}; expected I64 or I32") }),
        }
    }
}

/// OCP 8-bit float E4M3 (no infinities; all ones is NaN).
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 128 == 0 { magnitude } else { -magnitude }
}

/// A tensor about to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// Name in the file.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
}

/// How to write a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SaveOptions {
    /// Number format.
    pub precision: Precision,
    /// Largest shard in bytes; one tensor is never split.
    pub max_shard_bytes: usize,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { precision: Precision::F32, max_shard_bytes: 5_000_000_000 }
    }
}

/// A tensor in a file's own number format.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    /// Name in the file.
    pub name: String,
    /// Number format.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Little-endian elements, row-major.
    pub bytes: Vec<u8>,
}

/// Name, format and shape of a tensor of a file.
struct Head {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Head {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

impl Precision {
    fn dtype_in_file(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }
}

/// Write `model.safetensors`, or shards with an index, into `dir`; `values` is asked for one tensor at a time. Files appear
/// whole, the index last.
pub fn save_folder(dir: &Path, tensors: Vec<Pending>, options: SaveOptions, values: impl FnMut(&Pending) -> Vec<f32>) -> Result<()> {
    save_mixed_folder(dir, tensors, options, values, Vec::new())
}

/// [`save_folder`] with further tensors that are written as they are.
pub fn save_mixed_folder(
    dir: &Path,
    tensors: Vec<Pending>,
    options: SaveOptions,
    mut values: impl FnMut(&Pending) -> Vec<f32>,
    raw: Vec<RawTensor>,
) -> Result<()> {
    let dtype = options.precision.dtype_in_file();
    let mut heads: Vec<Head> = tensors.into_iter().map(|t| Head { name: t.name, dtype, shape: t.shape }).collect();
    heads.extend(raw.iter().map(|t| Head { name: t.name.clone(), dtype: t.dtype, shape: t.shape.clone() }));
    heads.sort_by(|a, b| a.name.cmp(&b.name));
    let raw: HashMap<String, Vec<u8>> = raw.into_iter().map(|t| (t.name, t.bytes)).collect();
    let mut write = |head: &Head, file: &mut AtomicFile| match raw.get(&head.name) {
        Some(bytes) => file.write_all(bytes).map(|()| bytes.len()),
        None => write_values(&values(&Pending { name: head.name.clone(), shape: head.shape.clone() }), options.precision, file),
    };
    let mut shards: Vec<Vec<Head>> = vec![Vec::new()];
    let mut filled = 0;
    for head in heads {
        let bytes = head.bytes();
        if filled > 0 && filled + bytes > options.max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(head);
        }
    }
    if let [single] = shards.as_slice() {
        save_file(&dir.join("model.safetensors"), single, &mut write)?;
        let _ = std::fs::remove_file(dir.join("model.safetensors.index.json"));
        return Ok(());
    }
    let (mut weight_map, mut total) = (Map::new(), 0);
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        save_file(&dir.join(&name), shard, &mut write)?;
        total += shard.iter().map(Head::bytes).sum::<usize>();
        weight_map.extend(shard.iter().map(|t| (t.name.clone(), json!(name))));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    let text = serde_json::to_string_pretty(&index).unwrap_or_default() + "\n";
    llm_run::atomic::write(dir.join("model.safetensors.index.json"), text)?;
    let _ = std::fs::remove_file(dir.join("model.safetensors"));
    Ok(())
}

/// Write tensors as one `f32` safetensors file, atomically. Equal tensors give equal bytes.
pub fn save(path: impl AsRef<Path>, tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
    let heads: Vec<Head> = tensors.iter().map(|(name, t)| Head { name: name.clone(), dtype: Dtype::F32, shape: t.shape.clone() }).collect();
    save_file(path.as_ref(), &heads, &mut |head, file| write_values(&tensors[&head.name].values, Precision::F32, file))
}

/// Write one safetensors file of tensors in any format, atomically; `bytes` is asked for one tensor at a time, little-endian and row-major.
pub fn save_raw(path: impl AsRef<Path>, tensors: Vec<(Pending, Dtype)>, mut bytes: impl FnMut(&str) -> Vec<u8>) -> Result<()> {
    let heads: Vec<Head> = tensors.into_iter().map(|(t, dtype)| Head { name: t.name, dtype, shape: t.shape }).collect();
    save_file(path.as_ref(), &heads, &mut |head, file| {
        let bytes = bytes(&head.name);
        file.write_all(&bytes).map(|()| bytes.len())
    })
}

/// Encoded in pieces, so that the copy stays small. Returns the bytes written.
fn write_values(values: &[f32], precision: Precision, file: &mut AtomicFile) -> std::io::Result<usize> {
    for piece in values.chunks(1 << 20) {
        file.write_all(&precision.encode(piece))?;
    }
    Ok(values.len() * precision.bytes())
}

/// One safetensors file: length of the header, header, data (the format's own description, huggingface/safetensors).
fn save_file(path: &Path, tensors: &[Head], write: &mut impl FnMut(&Head, &mut AtomicFile) -> std::io::Result<usize>) -> Result<()> {
    let bad = |message: String| Error::Weights { path: path.to_path_buf(), message };
    let mut header = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        header.insert(tensor.name.clone(), json!({"dtype": tensor.dtype.to_string(), "shape": tensor.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = AtomicFile::create(path)?;
    let io = |e: std::io::Error| bad(format!("cannot write: {e}"));
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    for tensor in tensors {
        let (written, expected) = (write(tensor, &mut file).map_err(io)?, tensor.bytes());
        if written != expected {
            return Err(bad(format!("tensor `{}` has {written} bytes, expected {expected}", tensor.name)));
        }
    }
    Ok(file.commit()?)
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

    #[test]
    fn tensors_of_any_format_keep_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        let heads = |n: usize| {
            vec![(Pending { name: "codes".into(), shape: vec![n] }, Dtype::U8), (Pending { name: "f".into(), shape: vec![1] }, Dtype::F32)]
        };
        let bytes = |name: &str| if name == "codes" { vec![0, 255, 7] } else { 1.5f32.to_le_bytes().to_vec() };
        save_raw(&path, heads(3), bytes).unwrap();
        let weights = Weights::open(&path).unwrap();
        assert_eq!(weights.raw("codes").unwrap(), (Dtype::U8, &[3usize][..], &[0u8, 255, 7][..]));
        assert_eq!(weights.get("f").unwrap().values, [1.5]);
        let message = save_raw(&path, heads(4), bytes).unwrap_err().to_string();
        assert!(message.contains("`codes` has 3 bytes, expected 4"), "{message}");
    }

    #[test]
    fn shards_hold_every_tensor_once_and_the_index_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let tensors: Vec<Pending> = (0..5).map(|i| Pending { name: format!("t{i}"), shape: vec![4, 2] }).collect();
        let options = SaveOptions { precision: Precision::Bf16, max_shard_bytes: 40 };
        let value = |t: &Pending| vec![t.name[1..].parse::<f32>().unwrap() + 0.5; 8];
        save_folder(dir.path(), tensors.clone(), options, value).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        assert_eq!(weights.files.len(), 3);
        for t in &tensors {
            assert_eq!(weights.get(&t.name).unwrap(), HostTensor { shape: vec![4, 2], values: value(t) });
        }
        std::fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
        let message = Weights::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("index.json") && message.contains("model-00002-of-00003"), "{message}");
    }

    #[test]
    fn eight_bit_floats_are_the_standards() {
        // OCP 8-bit floating point specification, table of E4M3: smallest subnormal, smallest normal, one, largest.
        for (byte, want) in [(0x01, 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0x38, 1.0), (0x7E, 448.0), (0xFE, -448.0), (0, 0.0)] {
            assert_eq!(e4m3(byte), want, "{byte:#x}");
        }
        assert!(e4m3(0x7F).is_nan());
    }
}

//! GGUF checkpoints (llama.cpp): one file with configuration, weights and tokenizer.
//!
//! | module | job |
//! |---|---|
//! | `config` | metadata to a configuration |
//! | `names` | which tensor holds which parameter, and what was done to it |
//! | `write` | the way back |
//!
//! The file is memory-mapped and converted tensor by tensor. Quantised matrices stay quantised (`llm_tensor::quant::gguf`): codes and scales are
//! moved, never rounded again. Their products round inputs to 8 bits, as llama.cpp's do; [`Decoder::set_activations`] changes that. Norms, biases,
//! routers and the stacked experts become dense, experts because `llm-moe` has no other kind.
//!
//! The header is read by `llm_tokenizer::formats::gguf`.

mod config;
mod names;
mod write;

pub use config::ARCHITECTURES;
pub use write::{FileTensors, save};

use crate::{Decoder, DecoderConfig, Error, Result};
use config::Tensors;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::nn::Weight;
use llm_tensor::quant::gguf::{self, BlockType};
use llm_tensor::quant::{Activations, Packed};
use llm_tensor::weights::Mapped;
use llm_tokenizer::formats::gguf::{Header, MAGIC};
use names::{Change, FileTensor, join_latent, latent, paired_row, tensors};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The GGUF file that `path` means: itself, or the only one in a folder that has no `config.json`. None when it means something else.
pub fn find(path: impl AsRef<Path>) -> Option<PathBuf> {
    let path = path.as_ref();
    if path.is_file() {
        let mut magic = [0; 4];
        let begins = std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok() && &magic == MAGIC);
        return (begins || is_named(path)).then(|| path.to_path_buf());
    }
    if path.join("config.json").exists() {
        return None;
    }
    let mut files = files(path);
    files.pop().filter(|_| files.is_empty())
}

/// The GGUF files of a folder by name; none of what is no folder.
pub fn files(dir: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = entries.filter(|file| is_named(file)).collect();
    files.sort();
    files
}

fn is_named(file: &Path) -> bool {
    file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// Load a file onto a device; dense weights in `precision`.
pub fn load(path: impl AsRef<Path>, device: &Device, precision: Precision) -> Result<Decoder> {
    Checkpoint::open(path.as_ref())?.load(device, precision)
}

/// A tensor of a file.
#[derive(Debug)]
struct Entry {
    kind: BlockType,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Where one of our parameters is.
#[derive(Debug)]
struct Place {
    tensor: String,
    /// First row in it.
    row: usize,
    rows: usize,
    change: Change,
}

/// A GGUF file whose header was read and found to fit its own configuration.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its configuration.
    pub config: DecoderConfig,
    path: PathBuf,
    map: Mapped,
    tensors: HashMap<String, Entry>,
    places: HashMap<String, Place>,
}

/// The tensors while the configuration is not known yet.
struct Found<'a> {
    tensors: &'a HashMap<String, Entry>,
    map: &'a [u8],
}

impl Tensors for Found<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    fn vector(&self, name: &str) -> Result<Option<Vec<f32>>, String> {
        let Some(entry) = self.tensors.get(name) else { return Ok(None) };
        if entry.shape.len() != 1 || !entry.kind.is_dense() || entry.shape[0] > 1 << 16 {
            return Err(format!("`{name}`: expected a dense vector"));
        }
        let mut out = Vec::new();
        gguf::dequantize(entry.kind, &self.map[entry.bytes.clone()], &mut out);
        match out.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
            Some(v) => Err(format!("`{name}` holds {v}; expected positive numbers")),
            None => Ok(Some(out)),
        }
    }
}

/// Tensors that are read for the configuration, or only repeat it.
fn beside(name: &str) -> bool {
    matches!(name, "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight") || name.ends_with(".attn_rot_embd")
}

impl Checkpoint {
    /// Map a file and read its header. Missing, unexpected and ill-shaped tensors are reported all at once.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |message: String| Error::File { path: path.to_path_buf(), message };
        let map = Mapped::open(path)?;
        let header = Header::parse(&map[..], path)?;
        let (mut entries, mut problems) = (HashMap::new(), Vec::new());
        for tensor in header.tensors {
            match entry(&tensor.shape, tensor.kind, header.data, tensor.offset, map.len()) {
                Ok(entry) => drop(entries.insert(tensor.name, entry)),
                Err(e) => problems.push(format!("`{}`: {e}", tensor.name)),
            }
        }
        if !problems.is_empty() {
            return Err(Error::weights(path, problems));
        }
        let config = config::config(&header.metadata, &Found { tensors: &entries, map: &map }).map_err(bad)?;
        let mut places = HashMap::new();
        let whole = entries.keys().any(|name| name.ends_with(".attn_kv_b.weight"));
        let expected = tensors(&config, whole);
        for tensor in &expected {
            check(tensor, entries.get(&tensor.name), &mut problems);
            let mut row = 0;
            for part in &tensor.parts {
                let place = Place { tensor: tensor.name.clone(), row, rows: part.rows, change: part.change };
                places.insert(part.parameter.clone(), place);
                row += part.rows;
            }
        }
        let known: std::collections::HashSet<&str> = expected.iter().map(|t| t.name.as_str()).collect();
        let mut unexpected: Vec<&String> = entries.keys().filter(|name| !known.contains(name.as_str()) && !beside(name)).collect();
        unexpected.sort_unstable();
        problems.extend(unexpected.iter().map(|name| format!("unexpected `{name}`")));
        if !problems.is_empty() {
            return Err(Error::weights(path, problems));
        }
        Ok(Self { config, path: path.to_path_buf(), map, tensors: entries, places })
    }

    /// How many tensors there are of each element type.
    pub fn types(&self) -> BTreeMap<String, usize> {
        let mut out = BTreeMap::new();
        self.tensors.values().for_each(|t| *out.entry(t.kind.to_string()).or_default() += 1);
        out
    }

    /// Bytes of all tensors in the file.
    pub fn total_bytes(&self) -> usize {
        self.tensors.values().map(|t| t.bytes.len()).sum()
    }

    /// Elements of all tensors that are parameters.
    pub fn num_parameters(&self) -> usize {
        let counted = |name: &str| !beside(name) && !name.ends_with("exp_probs_b.bias");
        self.tensors.iter().filter(|(name, _)| counted(name)).map(|(_, t)| t.shape.iter().product::<usize>()).sum()
    }

    /// Build the decoder. Quantised matrices stay so, except on a device that tracks gradients: there everything is dense.
    pub fn load(&self, device: &Device, precision: Precision) -> Result<Decoder> {
        let mut dense = |name: &str, shape: &[usize]| self.parameter(name, shape);
        if device.is_autodiff() {
            return Decoder::build(&self.config, device, precision, &mut dense);
        }
        let mut packed = |name: &str, shape: [usize; 2]| self.packed(name, shape);
        let mut decoder = Decoder::build_packed(&self.config, device, precision, &mut dense, &mut packed)?;
        // The builder of a mixture knows dense shared experts only.
        for (name, linear) in decoder.linears_mut().into_iter().filter(|(name, _)| name.contains(".moe.")) {
            if let Some(matrix) = self.packed(&format!("{name}.weight"), linear.weight.shape())? {
                linear.weight = Weight::packed(matrix, device);
            }
        }
        Ok(decoder)
    }

    fn error(&self, message: String) -> Error {
        Error::File { path: self.path.clone(), message }
    }

    /// Place, element type, elements of a row, and the bytes of the rows of one of our parameters.
    fn rows(&self, name: &str, size: usize) -> Result<(&Place, BlockType, usize, &[u8])> {
        let found = self.places.get(name).and_then(|place| Some((place, self.tensors.get(&place.tensor)?)));
        let (place, entry) = found.ok_or_else(|| self.error(format!("no tensor holds `{name}`")))?;
        let width = size / place.rows.max(1);
        let bytes = entry.kind.row_bytes(width).and_then(|n| self.map[entry.bytes.clone()].get(place.row * n..)?.get(..place.rows * n));
        let bytes = bytes.ok_or_else(|| self.error(format!("`{}` does not have the rows of `{name}`", place.tensor)))?;
        Ok((place, entry.kind, width, bytes))
    }

    /// The values of one of our parameters.
    fn parameter(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        if let Some([keys, values]) = self.latent(name) {
            let read = |name: &str| -> Result<Vec<f32>> {
                let entry = self.tensors.get(name).ok_or_else(|| self.error(format!("no tensor `{name}`")))?;
                let mut out = Vec::new();
                gguf::dequantize(entry.kind, &self.map[entry.bytes.clone()], &mut out);
                match out.iter().find(|v| !v.is_finite()) {
                    Some(v) => Err(self.error(format!("`{name}` holds {v}; the checkpoint is damaged"))),
                    None => Ok(out),
                }
            };
            return Ok(join_latent(&read(&keys.0)?, &read(&values.0)?, keys.1));
        }
        let size = shape.iter().product();
        let (place, kind, width, bytes) = self.rows(name, size)?;
        let mut out = Vec::with_capacity(size);
        match place.change {
            Change::Paired(heads) => {
                let n = bytes.len() / place.rows.max(1);
                (0..place.rows).for_each(|row| gguf::dequantize(kind, &bytes[paired_row(row, place.rows, heads) * n..][..n], &mut out));
            }
            Change::PlusOne => {
                gguf::dequantize(kind, bytes, &mut out);
                out.iter_mut().for_each(|v| *v -= 1.0);
            }
            Change::None => gguf::dequantize(kind, bytes, &mut out),
        }
        match out.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                let message = format!("`{}` holds {} in row {}; the checkpoint is damaged", place.tensor, out[at], place.row + at / width.max(1));
                Err(self.error(message))
            }
            None => Ok(out),
        }
    }

    /// The two tensors of a parameter that is in two.
    fn latent(&self, name: &str) -> Option<[(String, [usize; 3]); 2]> {
        let layer = name.strip_prefix("model.layers.")?.strip_suffix(".mla.kv_b_proj.weight")?;
        if self.places.contains_key(name) { None } else { latent(&self.config, &format!("blk.{layer}.")) }
    }

    /// The quantised matrix of one of our parameters; none where it is dense, or has to be put together.
    fn packed(&self, name: &str, shape: [usize; 2]) -> Result<Option<Packed>> {
        if self.latent(name).is_some() {
            return Ok(None);
        }
        let (place, kind, _, bytes) = self.rows(name, shape[0] * shape[1])?;
        let source = |row: usize| match place.change {
            Change::Paired(heads) => paired_row(row, place.rows, heads),
            _ => row,
        };
        let matrix = gguf::packed(kind, shape, bytes, source).map_err(|e| self.error(format!("`{}`: {e}", place.tensor)))?;
        Ok(matrix.map(|matrix| matrix.with_activations(Activations::Int8)))
    }
}

/// A tensor's element type and bytes, if the file has them.
fn entry(shape: &[usize], kind: u32, data: u64, offset: u64, length: usize) -> Result<Entry, String> {
    let kind = BlockType::from_number(kind)?;
    let width = shape.last().copied().unwrap_or(1);
    let rows: usize = shape.iter().rev().skip(1).product();
    let row = kind.row_bytes(width).ok_or_else(|| format!("rows of {width} elements are no whole number of {kind} blocks"))?;
    let start = data.checked_add(offset).and_then(|n| usize::try_from(n).ok());
    let range = start.and_then(|start| Some(start..start.checked_add(rows.checked_mul(row)?)?));
    let bytes = range.filter(|range| range.end <= length);
    let bytes = bytes.ok_or_else(|| format!("lies outside the {length} bytes of the file, which is incomplete; copy or download it again"))?;
    Ok(Entry { kind, shape: shape.to_vec(), bytes })
}

fn check(tensor: &FileTensor, entry: Option<&Entry>, problems: &mut Vec<String>) {
    // ggml does not tell `[1, n]` from `[n]`.
    fn plain(shape: &[usize]) -> &[usize] {
        let ones = shape.iter().take_while(|n| **n == 1).count();
        &shape[ones.min(shape.len().saturating_sub(1))..]
    }
    match entry {
        None => problems.push(format!("missing `{}` {:?}", tensor.name, tensor.shape)),
        Some(entry) if plain(&entry.shape) != plain(&tensor.shape) => {
            problems.push(format!("`{}` has shape {:?}, expected {:?}", tensor.name, entry.shape, tensor.shape));
        }
        Some(entry) if tensor.shape.len() == 1 && !entry.kind.is_dense() => {
            problems.push(format!("`{}` is a vector of {}, expected F32, F16 or BF16", tensor.name, entry.kind));
        }
        Some(_) => {}
    }
}

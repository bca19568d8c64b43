//! Hugging Face model folders: `config.json`, `generation_config.json`, `model.safetensors` or shards with an index.
//!
//! | module | job |
//! |---|---|
//! | `fields` | typed fields with errors that name them |
//! | `read` | `config.json` to a configuration, a short function per family |
//! | `write` | the way back |
//! | `names` | which tensor holds which parameter |
//! | `quantised` | which projections are quantised, and how |
//! | `classification` | folders with a scalar head in place of the output projection: reward models |

mod classification;
pub(crate) mod fields;
pub(crate) mod names;
mod quantised;
mod read;
mod write;

pub use classification::{load_classifier, save_classifier};
pub use quantised::Quantisation;
#[cfg(test)]
pub(crate) use read::rope_scaling;
pub use read::{MODEL_TYPES, config_from_json};
pub use write::config_to_json;

use crate::parameters::parameters;
use crate::{Adapter, Decoder, DecoderConfig, Error, Result, adapter};
use llm_tensor::burn::tensor::Device;
use llm_tensor::nn::Weight;
use llm_tensor::quant::{Packed, Stored};
use llm_tensor::weights::{self, HostTensor, Pending, RawTensor, SaveOptions, Weights};
use llm_tensor::{Precision, params};
use names::{Source, ignorable, sources};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// Load a model folder onto a device in `f32`.
pub fn load(dir: impl AsRef<Path>, device: &Device) -> Result<Decoder> {
    load_as(dir, device, Precision::F32)
}

/// Load a model folder onto a device. Missing, unexpected and ill-shaped tensors are reported all at once. A folder that holds an adapter gives
/// its model with the adapter in the weights.
pub fn load_as(dir: impl AsRef<Path>, device: &Device, precision: Precision) -> Result<Decoder> {
    let dir = dir.as_ref();
    if !adapter::is_folder(dir) {
        return Checkpoint::open(dir)?.load(device, precision);
    }
    let decoder = Checkpoint::open(&adapter::base_of(dir)?)?.load(device, precision)?;
    let adapter = Adapter::load(dir, decoder.config())?;
    adapter::merge(decoder, &adapter)
}

/// [`load_as`] under a configuration that says more than `config.json` can: settings that only training has. All shapes must be the same.
pub fn load_with(dir: impl AsRef<Path>, config: &DecoderConfig, device: &Device, precision: Precision) -> Result<Decoder> {
    let dir = dir.as_ref();
    let checkpoint = Checkpoint::open(dir)?;
    if parameters(&checkpoint.config) != parameters(config) {
        let message = "describes a model of other sizes than the one being trained".to_string();
        return Err(Error::File { path: dir.join("config.json"), message });
    }
    // For training: every parameter dense, whatever the file.
    Decoder::build(config, device, precision, &mut |name, shape| checkpoint.parameter(name, shape))
}

/// How a matrix is kept, from its name, its shape and its values.
pub(crate) type Store<'a> = &'a dyn Fn(&str, [usize; 2], &mut dyn FnMut() -> Result<Vec<f32>>) -> Result<Option<Packed>>;

/// A model folder whose headers were read and found to fit its configuration.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its configuration.
    pub config: DecoderConfig,
    weights: Weights,
    sources: Vec<Source>,
    /// For each of our parameters the sources with rows of it.
    parts: HashMap<String, Vec<usize>>,
    /// The names as this file spells them, where a prefix is missing.
    spelled: HashMap<String, String>,
    quantisation: Option<Quantisation>,
    /// The layers that are quantised, as this file names them, by source.
    quantised: HashMap<String, String>,
}

impl Checkpoint {
    /// Read `config.json` and the headers of the weight files.
    pub fn open(dir: &Path) -> Result<Self> {
        let value = config_value(dir)?;
        let config = parse_config(dir, &value)?;
        let mut weights = Weights::open(dir)?;
        if let Some([rows, columns]) = block_size(&value) {
            weights = weights.with_block_size(rows, columns);
        }
        let quantisation = Quantisation::of(&value).map_err(|message| Error::File { path: dir.join("config.json"), message })?;
        Self::resolve(dir, config, weights, None, quantisation, &[])
    }

    /// The decoder inside a larger model whose tensors lie in `dir`: `PREFIX.model.layers...` and `PREFIX.lm_head...` as files have it, or
    /// `model.PREFIX.layers...` and `lm_head...` as transformers 5 names them in memory. Tensors outside the prefix are others' business.
    pub fn open_part(dir: &Path, config: DecoderConfig, prefix: &str) -> Result<Self> {
        config.validate()?;
        Self::resolve(dir, config, Weights::open(dir)?, Some(prefix), None, &[])
    }

    /// Build the decoder. Quantised projections stay so, except on a device that tracks gradients: there everything is dense.
    pub fn load(&self, device: &Device, precision: Precision) -> Result<Decoder> {
        if device.is_autodiff() {
            return Decoder::build(&self.config, device, precision, &mut |name, shape| self.parameter(name, shape));
        }
        let (mut dense, mut packed) = (|name: &str, shape: &[usize]| self.parameter(name, shape), |name: &str, shape| self.packed(name, shape));
        let mut decoder = Decoder::build_packed(&self.config, device, precision, &mut dense, &mut packed)?;
        if self.quantisation.is_some() {
            // The builder of a mixture knows dense shared experts only.
            for (name, linear) in decoder.linears_mut().into_iter().filter(|(name, _)| name.contains(".moe.")) {
                if let Some(matrix) = self.packed(&format!("{name}.weight"), linear.weight.shape())? {
                    linear.weight = Weight::packed(matrix, device);
                }
            }
        }
        Ok(decoder)
    }

    /// [`Checkpoint::load`] with every projection and table kept as `store` says, one tensor at a time: the dense model is never whole in memory.
    /// What is quantised in the files stays as it is there. `store` gives none for what stays dense.
    pub(crate) fn load_stored(&self, device: &Device, precision: Precision, store: Store) -> Result<Decoder> {
        let mut dense = |name: &str, shape: &[usize]| self.parameter(name, shape);
        let mut packed = |name: &str, shape: [usize; 2]| match self.packed(name, shape)? {
            Some(matrix) => Ok(Some(matrix)),
            None => store(name, shape, &mut || self.parameter(name, &shape)),
        };
        let mut decoder = Decoder::build_packed(&self.config, device, precision, &mut dense, &mut packed)?;
        // The builder of a mixture knows dense shared experts only.
        for (name, linear) in decoder.linears_mut().into_iter().filter(|(name, _)| name.contains(".moe.")) {
            if let Some(matrix) = packed(&format!("{name}.weight"), linear.weight.shape())? {
                linear.weight = Weight::packed(matrix, device);
            }
        }
        Ok(decoder)
    }

    /// How the projections are stored, where not dense.
    pub fn quantisation(&self) -> Option<Quantisation> {
        self.quantisation
    }

    /// The weight files.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The tensor of the file that is one of our parameters row for row; none where it is fused, transposed or quantised.
    pub fn tensor_of(&self, parameter: &str) -> Option<&str> {
        let [i] = *self.parts.get(parameter)?.as_slice() else { return None };
        let source = &self.sources[i];
        let plain = source.runs.len() == 1 && !source.transposed && !self.quantised.contains_key(&source.name);
        plain.then(|| self.spelled.get(&source.name).unwrap_or(&source.name).as_str())
    }

    /// `heads`: tensors besides the decoder's that somebody else reads.
    fn resolve(
        dir: &Path,
        config: DecoderConfig,
        weights: Weights,
        prefix: Option<&str>,
        quantisation: Option<Quantisation>,
        heads: &[&str],
    ) -> Result<Self> {
        let sources = sources(&config);
        let mut quantised = HashMap::new();
        let (mut problems, mut known, mut spelled) = (Vec::new(), HashSet::new(), HashMap::new());
        for source in &sources {
            // Base models are saved without the first part of the name (`wte.weight`, `layers.0...`).
            let short = source.name.split_once('.').map_or(source.name.as_str(), |(_, rest)| rest);
            let spellings = match prefix {
                None => vec![source.name.clone(), short.to_string()],
                Some(prefix) if source.name.starts_with("model.") => vec![format!("{prefix}.{}", source.name), format!("model.{prefix}.{short}")],
                Some(prefix) => vec![format!("{prefix}.{}", source.name), source.name.clone()],
            };
            let packed = quantisation.filter(|_| source.shape.len() == 2).and_then(|quantisation| {
                let layers = spellings.iter().filter_map(|name| name.strip_suffix(".weight"));
                layers.map(|layer| (layer, quantisation.tensors(&weights, layer))).find(|(_, tensors)| !tensors.is_empty())
            });
            if let Some((layer, tensors)) = packed {
                known.extend(tensors);
                quantised.insert(source.name.clone(), layer.to_string());
                continue;
            }
            let found = spellings.iter().find(|name| weights.contains(name)).unwrap_or(&spellings[0]).clone();
            match weights.shape(&found) {
                None => problems.push(format!("missing `{found}` {:?}", source.shape)),
                Some(shape) if shape != source.shape => {
                    problems.push(format!("`{found}` has shape {shape:?}, expected {:?}", source.shape));
                }
                Some(_) if found != source.name => drop(spelled.insert(source.name.clone(), found.clone())),
                Some(_) => {}
            }
            known.insert(found);
        }
        let ours = |name: &str| match prefix {
            None => !ignorable(&config, name),
            Some(prefix) => {
                let rest = |name: &str| name.strip_prefix(prefix)?.strip_prefix('.').map(str::to_string);
                let own = rest(name).or_else(|| rest(name.strip_prefix("model.")?).map(|short| format!("model.{short}")));
                own.is_some_and(|own| !ignorable(&config, &own))
            }
        };
        let strange = |n: &&str| !known.contains(*n) && !heads.contains(n) && ours(n);
        problems.extend(weights.names().into_iter().filter(strange).map(|n| format!("unexpected `{n}`")));
        if !problems.is_empty() {
            return Err(Error::weights(dir, problems));
        }
        let mut parts: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, source) in sources.iter().enumerate() {
            for run in &source.runs {
                let list = parts.entry(run.parameter.clone()).or_default();
                if list.last() != Some(&i) {
                    list.push(i);
                }
            }
        }
        Ok(Self { config, weights, sources, parts, spelled, quantisation, quantised })
    }

    /// The quantised matrix of a source, `[outputs, inputs]` whatever the family's habit.
    fn matrix(&self, source: &Source) -> Result<Option<Packed>> {
        let (Some(quantisation), Some(layer)) = (self.quantisation, self.quantised.get(&source.name)) else { return Ok(None) };
        let inputs = source.width();
        let shape = [source.shape.iter().product::<usize>() / inputs.max(1), inputs];
        let path = ["qweight", "weight"].iter().find_map(|name| self.weights.file(&format!("{layer}.{name}"))).unwrap_or(Path::new("")).to_path_buf();
        quantisation.read(&self.weights, layer, shape).map(Some).map_err(|message| Error::File { path, message })
    }

    /// The quantised matrix of one of our parameters: a source, or rows of one. None where it is dense or comes from several.
    fn packed(&self, name: &str, shape: [usize; 2]) -> Result<Option<Packed>> {
        let Some([i]) = self.parts.get(name).map(Vec::as_slice) else { return Ok(None) };
        let source = &self.sources[*i];
        let Some(matrix) = self.matrix(source)? else { return Ok(None) };
        let (mut rows, mut at) = (Vec::new(), 0);
        for run in &source.runs {
            if run.parameter == name {
                rows.push(at..at + run.rows);
            }
            at += run.rows;
        }
        let matrix = if source.runs.len() == 1 { matrix } else { matrix.rows(&rows) };
        Ok(Some(matrix).filter(|m| [m.outputs(), m.inputs()] == shape))
    }

    /// The values of one of our parameters, gathered from wherever the checkpoint keeps them.
    pub(crate) fn parameter(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let n: usize = shape.iter().product();
        let mut out = vec![0f32; n];
        for &i in self.parts.get(name).map_or(&[][..], Vec::as_slice) {
            let source = &self.sources[i];
            let found = self.spelled.get(&source.name).unwrap_or(&source.name);
            let packed = self.matrix(source)?.map(|matrix| matrix.dequantize());
            let transposed = source.transposed && packed.is_none();
            let mut values = match packed {
                Some(values) => values,
                None => self.weights.get(found)?.values,
            };
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let path = self.weights.file(found).unwrap_or(Path::new("")).to_path_buf();
                let message = format!("tensor `{found}` holds {} at element {at}; the checkpoint is damaged or its training diverged", values[at]);
                return Err(Error::File { path, message });
            }
            if transposed {
                values = transpose(&values, source.shape[0], source.shape[1]);
            }
            let width = source.width();
            if source.runs.len() == 1 && values.len() == n {
                return Ok(values);
            }
            let mut from = 0;
            for run in &source.runs {
                let size = run.rows * width;
                if run.parameter == name {
                    out[run.row * width..][..size].copy_from_slice(&values[from..from + size]);
                }
                from += size;
            }
        }
        Ok(out)
    }
}

/// `[rows, columns]` to `[columns, rows]`.
pub(crate) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0f32; values.len()];
    for (r, row) in values.chunks_exact(columns).enumerate() {
        for (c, v) in row.iter().enumerate() {
            out[c * rows + r] = *v;
        }
    }
    out
}

/// Save `config.json`, `generation_config.json` and the weights in `f32` into `dir`, each file atomically.
pub fn save(dir: impl AsRef<Path>, decoder: &Decoder) -> Result<()> {
    save_as(dir, decoder, SaveOptions::default())
}

/// [`save`] in a chosen number format, in shards of a chosen size. Quantised projections are written dequantised.
pub fn save_as(dir: impl AsRef<Path>, decoder: &Decoder, options: SaveOptions) -> Result<()> {
    write_folder(dir.as_ref(), decoder, options, &BTreeMap::new(), None)
}

/// [`save_as`] with some projections quantised: `stored` by canonical name without `.weight`; `quantization_config` says how.
pub fn save_quantised(
    dir: impl AsRef<Path>,
    decoder: &Decoder,
    options: SaveOptions,
    stored: &BTreeMap<String, Stored>,
    quantization_config: Value,
) -> Result<()> {
    write_folder(dir.as_ref(), decoder, options, stored, Some(quantization_config))
}

/// The projections that a family's checkpoints keep in tensors of their own: those that [`save_quantised`] can write.
pub fn separate_projections(config: &DecoderConfig) -> HashSet<String> {
    let single = |s: Source| if let [run] = s.runs.as_slice() { run.parameter.strip_suffix(".weight").map(str::to_string) } else { None };
    sources(config).into_iter().filter_map(single).collect()
}

fn write_folder(
    dir: &Path,
    decoder: &Decoder,
    options: SaveOptions,
    stored: &BTreeMap<String, Stored>,
    quantization_config: Option<Value>,
) -> Result<()> {
    let config = decoder.config();
    let mut tensors = FileTensors::of(decoder);
    let raw = tensors.take_stored(stored);
    weights::save_mixed_folder(dir, tensors.pending(), options, |tensor| tensors.values(&tensor.name), raw)?;
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    let mut json = config_to_json(config, options.precision);
    if let (Some(settings), Some(object)) = (quantization_config, json.as_object_mut()) {
        object.insert("quantization_config".into(), settings);
    }
    llm_run::atomic::write(dir.join("config.json"), pretty(&json))?;
    Ok(llm_run::atomic::write(dir.join("generation_config.json"), pretty(&generation_config(config)))?)
}

/// The `generation_config.json` of a model.
pub fn generation_config(config: &DecoderConfig) -> Value {
    let mut generation = Map::new();
    write::insert_token_ids(&mut generation, config);
    generation.retain(|_, v| !v.is_null());
    Value::Object(generation)
}

/// The tensors of a decoder as [`save`] writes them, for whoever writes them into a larger file.
#[derive(Debug)]
pub struct FileTensors {
    ours: BTreeMap<String, HostTensor>,
    sources: BTreeMap<String, Source>,
}

impl FileTensors {
    /// Those of that decoder, copied to the host.
    pub fn of(decoder: &Decoder) -> Self {
        let sources = sources(decoder.config()).into_iter().map(|s| (s.name.clone(), s)).collect();
        Self { ours: params::to_host(decoder), sources }
    }

    /// Leave out what is stored in another form; gives the tensors of that form.
    fn take_stored(&mut self, stored: &BTreeMap<String, Stored>) -> Vec<RawTensor> {
        let mut raw = Vec::new();
        self.sources.retain(|_, source| {
            let [run] = source.runs.as_slice() else { return true };
            let matrix = run.parameter.strip_suffix(".weight").and_then(|name| stored.get(name));
            let layer = source.name.strip_suffix(".weight").unwrap_or(&source.name);
            raw.extend(matrix.map(|matrix| matrix.tensors(layer)).unwrap_or_default());
            matrix.is_none()
        });
        raw
    }

    /// Names and shapes.
    pub fn pending(&self) -> Vec<Pending> {
        self.sources.values().map(|s| Pending { name: s.name.clone(), shape: s.shape.clone() }).collect()
    }

    /// Row-major elements of one of them; none under another name.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let Some(source) = self.sources.get(name) else { return Vec::new() };
        let width = source.width();
        let mut out = Vec::with_capacity(source.shape.iter().product());
        for run in &source.runs {
            if let Some(parameter) = self.ours.get(&run.parameter) {
                out.extend_from_slice(&parameter.values[run.row * width..][..run.rows * width]);
            }
        }
        if source.transposed { transpose(&out, source.shape[1], source.shape[0]) } else { out }
    }
}

/// `dir/config.json` as it is.
pub(crate) fn config_value(dir: &Path) -> Result<Value> {
    let path = dir.join("config.json");
    let bad = |message: String| Error::File { path: path.clone(), message };
    let text = std::fs::read_to_string(&path).map_err(|e| bad(format!("cannot read model configuration: {e}")))?;
    serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))
}

fn parse_config(dir: &Path, value: &Value) -> Result<DecoderConfig> {
    let bad = |message: String| Error::File { path: dir.join("config.json"), message };
    let config = config_from_json(value).map_err(bad)?;
    config.validate().map_err(|e| bad(e.to_string()))?;
    Ok(config)
}

/// Read `dir/config.json`; of an adapter's folder that of its model.
pub fn load_config(dir: impl AsRef<Path>) -> Result<DecoderConfig> {
    let dir = dir.as_ref();
    if adapter::is_folder(dir) {
        return load_config(adapter::base_of(dir)?);
    }
    parse_config(dir, &config_value(dir)?)
}

/// `quantization_config.weight_block_size` of 8-bit checkpoints.
fn block_size(config: &Value) -> Option<[usize; 2]> {
    let sizes = config.get("quantization_config")?.get("weight_block_size")?.as_array()?;
    let size = |i: usize| sizes.get(i)?.as_u64().map(|n| n as usize);
    Some([size(0)?, size(1)?])
}

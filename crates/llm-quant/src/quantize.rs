//! `llm-quant quantize`: a model folder to a smaller one.
//!
//! Quantised are the projections of the blocks. Embeddings, the output projection, norms, routers and stacked experts stay as they are. For the
//! data-free methods each projection is one step; GPTQ goes through [`crate::sequential`].

use crate::calibration::{Calibration, Wanted};
use crate::config::{Method, QuantizeConfig};
use crate::error::check_interrupt;
use crate::{Error, Result, round, sequential};
use llm_arch::{Decoder, hf};
use llm_run::{Progress, Run, Seed};
use llm_tensor::burn::tensor::Device;
use llm_tensor::quant::bitsandbytes::Int8;
use llm_tensor::quant::gptq::{Grouped, fits};
use llm_tensor::quant::{Packed, Stored, nf4};
use llm_tensor::weights::SaveOptions;
use llm_tensor::{Precision, host};
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// File with what became of each projection.
pub const REPORT: &str = "quantisation.json";

/// Files that belong to a model folder and are copied as they are.
const COMPANIONS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "LICENSE",
];

/// What became of a projection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Canonical name.
    pub name: String,
    /// `[outputs, inputs]`.
    pub shape: [usize; 2],
    /// Bits of a code.
    pub bits: usize,
    /// Weights that share a scale.
    pub group: usize,
    /// Bytes of the matrix in memory.
    pub bytes: usize,
    /// Root mean square of the change of the weights, relative to that of the weights.
    pub weight_error: f64,
    /// Mean squared error of the outputs on the calibration inputs (`gptq`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
    /// Share of the Hessian's mean added to its diagonal (`gptq`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
}

/// Quantise `config.model` into `out`.
pub fn quantize(config: &QuantizeConfig, out: &Path) -> Result<Vec<LayerReport>> {
    config.check()?;
    let device = Device::flex();
    let checkpoint = hf::Checkpoint::open(&config.model)?;
    if let Some(there) = checkpoint.quantisation() {
        return Err(Error::Input { path: config.model.join("config.json"), message: format!("is quantised already ({there:?}); give the original") });
    }
    let mut decoder = checkpoint.load(&device, Precision::F32)?;
    let precision = config.precision.unwrap_or_else(|| stated_precision(&config.model));
    let plan = plan(config, &mut decoder)?;
    let calibration = if config.method == Method::Gptq { Some(calibration(config, &decoder)?) } else { None };
    let mut run = Run::start(out, "llm-quant", "quantize", config)?;
    run.manifest.seed = Some(config.seed);
    for input in [Some(&config.model), config.calibration.as_ref()] {
        input.map_or(Ok(()), |path| run.input(path))?;
    }
    let mut stored = BTreeMap::new();
    let mut report = Vec::new();
    match &calibration {
        Some(calibration) => gptq(config, &mut decoder, &plan, calibration, &mut stored, &mut report)?,
        None => plain(config, &mut decoder, &plan, precision, &mut stored, &mut report)?,
    }
    let options = SaveOptions { precision, ..SaveOptions::default() };
    hf::save_quantised(run.dir(), &decoder, options, &stored, config.quantization_config(precision))?;
    for name in COMPANIONS {
        let from = config.model.join(name);
        if from.exists() {
            let bytes = std::fs::read(&from).map_err(|e| Error::Input { path: from.clone(), message: format!("cannot read: {e}") })?;
            llm_run::atomic::write(run.path(name), bytes)?;
        }
    }
    let text = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    llm_run::atomic::write(run.path(REPORT), text)?;
    let bytes: usize = report.iter().map(|l| l.bytes).sum();
    let weights: usize = report.iter().map(|l| l.shape[0] * l.shape[1]).sum();
    run.finish(json!({
        "method": config.method.name(),
        "projections": report.len(),
        "weights": weights,
        "bits_per_weight": 8.0 * bytes as f64 / weights.max(1) as f64,
        "mean_weight_error": report.iter().map(|l| l.weight_error).sum::<f64>() / report.len().max(1) as f64,
    }))?;
    Ok(report)
}

/// `torch_dtype` or `dtype` of `config.json`.
fn stated_precision(model: &Path) -> Precision {
    let text = std::fs::read_to_string(model.join("config.json")).unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let stated = value.get("dtype").or(value.get("torch_dtype")).and_then(Value::as_str);
    stated.and_then(|s| s.parse().ok()).unwrap_or_default()
}

/// Which projections, with which group size. Everything that cannot work is found here.
fn plan(config: &QuantizeConfig, decoder: &mut Decoder) -> Result<BTreeMap<String, usize>> {
    let separate = hf::separate_projections(decoder.config());
    let family = decoder.config().family;
    let mut plan = BTreeMap::new();
    for (name, linear) in decoder.linears_mut() {
        if config.keep.iter().any(|keep| name.contains(keep.as_str())) {
            continue;
        }
        let shape = linear.weight.shape();
        let failed = |message: String| Error::Layer { layer: name.clone(), message };
        if !separate.contains(&name) {
            let message = format!("checkpoints of {family:?} models keep it in one tensor with others; writing that quantised is not supported");
            return Err(failed(message));
        }
        let group = match config.method {
            Method::Rtn | Method::Gptq => {
                fits(shape, config.bits).map_err(failed)?;
                config.group(&name, shape[1])?
            }
            Method::Nf4 => config.blocksize,
            Method::Int8 => shape[1],
        };
        plan.insert(name, group);
    }
    if plan.is_empty() {
        return Err(Error::Config("`keep` leaves no projection to quantise".into()));
    }
    Ok(plan)
}

fn calibration(config: &QuantizeConfig, decoder: &Decoder) -> Result<Calibration> {
    let path = config.calibration.as_deref().unwrap_or(Path::new(""));
    let sizes = decoder.config();
    let wanted = Wanted {
        path,
        samples: config.samples,
        sequence_length: config.sequence_length,
        seed: Seed(config.seed).stream("calibration"),
        vocab_size: sizes.vocab_size,
        context: sizes.max_position_embeddings,
    };
    Calibration::read(&wanted, || Ok(Tokenizer::load(&config.model)?))
}

fn report(name: &str, before: &[f32], packed: &Packed) -> LayerReport {
    let after = packed.dequantize();
    let square = |x: f32| f64::from(x) * f64::from(x);
    let change: f64 = before.iter().zip(&after).map(|(a, b)| square(a - b)).sum();
    let size: f64 = before.iter().map(|&a| square(a)).sum();
    LayerReport {
        name: name.into(),
        shape: [packed.outputs(), packed.inputs()],
        bits: packed.bits(),
        group: packed.group(),
        bytes: packed.bytes(),
        weight_error: (change / size.max(f64::MIN_POSITIVE)).sqrt(),
        output_error: None,
        damping: None,
    }
}

/// Methods that look at the weights alone.
fn plain(
    config: &QuantizeConfig,
    decoder: &mut Decoder,
    plan: &BTreeMap<String, usize>,
    precision: Precision,
    stored: &mut BTreeMap<String, Stored>,
    reports: &mut Vec<LayerReport>,
) -> Result<()> {
    let mut progress = Progress::new(config.method.name(), plan.len() as u64, "projections");
    for (name, linear) in decoder.linears_mut() {
        check_interrupt()?;
        let Some(&group) = plan.get(&name) else { continue };
        let (shape, weights) = (linear.weight.shape(), host::to_vec(linear.weight.val()));
        let failed = |message: String| Error::Layer { layer: name.clone(), message };
        let matrix = match config.method {
            Method::Nf4 => Stored::Table4(nf4::nf4(&weights, shape, group, config.double_quant, &precision.to_string())),
            Method::Int8 => Stored::Int8(Int8::round(&weights, shape)),
            Method::Rtn | Method::Gptq => Stored::Gptq(round::groups(&weights, shape, config.bits, group, config.sym).pack().map_err(failed)?),
        };
        let packed = matrix.packed().map_err(failed)?;
        reports.push(report(&name, &weights, &packed));
        stored.insert(name, matrix);
        progress.inc(1);
    }
    progress.finish(format!("{} projections", reports.len()));
    Ok(())
}

fn gptq(
    config: &QuantizeConfig,
    decoder: &mut Decoder,
    plan: &BTreeMap<String, usize>,
    calibration: &Calibration,
    stored: &mut BTreeMap<String, Stored>,
    reports: &mut Vec<LayerReport>,
) -> Result<()> {
    let options = |name: &str, _: [usize; 2]| Ok(plan.get(name).map(|&group| config.gptq(group)));
    sequential::run(decoder, calibration, options, |rounded| {
        let failed = |message: String| Error::Layer { layer: rounded.name.clone(), message };
        let packed = Grouped::packed(&rounded.matrix).map_err(failed)?;
        let layer = report(&rounded.name, &rounded.before, &packed);
        reports.push(LayerReport { output_error: Some(rounded.output_error), damping: Some(rounded.damping), ..layer });
        stored.insert(rounded.name.clone(), Stored::Gptq(rounded.matrix.pack().map_err(failed)?));
        Ok(())
    })
}

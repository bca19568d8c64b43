//! From a configuration with a dial to one without: which keys the user gave, what is chosen for the others, and why.

use super::recipe::{TOKENS_PER_PARAMETER, Task};
use super::shape::Count;
use super::{Data, Recipe, Shape};
use crate::pretrain::PretrainConfig;
use crate::quantity::{count, parse_count, short};
use crate::{Error, Result};
use llm_arch::budget::{Flops, Parts};
use llm_run::config;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use toml::Table;

/// More than this many passes over the data give little (Muennighoff et al. 2023, section 5).
const MOST_EPOCHS: f64 = 4.0;

/// What is turned.
#[derive(Debug, Clone, Copy, Default, PartialEq, clap::Args)]
pub struct Dial {
    /// One dial for shape, batch, rate and steps: layers of the model, compute-optimally trained.
    #[arg(long, value_name = "N", conflicts_with = "params", value_parser = depth)]
    pub depth: Option<usize>,
    /// The same dial in parameters, e.g. 50M.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub params: Option<f64>,
    /// Tokens to train on for each parameter [default: 20, compute-optimal].
    #[arg(long, value_name = "R", value_parser = parse_count)]
    pub tokens_per_parameter: Option<f64>,
}

fn depth(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| format!("`{text}`: expected a number of layers from 1 to 1000"))
}

impl Dial {
    /// Take the keys `depth`, `params` and `tokens_per_parameter` out of a configuration; flags win over them. None without either of the
    /// first two.
    pub fn take(self, table: &mut Table) -> Result<Option<Self>> {
        let mut number = |key: &str| -> Result<Option<f64>> {
            let Some(value) = table.remove(key) else { return Ok(None) };
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            parse_count(&text).map(Some).map_err(|e| Error::Config(format!("{key}: {e}")))
        };
        let (layers, params, ratio) = (number("depth")?, number("params")?, number("tokens_per_parameter")?);
        let layers = layers.map(|n| depth(&n.to_string()).map_err(|e| Error::Config(format!("depth: {e}")))).transpose()?;
        let ratio = self.tokens_per_parameter.or(ratio);
        let (layers, params) = if self.depth.is_some() || self.params.is_some() { (self.depth, self.params) } else { (layers, params) };
        match (layers, params) {
            (Some(_), Some(_)) => Err(Error::Config("`depth` and `params` are the same dial; give one of them".into())),
            (None, None) if ratio.is_some() => Err(Error::Config("`tokens_per_parameter` needs `depth` or `params`".into())),
            (None, None) => Ok(None),
            (depth, params) => Ok(Some(Self { depth, params, tokens_per_parameter: ratio })),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Key in the configuration.
    pub key: &'static str,
    /// Value.
    pub value: Value,
    /// The user's, not the dial's.
    pub given: bool,
    /// The rule.
    pub why: String,
}

/// What the dial came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// What was asked for.
    pub dial: String,
    /// All parameters.
    pub parameters: usize,
    /// Those that multiply.
    pub matmul_parameters: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Tokens of a row.
    pub sequence_length: usize,
    /// Rate, decay, batch, steps, compute.
    pub recipe: Recipe,
    /// Tokens for each parameter that multiplies.
    pub tokens_per_parameter: f64,
    /// Tokens at hand.
    pub available_tokens: Option<u64>,
    /// Passes over them.
    pub epochs: Option<f64>,
    /// Every setting of the dial.
    pub settings: Vec<Setting>,
    /// What should not be overlooked.
    pub warnings: Vec<String>,
}

/// Read a configuration with or without a dial. `data` replaces what the configuration's own tokenizer and shards say.
pub fn load(file: Option<&Path>, sets: &[String], flags: Dial, data: Option<Data>) -> Result<(PretrainConfig, Option<Choice>)> {
    let origin = file.map_or_else(|| "--set".to_string(), |f| f.display().to_string());
    configure(config::table(file, sets)?, &origin, flags, data)
}

/// The same of a table; `origin` is named in errors.
pub fn configure(mut table: Table, origin: &str, flags: Dial, data: Option<Data>) -> Result<(PretrainConfig, Option<Choice>)> {
    let dial = flags.take(&mut table)?;
    let mut config = PretrainConfig::deserialize(toml::Value::Table(table.clone()))
        .map_err(|e| llm_run::Error::Config { origin: origin.to_string(), message: config::suggest(e.to_string().trim()) })?;
    let Some(dial) = dial else { return Ok((config, None)) };
    let data = data.map_or_else(|| Data::of(&config), Ok)?;
    let given = |path: &str| is_given(&table, path);
    let in_model = |field: &str| given(&format!("model.{field}"));

    config.model.vocab_size = data.vocab_size;
    let shape = match (dial.depth, dial.params) {
        (Some(depth), _) => Shape::of_depth(depth),
        (_, params) => Shape::of_size(&config.model, &in_model, params.unwrap_or(0.0), Count::All)?,
    };
    shape.fill(&mut config.model, &in_model);
    if !in_model("max_position_embeddings") {
        config.model.max_position_embeddings = config.model.max_position_embeddings.max(data.sequence_length);
    }
    config.model.validate()?;
    let parts = Parts::of(&config.model);
    let recipe = Recipe::of(&Task {
        parameters: parts.matmul_active as f64,
        flops_per_token: Flops::of(&config.model, data.sequence_length).training,
        sequence_length: data.sequence_length,
        tokens_per_parameter: dial.tokens_per_parameter.unwrap_or(TOKENS_PER_PARAMETER),
        micro_batch_size: config.micro_batch_size,
        batch_size: given("batch_size").then_some(config.batch_size),
        steps: given("trainer.max_steps").then_some(config.trainer.max_steps),
    });
    let trainer = &mut config.trainer;
    let (optimizer, schedule) = (&mut trainer.optimizer, &mut trainer.schedule);
    (config.batch_size, trainer.max_steps) = (recipe.batch_size, recipe.steps);
    if !given("trainer.optimizer.lr") {
        optimizer.lr = recipe.lr;
    }
    if !given("trainer.optimizer.weight_decay") {
        optimizer.weight_decay = recipe.weight_decay;
    }
    if !given("trainer.schedule.warmup_steps") {
        schedule.warmup_steps = recipe.warmup_steps;
    }
    let choice = Choice::new(&dial, &config, &data, recipe, &given);
    Ok((config, Some(choice)))
}

fn is_given(table: &Table, path: &str) -> bool {
    let mut keys = path.split('.');
    let first = keys.next().and_then(|key| table.get(key));
    keys.try_fold(first, |here, key| here.map(|value| value.get(key))).flatten().is_some()
}

impl Choice {
    fn new(dial: &Dial, config: &PretrainConfig, data: &Data, recipe: Recipe, given: &dyn Fn(&str) -> bool) -> Self {
        let (model, trainer) = (&config.model, &config.trainer);
        let parts = Parts::of(model);
        let heads = model.num_attention_heads;
        let batch_tokens = count((config.batch_size * data.sequence_length) as f64);
        let length = data.sequence_length;
        let row = |key: &'static str, value: Value, why: String| Setting { key, value, given: given(key), why };
        let settings = vec![
            row("model.num_hidden_layers", json!(model.num_hidden_layers), "depth".into()),
            row("model.hidden_size", json!(model.hidden_size), "about 64 x depth, whole heads".into()),
            row("model.num_attention_heads", json!(heads), format!("heads of {}", model.head_size())),
            row("model.num_key_value_heads", json!(model.num_key_value_heads), format!("groups of {}", heads / model.num_key_value_heads.max(1))),
            row("model.intermediate_size", json!(model.intermediate_size), "8/3 of the width".into()),
            row("model.max_position_embeddings", json!(model.max_position_embeddings), "default, at least a row".into()),
            row("batch_size", json!(config.batch_size), format!("{batch_tokens} tokens, rows of {length}")),
            row("trainer.max_steps", json!(trainer.max_steps), format!("{} tokens", count(recipe.tokens))),
            row("trainer.optimizer.lr", json!(trainer.optimizer.lr), "0.3118 C^-0.125".into()),
            row("trainer.optimizer.weight_decay", json!(trainer.optimizer.weight_decay), "averages over a share of the run".into()),
            row("trainer.schedule.warmup_steps", json!(trainer.schedule.warmup_steps), "a twentieth, at most 2000".into()),
        ];
        let epochs = data.tokens.map(|tokens| recipe.tokens / tokens.max(1) as f64);
        let mut warnings = Vec::new();
        if let (Some(epochs), Some(tokens)) = (epochs.filter(|e| *e > MOST_EPOCHS), data.tokens) {
            warnings.push(format!(
                "{epochs:.1} passes over {} tokens; beyond {MOST_EPOCHS:.0} they teach little: pack more text, or choose a smaller model",
                count(tokens as f64)
            ));
        }
        if !(5.0..=5000.0).contains(&(recipe.tokens / parts.matmul_active as f64)) {
            let ratio = short(recipe.tokens / parts.matmul_active as f64);
            warnings.push(format!("{ratio} tokens for each parameter are far from the 20 of a compute-optimal run"));
        }
        Self {
            dial: dial.depth.map_or_else(|| format!("params {}", count(dial.params.unwrap_or(0.0))), |depth| format!("depth {depth}")),
            parameters: parts.total,
            matmul_parameters: parts.matmul_active,
            vocab_size: data.vocab_size,
            sequence_length: data.sequence_length,
            tokens_per_parameter: recipe.tokens / parts.matmul_active as f64,
            recipe,
            available_tokens: data.tokens,
            epochs,
            settings,
            warnings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::Rate;

    fn data() -> Data {
        Data { vocab_size: 4096, sequence_length: 256, tokens: Some(2_000_000) }
    }

    fn set(sets: &[&str], dial: Dial) -> Result<(PretrainConfig, Option<Choice>)> {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        load(None, &sets, dial, Some(data()))
    }

    #[test]
    fn without_a_dial_nothing_changes() {
        let (config, choice) = set(&["batch_size=3"], Dial::default()).unwrap();
        assert_eq!((config, choice), (PretrainConfig { batch_size: 3, ..PretrainConfig::default() }, None));
    }

    /// If this fails, the dial overrides its owner.
    #[test]
    fn what_is_given_stays() {
        let sets = ["depth=4", "model.num_key_value_heads=1", "trainer.optimizer.lr=0.5", "trainer.max_steps=77", "model.rope_theta=5e5"];
        let (config, choice) = set(&sets, Dial::default()).unwrap();
        let choice = choice.unwrap();
        assert_eq!((config.model.hidden_size, config.model.num_hidden_layers, config.model.num_key_value_heads), (256, 4, 1));
        assert_eq!((config.trainer.optimizer.lr, config.trainer.max_steps, config.model.rope_theta), (0.5, 77, 5e5));
        let given: Vec<&str> = choice.settings.iter().filter(|s| s.given).map(|s| s.key).collect();
        assert_eq!(given, ["model.num_key_value_heads", "trainer.max_steps", "trainer.optimizer.lr"]);
        assert_eq!(config.trainer.schedule.warmup_steps, 3);
    }

    #[test]
    fn flags_win_and_wrong_dials_are_refused() {
        let dial = Dial { params: Some(5e6), ..Dial::default() };
        let (config, choice) = set(&["depth=4"], dial).unwrap();
        assert!((choice.unwrap().parameters as f64 / 5e6 - 1.0).abs() < 0.1, "{config:?}");
        for (sets, word) in [
            (vec!["depth=4", "params=5M"], "same dial"),
            (vec!["depth=0"], "0"),
            (vec!["params=many"], "many"),
            (vec!["tokens_per_parameter=3"], "needs"),
            (vec!["depth=2", "batch_sise=1"], "did you mean `batch_size`"),
            (vec!["depth=2", "model.num_attention_heads=3"], "num_attention_heads"),
        ] {
            let message = set(&sets, Dial::default()).unwrap_err().to_string();
            assert!(message.contains(word), "{sets:?}: {message}");
        }
    }

    /// If this fails, `--toml` writes something else than what `--depth` trains.
    #[test]
    fn the_fragment_says_the_same_without_the_dial() {
        let dial = Dial { depth: Some(5), ..Dial::default() };
        let (config, choice) = set(&[], dial).unwrap();
        let choice = choice.unwrap();
        let table = config::parse(&choice.toml().unwrap(), "fragment").unwrap();
        let (mut again, none) = configure(table, "fragment", Dial::default(), None).unwrap();
        again.model.vocab_size = config.model.vocab_size;
        assert_eq!((again, none), (config, None));
        let text = choice.table(Some(&Rate { tokens_per_second: 1e4, source: "measured".into() }));
        assert!(text.contains("time") && text.contains("warning:"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    }
}

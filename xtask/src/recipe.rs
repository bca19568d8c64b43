//! A recipe: the stages of a run, in order, as a TOML file.
//!
//! ```toml
//! name = "tiny"            # the run folder is runs/tiny unless --out says otherwise
//! seed = 42                # `{seed}` in a config
//!
//! [[stage]]
//! id = "filter"            # the folder in the run folder, and the name in --set filter.key=value
//! title = "Quality filters"
//! program = "llm-data"     # a binary of this workspace, or a path with a slash
//! command = "filter"
//! config = { documents = "{read}/documents" }   # `{read}`: folder of the stage `read`, which makes it an input
//! ```
//!
//! Also per stage: `inputs` (further stage ids or paths whose content the result depends on) and `seconds` (a rough time
//! on two cores, shown before the start). `{run}`, `{root}` (the workspace) and `{device}` are known as well.

use crate::substitute::{self, Values};
use crate::term::nearest;
use anyhow::{Context, Result, anyhow, bail, ensure};
use llm_run::config;
use serde::{Deserialize, Serialize};
use std::path::Path;
use toml::{Table, Value};

/// The stages of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Recipe {
    /// Name of the run.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// `{seed}`.
    pub seed: u64,
    /// `{device}`.
    pub device: String,
    /// In the order in which they run.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// One call of one program.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Folder name and name in references.
    pub id: String,
    /// One line for people.
    #[serde(default)]
    pub title: String,
    /// A binary of this workspace, or a path.
    pub program: String,
    /// Its subcommand.
    pub command: String,
    /// Rough time on two cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Stage ids and paths the result depends on, besides the references in `config`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Goes to the program as its configuration file.
    #[serde(default)]
    pub config: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    seed: u64,
    #[serde(default = "cpu")]
    device: String,
    #[serde(rename = "stage", default)]
    stages: Vec<Value>,
}

fn cpu() -> String {
    "cpu".to_string()
}

impl Recipe {
    /// Read and check a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read the recipe", path.display()))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parse and check; `origin` is named in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let table = config::parse(text, origin)?;
        let head = Head::deserialize(Value::Table(table)).map_err(|e| anyhow!("{origin}: {}", config::suggest(e.to_string().trim())))?;
        let mut stages = Vec::new();
        for (index, value) in head.stages.into_iter().enumerate() {
            let id = value.get("id").and_then(Value::as_str).unwrap_or("without id").to_string();
            let stage = Stage::deserialize(value)
                .map_err(|e| anyhow!("{origin}: stage {} (`{id}`): {}", index + 1, config::suggest(e.to_string().trim())))?;
            stages.push(stage);
        }
        let recipe = Self { name: head.name, title: head.title, seed: head.seed, device: head.device, stages };
        recipe.check().with_context(|| origin.to_string())?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        ensure!(plain_name(&self.name), "name `{}`: expected letters, digits, `-`, `_` and `.`", self.name);
        ensure!(!self.stages.is_empty(), "no [[stage]]: a recipe needs at least one");
        for (index, stage) in self.stages.iter().enumerate() {
            let id = &stage.id;
            ensure!(
                plain_name(id) && id.starts_with(|c: char| c.is_ascii_lowercase()) && !substitute::RESERVED.contains(&id.as_str()),
                "stage {}: id `{id}`: expected a name of small letters, digits and `-` that is none of {}",
                index + 1,
                substitute::RESERVED.join(", ")
            );
            ensure!(!self.stages[..index].iter().any(|s| &s.id == id), "stage id `{id}` occurs twice");
            let earlier: Vec<&str> = self.stages[..index].iter().map(|s| s.id.as_str()).collect();
            for name in
                substitute::names(&Value::Table(stage.config.clone())).into_iter().chain(stage.inputs.iter().flat_map(|i| substitute::names_in(i)))
            {
                if substitute::RESERVED.contains(&name.as_str()) || earlier.contains(&name.as_str()) {
                    continue;
                }
                if self.stages.iter().any(|s| s.id == name) {
                    bail!("stage `{id}` refers to `{{{name}}}`, which does not run before it");
                }
                let hint = nearest(&name, earlier.iter().copied().chain(substitute::RESERVED))
                    .map_or(String::new(), |n| format!("; did you mean `{{{n}}}`?"));
                bail!("stage `{id}` refers to `{{{name}}}`, which is no stage{hint}");
            }
        }
        Ok(())
    }

    /// Apply `--set stage.key=value`, `--set seed=N` and `--set device=D`.
    pub fn set(&mut self, sets: &[String]) -> Result<()> {
        for set in sets {
            let (path, value) =
                set.split_once('=').ok_or_else(|| anyhow!("--set {set}: expected stage.key=value, for example --set pretrain.max_steps=100"))?;
            match (path.trim().split_once('.'), path.trim()) {
                (None, "seed") => self.seed = value.trim().parse().map_err(|_| anyhow!("--set {set}: seed must be a whole number >= 0"))?,
                (None, "device") => self.device = value.trim().to_string(),
                (None, _) => bail!("--set {set}: expected stage.key=value, for example --set {}.key=value", self.stages[0].id),
                (Some((id, key)), _) => {
                    let index = self.index(id).with_context(|| format!("--set {set}"))?;
                    config::override_with(&mut self.stages[index].config, &format!("{key}={value}"))?;
                }
            }
        }
        self.check().context("--set")
    }

    /// The position of a stage; an unknown id is an error with the nearest one.
    pub fn index(&self, id: &str) -> Result<usize> {
        self.stages.iter().position(|s| s.id == id).ok_or_else(|| match nearest(id, self.stages.iter().map(|s| s.id.as_str())) {
            Some(near) => anyhow!("no stage `{id}`; did you mean `{near}`?"),
            None => anyhow!("no stage `{id}`; the stages are {}", self.stages.iter().map(|s| s.id.as_str()).collect::<Vec<_>>().join(", ")),
        })
    }

    /// The values of `{...}` for a run folder.
    pub fn values(&self, run: &Path, root: &Path) -> Values {
        let stages = self.stages.iter().map(|s| (s.id.clone(), run.join(&s.id).display().to_string())).collect();
        Values { run: run.display().to_string(), root: root.display().to_string(), seed: self.seed, device: self.device.clone(), stages }
    }
}

fn plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
        name = "two"
        seed = 7
        [[stage]]
        id = "read"
        program = "llm-data"
        command = "read"
        [[stage]]
        id = "filter"
        program = "llm-data"
        command = "filter"
        config = { documents = "{read}/documents", seed = "{seed}" }
    "#;

    fn error(text: &str) -> String {
        format!("{:#}", Recipe::parse(text, "r.toml").unwrap_err())
    }

    #[test]
    fn a_typo_in_a_key_names_the_stage_and_the_key_that_was_meant() {
        let message = error(&TWO.replace("command = \"filter\"", "comand = \"filter\""));
        assert!(message.contains("stage 2 (`filter`)") && message.contains("did you mean `command`"), "{message}");
        let message = error(&TWO.replace("seed = 7", "sede = 7"));
        assert!(message.contains("did you mean `seed`"), "{message}");
    }

    #[test]
    fn references_must_point_backwards() {
        assert!(error(&TWO.replace("{read}", "{raed}")).contains("did you mean `{read}`"));
        assert!(error(&TWO.replace("{read}", "{filter}")).contains("does not run before"));
        assert!(error(&TWO.replace("id = \"filter\"", "id = \"read\"")).contains("twice"));
        assert!(error(&TWO.replace("id = \"filter\"", "id = \"../x\"")).contains("expected a name"));
        assert!(error("name = \"x\"").contains("at least one"));
    }

    #[test]
    fn overrides_reach_nested_keys_and_unknown_stages_get_a_suggestion() {
        let mut recipe = Recipe::parse(TWO, "r.toml").unwrap();
        recipe.set(&["filter.words.min=3".into(), "seed=9".into(), "device=cuda:1".into()]).unwrap();
        assert_eq!(recipe.stages[1].config["words"]["min"].as_integer(), Some(3));
        assert_eq!((recipe.seed, recipe.device.as_str()), (9, "cuda:1"));
        let message = format!("{:#}", recipe.set(&["fliter.words.min=3".into()]).unwrap_err());
        assert!(message.contains("did you mean `filter`"), "{message}");
        assert!(recipe.set(&["filter=3".into()]).is_err());
        assert!(recipe.set(&["filter.documents={raed}".into()]).is_err());
    }

    #[test]
    fn the_recipes_are_sound_and_survive_a_round_trip() {
        let others = [
            ("vision", include_str!("../recipes/vision.toml")),
            ("vision-ci", include_str!("../recipes/vision-ci.toml")),
            ("crawl", include_str!("../recipes/crawl.toml")),
            ("fertility", include_str!("../recipes/fertility.toml")),
            ("rlhf", include_str!("../recipes/rlhf.toml")),
            ("rlhf-ci", include_str!("../recipes/rlhf-ci.toml")),
            ("grpo", include_str!("../recipes/grpo.toml")),
            ("qlora", include_str!("../recipes/qlora.toml")),
        ];
        for (name, text) in crate::quickstart::RECIPES.into_iter().chain(others) {
            let recipe = Recipe::parse(text, name).unwrap();
            let again = Recipe::parse(&toml::to_string(&recipe).unwrap(), name).unwrap();
            assert_eq!(toml::to_string(&again).unwrap(), toml::to_string(&recipe).unwrap());
        }
    }
}

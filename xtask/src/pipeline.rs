//! `cargo xtask pipeline run FILE`: the stages of a recipe, one after the other, each only when it must.
//!
//! A stage is `PROGRAM COMMAND --config RUN/configs/STAGE.toml --out RUN/STAGE`, which can be copied from the report and
//! run by hand. Programs resume from their own checkpoints; what happens here is deciding whether a stage's folder is
//! finished, may be continued, or must be emptied first ([`crate::stamp`]).

use crate::machine;
use crate::process::{self, Ended};
use crate::programs;
use crate::recipe::{Recipe, Stage};
use crate::stamp::{self, Contents, DONE, Key, RUNNING, Stamp, State};
use crate::substitute::{self, Values};
use crate::term::{Paint, plural};
use anyhow::{Context, Result, bail, ensure};
use llm_run::atomic;
use llm_run::progress::human_seconds;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use toml::Value;

/// How to run a recipe.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Run folder.
    pub out: PathBuf,
    /// Run this stage and all after it even when nothing changed.
    pub from: Option<String>,
    /// Run this stage and no other.
    pub only: Option<String>,
    /// Run stages even when nothing changed.
    pub force: bool,
    /// Say what would run.
    pub dry_run: bool,
    /// What to type to go on after an interruption.
    pub again: String,
}

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Stages that ran.
    pub ran: Vec<String>,
    /// Stages that were up to date.
    pub skipped: Vec<String>,
}

/// Ended by Ctrl-C; the message says how to go on.
#[derive(Debug)]
pub struct Interrupted(pub String);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}

struct Pipeline<'a> {
    recipe: &'a Recipe,
    options: &'a Options,
    values: Values,
    contents: Contents,
    paint: Paint,
}

/// Run a recipe in its run folder.
pub fn run(recipe: &Recipe, options: &Options) -> Result<Outcome> {
    let from = options.from.as_deref().map(|id| recipe.index(id)).transpose().context("--from")?;
    let only = options.only.as_deref().map(|id| recipe.index(id)).transpose().context("--only")?;
    let selected = |index: usize| only.is_none_or(|o| o == index);
    let forced = |index: usize| options.force || from.is_some_and(|f| index >= f) || only == Some(index);
    let values = recipe.values(&options.out, &programs::root());
    let mut pipeline = Pipeline { recipe, options, values, contents: Contents::default(), paint: Paint::stderr() };
    if options.dry_run {
        pipeline.dry_run(&selected, &forced);
        return Ok(Outcome::default());
    }
    process::catch_interrupts();
    let chosen = recipe.stages.iter().enumerate().filter(|(i, _)| selected(*i)).map(|(_, s)| s.program.as_str());
    let own = recipe.stages.iter().filter_map(|s| s.config.get("device").and_then(Value::as_str));
    let devices: Vec<&str> = own.chain([recipe.device.as_str()]).collect();
    programs::build(chosen, &devices)?;
    fs::create_dir_all(&options.out).with_context(|| format!("{}: cannot create the run folder", options.out.display()))?;
    let _lock = lock(&options.out)?;
    atomic::write(options.out.join("recipe.toml"), toml::to_string(recipe).context("cannot write recipe.toml")?)?;
    machine::record(&options.out)?;

    let mut outcome = Outcome::default();
    for (index, stage) in recipe.stages.iter().enumerate() {
        if !selected(index) {
            continue;
        }
        if process::interrupted() {
            return Err(pipeline.interrupted(&stage.id));
        }
        if pipeline.stage(index, stage, forced(index))? { &mut outcome.ran } else { &mut outcome.skipped }.push(stage.id.clone());
    }
    Ok(outcome)
}

/// Two pipelines in one folder would overwrite each other.
fn lock(out: &Path) -> Result<fs::File> {
    let path = out.join(".lock");
    let file = fs::File::create(&path).with_context(|| format!("{}: cannot create", path.display()))?;
    if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
        bail!("{}: another run works in this folder; wait for it, or choose another with --out", out.display());
    }
    Ok(file)
}

impl Pipeline<'_> {
    /// Run a stage unless it is up to date; true when it ran.
    fn stage(&mut self, index: usize, stage: &Stage, forced: bool) -> Result<bool> {
        let dir = self.options.out.join(&stage.id);
        let program = programs::locate(&stage.program)?;
        let key = self.key(stage, &program).with_context(|| format!("stage `{}`", stage.id))?;
        if let Some(old) = Stamp::read(&dir.join(RUNNING)) {
            process::stop_leftover(&dir, &old);
        }
        let state = stamp::state(&dir, &key);
        let place = format!("[{:>2}/{}]", index + 1, self.recipe.stages.len());
        let name = self.paint.bold(&format!("{:<12}", stage.id));
        let why = match &state {
            State::Fresh if !forced => {
                eprintln!("{} {name} {}", self.paint.dim(&place), self.paint.dim("unchanged"));
                return Ok(false);
            }
            State::Partial => "continues".to_string(),
            State::Stale(reason) => format!("again: {reason}"),
            State::Fresh => "again: asked for".to_string(),
            State::New => String::new(),
        };
        let why = if why.is_empty() { why } else { format!(" {}", self.paint.yellow(&format!("({why})"))) };
        eprintln!("{} {name} {}{why}", self.paint.dim(&place), stage.title);

        let partial = if state == State::Partial { Stamp::read(&dir.join(RUNNING)) } else { None };
        if partial.is_none() && dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("{}: cannot empty the folder", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("{}: cannot create", dir.display()))?;
        let config = self.options.out.join("configs").join(format!("{}.toml", stage.id));
        let table = self.values.value(&Value::Table(stage.config.clone()));
        atomic::write(&config, toml::to_string(&table).with_context(|| format!("stage `{}`: cannot write its configuration", stage.id))?)?;

        let mut command = Command::new(&program);
        command.arg(&stage.command).arg("--config").arg(&config).arg("--out").arg(&dir);
        // Progress (stderr) belongs on the terminal; what a program prints as its result goes into the run folder.
        let log = self.options.out.join("logs").join(format!("{}.txt", stage.id));
        fs::create_dir_all(log.parent().unwrap_or(&self.options.out)).with_context(|| format!("{}: cannot create its folder", log.display()))?;
        command.stdout(fs::File::create(&log).with_context(|| format!("{}: cannot create", log.display()))?);
        let command_line = self.command_line(stage, &program, &config, &dir);
        let mut stamp = Stamp {
            stage: stage.id.clone(),
            title: stage.title.clone(),
            command_line: command_line.clone(),
            key: key.hash(),
            depends_on: key,
            started_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            wall_seconds: 0.0,
            peak_memory_bytes: None,
            attempts: 1,
            pid: None,
            files: String::new(),
        };
        if let Some(old) = partial {
            (stamp.started_at, stamp.wall_seconds, stamp.attempts) = (old.started_at, old.wall_seconds, old.attempts + 1);
        }
        let started = Instant::now();
        match process::run(command, &dir, &mut stamp).with_context(|| format!("stage `{}`", stage.id))? {
            Ended::Well => {}
            Ended::Interrupted => return Err(self.interrupted(&stage.id)),
            Ended::Badly(status) => bail!(
                "stage `{}` failed ({}): {}\n       finished stages are kept; to go on: {}",
                stage.id,
                process::describe(status),
                command_line.join(" "),
                self.options.again
            ),
        }
        let manifest = llm_run::run::Manifest::read(&dir).ok();
        stamp.peak_memory_bytes = manifest.and_then(|m| m.peak_memory_bytes);
        fs::remove_file(dir.join(RUNNING)).ok();
        stamp.files = stamp::listing(&dir);
        stamp.write(&dir.join(DONE))?;
        self.contents.forget(&dir);
        let memory = stamp.peak_memory_bytes.map_or(String::new(), |b| format!(", {} peak", crate::term::bytes(b as f64)));
        eprintln!("{}", self.paint.dim(&format!("{:>21}{}{memory}", "", human_seconds(started.elapsed().as_secs_f64()))));
        Ok(true)
    }

    fn command_line(&self, stage: &Stage, program: &Path, config: &Path, dir: &Path) -> Vec<String> {
        let words = [program, Path::new(&stage.command), Path::new("--config"), config, Path::new("--out"), dir];
        words.iter().map(|w| w.display().to_string()).collect()
    }

    /// Everything a stage's result depends on.
    fn key(&mut self, stage: &Stage, program: &Path) -> Result<Key> {
        let mut inputs = BTreeMap::new();
        for (name, path) in self.inputs(stage)? {
            let hash = self.contents.hash(&path).with_context(|| format!("input `{name}` is missing or unreadable"))?;
            inputs.insert(name, hash);
        }
        ensure!(program.is_file(), "no program at {}", program.display());
        let config = self.values.portable().value(&Value::Table(stage.config.clone()));
        Ok(Key { program: self.contents.hash(program)?, command: stage.command.clone(), config: stamp::config_hash(&config), inputs })
    }

    /// Inputs as the recipe names them, and where they are.
    fn inputs(&self, stage: &Stage) -> Result<BTreeMap<String, PathBuf>> {
        let mut found = BTreeMap::new();
        let mut texts = Vec::new();
        substitute::strings(&Value::Table(stage.config.clone()), &mut |text| texts.push(text.to_string()));
        for text in texts {
            let path = PathBuf::from(self.values.text(&text));
            let of_stage = substitute::names_in(&text).iter().any(|n| self.values.stages.contains_key(n));
            // A path inside another stage's folder must exist; any other text counts as input if it names something on disk.
            if of_stage || (text.contains('/') && path.exists()) {
                found.insert(text, path);
            }
        }
        for text in &stage.inputs {
            let path = match self.values.stages.get(text) {
                Some(folder) => PathBuf::from(folder),
                None => PathBuf::from(self.values.text(text)),
            };
            ensure!(path.exists(), "input `{text}`: {} does not exist", path.display());
            found.insert(text.clone(), path);
        }
        Ok(found)
    }

    fn interrupted(&self, stage: &str) -> anyhow::Error {
        Interrupted(format!("stopped at stage `{stage}`; to continue: {}", self.options.again)).into()
    }

    /// Print what would run and why; nothing is built or written.
    fn dry_run(&mut self, selected: &dyn Fn(usize) -> bool, forced: &dyn Fn(usize) -> bool) {
        let mut moving: Vec<&str> = Vec::new();
        let mut count = 0;
        for (index, stage) in self.recipe.stages.iter().enumerate().filter(|(i, _)| selected(*i)) {
            let dir = self.options.out.join(&stage.id);
            let above = self.upstream(stage).into_iter().find(|id| moving.contains(&id.as_str()));
            let program = programs::locate(&stage.program).unwrap_or_default();
            let verdict = match (above, forced(index)) {
                (Some(id), _) => format!("runs: after `{id}`"),
                (None, true) => "runs: asked for".to_string(),
                (None, false) if !program.is_file() => "runs: its program is not built yet".to_string(),
                (None, false) => match self.key(stage, &program).map(|key| stamp::state(&dir, &key)) {
                    Ok(State::Fresh) => "unchanged".to_string(),
                    Ok(State::Partial) => "continues".to_string(),
                    Ok(State::New) => "runs".to_string(),
                    Ok(State::Stale(why)) => format!("runs: {why}"),
                    Err(error) => format!("cannot run: {error:#}"),
                },
            };
            if verdict != "unchanged" {
                moving.push(&stage.id);
                count += 1;
            }
            let config = self.options.out.join("configs").join(format!("{}.toml", stage.id));
            println!("{:<12} {verdict}", stage.id);
            println!("             {}", self.paint.dim(&self.command_line(stage, &program, &config, &dir).join(" ")));
        }
        println!("{count} stage{} would run in {}", plural(count), self.options.out.display());
    }

    fn upstream(&self, stage: &Stage) -> Vec<String> {
        let mut names = substitute::names(&Value::Table(stage.config.clone()));
        names.extend(stage.inputs.iter().flat_map(|i| substitute::names_in(i)));
        names.extend(stage.inputs.iter().filter(|i| self.values.stages.contains_key(*i)).cloned());
        names
    }
}

//! `llm-align show`: which tokens of a row are trained, at what weight.
//!
//! Wrong masks are silent: the loss falls all the same. So every row can be looked at as the trainer sees it: on a terminal in colours, piped
//! in brackets, as JSON lines for programs, as a page for others. Of a pair the chosen answer is pushed up (weight 1) and the rejected one
//! down (-1); losses of the mean log-probability give each of a side's n tokens 1/n.
//!
//! | file | job |
//! |---|---|
//! | `show` | rows as [`Shown`], counts of the whole file |
//! | `show/text` | for people at a terminal, 80 columns |
//! | `show/page` | as HTML |

mod page;
mod text;

use crate::data::encode::spans;
use crate::data::{self, Encoder, Kind, Labelled, OnBadRow, Pair, Skipped};
use crate::{Error, Result};
use llm_run::atomic;
use llm_tokenizer::Tokenizer;
use llm_train::sequences::Sequence;
use serde::Serialize;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// `llm-align show`: which tokens of a file's rows are trained.
#[derive(Debug, Clone, clap::Args)]
pub struct Show {
    /// Conversations, pairs, labelled answers or prompts: .jsonl, .json or .parquet, also compressed.
    pub file: PathBuf,
    /// Folder with the tokenizer and its chat template.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// What the rows are [default: by their columns].
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    /// Rows to show, e.g. 1-3,7 [default: the first three that can be used].
    #[arg(long, value_name = "LIST")]
    pub rows: Option<String>,
    /// Longest sequence in tokens [default: that of the model's config.json, else no limit].
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// Stop at the first row that cannot be used, as training does.
    #[arg(long)]
    pub strict: bool,
    /// One JSON object a row, and one of counts at the end.
    #[arg(long)]
    pub json: bool,
    /// Write a page instead.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,
}

/// A row as the trainer sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shown {
    /// 1-based.
    pub row: usize,
    /// Its id.
    pub id: String,
    /// One sequence, or chosen and rejected.
    pub sides: Vec<Side>,
}

/// A sequence of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// `conversation`, `chosen`, `rejected`, `good`, `bad` or `prompt`.
    pub name: &'static str,
    /// Sign of the log-probability of its trained tokens: 1 is pushed up, -1 down, 0 is not trained.
    pub weight: i32,
    /// Tokens.
    pub tokens: usize,
    /// Trained ones.
    pub trained: usize,
    /// Runs of tokens that are trained, or are not.
    pub spans: Vec<Span>,
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each of them: is it trained?
    pub loss_mask: Vec<bool>,
}

/// A run of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Trained?
    pub trained: bool,
    /// How many.
    pub tokens: usize,
    /// What they say.
    pub text: String,
}

impl Side {
    fn new(name: &'static str, weight: i32, sequence: Sequence, tokenizer: &Tokenizer) -> Self {
        let Sequence { ids, loss_mask } = sequence;
        let (mut runs, mut at) = (Vec::new(), 0);
        for run in spans(&loss_mask) {
            runs.extend([(false, at..run.start), (true, run.clone())]);
            at = run.end;
        }
        runs.push((false, at..ids.len()));
        let shown = runs.into_iter().filter(|(_, run)| !run.is_empty());
        let span = |(trained, run): (bool, std::ops::Range<usize>)| Span { trained, tokens: run.len(), text: tokenizer.decode(&ids[run], false) };
        let spans = shown.map(span).collect();
        let trained = loss_mask.iter().filter(|trained| **trained).count();
        Self { name, weight, tokens: ids.len(), trained, spans, ids, loss_mask }
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// `conversations`, `pairs`, `labelled` or `prompts`.
    pub kind: &'static str,
    /// Rows that can be used.
    pub rows: usize,
    /// Tokens of all of them.
    pub tokens: usize,
    /// Trained ones.
    pub trained: usize,
    /// Rows that cannot.
    pub skipped: Vec<Skipped>,
    /// The rows that were asked for.
    #[serde(skip)]
    pub shown: Vec<Shown>,
}

/// Which rows to show.
enum Wanted {
    First(usize),
    Ranges(Vec<(usize, usize)>),
}

impl Wanted {
    fn parse(list: Option<&str>) -> Result<Self> {
        let Some(list) = list else { return Ok(Self::First(3)) };
        let range = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to): (usize, usize) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
            (1 <= from && from <= to).then_some((from, to))
        };
        let ranges = list.split(',').map(|part| range(part).ok_or(part)).collect::<Result<Vec<_>, &str>>();
        ranges.map(Self::Ranges).map_err(|part| Error::Config(format!("--rows {list}: {part:?} is no row; expected a list such as 1-3,7")))
    }

    fn takes(&self, row: usize, so_far: usize) -> bool {
        match self {
            Self::First(n) => so_far < *n,
            Self::Ranges(ranges) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&row)),
        }
    }
}

/// Every row of a file through the encoder; those that are wanted are kept for showing.
fn found(show: &Show, tokenizer: &Tokenizer, context: usize) -> Result<Found> {
    let (path, encoder, wanted) = (show.file.as_path(), Encoder::new(tokenizer, context), Wanted::parse(show.rows.as_deref())?);
    let on_bad_row = if show.strict { OnBadRow::Error } else { OnBadRow::Skip };
    let kind = match show.kind {
        Some(kind) => kind,
        None => data::kind(path)?,
    };
    type Sides = (usize, String, Vec<(&'static str, i32, Sequence)>);
    let plain = |ids: Vec<u32>| Sequence { loss_mask: vec![false; ids.len()], ids };
    let (name, (rows, skipped)): (_, (Vec<Sides>, Vec<Skipped>)) = match kind {
        Kind::Conversations => ("conversations", {
            let one = |row: &data::Conversation| Ok((row.row, row.id.clone(), vec![("conversation", 1, encoder.conversation(row)?)]));
            data::keep(path, data::conversations(path, on_bad_row)?, on_bad_row, one)?
        }),
        Kind::Pairs => ("pairs", {
            let one = |row: &Pair| {
                let (chosen, rejected) = encoder.pair(row)?;
                Ok((row.row, row.id.clone(), vec![("chosen", 1, chosen), ("rejected", -1, rejected)]))
            };
            data::keep(path, data::pairs(path, on_bad_row)?, on_bad_row, one)?
        }),
        Kind::Labelled => ("labelled", {
            let one = |row: &Labelled| {
                let (name, weight) = if row.label { ("good", 1) } else { ("bad", -1) };
                Ok((row.row, row.id.clone(), vec![(name, weight, encoder.labelled(row)?)]))
            };
            data::keep(path, data::labelled(path, on_bad_row)?, on_bad_row, one)?
        }),
        Kind::Prompts => ("prompts", {
            let one = |row: &data::Prompt| Ok((row.row, row.id.clone(), vec![("prompt", 0, plain(encoder.prompt(&row.messages)?))]));
            data::keep(path, data::prompts(path, on_bad_row)?, on_bad_row, one)?
        }),
    };
    let mut found = Found { kind: name, rows: rows.len(), tokens: 0, trained: 0, skipped, shown: Vec::new() };
    for (row, id, sides) in rows {
        for (_, _, sequence) in &sides {
            found.tokens += sequence.ids.len();
            found.trained += sequence.loss_mask.iter().filter(|trained| **trained).count();
        }
        if wanted.takes(row, found.shown.len()) {
            let sides = sides.into_iter().map(|(name, weight, sequence)| Side::new(name, weight, sequence, tokenizer)).collect();
            found.shown.push(Shown { row, id, sides });
        }
    }
    if let (true, Some(list)) = (found.shown.is_empty(), &show.rows) {
        return Err(Error::Config(format!("--rows {list}: no such row that can be used; {} has {}", path.display(), text::counts(&found))));
    }
    Ok(found)
}

/// The context of a model folder; a tokenizer alone has none.
fn context_of(model: &Path) -> usize {
    llm_arch::hf::load_config(model).map_or(usize::MAX, |config| config.max_position_embeddings)
}

impl Show {
    /// Show to standard output, or write the page.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.model)?;
        let found = found(self, &tokenizer, self.context.unwrap_or_else(|| context_of(&self.model)))?;
        if let Some(file) = &self.html {
            atomic::write(file, page::page(&self.file, &found))?;
            println!("{}: {}", file.display(), text::counts(&found));
            return Ok(());
        }
        let mut text = String::new();
        if self.json {
            for row in &found.shown {
                text += &format!("{}\n", json!(row));
            }
            text += &format!("{}\n", json!(found));
        } else {
            let out = std::io::stdout();
            let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            text = text::text(&found, colours);
        }
        // A closed pipe (`| head`) is no failure.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lists_of_numbers_and_ranges() {
        let wanted = Wanted::parse(Some("2-3, 7")).unwrap();
        assert_eq!((1..9).filter(|&row| wanted.takes(row, 0)).collect::<Vec<_>>(), [2, 3, 7]);
        assert!(Wanted::parse(None).unwrap().takes(900, 2) && !Wanted::parse(None).unwrap().takes(1, 3));
        for wrong in ["", "0", "3-2", "a", "1,,2", "-1"] {
            assert!(Wanted::parse(Some(wrong)).is_err(), "{wrong}");
        }
    }
}

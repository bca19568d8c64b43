//! `cargo xtask chat`: a conversation in the terminal, or line by line through a pipe.
//!
//! | module | job |
//! |---|---|
//! | [`conversation`] | what was said, the settings, and the commands that change them |
//! | [`keyboard`] | lines from the terminal or a pipe, and Ctrl-C |
//!
//! Ctrl-C ends an answer and not the program; the part that was written stays in the conversation.

mod conversation;
mod keyboard;

use crate::client::{Answer, Client, Piece};
use crate::folder;
use crate::server::Server;
use crate::term::Paint;
use anyhow::{Context, Result, bail};
use conversation::{Conversation, Outcome};
use keyboard::{Keyboard, Line};
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Flags of `chat`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder (default: the model of the newest run)
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    model: Option<PathBuf>,
    /// A server that is already running, for example http://127.0.0.1:8080; its API key is read from LLM_API_KEY
    #[arg(long)]
    url: Option<String>,
    /// A system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Longest answer
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// Device of the server that is started: cpu, cuda, vulkan or webgpu, with :N for the N-th
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Send each question alone, without the conversation before it
    #[arg(long)]
    forget: bool,
}

/// How often a waiting program looks whether Ctrl-C was pressed.
const LOOK: Duration = Duration::from_millis(40);

/// The model a newcomer means: the last one of the newest run that has one.
pub fn default_model() -> Result<PathBuf> {
    for run in folder::newest()? {
        for stage in ["grpo", "sft", "pretrain"] {
            let model = run.join(stage).join("model");
            if model.join("config.json").exists() {
                return Ok(model);
            }
        }
    }
    bail!("no trained model in {}; run `cargo xtask quickstart` first, or name one with --model", folder::runs().display())
}

/// Run the command.
pub fn run(args: &Args) -> Result<()> {
    let temperature = conversation::temperature(args.temperature)?;
    let keyboard = Keyboard::open()?;
    let key = std::env::var("LLM_API_KEY").ok().filter(|key| !key.is_empty());
    let (server, client) = match &args.url {
        Some(url) => (None, Client::new(url)?.with_key(key.as_deref())),
        None => {
            let model = args.model.clone().map_or_else(default_model, Ok)?;
            let server = Server::start(&model, &args.device, &|| keyboard.presses() > 0)?;
            let client = Client::new(server.url())?;
            eprintln!("{}", Paint::stderr().dim(&format!("{} on {}", model.display(), server.url())));
            (Some(server), client)
        }
    };
    let mut talk = Conversation::new(client.models()?);
    talk.settings.temperature = Some(temperature);
    talk.settings.max_tokens = args.max_tokens;
    talk.forget = args.forget;
    talk.set_system(args.system.clone());
    let outcome = converse(&client, talk, keyboard);
    drop(server);
    outcome
}

fn converse(client: &Client, mut talk: Conversation, mut keyboard: Keyboard) -> Result<()> {
    let paint = Paint::stdout();
    if keyboard.interactive() {
        println!("{} {}", paint.bold("Ask something."), paint.dim("/help shows what else there is; Ctrl-C stops an answer, Ctrl-D leaves."));
    }
    loop {
        if keyboard.interactive() {
            print!("\n{} ", paint.cyan("you ›"));
            std::io::stdout().flush().context("cannot write to the terminal")?;
        }
        let line = match keyboard.next()? {
            Line::Text(line) => line,
            Line::Interrupted => {
                println!("\n{}", paint.dim("Ctrl-C again, Ctrl-D or /quit leaves"));
                continue;
            }
            Line::End => {
                if keyboard.interactive() {
                    println!();
                }
                return Ok(());
            }
        };
        match talk.take(&line) {
            Ok(Outcome::Nothing) => {}
            Ok(Outcome::Quit) => return Ok(()),
            Ok(Outcome::Say(text)) => println!("{text}"),
            Ok(Outcome::Note(text)) => println!("{}", paint.dim(&text)),
            Ok(Outcome::Ask) => match answer(client, &talk, &keyboard, paint) {
                Ok(answer) => talk.answered(answer.content),
                Err(error) if keyboard.interactive() => {
                    talk.unanswered();
                    println!("{}", paint.yellow(&format!("{error:#}")));
                }
                Err(error) => return Err(error),
            },
            Err(error) if keyboard.interactive() => println!("{}", paint.yellow(&format!("{error:#}"))),
            Err(error) => return Err(error),
        }
        if keyboard.ended() {
            return Ok(());
        }
    }
}

/// Stream one answer to the terminal. It is read on a thread of its own, so that Ctrl-C is heard while the server is silent.
fn answer(client: &Client, talk: &Conversation, keyboard: &Keyboard, paint: Paint) -> Result<Answer> {
    let (sender, pieces) = mpsc::channel();
    let (client, model, messages, settings) = (client.clone(), talk.model().to_string(), talk.messages(), talk.settings);
    let (started, mut first) = (Instant::now(), None);
    let reader = std::thread::spawn(move || client.chat(&model, &messages, settings, |piece| sender.send(piece).is_ok()));
    let mut screen = Screen { paint, thinking: false };
    let mut seen = Answer::default();
    let presses = keyboard.presses();
    let stopped = loop {
        match pieces.recv_timeout(LOOK) {
            Ok(piece) => {
                first.get_or_insert_with(|| started.elapsed());
                screen.show(&piece);
                match piece {
                    Piece::Reasoning(text) => seen.reasoning.push_str(&text),
                    Piece::Content(text) => seen.content.push_str(&text),
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break false,
        }
        if keyboard.presses() != presses {
            break true;
        }
    };
    if stopped {
        // The reader ends at its next piece, and with it the connection, which is what the server notices.
        drop(pieces);
        println!("{}", paint.dim(if seen.content.is_empty() && seen.reasoning.is_empty() { "stopped" } else { " … stopped" }));
        return Ok(seen);
    }
    let answer = reader.join().map_err(|_| anyhow::anyhow!("reading the answer panicked"))??;
    println!();
    if answer.finish_reason == "length" {
        println!("{}", paint.dim("(cut off: the answer reached its longest length; --max-tokens N allows more)"));
    }
    if keyboard.interactive()
        && let (Some(tokens), Some(first)) = (answer.tokens, first)
    {
        println!("{}", paint.dim(&speed(tokens, first, started.elapsed())));
    }
    Ok(answer)
}

/// `42 tokens · 18.3 tokens/s · first after 0.21 s`.
fn speed(tokens: u64, first: Duration, total: Duration) -> String {
    let after = (total.saturating_sub(first)).as_secs_f64();
    let rate = if tokens > 1 && after > 0.0 { format!(" · {:.1} tokens/s", (tokens - 1) as f64 / after) } else { String::new() };
    format!("{tokens} token{}{rate} · first after {:.2} s", if tokens == 1 { "" } else { "s" }, first.as_secs_f64())
}

struct Screen {
    paint: Paint,
    thinking: bool,
}

impl Screen {
    fn show(&mut self, piece: &Piece) {
        let text = match piece {
            Piece::Reasoning(text) => {
                let open = if self.thinking { "" } else { "think: " };
                self.thinking = true;
                self.paint.dim(&visible(&format!("{open}{text}")))
            }
            Piece::Content(text) => {
                let gap = if self.thinking { "\n" } else { "" };
                self.thinking = false;
                format!("{gap}{}", visible(text))
            }
        };
        let mut out = std::io::stdout();
        // A closed pipe shows at the next line that matters.
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

/// A model must not move the cursor or change colours.
fn visible(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_a_model_do_not_reach_the_terminal() {
        assert_eq!(super::visible("a\x1b[2Jb\nc\r"), "a[2Jb\nc");
    }

    #[test]
    fn speed_counts_from_the_first_token() {
        let seconds = Duration::from_secs;
        assert_eq!(speed(11, seconds(1), seconds(3)), "11 tokens · 5.0 tokens/s · first after 1.00 s");
        assert_eq!(speed(1, seconds(1), seconds(1)), "1 token · first after 1.00 s");
    }
}

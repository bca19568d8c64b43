//! `cargo xtask chat`: a conversation in the terminal, or line by line through a pipe. `/image PATH` attaches a picture to the next question.

use crate::client::{Client, Piece, Settings};
use crate::folder;
use crate::server::Server;
use crate::term::Paint;
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

/// Flags of `chat`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder (default: the model of the newest run)
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    model: Option<PathBuf>,
    /// A server that is already running, for example http://127.0.0.1:8080
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

const HELP: &str = "/image PATH  show a picture (PNG, JPEG or WebP) with the next question; several are possible
/reset       forget the conversation
/quit        leave (also Ctrl-D)
/help        this";

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
    if !(0.0..=10.0).contains(&args.temperature) {
        bail!("--temperature {}: expected 0 to 10", args.temperature);
    }
    let (server, client, name) = match &args.url {
        Some(url) => {
            let client = Client::new(url)?;
            let name = client.model()?;
            (None, client, name)
        }
        None => {
            let model = args.model.clone().map_or_else(default_model, Ok)?;
            let server = Server::start(&model, &args.device)?;
            let client = Client::new(server.url())?;
            let name = client.model()?;
            eprintln!("{}", Paint::stderr().dim(&format!("{} on {}", model.display(), server.url())));
            (Some(server), client, name)
        }
    };
    let settings = Settings { temperature: Some(args.temperature), max_tokens: args.max_tokens };
    let outcome = converse(args, &client, &name, settings);
    drop(server);
    outcome
}

fn converse(args: &Args, client: &Client, model: &str, settings: Settings) -> Result<()> {
    let interactive = std::io::stdin().is_terminal();
    let paint = Paint::stdout();
    let opening: Vec<Value> = args.system.iter().map(|text| json!({"role": "system", "content": text})).collect();
    let mut messages = opening.clone();
    let mut pictures: Vec<String> = Vec::new();
    if interactive {
        println!("{} {}", paint.bold("Ask something."), paint.dim("/help shows what else there is."));
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if interactive {
            print!("\n{} ", paint.cyan("you ›"));
            std::io::stdout().flush().context("cannot write to the terminal")?;
        }
        let Some(line) = lines.next() else {
            if interactive {
                println!();
            }
            return Ok(());
        };
        let line = line.context("cannot read the question (is it UTF-8?)")?;
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" | "/q" => return Ok(()),
            "/help" => println!("{HELP}"),
            "/reset" => {
                messages.clone_from(&opening);
                pictures.clear();
                println!("{}", paint.dim("forgotten"));
            }
            "/image" => println!("/image needs a path: /image photo.jpg"),
            command if command.starts_with("/image ") => match picture(&command["/image ".len()..]) {
                Ok(url) => {
                    pictures.push(url);
                    println!("{}", paint.dim("shown with your next question"));
                }
                Err(error) if interactive => println!("{}", paint.yellow(&format!("{error:#}"))),
                Err(error) => return Err(error),
            },
            command if command.starts_with('/') && !command.contains(' ') => {
                let near = crate::term::nearest(command, ["/help", "/image", "/reset", "/quit"]);
                println!("no command {command}{}", near.map_or("; /help lists them".to_string(), |n| format!("; did you mean {n}?")));
            }
            question => {
                if args.forget {
                    messages.clone_from(&opening);
                }
                messages.push(user(question, std::mem::take(&mut pictures)));
                match answer(client, model, &messages, settings, paint) {
                    Ok(content) => messages.push(json!({"role": "assistant", "content": content})),
                    Err(error) if interactive => {
                        messages.pop();
                        println!("{}", paint.yellow(&format!("{error:#}")));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// A picture as a `data:` URL. Terminals quote a path that is dropped into them.
fn picture(path: &str) -> Result<String> {
    let path = path.trim().trim_matches(['\'', '"']);
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the picture {path}"))?;
    let kind = match bytes.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xFF, 0xD8, 0xFF, ..] => "jpeg",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "webp",
        _ => bail!("{path} is not a PNG, JPEG or WebP file; convert it to one of these"),
    };
    Ok(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes)))
}

/// A question, behind the pictures it is about.
fn user(question: &str, pictures: Vec<String>) -> Value {
    if pictures.is_empty() {
        return json!({"role": "user", "content": question});
    }
    let images = pictures.into_iter().map(|url| json!({"type": "image_url", "image_url": {"url": url}}));
    let content: Vec<Value> = images.chain([json!({"type": "text", "text": question})]).collect();
    json!({"role": "user", "content": content})
}

/// Stream one answer; returns its visible part.
fn answer(client: &Client, model: &str, messages: &[Value], settings: Settings, paint: Paint) -> Result<String> {
    let mut out = std::io::stdout();
    let mut thinking = false;
    let result = client.chat(model, messages, settings, |piece| {
        let text = match piece {
            Piece::Reasoning(text) => {
                let open = if thinking { "" } else { "think: " };
                thinking = true;
                paint.dim(&visible(&format!("{open}{text}")))
            }
            Piece::Content(text) => {
                let gap = if thinking { "\n" } else { "" };
                thinking = false;
                format!("{gap}{}", visible(&text))
            }
        };
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    })?;
    println!();
    if result.finish_reason == "length" {
        println!("{}", paint.dim("(cut off: the answer reached its longest length; --max-tokens N allows more)"));
    }
    Ok(result.content)
}

/// A model must not move the cursor or change colours.
fn visible(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_go_before_the_question() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b.png");
        std::fs::write(&path, b"\x89PNG").unwrap();
        let url = picture(&format!("  '{}' ", path.display())).unwrap();
        assert_eq!(url, "data:image/png;base64,iVBORw==");
        let asked = user("what?", vec![url.clone()]);
        assert_eq!(asked["content"], json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]));
        assert_eq!(user("what?", vec![])["content"], "what?");
        std::fs::write(&path, b"GIF89a").unwrap();
        assert!(picture(&path.display().to_string()).unwrap_err().to_string().contains("WebP"));
        assert!(picture("no/such.png").is_err());
    }

    #[test]
    fn escapes_of_a_model_do_not_reach_the_terminal() {
        assert_eq!(super::visible("a\x1b[2Jb\nc\r"), "a[2Jb\nc");
    }
}

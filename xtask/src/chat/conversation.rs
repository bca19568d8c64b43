//! What was said, how it is asked, and the commands that change both. No terminal and no network: a line goes in, an outcome comes out.

use crate::client::Settings;
use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::Path;

const HELP: &str = "/image PATH   show a picture (PNG, JPEG or WebP) with the next question; several are possible
/model [NAME] the models of this server, or another one from now on
/system TEXT  a system message from now on; without TEXT, the one there is; /system - takes it away
/temp X       temperature: 0 takes the likeliest token, /temp - leaves it to the model
/retry        ask the last question again
/save FILE    write the conversation: Markdown if the name ends in .md, else JSON
/reset        forget the conversation
/quit         leave (also Ctrl-D)
/help         this
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer.";

const COMMANDS: [&str; 9] = ["/help", "/image", "/model", "/quit", "/reset", "/retry", "/save", "/system", "/temp"];

/// What a line led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An empty line.
    Nothing,
    /// The last message is a question without an answer.
    Ask,
    /// Something to read.
    Say(String),
    /// Something done.
    Note(String),
    /// The end.
    Quit,
}

/// A conversation and its settings.
#[derive(Debug)]
pub struct Conversation {
    /// For every question.
    pub settings: Settings,
    /// Each question is asked alone.
    pub forget: bool,
    models: Vec<String>,
    model: usize,
    system: Option<String>,
    turns: Vec<Value>,
    pictures: Vec<String>,
}

/// A temperature that servers take.
pub fn temperature(value: f64) -> Result<f64> {
    ensure!((0.0..=10.0).contains(&value), "temperature {value}: expected 0 to 10");
    Ok(value)
}

impl Conversation {
    /// With the models of a server, of which the first one answers.
    pub fn new(models: Vec<String>) -> Self {
        Self { settings: Settings::default(), forget: false, models, model: 0, system: None, turns: vec![], pictures: vec![] }
    }

    /// Who answers.
    pub fn model(&self) -> &str {
        self.models.get(self.model).map_or("", String::as_str)
    }

    /// Set or remove the system message.
    pub fn set_system(&mut self, text: Option<String>) {
        self.system = text;
    }

    /// What is sent.
    pub fn messages(&self) -> Vec<Value> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// The answer to the question of [`Outcome::Ask`]; one that was stopped before it began is as good as none.
    pub fn answered(&mut self, content: String) {
        if content.is_empty() {
            self.unanswered();
        } else {
            self.turns.push(json!({"role": "assistant", "content": content}));
        }
    }

    /// There was none: the question is forgotten as well, because turns must alternate.
    pub fn unanswered(&mut self) {
        self.turns.pop();
    }

    /// A line that was typed.
    pub fn take(&mut self, line: &str) -> Result<Outcome> {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(command, rest)| (command, rest.trim()));
        match command {
            "" => Ok(Outcome::Nothing),
            "/quit" | "/exit" | "/q" => Ok(Outcome::Quit),
            "/help" => Ok(Outcome::Say(HELP.into())),
            "/reset" => {
                self.turns.clear();
                self.pictures.clear();
                Ok(Outcome::Note("forgotten".into()))
            }
            "/image" => {
                ensure!(!rest.is_empty(), "/image needs a path: /image photo.jpg");
                self.pictures.push(picture(rest)?);
                Ok(Outcome::Note("shown with your next question".into()))
            }
            "/model" => self.choose_model(rest),
            "/system" => {
                let outcome = match rest {
                    "" => Outcome::Say(self.system.clone().unwrap_or_else(|| "no system message".into())),
                    "-" => {
                        self.system = None;
                        Outcome::Note("no system message from now on".into())
                    }
                    text => {
                        self.system = Some(text.into());
                        Outcome::Note("system message set; /reset begins anew with it".into())
                    }
                };
                Ok(outcome)
            }
            "/temp" | "/temperature" => {
                match rest {
                    "" => {}
                    "-" => self.settings.temperature = None,
                    number => {
                        self.settings.temperature = Some(temperature(number.parse().with_context(|| format!("/temp {number}: not a number"))?)?)
                    }
                }
                Ok(Outcome::Note(self.settings.temperature.map_or_else(|| "temperature: the model's own".into(), |t| format!("temperature {t}"))))
            }
            "/retry" => {
                ensure!(self.turns.len() >= 2, "there is no question to ask again");
                self.turns.pop();
                Ok(Outcome::Ask)
            }
            "/save" => {
                ensure!(!rest.is_empty(), "/save needs a file: /save talk.md or /save talk.json");
                let path = Path::new(rest);
                std::fs::write(path, self.saved(path)).with_context(|| format!("{rest}: cannot write"))?;
                Ok(Outcome::Note(format!("saved to {rest}")))
            }
            command if command.starts_with('/') && rest.is_empty() => {
                let near = crate::term::nearest(command, COMMANDS);
                Ok(Outcome::Say(format!("no command {command}{}", near.map_or("; /help lists them".to_string(), |n| format!("; did you mean {n}?")))))
            }
            _ => {
                if self.forget {
                    self.turns.clear();
                }
                self.turns.push(user(line, std::mem::take(&mut self.pictures)));
                Ok(Outcome::Ask)
            }
        }
    }

    fn choose_model(&mut self, name: &str) -> Result<Outcome> {
        if name.is_empty() {
            let mark = |i| if i == self.model { "*" } else { " " };
            let lines: Vec<_> = self.models.iter().enumerate().map(|(i, name)| format!("{} {name}", mark(i))).collect();
            return Ok(Outcome::Say(lines.join("\n")));
        }
        let Some(found) = self.models.iter().position(|known| known == name) else {
            let near = crate::term::nearest(name, self.models.iter().map(String::as_str));
            bail!("no model {name} here{}", near.map_or("; /model lists them".to_string(), |n| format!("; did you mean {n}?")));
        };
        self.model = found;
        Ok(Outcome::Note(format!("{name} answers from now on")))
    }

    fn saved(&self, path: &Path) -> String {
        if path.extension().is_none_or(|e| e != "md") {
            return format!("{:#}\n", json!({"model": self.model(), "messages": self.messages()}));
        }
        let mut text = String::new();
        for message in self.messages() {
            let role = message["role"].as_str().unwrap_or_default();
            let parts = message["content"].as_array().cloned().unwrap_or_else(|| vec![json!({"text": message["content"]})]);
            let pictures = parts.iter().filter(|p| p["type"] == "image_url").count();
            let pictures = "(a picture)\n\n".repeat(pictures);
            let said: Vec<_> = parts.iter().filter_map(|p| p["text"].as_str()).collect();
            text.push_str(&format!("## {role}\n\n{pictures}{}\n\n", said.join("\n")));
        }
        text
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

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Conversation {
        Conversation::new(vec!["base".into(), "adapter".into()])
    }

    fn texts(talk: &Conversation) -> Vec<String> {
        talk.messages().iter().map(|m| format!("{}: {}", m["role"].as_str().unwrap(), m["content"].as_str().unwrap())).collect()
    }

    #[test]
    fn turns_alternate_whatever_happens() {
        let mut t = talk();
        assert_eq!(t.take(" why? ").unwrap(), Outcome::Ask);
        t.unanswered();
        assert_eq!(t.take("how?").unwrap(), Outcome::Ask);
        t.answered(String::new());
        assert_eq!(t.take("when?").unwrap(), Outcome::Ask);
        t.answered("now".into());
        assert_eq!(texts(&t), ["user: when?", "assistant: now"]);
        assert_eq!(t.take("/retry").unwrap(), Outcome::Ask);
        assert_eq!(texts(&t), ["user: when?"]);
        t.answered("later".into());
        t.forget = true;
        t.take("alone").unwrap();
        assert_eq!(texts(&t), ["user: alone"]);
        assert!(talk().take("/retry").is_err());
    }

    #[test]
    fn commands_change_what_is_sent() {
        let mut t = talk();
        t.take("/system Be brief, always.").unwrap();
        t.take("hello").unwrap();
        assert_eq!(texts(&t), ["system: Be brief, always.", "user: hello"]);
        assert_eq!(t.take("/system").unwrap(), Outcome::Say("Be brief, always.".into()));
        t.take("/system -").unwrap();
        assert_eq!(texts(&t), ["user: hello"]);
        assert_eq!(t.take("/temp 0.7").unwrap(), Outcome::Note("temperature 0.7".into()));
        assert_eq!(t.settings.temperature, Some(0.7));
        assert!(t.take("/temp hot").is_err() && t.take("/temp 11").is_err());
        t.take("/temp -").unwrap();
        assert_eq!(t.settings.temperature, None);
        assert_eq!(t.take("/model").unwrap(), Outcome::Say("* base\n  adapter".into()));
        t.take("/model adapter").unwrap();
        assert_eq!(t.model(), "adapter");
        assert!(t.take("/model adaptor").unwrap_err().to_string().contains("did you mean adapter?"));
        assert_eq!(t.take("/rest").unwrap(), Outcome::Say("no command /rest; did you mean /reset?".into()));
        assert_eq!(t.take("/etc/hosts is a file").unwrap(), Outcome::Ask, "a question may begin with a path");
    }

    #[test]
    fn a_conversation_is_saved_to_be_read_or_to_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut t = talk();
        t.take("why?").unwrap();
        t.answered("because".into());
        for (name, expected) in [("talk.md", "## user\n\nwhy?\n\n## assistant\n\nbecause\n\n"), ("talk.json", "\"content\": \"because\"")] {
            let path = dir.path().join(name);
            t.take(&format!("/save {}", path.display())).unwrap();
            assert!(std::fs::read_to_string(path).unwrap().contains(expected));
        }
        assert!(t.take("/save").is_err());
        assert!(t.take(&format!("/save {}/no/such/file", dir.path().display())).is_err());
    }

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
}

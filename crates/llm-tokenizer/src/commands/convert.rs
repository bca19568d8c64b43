//! `convert`: a tokenizer in another program's format.

use anyhow::{Context, Result, bail};
use clap::Args;
use llm_tokenizer::sample::{self, Reader};
use llm_tokenizer::{Format, Tokenizer};
use std::path::PathBuf;

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Tokenizer folder or file: tokenizer.json, SentencePiece .model, .tiktoken, .gguf, vocab.json with merges.txt
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// The format to write
    #[arg(long, value_name = "FORMAT")]
    to: Format,
    /// Output: a folder for hf, a file for the others
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Text (.jsonl, .txt or folders) on which both have to give the same ids, besides a built-in sample (repeatable)
    #[arg(long, value_name = "PATH")]
    check: Vec<PathBuf>,
}

/// Text in which what formats lose would show.
const SAMPLE: [&str; 12] = [
    "",
    " ",
    "Hello, World! It's 12345 cafés & naïve Straße.",
    "  two leading, trailing  ",
    "line\r\nline\n\n\n\tdef f(x):\n    return x  \n  ",
    "数学 天气 is fun。 日本語 한국어 नमस्ते Привет مرحبا ሰላም",
    "😀👍🏽👨\u{200d}👩\u{200d}👧 🇩🇪 \u{1f9ff}\u{10ffd}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "<s> </s> <unk> <|endoftext|> [INST] <0x41>",
    "e\u{301}\u{a0}\u{3000}\u{2003}\u{2581}x \u{fb01} Ⅷ½² ٣",
    "\0\u{1}\u{85}\u{fffd}",
    "HTTPServer.camelCase_snake_case(don't, WE'LL)//x",
];

impl Convert {
    /// Writes the files, reads them again and compares.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        if self.to != Format::Hf && self.out.is_dir() {
            bail!("{} is a folder; give the name of a file, e.g. {}", self.out.display(), self.out.join(name(self.to)).display());
        }
        let written = tokenizer.save_as(self.to, &self.out)?;
        let again = Tokenizer::load(&self.out).with_context(|| format!("{} was written and cannot be read", self.out.display()))?;
        let mut same = Comparison { texts: 0, bytes: 0 };
        for text in SAMPLE {
            same.check(&tokenizer, &again, text)?;
        }
        for file in sample::files(&self.check)? {
            for row in Reader::open(&file)? {
                same.check(&tokenizer, &again, &row?.text).with_context(|| format!("in {}", file.display()))?;
            }
        }
        for file in written {
            println!("wrote {}", file.display());
        }
        println!("same ids and text on {} texts, {} bytes", same.texts, same.bytes);
        Ok(())
    }
}

struct Comparison {
    texts: usize,
    bytes: usize,
}

impl Comparison {
    fn check(&mut self, one: &Tokenizer, other: &Tokenizer, text: &str) -> Result<()> {
        let (ids, others) = (one.encode(text), other.encode(text));
        if ids != others {
            let at = ids.iter().zip(&others).take_while(|(a, b)| a == b).count();
            let shown: String = one.decode(&ids[at..ids.len().min(at + 8)], false);
            bail!(
                "what was written does not give the same ids: token {at} of {:?}.. differs, at {shown:?}",
                text.chars().take(40).collect::<String>()
            );
        }
        // For the unknown, SentencePiece writes a double question mark and a tokenizer.json its token.
        let known = |text: String| text.replace(" \u{2047} ", "").replace("<unk>", "");
        if known(one.decode(&ids, true)) != known(other.decode(&ids, true)) {
            bail!("what was written does not give the same text for the ids of {:?}..", text.chars().take(40).collect::<String>());
        }
        self.texts += 1;
        self.bytes += text.len();
        Ok(())
    }
}

fn name(format: Format) -> &'static str {
    match format {
        Format::Hf => "tokenizer",
        Format::Sentencepiece => "tokenizer.model",
        Format::Tiktoken => "tokenizer.tiktoken",
        Format::Gguf => "vocab.gguf",
    }
}

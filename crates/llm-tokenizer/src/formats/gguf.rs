//! GGUF files (llama.cpp): the metadata, and the tokenizer in it.
//!
//! Source: `docs/gguf.md` of ggml. Version 2 and 3, little-endian. Only the metadata is read, tensors are not looked at; what is written is a
//! file without tensors, as llama.cpp's `--vocab-only` conversion makes.

use crate::error::{Result, format, io};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The first bytes of a file.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// Most bytes of one string; the longest that are in use are chat templates.
const MAX_STRING: u64 = 1 << 24;
/// Most entries of one array.
const MAX_ARRAY: u64 = 1 << 24;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// A type that no tokenizer uses.
    Other,
}

impl Value {
    /// A number that is an id or an enum.
    pub fn id(&self) -> Option<u32> {
        match *self {
            Self::U32(id) => Some(id),
            Self::I32(id) => u32::try_from(id).ok(),
            _ => None,
        }
    }
}

/// Metadata by key.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Metadata(pub BTreeMap<String, Value>);

struct Input<'a, R> {
    input: R,
    path: &'a Path,
    /// What is being read, for errors.
    key: String,
}

impl<R: Read> Input<'_, R> {
    fn error(&self, message: impl std::fmt::Display) -> crate::error::Error {
        let place = if self.key.is_empty() { "header".to_string() } else { format!("`{}`", self.key) };
        format(self.path, format!("{place}: {message}"))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(self.error("the file ends here")),
            Err(e) => Err(io(self.path, "cannot read")(e)),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        if length > MAX_STRING {
            return Err(self.error(format!("a string of {length} bytes; the file is damaged")));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(length).read_to_end(&mut bytes).map_err(io(self.path, "cannot read"))?;
        if read as u64 != length {
            return Err(self.error("the file ends here"));
        }
        // Tokens of some vocabularies are not UTF-8; they cannot be written as text either.
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn skip(&mut self, kind: u32) -> Result<()> {
        match kind {
            0 | 1 | 7 => self.bytes::<1>().map(drop),
            2 | 3 => self.bytes::<2>().map(drop),
            4..=6 => self.bytes::<4>().map(drop),
            10..=12 => self.bytes::<8>().map(drop),
            8 => self.text().map(drop),
            other => Err(self.error(format!("values of type {other} are unknown"))),
        }
    }

    fn value(&mut self) -> Result<Value> {
        Ok(match self.u32()? {
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.u32()? as i32),
            6 => Value::F32(f32::from_bits(self.u32()?)),
            7 => Value::Bool(self.bytes::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 => self.array()?,
            other => {
                self.skip(other)?;
                Value::Other
            }
        })
    }

    fn array(&mut self) -> Result<Value> {
        let (kind, length) = (self.u32()?, self.u64()?);
        if length > MAX_ARRAY {
            return Err(self.error(format!("an array of {length} values; the file is damaged")));
        }
        Ok(match kind {
            5 | 4 => Value::I32s((0..length).map(|_| self.u32().map(|v| v as i32)).collect::<Result<_>>()?),
            6 => Value::F32s((0..length).map(|_| self.u32().map(f32::from_bits)).collect::<Result<_>>()?),
            8 => Value::Texts((0..length).map(|_| self.text()).collect::<Result<_>>()?),
            other => {
                for _ in 0..length {
                    self.skip(other)?;
                }
                Value::Other
            }
        })
    }
}

impl Metadata {
    /// Of a file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io(path, "cannot open"))?;
        Self::parse(BufReader::with_capacity(1 << 16, file), path)
    }

    /// Of anything that holds a file; `path` is named in errors.
    pub fn parse(input: impl Read, path: &Path) -> Result<Self> {
        let mut input = Input { input, path, key: String::new() };
        if &input.bytes::<4>()? != MAGIC {
            return Err(input.error("does not begin with GGUF"));
        }
        let version = input.u32()?;
        if !(2..=3).contains(&version) {
            return Err(input.error(format!("version {version}; 2 and 3 are supported (a big-endian file shows a very large number)")));
        }
        let (_tensors, count) = (input.u64()?, input.u64()?);
        let mut metadata = Self::default();
        for _ in 0..count {
            let key = input.text()?;
            input.key.clone_from(&key);
            let value = input.value()?;
            metadata.0.insert(key, value);
        }
        Ok(metadata)
    }

    /// A file with this metadata and no tensors.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        let written: Vec<_> = self.0.iter().filter(|(_, v)| **v != Value::Other).collect();
        file.extend((written.len() as u64).to_le_bytes());
        let text = |file: &mut Vec<u8>, text: &str| {
            file.extend((text.len() as u64).to_le_bytes());
            file.extend(text.bytes());
        };
        let array = |file: &mut Vec<u8>, kind: u32, length: usize| {
            file.extend(9u32.to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend((length as u64).to_le_bytes());
        };
        // The architecture comes first by custom.
        for (key, value) in written.iter().filter(|(k, _)| *k == ARCHITECTURE).chain(written.iter().filter(|(k, _)| *k != ARCHITECTURE)) {
            text(&mut file, key);
            match value {
                Value::U32(v) => file.extend(4u32.to_le_bytes().into_iter().chain(v.to_le_bytes())),
                Value::I32(v) => file.extend(5u32.to_le_bytes().into_iter().chain(v.to_le_bytes())),
                Value::F32(v) => file.extend(6u32.to_le_bytes().into_iter().chain(v.to_le_bytes())),
                Value::Bool(v) => file.extend(7u32.to_le_bytes().into_iter().chain([u8::from(*v)])),
                Value::Text(v) => {
                    file.extend(8u32.to_le_bytes());
                    text(&mut file, v);
                }
                Value::Texts(v) => {
                    array(&mut file, 8, v.len());
                    v.iter().for_each(|v| text(&mut file, v));
                }
                Value::I32s(v) => {
                    array(&mut file, 5, v.len());
                    v.iter().for_each(|v| file.extend(v.to_le_bytes()));
                }
                Value::F32s(v) => {
                    array(&mut file, 6, v.len());
                    v.iter().for_each(|v| file.extend(v.to_le_bytes()));
                }
                Value::Other => {}
            }
        }
        file
    }

    /// A value under `tokenizer.ggml.`.
    pub fn tokenizer(&self, name: &str) -> Option<&Value> {
        self.0.get(&format!("tokenizer.ggml.{name}"))
    }
}

/// The key that names the model's kind.
pub const ARCHITECTURE: &str = "general.architecture";

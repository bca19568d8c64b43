//! GGUF files (llama.cpp): everything before the tensors' data.
//!
//! Source: `docs/gguf.md` of ggml. Versions 2 and 3, little-endian. This is the one reader of the format: tokenizers take the metadata, models
//! also take names, shapes and places of the tensors. Nothing is trusted: lengths are read as far as the file goes and nothing is reserved in
//! advance, so a damaged file costs an error and memory in proportion to its size.

use crate::error::{Error, Result, format, io};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

/// The first bytes of a file.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// The key that names the model's kind.
pub const ARCHITECTURE: &str = "general.architecture";
/// Tensors begin at multiples of this many bytes, unless `general.alignment` says otherwise.
pub const ALIGNMENT: u64 = 32;
/// Most bytes of one string; the longest that are in use are chat templates.
const MAX_STRING: u64 = 1 << 24;
/// Most entries of one array.
const MAX_ARRAY: u64 = 1 << 24;
/// Most dimensions of a tensor.
const MAX_DIMS: u32 = 4;

/// A metadata value. Narrow numbers are widened to 32 bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Without sign, up to 32 bits.
    U32(u32),
    /// With sign, up to 32 bits.
    I32(i32),
    /// Single precision.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// A string.
    Text(String),
    /// Strings.
    Texts(Vec<String>),
    /// Whole numbers of up to 32 bits; those of 32 bits without sign keep their bits.
    I32s(Vec<i32>),
    /// Numbers.
    F32s(Vec<f32>),
    /// Without sign, 64 bits.
    U64(u64),
    /// With sign, 64 bits.
    I64(i64),
    /// Double precision.
    F64(f64),
    /// Truth values.
    Bools(Vec<bool>),
    /// Whole numbers of 64 bits; those without sign keep their bits.
    I64s(Vec<i64>),
    /// Numbers in double precision.
    F64s(Vec<f64>),
}

impl Value {
    /// A number that is an id or an enum.
    pub fn id(&self) -> Option<u32> {
        self.size().and_then(|size| u32::try_from(size).ok())
    }

    /// A whole number that is not negative.
    pub fn size(&self) -> Option<usize> {
        match *self {
            Self::U32(v) => Some(v as usize),
            Self::I32(v) => usize::try_from(v).ok(),
            Self::U64(v) => usize::try_from(v).ok(),
            Self::I64(v) => usize::try_from(v).ok(),
            _ => None,
        }
    }

    /// Whole numbers that are not negative.
    pub fn sizes(&self) -> Option<Vec<usize>> {
        match self {
            Self::I32s(list) => list.iter().map(|&v| usize::try_from(v).ok()).collect(),
            Self::I64s(list) => list.iter().map(|&v| usize::try_from(v).ok()).collect(),
            _ => None,
        }
    }

    /// Any number.
    pub fn number(&self) -> Option<f64> {
        match *self {
            Self::U32(v) => Some(f64::from(v)),
            Self::I32(v) => Some(f64::from(v)),
            Self::F32(v) => Some(f64::from(v)),
            Self::F64(v) => Some(v),
            Self::U64(v) => Some(v as f64),
            Self::I64(v) => Some(v as f64),
            _ => None,
        }
    }

    /// A string.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// A truth value.
    pub fn flag(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }
}

/// Metadata by key.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Metadata(
    /// All values.
    pub BTreeMap<String, Value>,
);

/// A tensor of a file, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Dimensions, the slowest first (the file has them the other way round).
    pub shape: Vec<usize>,
    /// ggml's number of the element type.
    pub kind: u32,
    /// First byte, from the beginning of the data.
    pub offset: u64,
}

/// All of a file but the data.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Keys and values.
    pub metadata: Metadata,
    /// Tensors in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// Where the data begins in the file.
    pub data: u64,
}

struct Input<'a, R> {
    input: R,
    path: &'a Path,
    /// What is being read, for errors.
    key: String,
    /// Bytes read.
    at: u64,
}

impl<R: Read> Input<'_, R> {
    fn error(&self, message: impl std::fmt::Display) -> Error {
        let place = if self.key.is_empty() { "header".to_string() } else { format!("`{}`", self.key) };
        format(self.path, format!("{place}: {message}"))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => {
                self.at += N as u64;
                Ok(bytes)
            }
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(self.error("the file ends here")),
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
        self.at += length;
        // Tokens of some vocabularies are not UTF-8; they cannot be written as text either.
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// A whole number of up to 32 bits, if `kind` is one, and whether it has a sign.
    fn narrow(&mut self, kind: u32) -> Result<Option<(i64, bool)>> {
        Ok(Some(match kind {
            0 => (i64::from(self.bytes::<1>()?[0]), false),
            1 => (i64::from(self.bytes::<1>()?[0].cast_signed()), true),
            2 => (i64::from(u16::from_le_bytes(self.bytes()?)), false),
            3 => (i64::from(i16::from_le_bytes(self.bytes()?)), true),
            4 => (i64::from(self.u32()?), false),
            5 => (i64::from(self.u32()?.cast_signed()), true),
            _ => return Ok(None),
        }))
    }

    fn value(&mut self) -> Result<Value> {
        let kind = self.u32()?;
        if let Some((number, signed)) = self.narrow(kind)? {
            return Ok(if signed { Value::I32(number as i32) } else { Value::U32(number as u32) });
        }
        Ok(match kind {
            6 => Value::F32(f32::from_bits(self.u32()?)),
            7 => Value::Bool(self.bytes::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 => self.array()?,
            10 => Value::U64(self.u64()?),
            11 => Value::I64(self.u64()?.cast_signed()),
            12 => Value::F64(f64::from_bits(self.u64()?)),
            other => return Err(self.error(format!("values of type {other} are unknown"))),
        })
    }

    fn array(&mut self) -> Result<Value> {
        let (kind, length) = (self.u32()?, self.u64()?);
        if length > MAX_ARRAY {
            return Err(self.error(format!("an array of {length} values; the file is damaged")));
        }
        // Collected through `Result`, so that no length is believed before its elements were there.
        let all = 0..length;
        Ok(match kind {
            0..=5 => Value::I32s(all.map(|_| Ok(self.narrow(kind)?.unwrap_or_default().0 as i32)).collect::<Result<_>>()?),
            6 => Value::F32s(all.map(|_| self.u32().map(f32::from_bits)).collect::<Result<_>>()?),
            7 => Value::Bools(all.map(|_| Ok(self.bytes::<1>()? != [0])).collect::<Result<_>>()?),
            8 => Value::Texts(all.map(|_| self.text()).collect::<Result<_>>()?),
            10 | 11 => Value::I64s(all.map(|_| self.u64().map(u64::cast_signed)).collect::<Result<_>>()?),
            12 => Value::F64s(all.map(|_| self.u64().map(f64::from_bits)).collect::<Result<_>>()?),
            other => return Err(self.error(format!("arrays of values of type {other} are not supported"))),
        })
    }

    /// The number of tensors, and all metadata.
    fn metadata(&mut self) -> Result<(u64, Metadata)> {
        if &self.bytes::<4>()? != MAGIC {
            return Err(self.error("does not begin with GGUF"));
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(self.error(format!("version {version}; 2 and 3 are supported (a big-endian file shows a very large number)")));
        }
        let (tensors, count) = (self.u64()?, self.u64()?);
        let mut metadata = Metadata::default();
        for _ in 0..count {
            let key = self.text()?;
            self.key.clone_from(&key);
            let value = self.value()?;
            if metadata.0.insert(key, value).is_some() {
                return Err(self.error("is there twice"));
            }
        }
        self.key.clear();
        Ok((tensors, metadata))
    }

    fn tensor(&mut self) -> Result<TensorInfo> {
        let name = self.text()?;
        self.key.clone_from(&name);
        let dims = self.u32()?;
        if dims > MAX_DIMS {
            return Err(self.error(format!("a tensor of {dims} dimensions; at most {MAX_DIMS} are possible")));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let size = self.u64()?;
            shape.insert(0, usize::try_from(size).map_err(|_| self.error(format!("a dimension of {size}; the file is damaged")))?);
        }
        if shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).is_none_or(|n| n > 1 << 48) {
            return Err(self.error(format!("a tensor of shape {shape:?}; the file is damaged")));
        }
        Ok(TensorInfo { name, shape, kind: self.u32()?, offset: self.u64()? })
    }
}

impl Header {
    /// Of a file, or of its bytes; `path` is named in errors. Whether the data is all there is for the caller to see, who knows how large the
    /// elements are.
    pub fn parse(input: impl Read, path: &Path) -> Result<Self> {
        let mut input = Input { input, path, key: String::new(), at: 0 };
        let (count, metadata) = input.metadata()?;
        let alignment = match metadata.0.get("general.alignment") {
            None => ALIGNMENT,
            Some(value) => {
                let size = value.size().filter(|n| n.is_power_of_two() && *n <= 1 << 20);
                size.ok_or_else(|| format(path, format!("`general.alignment`: {value:?} is no power of two")))? as u64
            }
        };
        let (mut tensors, mut names) = (Vec::new(), HashSet::new());
        for _ in 0..count {
            let tensor = input.tensor()?;
            if !tensor.offset.is_multiple_of(alignment) {
                return Err(input.error(format!("begins at byte {}, which is no multiple of {alignment}", tensor.offset)));
            }
            if !names.insert(tensor.name.clone()) {
                return Err(input.error("is there twice"));
            }
            tensors.push(tensor);
        }
        Ok(Self { metadata, tensors, data: input.at.next_multiple_of(alignment) })
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
        Input { input, path, key: String::new(), at: 0 }.metadata().map(|(_, metadata)| metadata)
    }

    /// A file with this metadata and no tensors, as llama.cpp's `--vocab-only` conversion makes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.header_bytes(&[])
    }

    /// Everything before the data of a file with these tensors, up to where the data begins.
    pub fn header_bytes(&self, tensors: &[TensorInfo]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((tensors.len() as u64).to_le_bytes());
        file.extend((self.0.len() as u64).to_le_bytes());
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
        for (key, value) in self.0.iter().filter(|(k, _)| *k == ARCHITECTURE).chain(self.0.iter().filter(|(k, _)| *k != ARCHITECTURE)) {
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
                Value::U64(v) => file.extend(10u32.to_le_bytes().into_iter().chain(v.to_le_bytes())),
                Value::I64(v) => file.extend(11u32.to_le_bytes().into_iter().chain(v.to_le_bytes())),
                Value::F64(v) => file.extend(12u32.to_le_bytes().into_iter().chain(v.to_le_bytes())),
                Value::Bools(v) => {
                    array(&mut file, 7, v.len());
                    file.extend(v.iter().map(|&v| u8::from(v)));
                }
                Value::I64s(v) => {
                    array(&mut file, 11, v.len());
                    v.iter().for_each(|v| file.extend(v.to_le_bytes()));
                }
                Value::F64s(v) => {
                    array(&mut file, 12, v.len());
                    v.iter().for_each(|v| file.extend(v.to_le_bytes()));
                }
            }
        }
        for tensor in tensors {
            text(&mut file, &tensor.name);
            file.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&size| file.extend((size as u64).to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.to_le_bytes());
        }
        if !tensors.is_empty() {
            file.resize(file.len().next_multiple_of(ALIGNMENT as usize), 0);
        }
        file
    }

    /// A value under `tokenizer.ggml.`.
    pub fn tokenizer(&self, name: &str) -> Option<&Value> {
        self.0.get(&format!("tokenizer.ggml.{name}"))
    }
}

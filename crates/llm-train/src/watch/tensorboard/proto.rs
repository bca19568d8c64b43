//! The few Protocol Buffer messages that event files need, written by hand (the wire format is that of
//! <https://protobuf.dev/programming-guides/encoding/>; the fields are those of TensorFlow's `event.proto`, `summary.proto`, `tensor.proto`).
//!
//! | message | fields |
//! |---|---|
//! | `Event` | 1 wall_time, 2 step, 3 file_version, 5 summary, 7 session_log |
//! | `SessionLog` | 1 status (1 is START) |
//! | `Summary` | 1 value (repeated) |
//! | `Summary.Value` | 1 tag, 2 simple_value, 8 tensor, 9 metadata |
//! | `SummaryMetadata` | 1 plugin_data (1 plugin_name) |
//! | `TensorProto` | 1 dtype (7 is DT_STRING), 2 tensor_shape (2 dim (1 size)), 8 string_val |

/// The version that all event files have.
const VERSION: &str = "brain.Event:2";
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// One message of a file.
#[derive(Debug)]
pub struct Event<'a> {
    /// Unix seconds.
    pub wall_time: f64,
    /// The step it is about.
    pub step: u64,
    /// Its content.
    pub what: What<'a>,
}

/// What an event holds.
#[derive(Debug)]
pub enum What<'a> {
    /// The first of a file.
    Version,
    /// The event's step and all later ones begin anew.
    Start,
    /// Numbers by tag.
    Scalars(&'a [(String, f32)]),
    /// A text, for the plugin `text`.
    Text {
        /// Its name.
        tag: &'a str,
        /// Markdown.
        text: &'a str,
    },
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u32, wire: u32) {
    varint(out, u64::from(field << 3 | wire));
}

fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, VARINT);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    key(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn message(out: &mut Vec<u8>, field: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    bytes(out, field, &inner);
}

impl Event<'_> {
    /// Append the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        key(out, 1, FIXED64);
        out.extend_from_slice(&self.wall_time.to_le_bytes());
        number(out, 2, self.step);
        match &self.what {
            What::Version => bytes(out, 3, VERSION.as_bytes()),
            What::Start => message(out, 7, |log| number(log, 1, 1)),
            What::Scalars(values) => message(out, 5, |summary| {
                for (tag, value) in *values {
                    message(summary, 1, |entry| {
                        bytes(entry, 1, tag.as_bytes());
                        key(entry, 2, FIXED32);
                        entry.extend_from_slice(&value.to_le_bytes());
                    });
                }
            }),
            What::Text { tag, text } => message(out, 5, |summary| {
                message(summary, 1, |entry| {
                    bytes(entry, 1, tag.as_bytes());
                    message(entry, 8, |tensor| {
                        number(tensor, 1, 7);
                        message(tensor, 2, |shape| message(shape, 2, |dim| number(dim, 1, 1)));
                        bytes(tensor, 8, text.as_bytes());
                    });
                    message(entry, 9, |metadata| message(metadata, 1, |plugin| bytes(plugin, 1, b"text")));
                });
            }),
        }
    }
}

/// An event as it is read back.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    /// Of the file.
    Version(String),
    /// A session began.
    Start,
    /// Numbers by tag.
    Scalars(Vec<(String, f32)>),
    /// Tag and text.
    Text(String, String),
}

/// A field of a message.
enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

fn take_varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn fields(mut data: &[u8]) -> Option<Vec<(u32, Field<'_>)>> {
    let mut out = Vec::new();
    while !data.is_empty() {
        let key = take_varint(&mut data)? as u32;
        let field = match key & 7 {
            VARINT => Field::Varint(take_varint(&mut data)?),
            FIXED64 => {
                data = data.split_first_chunk::<8>()?.1;
                Field::Fixed64
            }
            BYTES => {
                let length = take_varint(&mut data)? as usize;
                let (value, rest) = data.split_at_checked(length)?;
                data = rest;
                Field::Bytes(value)
            }
            FIXED32 => {
                let (value, rest) = data.split_first_chunk::<4>()?;
                data = rest;
                Field::Fixed32(*value)
            }
            _ => return None,
        };
        out.push((key >> 3, field));
    }
    Some(out)
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// Step and content of a message that [`Event::encode`] wrote; none for anything else.
pub fn read(data: &[u8]) -> Option<(u64, Read)> {
    let (mut step, mut read) = (0, None);
    for field in fields(data)? {
        match field {
            (2, Field::Varint(value)) => step = value,
            (3, Field::Bytes(version)) => read = Some(Read::Version(text(version))),
            (7, Field::Bytes(log)) => {
                let start = fields(log)?.into_iter().any(|f| matches!(f, (1, Field::Varint(1))));
                read = start.then_some(Read::Start);
            }
            (5, Field::Bytes(summary)) => read = Some(read_summary(summary)?),
            _ => {}
        }
    }
    Some((step, read?))
}

fn read_summary(summary: &[u8]) -> Option<Read> {
    let mut scalars = Vec::new();
    for (_, field) in fields(summary)? {
        let Field::Bytes(entry) = field else { return None };
        let mut tag = String::new();
        for field in fields(entry)? {
            match field {
                (1, Field::Bytes(name)) => tag = text(name),
                (2, Field::Fixed32(value)) => scalars.push((tag.clone(), f32::from_le_bytes(value))),
                (8, Field::Bytes(tensor)) => {
                    let value = fields(tensor)?.into_iter().find_map(|f| if let (8, Field::Bytes(value)) = f { Some(text(value)) } else { None })?;
                    return Some(Read::Text(tag, value));
                }
                _ => {}
            }
        }
    }
    Some(Read::Scalars(scalars))
}

//! The wire format of Protocol Buffers, as much as a SentencePiece model needs: fields in order, by number.
//!
//! Source: "Encoding", protobuf.dev/programming-guides/encoding. Groups, gone since proto3, are refused.

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Field<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: bytes, strings, messages.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

impl<'a> Field<'a> {
    /// An `int32` or `enum`.
    pub fn int(self) -> Option<i32> {
        if let Self::Varint(v) = self { Some(v as i32) } else { None }
    }

    /// A `bool`.
    pub fn bool(self) -> Option<bool> {
        if let Self::Varint(v) = self { Some(v != 0) } else { None }
    }

    /// A `float`.
    pub fn float(self) -> Option<f32> {
        if let Self::Fixed32(v) = self { Some(f32::from_bits(v)) } else { None }
    }

    /// `bytes` or a message.
    pub fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(v) = self { Some(v) } else { None }
    }

    /// A `string`.
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// Iterator over the fields of a message; `Err` names what is wrong and ends it.
#[derive(Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Over an encoded message.
    pub fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or("ends within a number")?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number has more than ten bytes".into())
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], String> {
        let n = usize::try_from(n).ok().filter(|&n| n <= self.rest.len());
        let n = n.ok_or_else(|| format!("{what} needs more bytes than the {} that are left", self.rest.len()))?;
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Field<'a>), String> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| format!("field number {} is too large", key >> 3))?;
        let what = format!("field {number}");
        let little = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
        let value = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(little(self.take(8, &what)?)),
            2 => {
                let n = self.varint()?;
                Field::Bytes(self.take(n, &what)?)
            }
            5 => Field::Fixed32(little(self.take(4, &what)?) as u32),
            other => return Err(format!("{what} has wire type {other}, which is not used here")),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// A message being written.
#[derive(Debug, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// An `int32`, `enum` or `bool`.
    pub fn int(&mut self, number: u32, value: i32) -> &mut Self {
        self.varint(u64::from(number) << 3);
        self.varint(i64::from(value) as u64);
        self
    }

    /// A `float`.
    pub fn float(&mut self, number: u32, value: f32) -> &mut Self {
        self.varint(u64::from(number) << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// `bytes`, a `string` or a message.
    pub fn bytes(&mut self, number: u32, value: &[u8]) -> &mut Self {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(ints in prop::collection::vec((1u32..5000, any::<i32>()), 0..8), bytes in prop::collection::vec(any::<u8>(), 0..40), x in any::<u32>()) {
            let mut message = Message::default();
            for &(number, value) in &ints {
                message.int(number, value);
            }
            message.bytes(7, &bytes).float(9, f32::from_bits(x));
            let read: Vec<_> = Fields::of(&message.0).map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), ints.len() + 2);
            for (&(number, value), (n, field)) in ints.iter().zip(&read) {
                prop_assert_eq!((number, Some(value)), (*n, field.int()));
            }
            prop_assert_eq!(read[ints.len()].1.bytes(), Some(bytes.as_slice()));
            prop_assert_eq!(read[ints.len() + 1], (9, Field::Fixed32(x)));
        }

        #[test]
        fn any_bytes_are_fields_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut fields = Fields::of(&bytes);
            while let Some(field) = fields.next() {
                if field.is_err() {
                    prop_assert!(fields.next().is_none());
                }
            }
        }
    }
}

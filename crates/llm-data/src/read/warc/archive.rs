//! Records of a web archive (WARC/0.17 to 1.1), with bounded memory and with a way on after every kind of damage.
//!
//! A header has at most [`MAX_HEADER`] bytes, a body at most [`MAX_BODY`]; larger bodies are passed over. `Content-Length` is
//! believed only if a record or the end follows; when a new record begins before that, the old one was truncated. What is not
//! a record is passed over to the next line that begins with `WARC/`.

use super::stream::{Event, Stream};

/// A larger body is not read.
pub const MAX_BODY: usize = 32 << 20;
/// A longer header is not one.
pub const MAX_HEADER: usize = 64 << 10;

/// Header fields in their order; names are compared without case.
#[derive(Debug, Clone, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// From the lines after the first; continuation lines are joined, lines without a colon are passed over.
    pub fn parse(lines: &[u8]) -> Self {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in lines.split(|b| *b == b'\n') {
            let text = String::from_utf8_lossy(line);
            let line = text.trim_end();
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_string(), value.trim().to_string()));
            }
        }
        Self(fields)
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// One record.
#[derive(Debug)]
pub struct Record {
    /// Place in the file of the compressed member, or of the record itself when nothing is compressed by record.
    pub offset: u64,
    /// Its header.
    pub headers: Headers,
    /// Its body; empty when it was not asked for.
    pub body: Vec<u8>,
}

/// What could not be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    /// `malformed WARC record`, `truncated WARC record`, `record size`.
    pub step: &'static str,
    /// Place in the file.
    pub offset: u64,
    /// What is wrong.
    pub detail: String,
}

/// Iterates over the records of an archive.
pub struct Archive<F> {
    stream: Stream,
    /// Decompressed bytes; `at` is how far they are used.
    data: Vec<u8>,
    at: usize,
    /// Place of the current member, and how many of its bytes came before `data`.
    member: u64,
    before: u64,
    /// A member begins at this index of `data`.
    boundary: Option<(usize, u64)>,
    damage: Option<(u64, String)>,
    ended: bool,
    compressed: bool,
    wants: F,
}

impl<F: Fn(&Headers) -> bool> Archive<F> {
    /// `wants` says of which records the body is needed.
    pub fn new(stream: Stream, compressed: bool, wants: F) -> Self {
        Self { stream, data: Vec::new(), at: 0, member: 0, before: 0, boundary: None, damage: None, ended: false, compressed, wants }
    }

    /// Place in the file of `data[self.at]`: exact in a plain file, the member's start in a compressed one.
    fn offset(&self) -> u64 {
        match self.boundary {
            Some((index, place)) if self.compressed && index <= self.at => place,
            _ if self.compressed => self.member,
            _ => self.before + self.at as u64,
        }
    }

    /// Make `n` unused bytes available; stops at damage and at the end.
    fn need(&mut self, n: usize) -> bool {
        while self.data.len() - self.at < n {
            if self.ended || self.damage.is_some() {
                return false;
            }
            self.pull();
        }
        true
    }

    fn pull(&mut self) {
        // Used bytes go when they are many, so that moving the rest costs little.
        if self.at > 1 << 20 && self.at * 2 > self.data.len() || self.at == self.data.len() {
            self.data.drain(..self.at);
            self.before += self.at as u64;
            if let Some((index, place)) = self.boundary {
                if index <= self.at {
                    self.member = place;
                    self.boundary = None;
                } else {
                    self.boundary = Some((index - self.at, place));
                }
            }
            self.at = 0;
        }
        match self.stream.more(&mut self.data) {
            Event::Data => {}
            Event::Member(place) => {
                if let Some((_, place)) = self.boundary.replace((self.data.len(), place)) {
                    self.member = place;
                }
            }
            Event::Damage(place, why) => self.damage = Some((place, why)),
            Event::End => self.ended = true,
        }
    }

    /// A complete member is in front of `index`: where the next one begins, if that is before `index`.
    fn member_start_within(&self, index: usize) -> Option<usize> {
        self.boundary.map(|(at, _)| at).filter(|at| *at > self.at && *at < index && self.data[*at..].starts_with(b"WARC/"))
    }

    /// Pass over what is no record: to the next line that begins with `WARC/` and a digit.
    fn resynchronise(&mut self) {
        loop {
            let mut from = self.at;
            while let Some(found) = memchr::memmem::find(&self.data[from..], b"WARC/").map(|i| from + i) {
                let line_start = found == 0 || self.data[found - 1] == b'\n' || self.boundary.is_some_and(|(b, _)| b == found);
                match self.data.get(found + 5) {
                    Some(b) if line_start && b.is_ascii_digit() && found > self.at => {
                        self.at = found;
                        return;
                    }
                    None if line_start => break,
                    _ => from = found + 5,
                }
            }
            // Keep what could be the beginning of the mark and the line break before it.
            self.at = self.data.len().saturating_sub(8).max(self.at);
            if self.ended || self.damage.is_some() {
                self.at = self.data.len();
                return;
            }
            self.pull();
        }
    }

    fn step(&mut self) -> Option<Result<Record, Damage>> {
        // Empty lines between records.
        loop {
            if let Some((offset, detail)) = self.damage.take_if(|_| self.at == self.data.len()) {
                return Some(Err(Damage { step: "malformed WARC record", offset, detail }));
            }
            if !self.need(1) {
                if self.damage.is_some() {
                    continue;
                }
                return None;
            }
            match self.data[self.at] {
                b'\r' | b'\n' => self.at += 1,
                _ => break,
            }
        }
        self.need(5);
        let offset = self.offset();
        if !self.data[self.at..].starts_with(b"WARC/") {
            let seen = String::from_utf8_lossy(&self.data[self.at..self.data.len().min(self.at + 24)]).into_owned();
            self.resynchronise();
            // What is left over before damage is part of it.
            let (offset, detail) =
                self.damage.take_if(|_| self.at == self.data.len()).unwrap_or((offset, format!("expected WARC/1.x, found {seen:?}")));
            return Some(Err(Damage { step: "malformed WARC record", offset, detail }));
        }
        let Some(length) = self.header_length() else {
            if let Some((offset, detail)) = self.damage.take() {
                self.at = self.data.len();
                return Some(Err(Damage { step: "truncated WARC record", offset, detail }));
            }
            let (step, detail) = if self.ended {
                ("truncated WARC record", "ends within a header".to_string())
            } else {
                ("malformed WARC record", format!("no end of the header within {MAX_HEADER} bytes"))
            };
            self.resynchronise();
            return Some(Err(Damage { step, offset, detail }));
        };
        let header = &self.data[self.at..self.at + length];
        let headers = Headers::parse(header.split_at(header.iter().position(|b| *b == b'\n').unwrap_or(0)).1);
        self.at += length;
        let Some(size) = headers.get("Content-Length").and_then(|v| v.parse::<u64>().ok()) else {
            self.resynchronise();
            return Some(Err(Damage { step: "malformed WARC record", offset, detail: "no readable Content-Length".into() }));
        };
        let wanted = (self.wants)(&headers);
        if !wanted {
            return match self.pass_over(size) {
                Ok(()) => Some(Ok(Record { offset, headers, body: Vec::new() })),
                Err(detail) => Some(Err(Damage { step: "truncated WARC record", offset, detail })),
            };
        }
        if size > MAX_BODY as u64 {
            let _ = self.pass_over(size);
            return Some(Err(Damage { step: "record size", offset, detail: format!("{size} bytes; at most {MAX_BODY} are read") }));
        }
        Some(self.body(offset, size as usize).map(|body| Record { offset, headers, body }).map_err(|detail| Damage {
            step: "truncated WARC record",
            offset,
            detail,
        }))
    }

    fn body(&mut self, offset: u64, size: usize) -> Result<Vec<u8>, String> {
        let complete = self.need(size);
        // What follows says whether the length was right; asking does not move the body, `at` is at its start.
        self.need(size + 5);
        let end = (self.at + size).min(self.data.len());
        let have_until = |next: usize| format!("{} of {size} bytes, then the next record begins", next - self.at);
        // A record cannot reach into the next one: its length lied, or the writer was interrupted.
        if let Some(next) = self.member_start_within(end) {
            let why = have_until(next);
            self.at = next;
            return Err(why);
        }
        let rest = &self.data[end..];
        let followed = complete && (rest.is_empty() || rest[0] == b'\n' || rest[0] == b'\r' || self.boundary.is_some_and(|(b, _)| b == end));
        if !followed && let Some(next) = self.record_within(end) {
            let why = have_until(next);
            self.at = next;
            return Err(why);
        }
        if !complete {
            let why = self.damage.take().map_or_else(|| "the file ends".to_string(), |(_, why)| why);
            let have = end - self.at;
            self.at = end;
            return Err(format!("{have} of {size} bytes: {why}"));
        }
        // The checksum at the end of the member may say that what could be decompressed is wrong.
        if let Some((_, why)) = self.damage.take_if(|(place, _)| self.compressed && *place == offset) {
            self.at = self.data.len();
            return Err(why);
        }
        let body = self.data[self.at..end].to_vec();
        self.at = end;
        Ok(body)
    }

    /// The first record that begins after an empty line between the current place and `end`.
    fn record_within(&self, end: usize) -> Option<usize> {
        let end = end.min(self.data.len());
        let found = memchr::memmem::find(self.data.get(self.at..end)?, b"\r\n\r\nWARC/1.")?;
        Some(self.at + found + 4)
    }

    /// Go behind a body without keeping it.
    fn pass_over(&mut self, size: u64) -> Result<(), String> {
        let mut left = size;
        while left > 0 {
            if !self.need(1) {
                let why = self.damage.take().map_or_else(|| "the file ends".to_string(), |(_, why)| why);
                return Err(format!("{} of {size} bytes: {why}", size - left));
            }
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(self.data.len() - self.at);
            if let Some(next) = self.member_start_within(self.at + n) {
                let have = size - left + (next - self.at) as u64;
                self.at = next;
                return Err(format!("{have} of {size} bytes, then the next record begins"));
            }
            self.at += n;
            left -= n as u64;
        }
        Ok(())
    }

    /// Bytes from `at` through the empty line that ends the header.
    fn header_length(&mut self) -> Option<usize> {
        let mut searched = 0;
        loop {
            let window = &self.data[self.at..self.data.len().min(self.at + MAX_HEADER)];
            for at in memchr::memchr_iter(b'\n', &window[searched..]).map(|i| searched + i) {
                match &window[at + 1..] {
                    [b'\n', ..] => return Some(at + 2),
                    [b'\r', b'\n', ..] => return Some(at + 3),
                    _ => {}
                }
            }
            if window.len() == MAX_HEADER {
                return None;
            }
            searched = window.len().saturating_sub(3);
            let have = self.data.len() - self.at;
            if !self.need(have + 1) {
                return None;
            }
        }
    }
}

impl<F: Fn(&Headers) -> bool> Iterator for Archive<F> {
    type Item = Result<Record, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step()
    }
}

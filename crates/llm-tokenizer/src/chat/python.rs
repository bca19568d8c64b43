//! Where Python's Jinja and minijinja print differently, Python's way.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// `{{ true }}` is `True` and `{{ none }}` is `None` in Python.
pub fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        ValueKind::None => out.write_str("None").map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// `json.dumps(value, ensure_ascii=False, ...)` with the arguments transformers lets a template give.
pub fn to_json(value: Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let sort_keys: Option<bool> = arguments.get("sort_keys")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let _ensure_ascii: Option<bool> = arguments.get("ensure_ascii")?;
    arguments.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators is a pair of strings"));
        }
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
    };
    let json = serde_json::to_value(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let mut dump = Dump { indent, sort_keys: sort_keys.unwrap_or(false), item, key, text: String::new() };
    dump.value(&json, 0);
    Ok(Value::from_safe_string(dump.text))
}

struct Dump {
    indent: Option<usize>,
    sort_keys: bool,
    item: String,
    key: String,
    text: String,
}

impl Dump {
    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn value(&mut self, value: &serde_json::Value, depth: usize) {
        match value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                self.text.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        self.text.push_str(&self.item);
                    }
                    self.line(depth + 1);
                    self.value(item, depth + 1);
                }
                self.line(depth);
                self.text.push(']');
            }
            serde_json::Value::Object(fields) if !fields.is_empty() => {
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sort_keys {
                    fields.sort_by_key(|(name, _)| *name);
                }
                self.text.push('{');
                for (i, (name, field)) in fields.into_iter().enumerate() {
                    if i > 0 {
                        self.text.push_str(&self.item);
                    }
                    self.line(depth + 1);
                    self.string(name);
                    self.text.push_str(&self.key);
                    self.value(field, depth + 1);
                }
                self.line(depth);
                self.text.push('}');
            }
            serde_json::Value::String(text) => self.string(text),
            scalar_or_empty => {
                let _ = write!(self.text, "{scalar_or_empty}");
            }
        }
    }

    /// Python escapes the quote, the backslash and control characters below U+0020, nothing else.
    fn string(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if c < ' ' => {
                    let _ = write!(self.text, "\\u{:04x}", c as u32);
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

/// The current date and time (UTC) in a `strftime` format.
pub fn strftime_now(format: String) -> Result<String, Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(&format, seconds)
}

const MONTHS: [&str; 12] = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let date = Date::from_days(days);
    let (month, weekday) = (MONTHS[date.month - 1], DAYS[(days % 7) as usize]);
    let hour = second / 3600;
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let _ = match chars.next() {
            Some('Y') => write!(text, "{}", date.year),
            Some('y') => write!(text, "{:02}", date.year % 100),
            Some('m') => write!(text, "{:02}", date.month),
            Some('d') => write!(text, "{:02}", date.day),
            Some('e') => write!(text, "{:2}", date.day),
            Some('B') => write!(text, "{month}"),
            Some('b') => write!(text, "{}", &month[..3]),
            Some('A') => write!(text, "{weekday}"),
            Some('a') => write!(text, "{}", &weekday[..3]),
            Some('j') => write!(text, "{:03}", date.day_of_year),
            Some('H') => write!(text, "{hour:02}"),
            Some('I') => write!(text, "{:02}", (hour + 11) % 12 + 1),
            Some('p') => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(text, "{:02}", second / 60 % 60),
            Some('S') => write!(text, "{:02}", second % 60),
            Some('%') => write!(text, "%"),
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: %{} is not supported", other.map_or_else(String::new, String::from)),
                ));
            }
        };
    }
    Ok(text)
}

struct Date {
    year: u64,
    month: usize,
    day: u64,
    day_of_year: u64,
}

impl Date {
    /// `days` since 1970-01-01.
    fn from_days(mut days: u64) -> Self {
        let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut year = 1970;
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let day_of_year = days + 1;
        let mut month = 1;
        for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        Self { year, month, day: days + 1, day_of_year }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_known_seconds() {
        let format = "%a %d %b %Y %H:%M:%S %j %I%p %y %B %A";
        assert_eq!(strftime(format, 1_709_210_096).unwrap(), "Thu 29 Feb 2024 12:34:56 060 12PM 24 February Thursday");
        assert_eq!(strftime("%d %B %Y", 0).unwrap(), "01 January 1970");
        assert_eq!(strftime("%Y-%m-%d", 1_767_225_599).unwrap(), "2025-12-31");
        assert!(strftime("%Q", 0).is_err());
    }
}

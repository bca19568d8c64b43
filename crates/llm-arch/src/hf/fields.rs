//! Typed access to the fields of a `config.json`; every error names the field, what it holds and what was expected.

use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, String>;

/// An object of a configuration file. `null` and absent are the same unless asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    /// True when the key is there, even as `null`.
    pub fn mentions(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let whole = |v: &Value| v.as_u64().or_else(|| v.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0 && *f < 1e15).map(|f| f as u64));
        self.get(key).map(|v| whole(v).map(|n| n as usize).ok_or_else(|| format!("`{key}`: expected a whole number, got {v}"))).transpose()
    }

    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.size(key)?.unwrap_or(default))
    }

    pub fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| format!("`{key}` is missing; expected a whole number"))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| format!("`{key}`: expected a number, got {v}"))).transpose()
    }

    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.number(key)?.unwrap_or(default))
    }

    /// A number that `null` switches off and absence leaves at the class default.
    pub fn optional_number(&self, key: &str, default: Option<f64>) -> Result<Option<f64>> {
        if self.mentions(key) { self.number(key) } else { Ok(default) }
    }

    /// The same for sizes.
    pub fn optional_size(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        if self.mentions(key) { self.size(key) } else { Ok(default) }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| format!("`{key}`: expected true or false, got {v}")))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| format!("`{key}`: expected a text, got {v}"))).transpose()
    }

    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.get(key).map(|v| v.as_object().ok_or_else(|| format!("`{key}`: expected an object, got {v}"))).transpose()
    }

    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        self.get(key).map(|v| v.as_array().map(Vec::as_slice).ok_or_else(|| format!("`{key}`: expected a list, got {v}"))).transpose()
    }

    pub fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let list = self.list(key)?.ok_or_else(|| format!("`{key}` is missing; expected a list of numbers"))?;
        list.iter().map(|v| v.as_f64().ok_or_else(|| format!("`{key}`: expected numbers, got {v}"))).collect()
    }

    pub fn sizes(&self, key: &str) -> Result<Vec<usize>> {
        let list = self.list(key)?.unwrap_or_default();
        list.iter().map(|v| v.as_u64().map(|n| n as usize).ok_or_else(|| format!("`{key}`: expected whole numbers, got {v}"))).collect()
    }

    /// One token id or a list of them.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| {
            v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| format!("`{key}`: expected a token id or a list of them, got {v}"))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            // Some old files say -1 for "none".
            Some(v) if v.as_i64() == Some(-1) => Ok(Vec::new()),
            Some(one) => Ok(vec![id(one)?]),
        }
    }
}

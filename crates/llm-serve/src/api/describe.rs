//! Schemas of replies, from the types that are serialised.
//!
//! `wire!` declares structs as usual and reads what it needs off their own attributes: the documentation, `rename`,
//! `skip_serializing_if` (the field may be absent) and `flatten`. There is no second description to keep in step.

use serde_json::{Map, Value, json};

/// A type of the wire.
pub trait Describe {
    /// Its JSON schema; structs are put into `schemas` and referred to.
    fn schema(schemas: &mut Schemas) -> Value;

    /// Its name among the schemas; empty for what has none.
    fn name() -> String {
        String::new()
    }
}

/// Named schemas.
#[derive(Debug, Default)]
pub struct Schemas(Map<String, Value>);

/// An object that is being described.
#[derive(Debug)]
pub struct Object {
    properties: Map<String, Value>,
    required: Vec<String>,
}

impl Schemas {
    /// All of them, by name.
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// Describe a struct once, and give the reference to it. `attributes` are those of the struct.
    pub fn object(&mut self, name: &str, attributes: &[&str], build: impl FnOnce(&mut Self, &mut Object)) -> Value {
        if !self.0.contains_key(name) {
            // Stands in for itself while its fields are described: a token's alternatives are tokens.
            self.0.insert(name.to_string(), Value::Null);
            let mut object = Object { properties: Map::new(), required: Vec::new() };
            build(self, &mut object);
            let mut schema = json!({"type": "object", "properties": object.properties, "required": object.required});
            if let Some(text) = documentation(attributes) {
                schema["description"] = text.into();
            }
            self.0.insert(name.to_string(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// Put a schema under a name and give the reference to it.
    pub fn named(&mut self, name: &str, schema: Value) -> Value {
        self.0.insert(name.to_string(), schema);
        json!({"$ref": format!("#/components/schemas/{name}")})
    }
}

impl Object {
    /// Add a field by its type and attributes.
    pub fn field<T: Describe>(&mut self, field: &str, attributes: &[&str], schemas: &mut Schemas) {
        let mut schema = T::schema(schemas);
        if attributes.iter().any(|a| a.starts_with("serde") && a.contains("flatten")) {
            let inner = schemas.0.get(&T::name()).cloned().unwrap_or_default();
            self.properties.extend(inner["properties"].as_object().cloned().unwrap_or_default());
            self.required.extend(inner["required"].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_string)));
            return;
        }
        let renamed = attributes.iter().find_map(|a| a.split_once("rename = \"")?.1.split('"').next());
        let name = renamed.unwrap_or(field);
        if attributes.iter().any(|a| a.contains("skip_serializing_if")) {
            // Absent instead of null.
            if let Some(inner) = schema.get_mut("anyOf").and_then(|of| of.get_mut(0)) {
                schema = inner.take();
            }
        } else {
            self.required.push(name.to_string());
        }
        if let Some(text) = documentation(attributes) {
            schema["description"] = text.into();
        }
        self.properties.insert(name.to_string(), schema);
    }
}

/// The text of `doc = "..."` attributes.
fn documentation(attributes: &[&str]) -> Option<String> {
    let line = |a: &&str| {
        let text = a.strip_prefix("doc")?;
        let (from, to) = (text.find('"')? + 1, text.rfind('"')?);
        Some(text.get(from..to)?.replace("\\\"", "\"").trim().to_string())
    };
    let lines: Vec<String> = attributes.iter().filter_map(line).collect();
    (!lines.is_empty()).then(|| lines.join(" "))
}

/// Declares structs of the wire, see [the module](self).
macro_rules! wire {
    ($($(#[$attribute:meta])* pub struct $name:ident { $($(#[$field_attribute:meta])* pub $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$attribute])*
        pub struct $name { $($(#[$field_attribute])* pub $field: $type,)* }

        impl $crate::api::describe::Describe for $name {
            fn schema(schemas: &mut $crate::api::describe::Schemas) -> serde_json::Value {
                schemas.object(stringify!($name), &[$(stringify!($attribute)),*], |_schemas, _object| {
                    $(_object.field::<$type>(stringify!($field), &[$(stringify!($field_attribute)),*], _schemas);)*
                })
            }

            fn name() -> String {
                stringify!($name).to_string()
            }
        }
    )*};
}
pub(crate) use wire;

macro_rules! plain {
    ($($type:ty => $schema:tt),* $(,)?) => {$(
        impl Describe for $type {
            fn schema(_: &mut Schemas) -> Value {
                json!($schema)
            }
        }
    )*};
}

plain! {
    usize => {"type": "integer", "minimum": 0},
    u64 => {"type": "integer", "minimum": 0},
    u32 => {"type": "integer", "minimum": 0},
    f32 => {"type": "number"},
    bool => {"type": "boolean"},
    String => {"type": "string"},
    &'static str => {"type": "string"},
    Value => {},
    Map<String, Value> => {"type": "object"},
    Vec<u8> => {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
    &'static [&'static str] => {"type": "array", "items": {"type": "string"}},
}

impl<T: Describe> Describe for Option<T> {
    fn schema(schemas: &mut Schemas) -> Value {
        json!({"anyOf": [T::schema(schemas), {"type": "null"}]})
    }
}

/// A list of things that are objects, numbers or text themselves.
macro_rules! lists {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::api::describe::Describe for Vec<$type> {
            fn schema(schemas: &mut $crate::api::describe::Schemas) -> serde_json::Value {
                serde_json::json!({"type": "array", "items": <$type as $crate::api::describe::Describe>::schema(schemas)})
            }
        }
    )*};
}
pub(crate) use lists;

lists![String, u32, usize, f32, Option<f32>, Option<Map<String, Value>>];

#[cfg(test)]
mod tests {
    use super::*;

    wire! {
        /// One.
        /// Two "quoted".
        #[derive(serde::Serialize)]
        pub struct Inner {
            /// Always there.
            pub a: u32,
        }

        /// Outer.
        #[derive(serde::Serialize)]
        pub struct Outer {
            /// All of it.
            #[serde(flatten)]
            pub inner: Inner,
            /// May be absent.
            #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
            pub kind: Option<String>,
            /// May be null.
            pub b: Option<String>,
        }
    }

    #[test]
    fn attributes_say_it_all() {
        let mut schemas = Schemas::default();
        assert_eq!(Outer::schema(&mut schemas), json!({"$ref": "#/components/schemas/Outer"}));
        let map = schemas.into_map();
        assert_eq!(map["Inner"]["description"], "One. Two \"quoted\".");
        let outer = &map["Outer"];
        assert_eq!(outer["required"], json!(["a", "b"]));
        assert_eq!(outer["properties"]["type"], json!({"type": "string", "description": "May be absent."}));
        assert_eq!(outer["properties"]["b"]["anyOf"][1], json!({"type": "null"}));
    }
}

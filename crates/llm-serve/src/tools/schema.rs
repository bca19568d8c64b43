//! The JSON schema that makes a reply a call: for `tool_choice` `required` and a named function.
//!
//! Each tool's own schema stands whole in `$defs`, and its local references are moved along with it: `#/$defs/City` of a tool
//! becomes `#/$defs/tool0/$defs/City`. Pydantic writes such references for every nested class.

use serde_json::{Map, Value, json};

/// Calls in one forced reply.
const MAX_CALLS: usize = 32;

/// `tools` are names and schemas of parameters. `key` is the field for the arguments; `many` allows a list of calls.
pub fn forced(tools: &[(&str, &Value)], key: &str, many: bool) -> Value {
    let mut definitions = Map::new();
    let mut calls = Vec::new();
    for (i, (name, parameters)) in tools.iter().enumerate() {
        let place = format!("tool{i}");
        let mut parameters = (*parameters).clone();
        rebase(&mut parameters, &place);
        definitions.insert(place.clone(), parameters);
        calls.push(json!({
            "type": "object",
            "properties": {"name": {"const": name}, key: {"$ref": format!("#/$defs/{place}")}},
            "required": ["name", key],
            "additionalProperties": false,
        }));
    }
    let call = if calls.len() == 1 { calls.remove(0) } else { json!({"anyOf": calls}) };
    let mut schema = if many { json!({"type": "array", "items": call, "minItems": 1, "maxItems": MAX_CALLS}) } else { call };
    schema["$defs"] = Value::Object(definitions);
    schema
}

fn rebase(schema: &mut Value, place: &str) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, place)),
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match value {
                    Value::String(target) if name == "$ref" && target.starts_with('#') => *target = format!("#/$defs/{place}{}", &target[1..]),
                    _ => rebase(value, place),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a tool with nested classes cannot be forced: its references point to nothing.
    #[test]
    fn references_move_with_their_schema() {
        let nested =
            json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}, "self": {"$ref": "#"}}, "$defs": {"City": {"type": "string"}}});
        let plain = json!({"type": "object"});
        let schema = forced(&[("plain", &plain), ("nested", &nested)], "arguments", true);
        let targets = [
            schema.pointer("/$defs/tool1/properties/city/$ref"),
            schema.pointer("/$defs/tool1/properties/self/$ref"),
            schema.pointer("/items/anyOf/1/properties/arguments/$ref"),
        ];
        for target in targets {
            let target = target.and_then(Value::as_str).unwrap();
            assert!(schema.pointer(&target[1..]).is_some(), "{target} points to nothing");
        }
        assert_eq!(forced(&[("plain", &plain)], "parameters", false)["properties"]["name"], json!({"const": "plain"}));
    }
}

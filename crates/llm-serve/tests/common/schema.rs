//! Does a value satisfy a schema? As much of JSON Schema as the OpenAPI document uses; anything else fails the test.

use serde_json::Value;

/// Every way in which `value` breaks `schema`; `document` is where references point.
pub fn problems(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(document, schema, value, "$", &mut found);
    found
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(rules) = schema.as_object() else { return found.push(format!("{at}: the schema is {schema}")) };
    for (rule, wanted) in rules {
        match rule.as_str() {
            "description" | "minimum" | "maximum" | "minItems" | "maxItems" | "maxLength" => {}
            "$ref" => match document.pointer(&wanted.as_str().unwrap()[1..]) {
                Some(target) => check(document, target, value, at, found),
                None => found.push(format!("{at}: {wanted} points to nothing")),
            },
            "anyOf" => {
                let fits = |option: &Value| problems(document, option, value).is_empty();
                if !wanted.as_array().unwrap().iter().any(fits) {
                    found.push(format!("{at}: {value} is none of {wanted}"));
                }
            }
            "enum" if !wanted.as_array().unwrap().contains(value) => found.push(format!("{at}: {value} is not one of {wanted}")),
            "const" if wanted != value => found.push(format!("{at}: {value} is not {wanted}")),
            "enum" | "const" => {}
            "type" => {
                let fits = match wanted.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    other => panic!("type {other}"),
                };
                if !fits {
                    found.push(format!("{at}: {value} is no {wanted}"));
                }
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        found.push(format!("{at}: {name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    match wanted.get(name) {
                        Some(schema) => check(document, schema, inner, &format!("{at}.{name}"), found),
                        None => found.push(format!("{at}.{name}: the document does not know it")),
                    }
                }
            }
            "additionalProperties" => {}
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, wanted, item, &format!("{at}[{i}]"), found);
                }
            }
            other => panic!("{at}: rule {other}"),
        }
    }
}

//! What a reply has to look like: OpenAI's `response_format`, vLLM's `structured_outputs` and its older `guided_*` fields.
//!
//! | asks for | OpenAI | vLLM |
//! |---|---|---|
//! | any JSON object | `response_format: {"type": "json_object"}` | `structured_outputs: {"json_object": true}` |
//! | JSON by a schema | `response_format: {"type": "json_schema", "json_schema": {"schema": ..}}` | `{"json": ..}`, `guided_json` |
//! | a regular expression | | `{"regex": ..}`, `guided_regex` |
//! | one of several texts | | `{"choice": [..]}`, `guided_choice` |
//! | a grammar in Lark's notation | | `{"grammar": ..}`, `guided_grammar` |
//!
//! A schema is always enforced, whatever `strict` says: there is no weaker way here.

use super::fields::Fields;
use super::tools::{MAX_SCHEMA, check_schema};
use crate::error::ApiError;
use llm_infer::Constraint;
use serde_json::{Value, json};

/// Bytes of a regular expression.
const MAX_REGEX: usize = 8 << 10;
/// Texts to choose from.
const MAX_CHOICES: usize = 1024;

/// A shape of the reply, and the field that asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// For errors of the compiler.
    pub param: String,
    /// What is enforced.
    pub constraint: Constraint,
}

/// Take all of these fields; at most one may ask for something.
pub(super) fn take(fields: &mut Fields) -> Result<Option<Shape>, ApiError> {
    let mut shapes: Vec<Shape> = Vec::new();
    let mut add = |param: &str, constraint: Constraint| shapes.push(Shape { param: param.to_string(), constraint });
    if let Some(value) = fields.take("response_format", format_schema)
        && let Some(constraint) = response_format(value)?
    {
        add("response_format", constraint);
    }
    if let Some(value) = fields.take("structured_outputs", outputs_schema) {
        let mut outputs = Fields::nested("structured_outputs", value)?;
        let prefix = "structured_outputs.";
        for (name, constraint) in constraints(&mut outputs, ["json", "regex", "choice", "grammar"])? {
            add(&format!("{prefix}{name}"), constraint);
        }
        if outputs.boolean("json_object")? == Some(true) {
            add("structured_outputs.json_object", Constraint::JsonObject);
        }
        outputs.finish()?;
    }
    for (name, constraint) in constraints(fields, ["guided_json", "guided_regex", "guided_choice", "guided_grammar"])? {
        add(name, constraint);
    }
    match &shapes[..] {
        [first, second, ..] => {
            let message = format!("'{}' and '{}' both say what the reply looks like: leave one of them out", first.param, second.param);
            Err(ApiError::invalid(&second.param, message))
        }
        _ => Ok(shapes.pop()),
    }
}

type Named = (&'static str, Constraint);

fn constraints(fields: &mut Fields, [json, regex, choice, grammar]: [&'static str; 4]) -> Result<Vec<Named>, ApiError> {
    let mut found = Vec::new();
    if let Some(value) =
        fields.take(json, || json!({"anyOf": [{"type": "object"}, {"type": "string"}], "description": "A JSON schema, or its text."}))
    {
        let param = fields.at(json);
        let schema = match value {
            Value::String(text) => serde_json::from_str(&text).map_err(|e| ApiError::invalid(&param, format!("'{param}' is not JSON: {e}")))?,
            other => other,
        };
        check_schema(&param, &schema)?;
        found.push((json, Constraint::JsonSchema(schema)));
    }
    if let Some(text) = fields.string(regex)? {
        check_length(&fields.at(regex), &text, MAX_REGEX)?;
        found.push((regex, Constraint::Regex(text)));
    }
    if let Some(items) = fields.list(choice, MAX_CHOICES, || json!({"type": "string"}))? {
        let param = fields.at(choice);
        let texts: Option<Vec<&str>> = items.iter().map(|item| item.as_str().filter(|t| !t.is_empty())).collect();
        let texts = texts.filter(|t| !t.is_empty());
        let texts = texts.ok_or_else(|| ApiError::invalid(&param, format!("'{param}' must be a list of texts, none of them empty")))?;
        check_length(&param, &texts.concat(), MAX_SCHEMA)?;
        found.push((choice, Constraint::choice(&texts)));
    }
    if let Some(text) = fields.string(grammar)? {
        check_length(&fields.at(grammar), &text, MAX_SCHEMA)?;
        found.push((grammar, Constraint::Lark(text)));
    }
    Ok(found)
}

fn check_length(param: &str, text: &str, most: usize) -> Result<(), ApiError> {
    match text.len() {
        0 => Err(ApiError::invalid(param, format!("'{param}' must not be empty"))),
        n if n > most => Err(ApiError::invalid(param, format!("'{param}' has {n} bytes; this server takes at most {most}"))),
        _ => Ok(()),
    }
}

fn response_format(value: Value) -> Result<Option<Constraint>, ApiError> {
    let mut format = Fields::nested("response_format", value)?;
    let kind = format.required_string("type")?;
    let constraint = match kind.as_str() {
        "text" => None,
        "json_object" => Some(Constraint::JsonObject),
        "json_schema" => {
            let mut named = Fields::nested("response_format.json_schema", format.required("json_schema", || json!({}))?)?;
            named.string("name")?;
            named.string("description")?;
            named.boolean("strict")?;
            let schema = named.required("schema", || json!({}))?;
            check_schema("response_format.json_schema.schema", &schema)?;
            named.finish()?;
            Some(Constraint::JsonSchema(schema))
        }
        other => {
            let message = format!("'{other}' is not a format this server has: text, json_object or json_schema");
            return Err(ApiError::unsupported("response_format", message));
        }
    };
    format.finish()?;
    Ok(constraint)
}

fn format_schema() -> Value {
    let schema = json!({"type": "object", "required": ["type", "json_schema"], "properties": {"type": {"const": "json_schema"}, "json_schema": {
        "type": "object", "required": ["schema"], "properties": {"name": {"type": "string"}, "description": {"type": "string"},
        "strict": {"type": "boolean"}, "schema": {"type": "object"}}}}});
    json!({"anyOf": [{"type": "object", "required": ["type"], "properties": {"type": {"enum": ["text", "json_object"]}}}, schema]})
}

fn outputs_schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": {"json": {"anyOf": [{"type": "object"}, {"type": "string"}]},
        "regex": {"type": "string"}, "choice": {"type": "array", "items": {"type": "string"}}, "grammar": {"type": "string"},
        "json_object": {"type": "boolean"}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(body: Value) -> Result<Option<Shape>, ApiError> {
        let mut fields = Fields::parse(body.to_string().as_bytes())?;
        let shape = take(&mut fields)?;
        fields.finish()?;
        Ok(shape)
    }

    #[test]
    fn every_wording_arrives() {
        let schema = json!({"type": "object"});
        for (body, param) in [
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": schema}}}), "response_format"),
            (json!({"guided_json": schema}), "guided_json"),
            (json!({"guided_json": schema.to_string()}), "guided_json"),
            (json!({"guided_regex": "[0-9]+"}), "guided_regex"),
            (json!({"guided_choice": ["a.b", "c"]}), "guided_choice"),
            (json!({"guided_grammar": "start: \"a\""}), "guided_grammar"),
            (json!({"structured_outputs": {"choice": ["yes", "no"]}}), "structured_outputs.choice"),
            (json!({"structured_outputs": {"json_object": true}}), "structured_outputs.json_object"),
        ] {
            assert_eq!(shape(body).unwrap().unwrap().param, param);
        }
        for nothing in [json!({}), json!({"response_format": {"type": "text"}}), json!({"structured_outputs": {}})] {
            assert!(shape(nothing).unwrap().is_none());
        }
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_by_name() {
        let huge = json!({"description": "x".repeat(MAX_SCHEMA)});
        for (body, param) in [
            (json!({"response_format": {"type": "xml"}}), "response_format"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (json!({"response_format": {"type": "json_schema", "json_schema": {"schema": huge}}}), "response_format.json_schema.schema"),
            (json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}), "guided_regex"),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_json": "[]"}), "guided_json"),
            (json!({"guided_regex": "a".repeat(MAX_REGEX + 1)}), "guided_regex"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_choice": ["a", 1]}), "guided_choice"),
            (json!({"structured_outputs": {"structural_tag": {}}}), "structured_outputs.structural_tag"),
        ] {
            let error = shape(body.clone()).expect_err(&body.to_string());
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
    }
}

//! `tools` and `tool_choice` of a chat request.

use super::fields::{Fields, wrong_type};
use crate::error::ApiError;
use serde_json::{Map, Value, json};

/// OpenAI's limit.
pub const MAX_TOOLS: usize = 128;
/// Bytes of one schema as JSON: what compiles in a moment, and more than anybody wrote by hand.
pub const MAX_SCHEMA: usize = 64 << 10;
/// OpenAI's limit.
const MAX_NAME: usize = 64;

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub parameters: Value,
}

impl Tool {
    /// The form that chat templates and OpenAI share.
    pub fn value(&self) -> Value {
        let mut function = json!({"name": self.name});
        if let Some(text) = &self.description {
            function["description"] = text.clone().into();
        }
        function["parameters"] = self.parameters.clone();
        json!({"type": "function", "function": function})
    }
}

/// Whether the model calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// It does not; the tools are not shown to it.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl ToolChoice {
    /// The reply has to be a call.
    pub fn is_forced(&self) -> bool {
        matches!(self, Self::Required | Self::Named(_))
    }
}

/// Take `tools`, `tool_choice` and what has become of their predecessors.
pub(super) fn take(fields: &mut Fields) -> Result<(Vec<Tool>, ToolChoice), ApiError> {
    let items = fields.list("tools", MAX_TOOLS, tool_schema)?.unwrap_or_default();
    let tools = items.into_iter().enumerate().map(|(i, item)| parse_tool(&format!("tools[{i}]"), item)).collect::<Result<Vec<_>, _>>()?;
    distinct(&tools)?;
    let choice = match fields.take("tool_choice", choice_schema) {
        None => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => return Err(ApiError::invalid("tool_choice", format!("'tool_choice' is auto, none, required or a function, not '{word}'"))),
        },
        Some(value) => {
            let mut choice = Fields::nested("tool_choice", value)?;
            if let Some(kind) = choice.string("type")?.filter(|kind| kind != "function") {
                return Err(ApiError::unsupported("tool_choice", format!("'tool_choice' of type '{kind}' is not supported by this server")));
            }
            let mut function = Fields::nested("tool_choice.function", choice.required("function", || json!({}))?)?;
            let name = function.required_string("name")?;
            function.finish()?;
            choice.finish()?;
            ToolChoice::Named(name)
        }
    };
    check_choice(&tools, &choice, "tool_choice")?;
    let empty_list = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
    fields.only_neutral("functions", empty_list, "its successor is 'tools'")?;
    fields.only_neutral("function_call", |v| v == "none" || v == "auto", "its successor is 'tool_choice'")?;
    Ok((tools, choice))
}

/// Names are how calls find their tools.
pub(super) fn distinct(tools: &[Tool]) -> Result<(), ApiError> {
    for (i, tool) in tools.iter().enumerate() {
        if tools[..i].iter().any(|t| t.name == tool.name) {
            return Err(ApiError::invalid(format!("tools[{i}]"), format!("there are two tools of the name '{}'", tool.name)));
        }
    }
    Ok(())
}

/// A choice must be possible.
pub(super) fn check_choice(tools: &[Tool], choice: &ToolChoice, param: &str) -> Result<(), ApiError> {
    match choice {
        ToolChoice::Required if tools.is_empty() => Err(ApiError::invalid(param, format!("'{param}' asks for a call, but there are no 'tools'"))),
        ToolChoice::Named(name) if !tools.iter().any(|t| t.name == *name) => {
            Err(ApiError::invalid(param, format!("'{param}' names the function '{name}', which is not among the 'tools'")))
        }
        _ => Ok(()),
    }
}

fn parse_tool(param: &str, value: Value) -> Result<Tool, ApiError> {
    let mut tool = Fields::nested(param, value)?;
    match tool.required("type", || json!({}))? {
        Value::String(kind) if kind == "function" => {}
        other => {
            let message = format!("only tools of type 'function' are supported by this server, not {other}");
            return Err(ApiError::unsupported(tool.at("type"), message));
        }
    }
    let mut function = Fields::nested(&tool.at("function"), tool.required("function", || json!({}))?)?;
    tool.finish()?;
    let name = function.required_string("name")?;
    let description = function.string("description")?;
    let parameters = function.object("parameters")?;
    // Forced calls follow their schema always, others as well as the model can.
    function.boolean("strict")?;
    let built = build(&function, name, description, parameters, "parameters");
    function.finish()?;
    built
}

/// The checks that every wording shares; `at` names places.
pub(super) fn build(
    at: &Fields,
    name: String,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
    schema_field: &str,
) -> Result<Tool, ApiError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
        let message = format!("the name of a function has 1 to {MAX_NAME} letters, digits, '_', '-' or '.'");
        return Err(ApiError::invalid(at.at("name"), message));
    }
    let parameters = parameters.map_or_else(|| json!({"type": "object", "properties": {}}), Value::Object);
    check_schema(&at.at(schema_field), &parameters)?;
    Ok(Tool { name, description, parameters })
}

/// A bound on what is compiled; the compiler has its own.
pub(super) fn check_schema(param: &str, schema: &Value) -> Result<(), ApiError> {
    if !schema.is_object() {
        return Err(wrong_type(param, "a JSON schema", schema));
    }
    let size = schema.to_string().len();
    if size > MAX_SCHEMA {
        return Err(ApiError::invalid(param, format!("the schema has {size} bytes; this server takes at most {MAX_SCHEMA}")));
    }
    Ok(())
}

fn tool_schema() -> Value {
    json!({"type": "object", "required": ["type", "function"], "properties": {"type": {"const": "function"}, "function": {
        "type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "maxLength": MAX_NAME}, "description": {"type": "string"},
            "parameters": {"type": "object", "description": "A JSON schema."}, "strict": {"type": "boolean"},
    }}}})
}

fn choice_schema() -> Value {
    let named = json!({"type": "object", "required": ["function"], "properties": {"type": {"const": "function"},
        "function": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}});
    json!({"anyOf": [{"enum": ["auto", "none", "required"]}, named]})
}

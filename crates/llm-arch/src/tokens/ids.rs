//! Token ids in `config.json` and `generation_config.json`: every field whose name ends in `_token_id`, and the lists of tokens to suppress.

use serde_json::Value;

/// Other fields that hold ids; lists may be nested.
const OTHERS: [&str; 4] = ["image_token_index", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids"];

/// Visit each id with the name of its field. Negative numbers mean "none" in old files and are not visited.
pub fn each(config: &mut Value, mut visit: impl FnMut(&str, &mut Value)) {
    for (name, value) in config.as_object_mut().into_iter().flatten() {
        if name.ends_with("_token_id") || name.ends_with("_token_ids") || OTHERS.contains(&name.as_str()) {
            inside(name, value, &mut visit);
        }
    }
}

fn inside(name: &str, value: &mut Value, visit: &mut impl FnMut(&str, &mut Value)) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| inside(name, value, visit)),
        Value::Number(number) if number.is_u64() => visit(name, value),
        _ => {}
    }
}

/// All ids with the names of their fields.
pub fn list(config: &Value) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    each(&mut config.clone(), |name, id| found.extend(id.as_u64().map(|id| (name.to_string(), id))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_are_found_wherever_files_keep_them() {
        let config = json!({"eos_token_id": [2, 7], "pad_token_id": -1, "bos_token_id": null, "bad_words_ids": [[3], [4, 5]], "vocab_size": 9});
        let ids: Vec<u64> = list(&config).into_iter().map(|(_, id)| id).collect();
        assert_eq!(ids, [2, 7, 3, 4, 5]);
    }
}

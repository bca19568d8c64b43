//! A model folder written again with a few tensors changed. Everything else is copied byte for byte from the memory map, each tensor into a
//! file of the name it lay in, so a model of any size needs no memory but for what changes.

use super::{Head, RawTensor, Weights, save_file};
use crate::{Error, Result};
use serde_json::{Map, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

impl Weights {
    /// Write all tensors into `dir`: those of `changed` in their new form, or not at all where there is none. Files appear whole, the
    /// index last; a file that would be empty is left out.
    pub fn rewrite(&self, dir: &Path, changed: &HashMap<String, Option<RawTensor>>) -> Result<()> {
        if let Some(name) = changed.keys().find(|name| !self.contains(name)) {
            let path = self.files.first().map(|file| file.0.clone()).unwrap_or_default();
            return Err(Error::Weights { path, message: format!("no tensor `{name}` to change") });
        }
        let (mut weight_map, mut total, mut written) = (Map::new(), 0, Vec::new());
        for (place, (path, map)) in self.files.iter().enumerate() {
            let mut entries: Vec<_> = self.index.iter().filter(|(_, entry)| entry.file == place).collect();
            entries.sort_by_key(|(name, entry)| (entry.bytes.start, *name));
            let mut heads = Vec::new();
            for (name, entry) in &entries {
                match changed.get(*name) {
                    Some(None) => {}
                    Some(Some(new)) => heads.push(Head { name: (*name).clone(), dtype: new.dtype, shape: new.shape.clone() }),
                    None => heads.push(Head { name: (*name).clone(), dtype: entry.dtype, shape: entry.shape.clone() }),
                }
            }
            if heads.is_empty() {
                continue;
            }
            let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            save_file(&dir.join(&file_name), &heads, &mut |head, file| {
                let bytes = match (changed.get(&head.name), self.index.get(&head.name)) {
                    (Some(Some(new)), _) => new.bytes.as_slice(),
                    (_, Some(entry)) => &map[entry.bytes.clone()],
                    _ => &[],
                };
                file.write_all(bytes).map(|()| bytes.len())
            })?;
            total += heads.iter().map(Head::bytes).sum::<usize>();
            weight_map.extend(heads.iter().map(|head| (head.name.clone(), json!(file_name))));
            written.push(file_name);
        }
        if written != ["model.safetensors"] {
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            let text = serde_json::to_string_pretty(&index).unwrap_or_default() + "\n";
            llm_run::atomic::write(dir.join("model.safetensors.index.json"), text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::weights::{Dtype, Pending, SaveOptions, save_folder};

    #[test]
    fn what_does_not_change_stays_to_the_bit_in_its_shard() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tensors: Vec<Pending> = (0..5).map(|i| Pending { name: format!("t{i}"), shape: vec![4, 2] }).collect();
        let options = SaveOptions { precision: Precision::Bf16, max_shard_bytes: 40 };
        save_folder(from.path(), tensors, options, |t| vec![t.name[1..].parse::<f32>().unwrap() + 0.3; 8]).unwrap();
        let old = Weights::open(from.path()).unwrap();
        let new = RawTensor { name: "t1".into(), dtype: Dtype::F32, shape: vec![1], bytes: 7f32.to_le_bytes().to_vec() };
        let changed = HashMap::from([("t1".to_string(), Some(new)), ("t4".to_string(), None)]);
        old.rewrite(to.path(), &changed).unwrap();
        let again = Weights::open(to.path()).unwrap();
        assert_eq!(again.names(), ["t0", "t1", "t2", "t3"]);
        assert_eq!(again.get("t1").unwrap().values, [7.0]);
        for name in ["t0", "t2", "t3"] {
            assert_eq!(again.raw(name).unwrap(), old.raw(name).unwrap());
            assert_eq!(again.file(name).unwrap().file_name(), old.file(name).unwrap().file_name());
        }
        let message = old.rewrite(to.path(), &HashMap::from([("t9".to_string(), None)])).unwrap_err().to_string();
        assert!(message.contains("`t9`"), "{message}");
    }
}

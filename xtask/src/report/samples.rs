//! Synthetic runs for tests of the report and of the bars.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn manifest(command: &str, config: Value, summary: Value) -> String {
    json!({"program": "p", "command": command, "version": "0", "command_line": [], "config": config, "seed": 1, "inputs": {}, "output_hash": "",
        "summary": summary, "started_at": 1, "wall_seconds": 60.0, "peak_memory_bytes": 1u64 << 30, "cpus": 2, "finished": true})
    .to_string()
}

/// A mixture whose loss ends at 3, and a dense model whose loss ends at `dense_loss`: two layers of four experts, one of which gets
/// `busiest` and one `idlest` of the mean from the first step to the last.
pub fn mixture_run(busiest: f64, idlest: f64, dense_loss: f64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let load = json!([[1.0, 1.0, 1.0, 1.0], [busiest, idlest, (4.0 - busiest - idlest) / 2.0, (4.0 - busiest - idlest) / 2.0]]);
    for (stage, loss, sparse) in [("mixture", 3.0, true), ("dense", dense_loss, false)] {
        let mut lines = String::new();
        for step in 1..=60u32 {
            let value = loss + 5.0 * (-f64::from(step) / 4.0).exp();
            let mut record =
                json!({"step": step, "loss": value, "lr": 1e-3, "tokens": step * 2048, "tokens_per_second": 9000.0, "elapsed_seconds": step});
            if sparse {
                record["loss"] = json!(value + 0.5);
                record["moe_aux_loss"] = json!(0.5);
                record["moe_load"] = load.clone();
                record["moe_router_entropy"] = json!([0.9, 0.7]);
            }
            lines += &format!("{record}\n");
            if step % 20 == 0 {
                let mut record = json!({"step": step, "val_loss": value + 0.1, "val_bits_per_byte": value / 2.0});
                if sparse {
                    record["val_moe_load"] = load.clone();
                }
                lines += &format!("{record}\n");
            }
        }
        put(&dir.path().join(stage).join("metrics.jsonl"), &lines);
        let parameters = if sparse { 3_000_000 } else { 1_990_000 };
        let summary = json!({"parameters": parameters, "active_parameters": 1_980_000, "tokens_per_second": 8765.4});
        put(&dir.path().join(stage).join("manifest.json"), &manifest("pretrain", json!({}), summary));
        let eval = dir.path().join(format!("eval-{stage}"));
        put(&eval.join("manifest.json"), &manifest("run", json!({"model": format!("runs/moe/{stage}/model")}), Value::Null));
        let tasks = json!({"bits_per_byte": {"metric": "bits_per_byte", "value": loss / 2.0, "n": 70}});
        put(&eval.join("results.json"), &json!({"model": {}, "tasks": tasks}).to_string());
    }
    dir
}

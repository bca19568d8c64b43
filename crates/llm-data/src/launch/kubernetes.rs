//! A Kubernetes Indexed Job (`batch/v1`): one pod a rank, its number in `JOB_COMPLETION_INDEX`.
//!
//! The configuration travels as a ConfigMap, credentials as a Secret that already exists (`kubectl create secret generic`), buckets as
//! addresses. A pod that fails is started again up to `attempts` times for its index; one that is evicted does not count.

use super::Call;
use crate::error::{Error, Result};
use serde_json::{Value, json};

/// What a pod gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// Name of the job and of its ConfigMap.
    pub name: String,
    /// Namespace; the current one when empty.
    pub namespace: String,
    /// Image that holds the program.
    pub image: String,
    /// Processors of a pod, as Kubernetes writes it.
    pub cpus: String,
    /// Memory of a pod, as Kubernetes writes it.
    pub memory: String,
    /// Pods at once; 0: all.
    pub at_once: usize,
    /// Attempts at a rank.
    pub attempts: usize,
    /// Secret whose keys become environment variables (`AWS_ACCESS_KEY_ID`, ...); none when empty.
    pub secret: String,
    /// Variables that are no secret.
    pub env: Vec<(String, String)>,
    /// Persistent volume claim that is mounted at `/data`; none when empty.
    pub claim: String,
}

/// A name as Kubernetes allows it (RFC 1123 label).
fn label(what: &str, name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edges = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 52 || edges || !name.chars().all(fine) {
        return Err(Error::Config(format!(
            "{what} `{name}`: Kubernetes wants 1 to 52 lower-case letters, digits and hyphens, no hyphen at the ends"
        )));
    }
    Ok(())
}

const CONFIG_FOLDER: &str = "/etc/llm-data";

impl Kubernetes {
    /// The manifest for `kubectl apply -f`; `config` is the text of the configuration file.
    pub fn manifest(&self, call: &Call, config: Option<&str>) -> Result<String> {
        call.check()?;
        label("name", &self.name)?;
        for (what, name) in [("namespace", &self.namespace), ("secret", &self.secret), ("claim", &self.claim)] {
            if !name.is_empty() {
                label(what, name)?;
            }
        }
        if self.image.is_empty() {
            return Err(Error::Config("no image; name one that holds the program, e.g. --image registry.example.org/llm-data:1".into()));
        }
        let mut metadata = json!({ "name": self.name, "labels": { "app.kubernetes.io/name": "llm-data" } });
        if !self.namespace.is_empty() {
            metadata["namespace"] = json!(self.namespace);
        }
        let mut call = call.clone();
        let (mut mounts, mut volumes) = (Vec::new(), Vec::new());
        let mut documents = Vec::new();
        if let Some(config) = config {
            call.config = Some(format!("{CONFIG_FOLDER}/config.toml"));
            mounts.push(json!({ "name": "config", "mountPath": CONFIG_FOLDER, "readOnly": true }));
            volumes.push(json!({ "name": "config", "configMap": { "name": self.name } }));
            documents.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "config.toml": config } }));
        }
        if !self.claim.is_empty() {
            mounts.push(json!({ "name": "data", "mountPath": "/data" }));
            volumes.push(json!({ "name": "data", "persistentVolumeClaim": { "claimName": self.claim } }));
        }
        let arguments = call.arguments();
        let resources = json!({ "cpu": self.cpus, "memory": self.memory });
        let mut container = json!({
            "name": "rank",
            "image": self.image,
            "command": arguments[..1],
            "args": arguments[1..],
            "resources": { "requests": resources, "limits": resources },
        });
        if !self.env.is_empty() {
            container["env"] = self.env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        }
        if !self.secret.is_empty() {
            container["envFrom"] = json!([{ "secretRef": { "name": self.secret } }]);
        }
        let mut pod = json!({ "restartPolicy": "Never", "containers": [] });
        if !mounts.is_empty() {
            container["volumeMounts"] = Value::Array(mounts);
            pod["volumes"] = Value::Array(volumes);
        }
        pod["containers"] = json!([container]);
        let parallelism = if self.at_once == 0 { call.world_size } else { self.at_once.min(call.world_size) };
        documents.push(json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {
                "completionMode": "Indexed",
                "completions": call.world_size,
                "parallelism": parallelism,
                "backoffLimitPerIndex": self.attempts.max(1) - 1,
                "podFailurePolicy": { "rules": [{ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] }] },
                "template": { "metadata": { "labels": { "app.kubernetes.io/name": "llm-data" } }, "spec": pod },
            },
        }));
        Ok(documents.iter().map(|d| format!("---\n{}", yaml(d, 0))).collect())
    }
}

/// A JSON value as block YAML. Texts are quoted as JSON quotes them, which YAML 1.2 reads the same way.
fn yaml(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let scalar = |v: &Value| serde_json::to_string(v).unwrap_or_default();
    let nested = |v: &Value| matches!(v, Value::Object(m) if !m.is_empty()) || matches!(v, Value::Array(a) if !a.is_empty());
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, v)| {
                let key = if key.chars().all(|c| c.is_ascii_alphanumeric()) { key.clone() } else { scalar(&Value::String(key.clone())) };
                if nested(v) { format!("{indent}{key}:\n{}", yaml(v, depth + 1)) } else { format!("{indent}{key}: {}\n", scalar(v)) }
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .map(|v| {
                if !nested(v) {
                    return format!("{indent}- {}\n", scalar(v));
                }
                let inner = yaml(v, depth + 1);
                format!("{indent}- {}", inner.get(indent.len() + 2..).unwrap_or_default())
            })
            .collect(),
        other => format!("{indent}{}\n", scalar(other)),
    }
}

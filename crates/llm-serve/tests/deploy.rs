//! The files in `docs/deploy` against what the programs say: a dashboard of metrics that nobody exports shows nothing, silently.

use llm_serve::route::metrics::{Totals, render};
use llm_serve::route::upstream::Upstream;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Servers export these under vLLM's names.
const SERVER: [&str; 17] = [
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_prefill_time_seconds",
    "vllm:request_decode_time_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
];

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/deploy").join(name)).unwrap()
}

/// Families that exist: those of servers, and those of the router from its own page.
fn families() -> BTreeSet<String> {
    let upstream = Arc::new(Upstream::new("http://a:1").unwrap());
    let page = render(&Totals::default(), &[upstream]);
    let router = page.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next());
    SERVER.into_iter().chain(router).map(str::to_string).collect()
}

fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !word(c)).map(|w| w.trim_end_matches(':')).filter(|w| w.starts_with("vllm:") || w.starts_with("llm_route_"));
    words.map(|w| ["_bucket", "_sum", "_count"].iter().find_map(|s| w.strip_suffix(s)).unwrap_or(w).to_string()).collect()
}

#[test]
fn the_dashboard_is_one_that_grafana_can_show() {
    let board: Value = serde_json::from_str(&file("grafana.json")).unwrap();
    assert!(board["title"].is_string() && board["schemaVersion"].as_u64() >= Some(36) && board["uid"].is_string());
    assert!(board["id"].is_null(), "an id would make the import replace another dashboard");
    let variables: BTreeSet<&str> = board["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    let known = families();
    let mut seen = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title}: wider than the page");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{title}: covers another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{title}: {expression}");
            let names = named(expression);
            assert!(names.is_subset(&known), "{title}: nobody exports one of {names:?}");
            for variable in expression.split('$').skip(1) {
                let name: String = variable.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                assert!(name == "__rate_interval" || variables.contains(name.as_str()), "{title}: no variable ${name}");
            }
            seen.extend(names);
        }
    }
    let missing: Vec<_> = known.difference(&seen).filter(|n| *n != "llm_route_replies_total" && *n != "llm_route_reply_seconds").collect();
    assert!(missing.iter().all(|n| ["llm_route_unserved_total"].contains(&n.as_str())), "nobody looks at {missing:?}");
}

#[test]
fn alerts_and_manifests_name_what_exists() {
    let known = families();
    for name in ["alerts.yml", "README.md"] {
        let names = named(&file(name).replace("llm_route_...", ""));
        assert!(names.is_subset(&known), "{name}: {:?}", names.difference(&known));
    }
    // A grace period that is not longer than the drain cuts answers.
    let manifests = file("kubernetes.yaml");
    let grace = manifests.lines().filter_map(|l| l.trim().strip_prefix("terminationGracePeriodSeconds: ")).map(|n| n.parse::<u64>().unwrap());
    assert!(grace.clone().count() == 2 && grace.min() >= Some(60 + 5 + 10));
    assert!(manifests.contains("\"--drain-seconds\", \"60\"") && manifests.contains("--drain-seconds=60"));
    assert!(manifests.contains("path: /ready") && manifests.contains("path: /health"));
}

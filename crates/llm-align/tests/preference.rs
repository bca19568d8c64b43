//! Losses on preferences against recorded numbers of TRL's formulas and of PyTorch's gradients, through two whole models, and in training.

mod tiny;

use llm_align::data::OnBadRow;
use llm_align::losses::kto::{self, UnpairedLoss};
use llm_align::losses::mix::LossMix;
use llm_align::losses::preference::{FDivergence, Pairs, Parameters, PreferenceLoss};
use llm_align::losses::reference_free;
use llm_align::preference::{Dpo, ReferenceLogProbs, scores};
use llm_align::{DpoConfig, KtoConfig, dpo, kto as train_kto};
use llm_arch::{Decoder, DecoderConfig, hf};
use llm_run::Metrics;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::weights::Weights;
use llm_tensor::{DeviceSpec, host};
use llm_train::sequences::{Sequence, Sequences};
use llm_train::trainer::{Accumulated, accumulate, read_loss};
use llm_train::{Objective, OptimizerConfig, Schedule, ScheduleKind, TrainerConfig};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn read(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|x| x as f32).collect()
}

fn leaf(values: &Value) -> Tensor<1> {
    let values = floats(values);
    let n = values.len();
    Tensor::from_inner(host::from_vec(values, [n], &Device::flex())).require_grad()
}

fn constant(values: &Value) -> Tensor<1> {
    let values = floats(values);
    let n = values.len();
    Tensor::from_inner(host::from_vec(values, [n], &Device::flex()))
}

/// Within 1e-5 of the largest, which is what `f32` gives.
fn close(what: &str, got: &[f32], want: &[f64]) {
    let scale = want.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() <= 1e-5 * scale, "{what}: {got:?} instead of {want:?}");
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64
}

/// Values of the pairs, and gradients of their mean by the two log-probabilities of the policy.
fn values_and_gradients(loss: PreferenceLoss, pairs: &Pairs, p: &Parameters) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let value = loss.per_pair(pairs, p);
    let gradients = value.clone().mean().backward();
    let of = |x: &Tensor<1>| host::to_vec(x.grad(&gradients).unwrap());
    (host::to_vec(value.inner()), of(&pairs.chosen_B), of(&pairs.rejected_B))
}

#[test]
fn losses_with_reference_have_the_recorded_values_and_gradients() {
    let file = read("losses/dpo.json");
    let case = &file["cases"][0];
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let p =
        Parameters { beta: inputs["beta"].as_f64().unwrap(), label_smoothing: inputs["label_smoothing"].as_f64().unwrap(), ..Parameters::default() };
    let pairs = || Pairs {
        chosen_B: leaf(&inputs["chosen_logps"]),
        rejected_B: leaf(&inputs["rejected_logps"]),
        reference_chosen_B: constant(&inputs["ref_chosen_logps"]),
        reference_rejected_B: constant(&inputs["ref_rejected_logps"]),
        chosen_lengths_B: constant(&inputs["chosen_lengths"]),
        rejected_lengths_B: constant(&inputs["rejected_lengths"]),
    };
    let names = [
        ("sigmoid", PreferenceLoss::Sigmoid),
        ("hinge", PreferenceLoss::Hinge),
        ("ipo", PreferenceLoss::IpoTrl),
        ("ipo_unnormalised", PreferenceLoss::IpoOpenrlhf),
        ("sigmoid_label_smoothing_cdpo", PreferenceLoss::Cdpo),
        ("robust", PreferenceLoss::Robust),
        ("apo_zero", PreferenceLoss::ApoZero),
        ("apo_down", PreferenceLoss::ApoDown),
        ("nca_pair", PreferenceLoss::NcaPair),
        ("sppo_hard", PreferenceLoss::SppoHard),
    ];
    let recorded = expected["losses"].as_object().unwrap();
    assert_eq!(recorded.len(), names.len(), "a recorded loss is not tested");
    for (name, loss) in names {
        let want = &recorded[name];
        let (values, chosen, rejected) = values_and_gradients(loss, &pairs(), &p);
        close(name, &values, &numbers(&want["per_pair"]));
        assert!((mean(&values) - want["mean"].as_f64().unwrap()).abs() < 1e-5 * want["mean"].as_f64().unwrap().abs(), "{name}");
        close(&format!("{name}, chosen"), &chosen, &numbers(&want["grad_chosen_logps"]));
        close(&format!("{name}, rejected"), &rejected, &numbers(&want["grad_rejected_logps"]));
    }
    let [chosen_r, rejected_r] = pairs().logratios().map(|r| host::to_vec(r.mul_scalar(p.beta).inner()));
    close("rewards/chosen", &chosen_r, &numbers(&expected["chosen_rewards"]));
    close("rewards/rejected", &rejected_r, &numbers(&expected["rejected_rewards"]));
}

#[test]
fn losses_without_reference_have_the_recorded_values_and_gradients() {
    let file = read("losses/orpo.json");
    let (inputs, expected) = (&file["cases"][0]["inputs"], &file["cases"][0]["expected"]);
    let (chosen, rejected) = (leaf(&inputs["chosen_avg_logps"]), leaf(&inputs["rejected_avg_logps"]));
    let odds = reference_free::log_odds(chosen.clone(), rejected.clone());
    close("log odds", &host::to_vec(odds.inner()), &numbers(&expected["log_odds"]));
    let term = reference_free::orpo(chosen.clone(), rejected.clone(), inputs["lam"].as_f64().unwrap());
    close("odds term", &host::to_vec(term.clone().inner()), &numbers(&expected["odds_term"]));
    let nll_weight = PreferenceLoss::Orpo.nll_weight(&Parameters::default());
    let total = mean(&host::to_vec(term.clone().inner())) + nll_weight * inputs["nll_loss"].as_f64().unwrap();
    assert!((total - expected["total"].as_f64().unwrap()).abs() < 1e-5, "orpo: {total}");
    let gradients = term.mean().backward();
    close("orpo, chosen", &host::to_vec(chosen.grad(&gradients).unwrap()), &numbers(&expected["grad_chosen"]));
    close("orpo, rejected", &host::to_vec(rejected.grad(&gradients).unwrap()), &numbers(&expected["grad_rejected"]));

    for case in read("losses/simpo_cpo.json")["cases"].as_array().unwrap() {
        let (name, inputs, expected) = (case["name"].as_str().unwrap(), &case["inputs"], &case["expected"]);
        let beta = inputs["beta"].as_f64().unwrap();
        if name == "cpo_sigmoid" {
            let (chosen, rejected) = (constant(&inputs["chosen_logps"]), constant(&inputs["rejected_logps"]));
            let values = host::to_vec(reference_free::cpo(chosen, rejected, beta, 0.0).inner());
            close(name, &values, &numbers(&expected["per_pair"]));
            let p = Parameters { cpo_alpha: inputs["cpo_alpha"].as_f64().unwrap(), ..Parameters::default() };
            let total = mean(&values) + PreferenceLoss::Cpo.nll_weight(&p) * inputs["nll_loss"].as_f64().unwrap();
            assert!((total - expected["total"].as_f64().unwrap()).abs() < 1e-5, "{name}: {total}");
            continue;
        }
        let (chosen, rejected) = (leaf(&inputs["chosen_avg_logps"]), leaf(&inputs["rejected_avg_logps"]));
        let (gamma, smoothing) = (inputs["gamma"].as_f64().unwrap(), inputs["label_smoothing"].as_f64().unwrap());
        let value = reference_free::simpo(chosen.clone(), rejected.clone(), beta, gamma, smoothing);
        close(name, &host::to_vec(value.clone().inner()), &numbers(&expected["per_pair"]));
        let gradients = value.mean().backward();
        close(name, &host::to_vec(chosen.grad(&gradients).unwrap()), &numbers(&expected["grad_chosen"]));
        close(name, &host::to_vec(rejected.grad(&gradients).unwrap()), &numbers(&expected["grad_rejected"]));
    }
}

#[test]
fn kto_has_the_recorded_values_and_gradients() {
    for case in read("losses/kto.json")["cases"].as_array().unwrap() {
        let (name, inputs, expected) = (case["name"].as_str().unwrap(), &case["inputs"], &case["expected"]);
        let number = |key: &str| inputs[key].as_f64().unwrap();
        let p =
            kto::Parameters { beta: number("beta"), desirable_weight: number("desirable_weight"), undesirable_weight: number("undesirable_weight") };
        let kl = kto::kl(&floats(&inputs["kl_logps"]), &floats(&inputs["ref_kl_logps"]));
        assert!((kl - expected["kl"].as_f64().unwrap()).abs() < 1e-6, "{name}: {kl}");
        let desirable: Vec<bool> = inputs["label_desirable"].as_array().unwrap().iter().map(|x| x.as_bool().unwrap()).collect();
        let policy = leaf(&inputs["logps"]);
        let value = kto::per_answer(UnpairedLoss::Kto, policy.clone() - constant(&inputs["ref_logps"]), &desirable, kl, &p);
        close(name, &host::to_vec(value.clone().inner()), &numbers(&expected["per_example"]));
        let gradients = value.mean().backward();
        close(name, &host::to_vec(policy.grad(&gradients).unwrap()), &numbers(&expected["grad_logps"]));
    }
    assert!(kto::kl(&[f32::NAN], &[0.0]).is_nan(), "a KL that is no number must not look like 0");
}

#[test]
fn golden_vectors_are_met() {
    let file = read("losses/golden_vectors.json");
    let golden = &file["preference"];
    let inputs = &golden["inputs"];
    let pairs = Pairs {
        chosen_B: constant(&inputs["policy_chosen"]),
        rejected_B: constant(&inputs["policy_rejected"]),
        reference_chosen_B: constant(&inputs["ref_chosen"]),
        reference_rejected_B: constant(&inputs["ref_rejected"]),
        chosen_lengths_B: constant(&inputs["len_chosen"]),
        rejected_lengths_B: constant(&inputs["len_rejected"]),
    };
    let plain = Parameters { beta: inputs["beta"].as_f64().unwrap(), ..Parameters::default() };
    let smoothed = Parameters { label_smoothing: 0.1, ..plain };
    let cases = [
        ("sigmoid", PreferenceLoss::Sigmoid, plain),
        ("cdpo_ls0.1", PreferenceLoss::Cdpo, smoothed),
        ("robust_ls0.1", PreferenceLoss::Robust, smoothed),
        ("hinge", PreferenceLoss::Hinge, plain),
        ("ipo_sum_openrlhf", PreferenceLoss::IpoOpenrlhf, plain),
        ("ipo_lennorm_trl", PreferenceLoss::IpoTrl, plain),
        ("sppo_hard", PreferenceLoss::SppoHard, plain),
        ("nca_pair", PreferenceLoss::NcaPair, plain),
        ("bco_pair", PreferenceLoss::BcoPair, plain),
        ("apo_zero", PreferenceLoss::ApoZero, plain),
        ("apo_down", PreferenceLoss::ApoDown, plain),
        ("exo_pair_eps0.001", PreferenceLoss::ExoPair, Parameters { label_smoothing: 1e-3, ..plain }),
        ("discopop_tau0.05", PreferenceLoss::Discopop, plain),
        ("sigmoid_norm", PreferenceLoss::SigmoidNorm, plain),
        ("simpo_beta2_gamma1", PreferenceLoss::Simpo, Parameters { beta: 2.0, simpo_gamma: 1.0, ..plain }),
        ("cpo_sigmoid_beta0.1_sumlogps", PreferenceLoss::Cpo, plain),
        ("orpo_or_term_lambda0.1", PreferenceLoss::Orpo, plain),
    ];
    for (name, loss, p) in cases {
        let got = mean(&host::to_vec(loss.per_pair(&pairs, &p).inner()));
        let want = golden[name].as_f64().unwrap();
        assert!((got - want).abs() <= 1e-5 * want.abs(), "{name}: {got} instead of {want}");
    }
    let per_token = |sums: &str, lengths: &str| constant(&inputs[sums]) / constant(&inputs[lengths]);
    let odds = reference_free::log_odds(per_token("policy_chosen", "len_chosen"), per_token("policy_rejected", "len_rejected"));
    close("orpo_log_odds", &host::to_vec(odds.inner()), &numbers(&golden["orpo_log_odds"]));
    // Chosen answers are good ones, rejected answers bad ones.
    let [chosen_r, rejected_r] = pairs.logratios();
    let p = kto::Parameters { beta: plain.beta, desirable_weight: 1.0, undesirable_weight: 1.0 };
    let answers = kto::per_answer(UnpairedLoss::Kto, Tensor::cat(vec![chosen_r, rejected_r], 0), &[true, true, false, false], 0.2, &p);
    assert!((mean(&host::to_vec(answers.inner())) - golden["kto_kl0.2_beta0.1"].as_f64().unwrap()).abs() < 1e-6);
}

/// The formulas of D.1's f-divergences, written once more in double precision. If this fails, `f_divergence` optimises something else.
#[test]
fn f_divergences_are_their_formulas() {
    let sums = [[-10.0f64, -12.0, -11.0, -11.5], [-20.0, -19.0, -21.0, -20.5]];
    let column = |i: usize| constant(&json!(sums.iter().map(|s| s[i]).collect::<Vec<_>>()));
    let lengths = || constant(&json!([5.0, 7.0]));
    let pairs = Pairs {
        chosen_B: column(0),
        rejected_B: column(1),
        reference_chosen_B: column(2),
        reference_rejected_B: column(3),
        chosen_lengths_B: lengths(),
        rejected_lengths_B: lengths(),
    };
    let log_sigmoid = |x: f64| -(-x).exp().ln_1p();
    let scores: [(FDivergence, &dyn Fn(f64) -> f64); 3] = [
        (FDivergence::ForwardKl, &|r: f64| -(-r).exp()),
        (FDivergence::JsDivergence, &log_sigmoid),
        (FDivergence::AlphaDivergence, &|r: f64| (-0.5 * r).exp() / -0.5),
    ];
    for (f_divergence, score) in scores {
        let p = Parameters { f_divergence, ..Parameters::default() };
        let want: Vec<f64> = sums.iter().map(|[c, r, rc, rr]| -log_sigmoid(0.1 * (score(c - rc) - score(r - rr)))).collect();
        close(&format!("{f_divergence:?}"), &host::to_vec(PreferenceLoss::Sigmoid.per_pair(&pairs, &p).inner()), &want);
        // The part of APO that reads plain log-ratios keeps them.
        let apo: Vec<f64> = sums.iter().map(|[c, r, rc, rr]| 1.0 - log_sigmoid(0.1 * (c - rc)).exp() + log_sigmoid(0.1 * (r - rr)).exp()).collect();
        close("apo_zero", &host::to_vec(PreferenceLoss::ApoZero.per_pair(&pairs, &p).inner()), &apo);
    }
}

/// A policy, a reference and three pairs, with what PyTorch made of them.
struct Recorded {
    policy: Decoder,
    reference: Decoder,
    pairs: Vec<(Sequence, Sequence)>,
    numbers: Value,
}

fn recorded() -> Recorded {
    let dir = fixtures().join("dpo_end_to_end");
    let numbers = read("dpo_end_to_end/dpo.json");
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let side = |pair: &Value, name: &str| {
        let (prompt, answer) = (ids(&pair["prompt"]), ids(&pair[name]));
        let loss_mask = (0..prompt.len() + answer.len()).map(|i| i >= prompt.len()).collect();
        Sequence { ids: [prompt, answer].concat(), loss_mask }
    };
    let pairs = numbers["pairs"].as_array().unwrap().iter().map(|pair| (side(pair, "chosen"), side(pair, "rejected"))).collect();
    Recorded {
        policy: hf::load(dir.join("policy"), &Device::flex()).unwrap(),
        reference: hf::load(dir.join("ref"), &Device::flex()).unwrap(),
        pairs,
        numbers,
    }
}

/// Loss and gradients of the first step over all three pairs.
fn step(of: &Recorded, config: DpoConfig) -> Accumulated {
    let reference = config.loss.needs_reference().then(|| of.reference.clone());
    let mut objective = Dpo::new(DpoConfig { batch_size: of.pairs.len(), ..config }, of.pairs.clone(), reference);
    let policy = of.policy.clone().tracked();
    let batches = objective.batches(0, &policy).unwrap();
    accumulate(&objective, &[policy], batches, 1.0).unwrap()
}

#[test]
fn a_whole_step_has_the_recorded_log_probs_loss_and_gradients() {
    let recorded = recorded();
    let expected = &recorded.numbers["expected"];
    for (model, who) in [(&recorded.policy, "policy"), (&recorded.reference, "ref")] {
        let answers: Vec<&Sequence> = recorded.pairs.iter().flat_map(|(chosen, rejected)| [chosen, rejected]).collect();
        let packed = Sequences::pack(answers.iter().copied());
        let tokens = host::to_vec(packed.nll(model).neg());
        let want: Vec<f64> = (0..recorded.pairs.len())
            .flat_map(|i| ["chosen", "rejected"].map(|side| numbers(&expected["token_logps"][format!("{who}_{side}")][i])))
            .flatten()
            .collect();
        assert_eq!(tokens.len(), want.len());
        for (got, want) in tokens.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < 2e-5 * want.abs(), "{who}: {got} instead of {want}");
        }
    }
    // In one micro-batch and in three.
    for micro_batch_tokens in [1000, 1] {
        let Accumulated { losses, gradients, .. } =
            step(&recorded, DpoConfig { beta: recorded.numbers["beta"].as_f64().unwrap(), micro_batch_tokens, ..DpoConfig::default() });
        assert_eq!(losses.len(), if micro_batch_tokens == 1 { 3 } else { 1 });
        let (loss, want) = (f64::from(read_loss(losses)), expected["loss"].as_f64().unwrap());
        assert!((loss - want).abs() < 1e-5, "{loss} instead of {want}");
        let wanted = Weights::open(fixtures().join("dpo_end_to_end/expected_grads.safetensors")).unwrap();
        let mut squares = 0.0;
        for name in wanted.names() {
            let want = wanted.get(name).unwrap().values;
            let got = host::to_vec(gradients[name].clone());
            let scale = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst <= 1e-4 * scale.max(1e-3), "{name}: gradients differ by {worst} of {scale}");
            squares += got.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        }
        assert_eq!(gradients.len(), wanted.names().len());
        let norm = expected["grad_norm"].as_f64().unwrap();
        assert!((squares.sqrt() - norm).abs() < 1e-4 * norm, "gradient norm {} instead of {norm}", squares.sqrt());
    }
}

/// If this fails, a name can be configured that does not train, or that depends on how a step is cut.
#[test]
fn every_name_trains_and_micro_batches_do_not_change_it() {
    let recorded = recorded();
    for loss in PreferenceLoss::ALL {
        let label_smoothing = if loss.reads_label_smoothing() { 0.1 } else { 0.0 };
        let config = |micro_batch_tokens: usize| DpoConfig { loss: loss.into(), label_smoothing, micro_batch_tokens, ..DpoConfig::default() };
        config(1).check().unwrap();
        let (small, large) = (step(&recorded, config(1)), step(&recorded, config(1000)));
        let (a, b) = (read_loss(small.losses), read_loss(large.losses));
        assert!(a.is_finite() && (a - b).abs() <= 1e-5 * b.abs().max(1.0), "{}: {a} in small parts, {b} in one", loss.name());
        let norm: f64 = large.gradients.values().flat_map(|g| host::to_vec(g.clone())).map(|x| f64::from(x).powi(2)).sum();
        assert!(norm.is_finite() && norm > 0.0, "{} has no gradient", loss.name());
    }
}

#[test]
fn a_mix_is_the_weighted_sum_of_its_parts_and_likelihood_adds_to_it() {
    let recorded = recorded();
    let loss = |loss: Value, sft_weight: f64| {
        let loss: LossMix = serde_json::from_value(loss).unwrap();
        read_loss(step(&recorded, DpoConfig { loss, sft_weight, ..DpoConfig::default() }).losses)
    };
    let (sigmoid, bco, sft) = (loss(json!("sigmoid"), 0.0), loss(json!("bco_pair"), 0.0), loss(json!("sft"), 0.0));
    let mixed = loss(json!([{"name": "sigmoid", "weight": 0.8}, {"name": "bco_pair", "weight": 0.2}, "sft"]), 0.0);
    assert!((mixed - (0.8 * sigmoid + 0.2 * bco + sft)).abs() < 1e-4, "{mixed}");
    assert!((loss(json!("sigmoid"), 0.5) - (sigmoid + 0.5 * sft)).abs() < 1e-4);
    // Token mean over the chosen answers of the step.
    let chosen = &recorded.numbers["expected"]["token_logps"]["policy_chosen"];
    let tokens: Vec<f64> = chosen.as_array().unwrap().iter().flat_map(numbers).collect();
    let want = -tokens.iter().sum::<f64>() / tokens.len() as f64;
    assert!((f64::from(sft) - want).abs() < 1e-4, "{sft} instead of {want}");
}

/// WPO's weights against their definition, from whole logits in double precision.
#[test]
fn wpo_weights_are_their_definition() {
    let recorded = recorded();
    let (chosen, rejected) = &recorded.pairs[0];
    let packed = Sequences::pack([chosen, rejected]);
    let hidden = recorded.policy.hidden(&packed.batch);
    let log_p = packed.nll_of(&recorded.policy, hidden.clone()).neg();
    let got = host::to_vec(scores::wpo_weights(&recorded.policy, hidden.clone(), log_p, &packed, 2));
    let vocab = recorded.policy.config().vocab_size;
    let logits = host::to_vec(recorded.policy.logits(hidden));
    let mut sums = [(0.0f64, 0.0f64); 2];
    for ((&row, &target), &owner) in packed.rows.iter().zip(packed.targets.iter()).zip(&packed.owner) {
        let z = &logits[row as usize * vocab..][..vocab];
        let total: f64 = z.iter().map(|&z| f64::from(z).exp()).sum();
        let p = |v: usize| f64::from(z[v]).exp() / total;
        let squares: f64 = (0..vocab).map(|v| p(v).powi(2)).sum();
        sums[owner].0 += (p(target as usize) / squares).ln();
        sums[owner].1 += 1.0;
    }
    for (got, (sum, n)) in got.iter().zip(sums) {
        let want = (sum / n).exp();
        assert!((f64::from(*got) - want).abs() < 1e-4 * want, "{got} instead of {want}");
    }
    let (plain, weighted) = (step(&recorded, DpoConfig::default()), step(&recorded, DpoConfig { use_weighting: true, ..DpoConfig::default() }));
    assert_ne!(read_loss(plain.losses), read_loss(weighted.losses), "the weights are not used");
}

/// A folder with `model/` (random weights), `pairs.jsonl` and `labelled.jsonl`: short answers are better than long ones.
fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut pairs, mut labelled, mut texts) = (String::new(), String::new(), Vec::new());
    for i in 0..24 {
        let prompt = format!("Is {i} more than {}?", (i * 7) % 24);
        let (good, bad) = (format!("No, {i}."), format!("That is hard to say about {i}, sorry."));
        pairs += &format!("{}\n", json!({"prompt": prompt, "chosen": good, "rejected": bad}));
        for (answer, label) in [(&good, true), (&bad, false)] {
            labelled += &format!("{}\n", json!({"prompt": prompt, "completion": answer, "label": label}));
        }
        texts.extend([prompt, good, bad]);
    }
    std::fs::write(dir.path().join("pairs.jsonl"), pairs).unwrap();
    std::fs::write(dir.path().join("labelled.jsonl"), labelled).unwrap();
    tiny::save(&dir.path().join("model"), &texts, 320, DecoderConfig { max_position_embeddings: 128, ..tiny::config() });
    dir
}

fn trainer(max_steps: u64, lr: f64) -> TrainerConfig {
    TrainerConfig {
        max_steps,
        optimizer: OptimizerConfig { lr, weight_decay: 0.0, ..OptimizerConfig::default() },
        schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 1, min_lr_ratio: 0.1, ..Schedule::default() },
        eval_every: 0,
        checkpoint_every: 2,
        keep_checkpoints: 10,
        ..TrainerConfig::default()
    }
}

fn dpo_config(dir: &Path, max_steps: u64) -> DpoConfig {
    DpoConfig {
        model: dir.join("model"),
        train: dir.join("pairs.jsonl"),
        batch_size: 4,
        micro_batch_tokens: 150,
        device: DeviceSpec::Cpu,
        trainer: trainer(max_steps, 5e-3),
        ..DpoConfig::default()
    }
}

fn weights(out: &Path) -> String {
    llm_run::hash::path(out.join("model/model.safetensors")).unwrap()
}

fn metric(out: &Path, key: &str) -> Vec<f64> {
    Metrics::read(out.join("metrics.jsonl")).unwrap().iter().filter_map(|r| r.get(key)?.as_f64()).collect()
}

#[test]
fn training_raises_the_margin_and_says_so() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let mut config = DpoConfig { heldout: dir.path().join("pairs.jsonl"), eval_rows: 8, ..dpo_config(dir.path(), 12) };
    config.trainer.eval_every = 12;
    dpo(config, out.path()).unwrap();
    let (margins, accuracies) = (metric(out.path(), "rewards/margins"), metric(out.path(), "rewards/accuracies"));
    assert_eq!(margins.len(), 12);
    assert!(margins[0].abs() < 1e-4, "policy and reference are one model at the first step: {margins:?}");
    assert!(margins[11] > 0.1 && accuracies[11] == 1.0, "{margins:?} {accuracies:?}");
    let losses = metric(out.path(), "loss");
    assert!((losses[0] - 2f64.ln()).abs() < 1e-4 && losses[11] < losses[0], "{losses:?}");
    let (val, agreed) = (metric(out.path(), "val_loss"), metric(out.path(), "eval_rewards/accuracies"));
    assert!(val.len() == 2 && val[1] < val[0] && agreed[1] == 1.0, "{val:?} {agreed:?}");
}

#[test]
fn cached_log_probs_train_what_recomputed_ones_do_to_the_bit() {
    let dir = workshop();
    let run = |reference_log_probs: ReferenceLogProbs, workers: usize| {
        let out = tempfile::tempdir().unwrap();
        let mut config = DpoConfig { reference_log_probs, ..dpo_config(dir.path(), 5) };
        config.trainer.workers = workers;
        dpo(config, out.path()).unwrap();
        assert_eq!(out.path().join("reference_log_probs.json").exists(), reference_log_probs == ReferenceLogProbs::Cached);
        weights(out.path())
    };
    let cached = run(ReferenceLogProbs::Cached, 1);
    assert_eq!(cached, run(ReferenceLogProbs::Recomputed, 1));
    assert_eq!(cached, run(ReferenceLogProbs::Recomputed, 2), "two workers learn something else than one");
}

/// If this fails, a killed run ends elsewhere, or asks a reference that is no longer what it was.
#[test]
fn a_killed_run_is_the_same_run() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let config = dpo_config(dir.path(), 6);
    dpo(config.clone(), out.path()).unwrap();
    let (whole, cache) = (weights(out.path()), std::fs::read(out.path().join("reference_log_probs.json")).unwrap());
    // As if it had been killed after the checkpoint of step 2.
    std::fs::remove_dir_all(out.path().join("model")).unwrap();
    for step in 3..=6 {
        let folder = llm_train::checkpoint::folder(&out.path().join("checkpoints"), step);
        if folder.exists() {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
    dpo(config.clone(), out.path()).unwrap();
    assert_eq!(weights(out.path()), whole);
    assert_eq!(metric(out.path(), "loss").len(), 6);
    assert_eq!(std::fs::read(out.path().join("reference_log_probs.json")).unwrap(), cache);
    let other = DpoConfig { beta: 0.2, ..config };
    assert!(dpo(other, out.path()).unwrap_err().to_string().contains("beta was 0.1, is 0.2"));
}

#[test]
fn kto_raises_good_answers_above_bad_ones() {
    let dir = workshop();
    let run = |loss: UnpairedLoss, micro_batch_tokens: usize| {
        let out = tempfile::tempdir().unwrap();
        let config = KtoConfig {
            model: dir.path().join("model"),
            train: dir.path().join("labelled.jsonl"),
            heldout: dir.path().join("labelled.jsonl"),
            eval_rows: 8,
            loss,
            batch_size: 8,
            micro_batch_tokens,
            device: DeviceSpec::Cpu,
            trainer: TrainerConfig { eval_every: 10, ..trainer(10, 5e-3) },
            ..KtoConfig::default()
        };
        train_kto(config, out.path()).unwrap();
        out
    };
    let out = run(UnpairedLoss::Kto, 150);
    let margins = metric(out.path(), "rewards/margins");
    assert!(margins[0].abs() < 1e-4 && *margins.last().unwrap() > 0.02, "{margins:?}");
    let kl = metric(out.path(), "kl");
    assert!(kl.len() == 10 && kl.iter().all(|&kl| kl >= 0.0), "{kl:?}");
    let val = metric(out.path(), "val_loss");
    assert!(val[1] < val[0], "{val:?}");
    // The KL estimate is that of the step, so cutting it up changes nothing but rounding.
    let whole = run(UnpairedLoss::Kto, 100_000);
    for (a, b) in metric(out.path(), "loss").iter().zip(metric(whole.path(), "loss")) {
        assert!((a - b).abs() < 2e-3, "{a} in parts, {b} in one");
    }
    let apo = run(UnpairedLoss::ApoZeroUnpaired, 150);
    assert!(metric(apo.path(), "kl").iter().all(|&kl| kl == 0.0));
}

#[test]
fn what_cannot_work_is_refused_with_advice() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let refused = |config: DpoConfig| dpo(config, out.path()).unwrap_err().to_string();
    let base = || dpo_config(dir.path(), 1);
    for (config, expected) in [
        (DpoConfig { train: PathBuf::new(), ..base() }, "--set train="),
        (DpoConfig { label_smoothing: 0.1, ..base() }, "cdpo"),
        (DpoConfig { loss: PreferenceLoss::Simpo.into(), reference: dir.path().join("model"), ..base() }, "`reference` is set"),
        (DpoConfig { sft_weight: -1.0, ..base() }, "sft_weight"),
        (DpoConfig { batch_size: 0, ..base() }, "batch_size"),
        (DpoConfig { reference: fixtures().join("dpo_end_to_end/ref"), ..base() }, "vocabulary"),
    ] {
        let message = refused(config);
        assert!(message.contains(expected), "{message}");
    }
    let message =
        train_kto(KtoConfig { model: dir.path().join("model"), train: dir.path().join("x"), batch_size: 1, ..KtoConfig::default() }, out.path());
    assert!(message.unwrap_err().to_string().contains("at least 2"));
    // A pair without preference is an error with its row, or left out.
    let text = std::fs::read_to_string(dir.path().join("pairs.jsonl")).unwrap();
    std::fs::write(dir.path().join("bad.jsonl"), format!("{text}{}\n", json!({"prompt": "?", "chosen": "No.", "rejected": "No."}))).unwrap();
    let bad = DpoConfig { train: dir.path().join("bad.jsonl"), ..base() };
    let message = refused(bad.clone());
    assert!(message.contains("bad.jsonl") && message.contains("row 25"), "{message}");
    dpo(DpoConfig { on_bad_row: OnBadRow::Skip, ..bad }, out.path()).unwrap();
}

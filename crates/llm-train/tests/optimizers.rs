//! The optimisers take the steps of PyTorch, bitsandbytes and the papers, and a restart changes none of them. If one of these fails, a
//! recipe that works elsewhere does something else here, or a run that was killed is not the run that was started.

use burn::module::{Module, Param};
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::kernels::dynamic_map::Map;
use llm_tensor::nn::parameter_from;
use llm_tensor::ops::{Sign, composed::optimizer as composed};
use llm_tensor::weights::Weights;
use llm_tensor::{Precision, host, params};
use llm_train::optimizer::Gradients;
use llm_train::{Clip, Decay, Optimizer, OptimizerConfig, OptimizerKind, ParameterGroup, Schedule, ScheduleKind, StateFormat, Warmup};
use serde_json::Value;
use std::path::PathBuf;

fn fixture(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/losses").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// All numbers, however nested.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn floats(value: &Value) -> Vec<f32> {
    flat(value).into_iter().map(|x| x as f32).collect()
}

/// Parameters of any shape.
#[derive(Module, Debug)]
struct Tensors {
    vectors: Vec<Param<Tensor<1>>>,
    matrices: Vec<Param<Tensor<2>>>,
    cubes: Vec<Param<Tensor<3>>>,
}

impl Tensors {
    /// The module, and the name that each shape got.
    fn new(tensors: &[(Vec<usize>, Vec<f32>)], precision: Precision) -> (Self, Vec<String>) {
        let device = Device::flex().autodiff();
        let mut module = Self { vectors: Vec::new(), matrices: Vec::new(), cubes: Vec::new() };
        let mut names = Vec::new();
        for (shape, values) in tensors {
            names.push(match shape[..] {
                [n] => {
                    module.vectors.push(parameter_from(values.clone(), [n], precision, &device));
                    format!("vectors.{}", module.vectors.len() - 1)
                }
                [r, c] => {
                    module.matrices.push(parameter_from(values.clone(), [r, c], precision, &device));
                    format!("matrices.{}", module.matrices.len() - 1)
                }
                [b, r, c] => {
                    module.cubes.push(parameter_from(values.clone(), [b, r, c], precision, &device));
                    format!("cubes.{}", module.cubes.len() - 1)
                }
                _ => panic!("rank of {shape:?}"),
            });
        }
        (module, names)
    }
}

fn tensor(values: Vec<f32>) -> Tensor<1> {
    let n = values.len();
    host::from_vec(values, [n], &Device::flex())
}

fn close(name: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= tolerance * w.abs().max(0.1), "{name}[{i}]: {g} instead of {w}");
    }
}

fn value(module: &Tensors, name: &str) -> Vec<f32> {
    params::to_host(module)[name].values.clone()
}

#[test]
fn adamw_equals_pytorch() {
    let fixture = fixture("optimizers.json");
    for case in fixture["cases"].as_array().unwrap().iter().filter(|c| c["name"].as_str().unwrap().starts_with("adamw_")) {
        let (name, inputs) = (case["name"].as_str().unwrap(), &case["inputs"]);
        let number = |key: &str| inputs[key].as_f64().unwrap();
        let decay = number("weight_decay");
        let everywhere = ParameterGroup { pattern: "*".into(), lr_scale: 1.0, weight_decay: Some(decay), kind: None, state: None };
        let config = OptimizerConfig {
            lr: number("lr"),
            betas: (number("beta1"), number("beta2")),
            eps: number("eps"),
            weight_decay: decay,
            grad_clip: 0.0,
            groups: match name {
                "adamw_amsgrad" => continue,
                "adamw_no_decay_on_1d" => Vec::new(),
                _ => vec![everywhere],
            },
            ..OptimizerConfig::default()
        };
        let init = inputs["init"].as_array().unwrap();
        let tensors = [(vec![3, 4], floats(&init[0])), (vec![5], floats(&init[1]))];
        let (mut module, names) = Tensors::new(&tensors, Precision::F32);
        let mut optimizer = Optimizer::new(config, &params::layouts(&module)).unwrap();
        for (t, grads) in inputs["grads"].as_array().unwrap().iter().enumerate() {
            let gradients: Gradients = names.iter().zip(0..).map(|(n, i): (&String, usize)| (n.clone(), tensor(floats(&grads[i])))).collect();
            let clip = Clip::new(&gradients, 0.0, 1.0);
            module = optimizer.step(module, gradients, &clip, number("lr"), t as u64 + 1);
            for (i, n) in names.iter().enumerate() {
                close(&format!("{name} step {t} {n}"), &value(&module, n), &flat(&case["expected"]["params_after_each_step"][t][i]), 1e-5);
            }
        }
    }
}

#[test]
fn clipping_equals_pytorch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    for case in fixture("grad_clip.json")["cases"].as_array().unwrap() {
        let grads = case["inputs"]["grads"].as_array().unwrap();
        let zeros = |i: usize, shape: Vec<usize>| (shape, vec![0.0; flat(&grads[i]).len()]);
        let rows = grads[0].as_array().unwrap().len();
        let (module, names) =
            Tensors::new(&[zeros(0, vec![rows, flat(&grads[0]).len() / rows]), zeros(1, vec![flat(&grads[1]).len()])], Precision::F32);
        // Without memory the first moment is the clipped gradient.
        let config = OptimizerConfig { betas: (0.0, 0.9), ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new(config, &params::layouts(&module)).unwrap();
        let gradients: Gradients = names.iter().zip(grads).map(|(n, g)| (n.clone(), tensor(floats(g)))).collect();
        let clip = Clip::new(&gradients, case["inputs"]["max_norm"].as_f64().unwrap(), 1.0);
        let norm = case["expected"]["total_norm"].as_f64().unwrap();
        assert!((clip.norm() - norm).abs() <= 1e-6 * norm, "{} instead of {norm}", clip.norm());
        optimizer.step(module, gradients, &clip, 1e-3, 1);
        optimizer.save(&path).unwrap();
        let saved = Weights::open(&path).unwrap();
        for (i, name) in names.iter().enumerate() {
            close(name, &saved.get(&format!("{name}.exp_avg")).unwrap().values, &flat(&case["expected"]["clipped"][i]), 1e-5);
        }
    }
}

#[test]
fn muon_adafactor_and_lion_equal_pytorch_and_the_paper() {
    let fixture = fixture("optimizers_torch.json");
    let shapes: Vec<Vec<usize>> = serde_json::from_value(fixture["shapes"].clone()).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let case_name = case["name"].as_str().unwrap();
        let mut config: OptimizerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let kind = config.kind;
        config.groups = vec![ParameterGroup { pattern: "*".into(), lr_scale: 1.0, weight_decay: None, kind: Some(kind), state: None }];
        let tensors: Vec<_> = shapes.iter().enumerate().map(|(i, shape)| (shape.clone(), floats(&fixture["init"][i]))).collect();
        let (mut module, names) = Tensors::new(&tensors, Precision::F32);
        let lr = config.lr;
        let mut optimizer = Optimizer::new(config, &params::layouts(&module)).unwrap();
        let expected = case["expected"].as_object().unwrap();
        let indices: Vec<usize> = expected["1"].as_object().unwrap().keys().map(|i| i.parse().unwrap()).collect();
        // Fixtures decay what they decay everywhere; vectors have cases of their own, without decay.
        for t in 1..=10u64 {
            let gradients: Gradients = indices.iter().map(|&i| (names[i].clone(), tensor(floats(&fixture["grads"][t as usize - 1][i])))).collect();
            let clip = Clip::new(&gradients, 0.0, 1.0);
            module = optimizer.step(module, gradients, &clip, lr, t);
            let Some(want) = expected.get(&t.to_string()) else { continue };
            for &i in &indices {
                close(&format!("{case_name}, step {t}, {}", names[i]), &value(&module, &names[i]), &flat(&want[i.to_string()]), 1e-5);
            }
        }
    }
}

#[test]
fn eight_bit_moments_are_those_of_bitsandbytes() {
    let fixture = fixture("dynamic_map.json");
    for (name, sign) in [("signed", Sign::Signed), ("unsigned", Sign::Unsigned)] {
        let map: &Map = sign.map();
        for (got, want) in map.values.iter().zip(flat(&fixture["maps"][name])) {
            assert!((f64::from(*got) - want).abs() <= 2e-7 * want.abs(), "{name}: {got} instead of {want}");
        }
        let quantized = &fixture["quantized"][name];
        let numbers = floats(&quantized["numbers"]);
        let ours = composed::encode(tensor(numbers.clone()), sign);
        assert_eq!(host::to_vec(ours.absmax.clone()), floats(&quantized["absmax"]), "{name}");
        for (i, (got, want)) in ours.codes().into_iter().zip(flat(&quantized["codes"])).enumerate() {
            // A second moment above zero stays above zero.
            let want = if sign == Sign::Unsigned && numbers[i] > 0.0 { want.max(1.0) } else { want };
            assert_eq!(f64::from(got), want, "{name}: code of number {i}, {}", numbers[i]);
        }
    }
    let steps = &fixture["steps"];
    let number = |key: &str| steps[key].as_f64().unwrap();
    let n = number("n") as usize;
    let config = OptimizerConfig {
        state: StateFormat::Int8,
        betas: (steps["betas"][0].as_f64().unwrap(), steps["betas"][1].as_f64().unwrap()),
        eps: number("eps"),
        groups: vec![ParameterGroup { pattern: "*".into(), lr_scale: 1.0, weight_decay: Some(number("weight_decay")), kind: None, state: None }],
        ..OptimizerConfig::default()
    };
    let start = (0..n).map(|i| (0.37 * i as f64).sin() as f32).collect();
    let (mut module, names) = Tensors::new(&[(vec![n], start)], Precision::F32);
    let mut optimizer = Optimizer::new(config, &params::layouts(&module)).unwrap();
    for t in 1..=10u64 {
        let gradient = (0..n).map(|i| ((0.11 * (i as f64) * t as f64 + 0.3).sin() * 10f64.powi(-((i % 4) as i32))) as f32).collect();
        let gradients = Gradients::from([(names[0].clone(), tensor(gradient))]);
        let clip = Clip::new(&gradients, 0.0, 1.0);
        module = optimizer.step(module, gradients, &clip, number("lr"), t);
    }
    assert!(optimizer.state_bytes() as f64 <= 2.05 * n as f64, "{} bytes", optimizer.state_bytes());
    let (got, want) = (value(&module, &names[0]), flat(&steps["expected"]));
    let off: Vec<f64> = got.iter().step_by(16).zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).collect();
    assert_eq!(off.len(), want.len());
    // A moment that lies between two codes may round the other way, which moves a step of 0.01 a little.
    let equal = off.iter().filter(|x| **x < 1e-6).count();
    assert!(
        equal * 100 >= 95 * off.len() && off.iter().all(|x| *x < 2e-3),
        "{equal} of {} equal, worst {:?}",
        off.len(),
        off.iter().fold(0f64, |m, x| m.max(*x))
    );
}

/// Every kind, and what is special about its state.
fn kinds() -> Vec<(&'static str, OptimizerConfig)> {
    let of = |kind| OptimizerConfig { kind, ..OptimizerConfig::default() };
    let group = |pattern: &str, kind| ParameterGroup { pattern: pattern.into(), lr_scale: 0.1, weight_decay: None, kind: Some(kind), state: None };
    vec![
        ("adamw", of(OptimizerKind::AdamW)),
        ("adamw 8-bit", OptimizerConfig { state: StateFormat::Int8, ..of(OptimizerKind::AdamW) }),
        (
            "muon, 8-bit rest",
            OptimizerConfig { state: StateFormat::Int8, groups: vec![group("matrices.1", OptimizerKind::AdamW)], ..of(OptimizerKind::Muon) },
        ),
        ("adafactor", of(OptimizerKind::Adafactor)),
        ("lion", of(OptimizerKind::Lion)),
        ("adafactor with lion", OptimizerConfig { groups: vec![group("vectors.*", OptimizerKind::Lion)], ..of(OptimizerKind::Adafactor) }),
    ]
}

fn start(precision: Precision) -> (Tensors, Vec<String>) {
    let tensors = [vec![40usize, 24], vec![72, 64], vec![50], vec![2, 12, 8]].map(|shape| {
        let n: usize = shape.iter().product();
        (shape, (0..n).map(|i| (0.7 * i as f32).sin()).collect())
    });
    Tensors::new(&tensors, precision)
}

fn train(mut module: Tensors, optimizer: &mut Optimizer, steps: std::ops::RangeInclusive<u64>) -> Tensors {
    for t in steps {
        let gradients: Gradients = (params::layouts(&module).into_iter())
            .map(|(name, (shape, dtype))| {
                let n: usize = shape.iter().product();
                let values = (0..n).map(|i| (0.13 * i as f32 * t as f32 + name.len() as f32).sin()).collect();
                (name, tensor(values).cast(dtype))
            })
            .collect();
        let clip = Clip::new(&gradients, 1.0, 1.0);
        module = optimizer.step(module, gradients, &clip, 1e-2, t);
    }
    module
}

#[test]
fn a_restart_changes_no_bit_of_any_kind() {
    let dir = tempfile::tempdir().unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        for (name, config) in kinds() {
            let (module, _) = start(precision);
            let layouts = params::layouts(&module);
            let file = |name: &str| dir.path().join(name);
            let mut whole = Optimizer::new(config.clone(), &layouts).unwrap();
            let halfway = train(module, &mut whole, 1..=5);
            whole.save(&file("halfway")).unwrap();
            // A clone, as a checkpoint in the background would hold it, keeps its values while training goes on.
            let snapshot = whole.clone();
            let mut again = Optimizer::load(config, &file("halfway"), &layouts, &Device::flex()).unwrap();
            let restarted = train(halfway.clone(), &mut again, 6..=10);
            let went_on = train(halfway, &mut whole, 6..=10);
            for (optimizer, to) in [(&whole, "whole"), (&again, "again"), (&snapshot, "snapshot")] {
                optimizer.save(&file(to)).unwrap();
            }
            let bytes = |name: &str| std::fs::read(file(name)).unwrap();
            assert!(bytes("whole") == bytes("again"), "{name} {precision}: other state after a restart");
            assert!(bytes("halfway") == bytes("snapshot"), "{name} {precision}: a clone changed");
            let bits = |module: &Tensors| -> Vec<Vec<u32>> {
                params::to_host(module).into_values().map(|t| t.values.into_iter().map(f32::to_bits).collect()).collect()
            };
            assert!(bits(&went_on) == bits(&restarted), "{name} {precision}: other parameters after a restart");
            assert!(bits(&went_on) != bits(&start(precision).0), "{name} {precision}: nothing was learned");
            assert!(params::layouts(&went_on).values().all(|(_, dtype)| *dtype == precision.dtype()), "{name}: the parameters keep their format");
        }
    }
}

#[test]
fn loading_names_what_is_missing_or_of_another_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("optimizer.safetensors");
    let (module, _) = start(Precision::F32);
    let mut layouts = params::layouts(&module);
    let config = |kind| OptimizerConfig { kind, ..OptimizerConfig::default() };
    let mut optimizer = Optimizer::new(config(OptimizerKind::AdamW), &layouts).unwrap();
    train(module, &mut optimizer, 1..=1);
    optimizer.save(&path).unwrap();
    let message = |config, layouts: &_| Optimizer::load(config, &path, layouts, &Device::flex()).unwrap_err().to_string();
    assert!(message(config(OptimizerKind::Muon), &layouts).contains("`cubes.0.momentum_buffer`"));
    let int8 = OptimizerConfig { state: StateFormat::Int8, ..config(OptimizerKind::AdamW) };
    assert!(message(int8, &layouts).contains("`matrices.1.exp_avg_codes`"));
    layouts.insert("vectors.0".into(), (vec![49], DType::F32));
    let text = message(config(OptimizerKind::AdamW), &layouts);
    assert!(text.contains("`vectors.0.exp_avg` has 50 elements, expected 49"), "{text}");
}

#[test]
fn schedules_equal_transformers_and_torchtitan() {
    let fixture = fixture("lr_schedules.json");
    let (inputs, expected) = (&fixture["cases"][0]["inputs"], &fixture["cases"][0]["expected"]);
    let number = |key: &str| inputs[key].as_f64().unwrap();
    let (warmup_steps, total, min) = (number("warmup") as u64, number("total") as u64, number("min_rate"));
    let of = |kind, min_lr_ratio| Schedule { kind, warmup_steps, min_lr_ratio, ..Schedule::default() };
    let wsd = Schedule { decay: Decay::Cosine, decay_steps: Some(8), warmup: Warmup::FromMinimum, ..of(ScheduleKind::Wsd, min) };
    for (name, schedule) in [
        ("cosine", of(ScheduleKind::Cosine, 0.0)),
        ("linear", of(ScheduleKind::Linear, 0.0)),
        ("constant_with_warmup", of(ScheduleKind::Constant, 0.0)),
        ("cosine_min_lr_rate", of(ScheduleKind::Cosine, min)),
        ("wsd", wsd),
        ("inverse_sqrt", of(ScheduleKind::InverseSqrt, 0.0)),
    ] {
        // Beyond its end a cosine of transformers rises again, ours stays.
        for (step, want) in flat(&expected[name]).into_iter().enumerate().take(total as usize + 1) {
            let got = number("lr") * schedule.factor(step as u64, total);
            assert!((got - want).abs() <= 1e-12, "{name} at {step}: {got} instead of {want}");
        }
    }
    // torchtitan: warm-up over 10 steps, 80 at the peak, 10 down to a tenth; it counts steps from one.
    for (decay, at_90, at_94) in
        [(Decay::Linear, 0.91, 0.55), (Decay::Sqrt, 0.7153950105848458, 0.36360389693210715), (Decay::Cosine, 0.9779754323328191, 0.55)]
    {
        for (decay_ratio, decay_steps) in [(0.2, Some(10)), (1.0 / 9.0, None)] {
            let schedule =
                Schedule { kind: ScheduleKind::Wsd, warmup_steps: 10, min_lr_ratio: 0.1, warmup: Warmup::FromOne, decay, decay_ratio, decay_steps };
            for (step, want) in [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (89, 1.0), (90, at_90), (94, at_94), (99, 0.1)] {
                let got = schedule.factor(step, 100);
                assert!((got - want).abs() <= 1e-12, "{decay:?} at {step}: {got} instead of {want}");
            }
        }
    }
}

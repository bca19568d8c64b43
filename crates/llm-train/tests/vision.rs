//! Both vision objectives on small generated scenes, end to end: what is learned, what stays frozen, and that a killed run continues.

use llm_arch::{Decoder, DecoderConfig, hf};
use llm_data::exercises::{self, ExercisesConfig};
use llm_data::pictures;
use llm_data::scenes::{self, ScenesConfig};
use llm_run::{Metrics, Seed};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::HostTensor;
use llm_tensor::{DeviceSpec, Precision, host, params};
use llm_tokenizer::Tokenizer;
use llm_train::vision::contrastive::{PairSizes, TowerSizes};
use llm_train::vision::conversations::Form;
use llm_train::vision::images::Images;
use llm_train::vision::{ConnectorInit, ContrastiveConfig, InstructConfig, contrastive, instruct};
use llm_train::{OptimizerConfig, Schedule, ScheduleKind, TrainerConfig};
use llm_vision::checkpoint::{load_pair, load_tower};
use llm_vision::{ImageProcessor, RgbImage, VisionFamily, Vlm};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A folder with `pictures/{train,heldout}.parquet`, `text.jsonl`, and `model/`: random weights and a tokenizer that knows the words.
fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let scenes = ScenesConfig { count_train: 64, count_heldout: 16, ..ScenesConfig::default() };
    scenes::write(&scenes, &dir.path().join("pictures")).unwrap();
    let rows = exercises::generate(&ExercisesConfig { count_train: 40, count_heldout: 4, ..ExercisesConfig::default() }).unwrap().train;
    exercises::write(&dir.path().join("text.jsonl"), &rows).unwrap();
    let mut texts: Vec<String> = rows.iter().flat_map(|r| r.messages.iter().map(|m| m.content.clone())).collect();
    for picture in pictures::read(&dir.path().join("pictures/train.parquet")).unwrap() {
        texts.extend(picture.captions.into_iter().map(|c| c.text));
        texts.extend(picture.questions.into_iter().map(|q| q.question));
    }
    let tokenizer = llm_tokenizer::trainer::train(&texts, &llm_tokenizer::trainer::TrainerConfig { vocab_size: 500, ..Default::default() }).unwrap();
    let mut config = DecoderConfig {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 512,
        ..DecoderConfig::default()
    };
    llm_train::pretrain::fit_to_tokenizer(&mut config, &tokenizer);
    hf::save(dir.path().join("model"), &Decoder::new(&config, Seed(1), &Device::flex()).unwrap()).unwrap();
    tokenizer.save(dir.path().join("model")).unwrap();
    dir
}

fn steps(max_steps: u64, lr: f64, freeze: &[&str]) -> TrainerConfig {
    TrainerConfig {
        max_steps,
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 1, min_lr_ratio: 0.1, ..Schedule::default() },
        eval_every: max_steps,
        checkpoint_every: 2,
        freeze: freeze.iter().map(|p| p.to_string()).collect(),
        ..TrainerConfig::default()
    }
}

fn pair(dir: &Path, family: VisionFamily) -> ContrastiveConfig {
    let tower = TowerSizes { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2 };
    ContrastiveConfig {
        train: dir.join("pictures/train.parquet"),
        heldout: dir.join("pictures/heldout.parquet"),
        tokenizer: dir.join("model"),
        model: PairSizes { family, patch_size: 16, vision: tower.clone(), text: tower, projection_dim: 24, ..PairSizes::default() },
        batch_size: 32,
        device: DeviceSpec::Cpu,
        trainer: steps(30, 3e-3, &[]),
        ..ContrastiveConfig::default()
    }
}

const CONNECTOR_STAGE: [&str; 2] = ["vision_tower.*", "language_model.*"];

fn captions(dir: &Path, tower: &Path) -> InstructConfig {
    InstructConfig {
        model: dir.join("model"),
        tower: tower.into(),
        train: dir.join("pictures/train.parquet"),
        heldout: dir.join("pictures/heldout.parquet"),
        batch_size: 8,
        micro_batch_size: 4,
        eval_conversations: 12,
        device: DeviceSpec::Cpu,
        trainer: steps(12, 1e-2, &CONNECTOR_STAGE),
        ..InstructConfig::default()
    }
}

fn log(out: &Path, key: &str) -> Vec<f64> {
    Metrics::read(out.join("metrics.jsonl")).unwrap().iter().filter_map(|r| r.get(key)?.as_f64()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn same_bits(a: &BTreeMap<String, HostTensor>, b: &BTreeMap<String, HostTensor>) -> bool {
    let bits = |t: &HostTensor| t.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    a.len() == b.len() && a.iter().all(|(name, t)| bits(t) == bits(&b[name]))
}

#[test]
fn pairs_learn_which_caption_belongs_to_which_picture() {
    let dir = workshop();
    for family in [VisionFamily::Clip, VisionFamily::Siglip] {
        let out = tempfile::tempdir().unwrap();
        let outcome = contrastive(pair(dir.path(), family), out.path()).unwrap();
        let losses = log(out.path(), "loss");
        assert!(mean(&losses[25..]) < 0.9 * losses[0], "{family:?}: {losses:?}");
        for key in ["accuracy", "logit_scale"] {
            assert_eq!(log(out.path(), key).len(), 30, "{key}");
        }
        for key in ["val_loss", "val_text_recall_at_1", "val_image_recall_at_1"] {
            assert_eq!(log(out.path(), key).len(), 2, "{key} before the first and after the last step");
        }
        let model = out.path().join("model");
        let (back, device) = (load_pair(&model, &Device::flex(), Precision::F32).unwrap(), Device::flex());
        assert!(same_bits(&params::to_host(&back), &params::to_host(&outcome.model)));
        assert_eq!(ImageProcessor::load(&model).unwrap(), ImageProcessor::for_tower(&back.config().vision));
        assert!(Tokenizer::load(&model).is_ok() && load_tower(&model, &device, Precision::F32).is_ok());
    }
}

#[test]
fn stages_change_what_is_not_frozen_and_nothing_else() {
    let dir = workshop();
    let (towers, first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    contrastive(ContrastiveConfig { trainer: steps(2, 1e-3, &[]), ..pair(dir.path(), VisionFamily::Clip) }, towers.path()).unwrap();
    let tower = towers.path().join("model");
    let device = Device::flex();

    // A frozen language model of random weights can be moved a little only: measured on what was trained, without the noise of batches.
    let seen = InstructConfig { heldout: dir.path().join("pictures/train.parquet"), eval_conversations: 48, ..captions(dir.path(), &tower) };
    let outcome = instruct(seen, first.path()).unwrap();
    let (losses, before_after) = (log(first.path(), "loss"), log(first.path(), "val_loss"));
    assert!(before_after.len() == 2 && before_after[1] < before_after[0], "{before_after:?}");
    let aligned = Vlm::load(first.path().join("model"), &device, Precision::F32).unwrap();
    let text = hf::load(dir.path().join("model"), &device).unwrap();
    assert!(same_bits(&params::to_host(&aligned.language_model), &params::to_host(&text)));
    let seeing = load_tower(&tower, &device, Precision::F32).unwrap();
    assert!(same_bits(&params::to_host(&aligned.vision_tower), &params::to_host(&seeing)));
    assert!(same_bits(&params::to_host(&aligned.multi_modal_projector), &params::to_host(&outcome.model.multi_modal_projector)));
    assert_eq!(ImageProcessor::load(first.path().join("model")).unwrap(), ImageProcessor::load(&tower).unwrap());

    // Features that are computed once are those that are computed every time.
    let uncached = tempfile::tempdir().unwrap();
    instruct(InstructConfig { cache_mib: 0, ..captions(dir.path(), &tower) }, uncached.path()).unwrap();
    for (a, b) in losses.iter().zip(log(uncached.path(), "loss")) {
        assert!((a - b).abs() < 1e-4, "{a} from the cache, {b} without");
    }

    let questions = InstructConfig {
        model: first.path().join("model"),
        tower: Default::default(),
        form: Form::Questions,
        questions_together: 3,
        text: dir.path().join("text.jsonl"),
        text_share: 0.25,
        trainer: steps(12, 5e-3, &["vision_tower.*"]),
        ..captions(dir.path(), &tower)
    };
    instruct(questions, second.path()).unwrap();
    let losses = log(second.path(), "loss");
    assert!(mean(&losses[9..]) < 0.9 * losses[0], "{losses:?}");
    let taught = Vlm::load(second.path().join("model"), &device, Precision::F32).unwrap();
    assert!(same_bits(&params::to_host(&taught.vision_tower), &params::to_host(&seeing)));
    assert!(!same_bits(&params::to_host(&taught.language_model), &params::to_host(&text)));
    assert!(!same_bits(&params::to_host(&taught.multi_modal_projector), &params::to_host(&aligned.multi_modal_projector)));
    let last = Metrics::read(second.path().join("metrics.jsonl")).unwrap().pop().unwrap();
    let kinds: Vec<&String> = last.keys().filter(|key| key.starts_with("val_exact_")).collect();
    assert!(last["val_exact"].is_f64() && kinds.len() > 2, "{last:?}");

    // Nothing frozen: the tower learns as well. Patches merged, a whitened connector, captions and questions together.
    let whole = tempfile::tempdir().unwrap();
    let all = InstructConfig {
        trainer: steps(12, 5e-3, &[]),
        spatial_merge_size: 2,
        connector_init: ConnectorInit::Whitened,
        form: Form::Both,
        captions_per_language: 1,
        ..captions(dir.path(), &tower)
    };
    let outcome = instruct(all, whole.path()).unwrap();
    let losses = log(whole.path(), "loss");
    assert!(mean(&losses[9..]) < 0.9 * losses[0], "{losses:?}");
    assert_eq!(Vlm::load(whole.path().join("model"), &device, Precision::F32).unwrap().config().tokens_per_image(), 4);
    let last = Metrics::read(whole.path().join("metrics.jsonl")).unwrap().pop().unwrap();
    assert!(last["val_exact"].is_f64() && !last.contains_key("val_exact_"), "captions have no kind: {last:?}");
    assert!(!same_bits(&params::to_host(&outcome.model.vision_tower.valid()), &params::to_host(&seeing)));
}

/// The program, killed by the system in the middle of a run and started again.
fn killed_and_continued(command: &str, config: &impl serde::Serialize) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, toml::to_string(config).unwrap()).unwrap();
    let start = |out: &Path| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_llm-train"));
        program.arg(command).arg("--config").arg(&file).arg("--out").arg(out).stderr(Stdio::null()).spawn().unwrap()
    };
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    assert!(start(&whole).wait().unwrap().success());
    let mut child = start(&broken);
    let clock = Instant::now();
    while !broken.join("checkpoints/step-00000004").exists() {
        assert!(child.try_wait().unwrap().is_none() && clock.elapsed() < Duration::from_secs(120), "no checkpoint of step 4");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!broken.join("model").exists(), "the run was over before it was killed");
    assert!(start(&broken).wait().unwrap().success());
    let hash = |out: &Path| llm_run::hash::path(out.join("model")).unwrap();
    assert_eq!(log(&broken, "loss"), log(&whole, "loss"));
    (hash(&broken), hash(&whole))
}

#[test]
fn killed_runs_continue_to_the_same_bytes() {
    let dir = workshop();
    let towers = tempfile::tempdir().unwrap();
    let config = pair(dir.path(), VisionFamily::Siglip);
    contrastive(ContrastiveConfig { trainer: steps(1, 1e-3, &[]), ..config.clone() }, towers.path()).unwrap();
    let keep = |trainer: TrainerConfig| TrainerConfig { keep_checkpoints: 100, ..trainer };
    let (broken, whole) = killed_and_continued("contrastive", &ContrastiveConfig { trainer: keep(steps(24, 1e-3, &[])), ..config });
    assert_eq!(broken, whole);
    let config = captions(dir.path(), &towers.path().join("model"));
    let (broken, whole) = killed_and_continued("vision", &InstructConfig { trainer: keep(steps(24, 1e-3, &["vision_tower.*"])), ..config });
    assert_eq!(broken, whole);
}

#[test]
fn images_are_those_of_the_processor_with_and_without_memory() {
    let dir = workshop();
    let path = dir.path().join("pictures/heldout.parquet");
    let pictures = pictures::read(&path).unwrap();
    let mut config = llm_vision::VisionConfig::defaults(VisionFamily::Clip);
    config.image_size = 48;
    let processor = ImageProcessor::for_tower(&config);
    let decoded: Vec<RgbImage> = [3, 0].iter().map(|&i| RgbImage::decode(&pictures[i].image).unwrap()).collect();
    let want = host::to_vec(processor.pixel_values(&decoded, &Device::flex()).unwrap());
    for bytes in [0, 1 << 20] {
        let images = Images::take(&mut pictures.clone(), &path, processor.clone(), 48, bytes).unwrap();
        assert_eq!(host::to_vec(images.pixel_values(&[3, 0], &Device::flex()).unwrap()), want);
    }
    let mut damaged = pictures;
    damaged[2].image.truncate(20);
    let message = Images::take(&mut damaged, &path, processor, 48, 1 << 20).unwrap_err().to_string();
    assert!(message.contains("heldout.parquet") && message.contains(&damaged[2].id), "{message}");
}

#[test]
fn settings_that_cannot_work_say_what_to_change() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let towers = tempfile::tempdir().unwrap();
    contrastive(ContrastiveConfig { trainer: steps(1, 1e-3, &[]), ..pair(dir.path(), VisionFamily::Clip) }, towers.path()).unwrap();
    let good = captions(dir.path(), &towers.path().join("model"));
    let text = dir.path().join("text.jsonl");
    for (config, words) in [
        (InstructConfig { tower: Default::default(), ..good.clone() }, "`tower` is missing"),
        (InstructConfig { text_share: 0.5, text: text.clone(), ..good.clone() }, "text_share = 0"),
        (InstructConfig { text_share: 1.0, text, ..good.clone() }, "less than 1"),
        (InstructConfig { caption_prompts: BTreeMap::from([("en".into(), "What is it?".into())]), ..good.clone() }, "caption_prompts has en only"),
        (InstructConfig { max_length: 10, ..good.clone() }, "max_length = 10"),
        (InstructConfig { trainer: steps(1, 1e-3, &["tower.*"]), ..good.clone() }, "language_model., multi_modal_projector., vision_tower."),
    ] {
        let message = instruct(config, out.path()).unwrap_err().to_string();
        assert!(message.contains(words), "`{words}` is not in: {message}");
    }
    let message = contrastive(ContrastiveConfig { batch_size: 65, ..pair(dir.path(), VisionFamily::Clip) }, out.path()).unwrap_err().to_string();
    assert!(message.contains("64 pictures are fewer than batch_size = 65"), "{message}");
}

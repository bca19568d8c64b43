//! Published models as code: the configuration of a name, without a file and without the network.
//!
//! Sizes are those of the `config.json` of the repository named in [`Preset::source`]; `parameters` is what the reference implementation
//! (transformers 5.23) counts for that file, tied weights once and buffers not at all. The tests hold our own count against it.

mod families;

use crate::config::{DecoderConfig, Family, Layout};
use families::*;
use llm_moe::{MoeConfig, TopkMethod};

/// A published model.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Our name of it.
    pub name: &'static str,
    /// Learned numbers, exactly.
    pub parameters: usize,
    /// Repository on the Hugging Face hub whose `config.json` it is.
    pub source: &'static str,
    build: fn() -> DecoderConfig,
}

impl Preset {
    /// Its configuration.
    pub fn config(&self) -> DecoderConfig {
        (self.build)()
    }
}

/// All presets, by family and size.
pub const PRESETS: &[Preset] = &[
    preset_of("gpt2", 124_439_808, "openai-community/gpt2", || gpt2(768, 12, 12)),
    preset_of("gpt2-medium", 354_823_168, "openai-community/gpt2-medium", || gpt2(1024, 24, 16)),
    preset_of("gpt2-large", 774_030_080, "openai-community/gpt2-large", || gpt2(1280, 36, 20)),
    preset_of("gpt2-xl", 1_557_611_200, "openai-community/gpt2-xl", || gpt2(1600, 48, 25)),
    preset_of("llama-2-7b", 6_738_415_616, "meta-llama/Llama-2-7b-hf", || llama2(32000, 4096, 11008, 32, 32, 32)),
    preset_of("llama-3-8b", 8_030_261_248, "meta-llama/Meta-Llama-3-8B", || llama3(4096, 14336, 32, 32)),
    preset_of("llama-3-70b", 70_553_706_496, "meta-llama/Meta-Llama-3-70B", || llama3(8192, 28672, 80, 64)),
    preset_of("llama-3.2-1b", 1_235_814_400, "meta-llama/Llama-3.2-1B", || llama32(2048, 16, 32)),
    preset_of("llama-3.2-3b", 3_212_749_824, "meta-llama/Llama-3.2-3B", || llama32(3072, 28, 24)),
    preset_of("code-llama-7b", 6_738_546_688, "codellama/CodeLlama-7b-hf", || DecoderConfig {
        rope_theta: 1e6,
        max_position_embeddings: 16384,
        ..llama2(32016, 4096, 11008, 32, 32, 32)
    }),
    preset_of("tinyllama-1.1b", 1_100_048_384, "TinyLlama/TinyLlama_v1.1", || DecoderConfig {
        max_position_embeddings: 2048,
        ..llama2(32000, 2048, 5632, 22, 32, 4)
    }),
    preset_of("smollm-135m", 134_515_008, "HuggingFaceTB/SmolLM-135M", || smollm(576, 1536, 30, 9, 3)),
    preset_of("smollm-360m", 361_821_120, "HuggingFaceTB/SmolLM-360M", || smollm(960, 2560, 32, 15, 5)),
    preset_of("mistral-7b", 7_241_732_096, "mistralai/Mistral-7B-v0.1", || DecoderConfig {
        family: Family::Mistral,
        max_position_embeddings: 32768,
        sliding_window: Some(4096),
        ..llama2(32000, 4096, 14336, 32, 32, 8)
    }),
    preset_of("mixtral-8x7b", 46_702_792_704, "mistralai/Mixtral-8x7B-v0.1", mixtral),
    preset_of("qwen2.5-0.5b", 494_032_768, "Qwen/Qwen2.5-0.5B", || DecoderConfig {
        tie_word_embeddings: true,
        max_position_embeddings: 32768,
        ..qwen25(151_936, 896, 4864, 24, 14, 2)
    }),
    preset_of("qwen2.5-7b", 7_615_616_512, "Qwen/Qwen2.5-7B", || qwen25(152_064, 3584, 18944, 28, 28, 4)),
    preset_of("qwen2.5-72b", 72_706_203_648, "Qwen/Qwen2.5-72B", || DecoderConfig { norm_eps: 1e-5, ..qwen25(152_064, 8192, 29568, 80, 64, 8) }),
    preset_of("qwen3-0.6b", 596_049_920, "Qwen/Qwen3-0.6B", || DecoderConfig { tie_word_embeddings: true, ..qwen3(1024, 3072, 28, 16, 8) }),
    preset_of("qwen3-8b", 8_190_735_360, "Qwen/Qwen3-8B", || qwen3(4096, 12288, 36, 32, 8)),
    preset_of("qwen3-30b-a3b", 30_532_122_624, "Qwen/Qwen3-30B-A3B", || DecoderConfig {
        family: Family::Qwen3Moe,
        moe: Some(MoeConfig {
            num_experts: 128,
            num_experts_per_tok: 8,
            moe_intermediate_size: 768,
            router_aux_loss_coef: 0.001,
            ..MoeConfig::default()
        }),
        ..qwen3(2048, 6144, 48, 32, 4)
    }),
    preset_of("gemma-2b", 2_506_172_416, "google/gemma-2b", || gemma(2048, 16384, 18, 8, 1)),
    preset_of("gemma-2-2b", 2_614_341_888, "google/gemma-2-2b", || gemma2(2304, 9216, 26, 8, 4)),
    preset_of("gemma-2-9b", 9_241_705_984, "google/gemma-2-9b", || gemma2(3584, 14336, 42, 16, 8)),
    preset_of("phi-3-mini", 3_821_079_552, "microsoft/Phi-3-mini-4k-instruct", || DecoderConfig {
        family: Family::Phi3,
        sliding_window: Some(2047),
        eos_token_id: vec![32000],
        pad_token_id: Some(32000),
        ..llama2(32064, 3072, 8192, 32, 32, 32)
    }),
    preset_of("olmoe-1b-7b", 6_919_161_856, "allenai/OLMoE-1B-7B-0924", olmoe),
    preset_of("olmo-2-7b", 7_298_617_344, "allenai/OLMo-2-1124-7B", olmo2),
    preset_of("pythia-160m", 162_322_944, "EleutherAI/pythia-160m", || pythia(768, 12, 12)),
    preset_of("pythia-1.4b", 1_414_647_808, "EleutherAI/pythia-1.4b", || pythia(2048, 24, 16)),
    preset_of("falcon-7b", 6_921_720_704, "tiiuae/falcon-7b", || falcon(4544, 32, 71, 1, Layout::ParallelShared)),
    preset_of("falcon-40b", 41_303_293_952, "tiiuae/falcon-40b", || falcon(8192, 60, 128, 8, Layout::Parallel)),
    preset_of("deepseek-v2-lite", 15_706_484_224, "deepseek-ai/DeepSeek-V2-Lite", || DecoderConfig {
        rope_scaling: deepseek_yarn(0.707),
        ..deepseek_v2(2048, 10944, 27, 16, None, v2_experts(64, 1408))
    }),
    preset_of("deepseek-v2", 235_741_434_880, "deepseek-ai/DeepSeek-V2", || {
        let moe = MoeConfig {
            topk_method: TopkMethod::GroupLimitedGreedy,
            n_group: 8,
            topk_group: 3,
            routed_scaling_factor: 16.0,
            ..v2_experts(160, 1536)
        };
        deepseek_v2(5120, 12288, 60, 128, Some(1536), moe)
    }),
    preset_of("deepseek-v3", 671_026_404_352, "deepseek-ai/DeepSeek-V3", deepseek_v3),
];

const fn preset_of(name: &'static str, parameters: usize, source: &'static str, build: fn() -> DecoderConfig) -> Preset {
    Preset { name, parameters, source, build }
}

/// Letters and digits, lower case: `Llama_3 8B` and `llama-3-8b` are the same name.
fn key(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}

/// The preset of a name (ours, or its repository's with or without the owner), whatever its case and hyphens.
pub fn find(name: &str) -> Option<&'static Preset> {
    let wanted = key(name);
    let repository = |p: &Preset| p.source.rsplit('/').next().is_some_and(|r| key(r) == wanted);
    PRESETS.iter().find(|p| key(p.name) == wanted).or_else(|| PRESETS.iter().find(|p| key(p.source) == wanted || repository(p)))
}

/// The configuration of a name.
pub fn preset(name: &str) -> Option<DecoderConfig> {
    find(name).map(Preset::config)
}

/// Names that a typo may have meant, the nearest first; at most three.
pub fn suggestions(name: &str) -> Vec<&'static str> {
    let wanted = key(name);
    let mut near: Vec<(f64, &str)> =
        PRESETS.iter().map(|p| (strsim::jaro_winkler(&wanted, &key(p.name)), p.name)).filter(|(s, _)| *s > 0.85).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf;
    use llm_tensor::Precision;

    /// If this fails, a preset is another model than its name says, or parameters are counted wrongly.
    #[test]
    fn parameters_are_those_of_the_reference_implementation() {
        for p in PRESETS {
            let config = p.config();
            config.validate().unwrap_or_else(|e| panic!("{}: {e}", p.name));
            assert_eq!(config.num_parameters(), p.parameters, "{}", p.name);
        }
    }

    /// Active parameters as the reports round them (Mixtral 12.9B, DeepSeek-V2 21B, V2-Lite 2.4B without the 0.2B embedding table,
    /// DeepSeek-V3 37B without its table, Qwen3 3.3B, OLMoE 1.3B).
    #[test]
    fn active_parameters_are_those_of_the_reports() {
        for (name, billions, tolerance) in [
            ("mixtral-8x7b", 12.9, 0.05),
            ("deepseek-v2", 21.0, 0.5),
            ("deepseek-v2-lite", 2.4, 0.3),
            ("deepseek-v3", 37.0, 0.7),
            ("qwen3-30b-a3b", 3.3, 0.1),
            ("olmoe-1b-7b", 1.3, 0.05),
        ] {
            let active = preset(name).unwrap().num_active_parameters() as f64 / 1e9;
            assert!((active - billions).abs() <= tolerance, "{name}: {active:.3} B active, the report says {billions}");
        }
        assert_eq!(preset("llama-3-8b").unwrap().num_active_parameters(), 8_030_261_248, "a dense model is all active");
    }

    /// If this fails, a checkpoint made from a preset would be read back as another model.
    #[test]
    fn every_preset_survives_config_json() {
        for p in PRESETS {
            let config = p.config();
            let read = hf::config_from_json(&hf::config_to_json(&config, Precision::Bf16)).unwrap_or_else(|e| panic!("{}: {e}", p.name));
            // Files always spell the head size out.
            let spelled = |c: DecoderConfig| DecoderConfig { head_dim: c.head_size(), ..c };
            assert_eq!(spelled(read), spelled(config), "{}", p.name);
        }
    }

    #[test]
    fn names_forgive_case_hyphens_and_owners_and_typos_are_answered() {
        for name in ["llama-3-8b", "LLaMA 3 8B", "llama_3_8b", "meta-llama/Meta-Llama-3-8B", "Meta-Llama-3-8B"] {
            assert_eq!(find(name).map(|p| p.name), Some("llama-3-8b"), "{name}");
        }
        assert!(find("llama-9-8b").is_none());
        assert!(suggestions("lama-3-8b").contains(&"llama-3-8b"));
        assert!(suggestions("mixtral-7b").iter().any(|n| n.starts_with("mi")));
        assert!(suggestions("xyzzy").is_empty());
        let mut keys: Vec<String> = PRESETS.iter().map(|p| key(p.name)).collect();
        keys.sort();
        assert!(keys.windows(2).all(|w| w[0] != w[1]), "two presets have one name");
    }
}

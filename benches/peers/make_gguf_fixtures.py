#!/usr/bin/env python3
"""Writes fixtures/gguf anew: what llama.cpp's own Python package makes of blocks and of the decoder fixtures.

    pip install gguf==0.19.0 numpy
    python benches/peers/make_gguf_fixtures.py fixtures

`blocks.gguf`: a matrix of each element type with its values as the package decodes them (TYPE.values), for types that the package can write
also what it was made from (TYPE.source), and a metadata value of each kind.

`NAME.header`, `checks.json`: the decoder fixture NAME in GGUF, single precision. Names come from the package's table, keys from its writer; what
conversion does to values (rows of q and k, 1 + w, transposing, stacking) is repeated here. A file's data would only be the weights of
fixtures/decoder once more, so of the file everything before the data is kept, and a CRC-32 of every tensor and of the whole.
"""

import json
import math
import pathlib
import struct
import sys
import tempfile
import zlib

import gguf
import numpy as np

ARCHITECTURES = {
    "llama_gqa_untied": "llama",
    "llama_head_dim_bias": "llama",
    "llama_rope_llama3": "llama",
    "llama_rope_yarn": "llama",
    "llama_rope_linear": "llama",
    "llama_tied": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "deepseek_v2_lite": "deepseek2",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
}


def safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32", (path, name, entry["dtype"])
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(data[8 + size + begin : 8 + size + end], np.float32).reshape(entry["shape"])
    return tensors


def blocks(path: pathlib.Path) -> None:
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "blocks")
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"value.{kind}", 100 if kind.startswith("u") else -100)
    writer.add_float32("value.float32", 0.25)
    writer.add_float64("value.float64", 0.1)
    writer.add_bool("value.bool", True)
    writer.add_string("value.string", "wörter")
    writer.add_array("value.ints", [1, -2, 3])
    writer.add_array("value.floats", [0.5, -1.5])
    writer.add_array("value.strings", ["a", "", "ü"])
    writer.add_array("value.bools", [True, False])
    types = gguf.GGMLQuantizationType
    source = (rng.standard_normal((2, 512)) * 0.3).astype(np.float32)
    source[0, :32] = 0
    for kind in (types.F32, types.F16, types.BF16, types.Q8_0, types.Q4_0, types.Q4_1, types.Q5_0, types.Q5_1):
        data = gguf.quants.quantize(source, kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.values", gguf.quants.dequantize(data, kind))
    writer.add_tensor("source", source)
    for kind, halves in ((types.Q4_K, (0, 2)), (types.Q5_K, (0, 2)), (types.Q6_K, (208,))):
        _, size = gguf.GGML_QUANT_SIZES[kind]
        data = rng.integers(0, 256, (3, 2, size), dtype=np.uint8)
        for at in halves:
            scale = (rng.random((3, 2, 1)) * 0.05 + 0.001).astype(np.float16)
            data[:, :, at : at + 2] = scale.view(np.uint8)
        data = data.reshape(3, 2 * size)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.values", gguf.quants.dequantize(data, kind))
    finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def paired(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head: the halves that a rotation mixes become neighbours."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def keys(writer: gguf.GGUFWriter, arch: str, config: dict) -> None:
    rope = config.get("rope_parameters") or {}
    gpt2 = arch == "gpt2"
    heads = config["n_head"] if gpt2 else config["num_attention_heads"]
    hidden = config["n_embd"] if gpt2 else config["hidden_size"]
    writer.add_block_count(config["n_layer"] if gpt2 else config["num_hidden_layers"])
    writer.add_context_length(config["n_positions"] if gpt2 else config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length((config.get("n_inner") or 4 * hidden) if gpt2 else config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    if gpt2:
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if arch == "deepseek2":
        latent(writer, config, rope)
        return
    head = config.get("head_dim") or hidden // heads
    if config.get("head_dim"):
        writer.add_key_length(head)
        writer.add_value_length(head)
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        writer.add_sliding_window(config["sliding_window"])
    if arch == "phi3":
        writer.add_sliding_window(config["sliding_window"] or 0)
    if (experts := config.get("num_local_experts") or config.get("num_experts")) is not None:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if arch in ("qwen2moe", "qwen3moe"):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if arch == "qwen2moe":
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if config.get("clip_qkv") is not None:
        writer.add_clamp_kqv(config["clip_qkv"])


def latent(writer: gguf.GGUFWriter, config: dict, rope: dict) -> None:
    """DeepSeek's keys: plain lengths are those of the cache, `_mla` those of a head."""
    rank, rotated = config["kv_lora_rank"], config["qk_rope_head_dim"]
    if config.get("q_lora_rank"):
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rotated)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rotated)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rotated)
    if rope.get("mscale_all_dim"):
        writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
    v3 = config["model_type"] == "deepseek_v3"
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(v3 and config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if v3 else gguf.ExpertGatingFuncType.SOFTMAX)
    if v3 or config.get("topk_method") == "group_limited_greedy":
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])


def converted(arch: str, config: dict, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under names that the package's table knows, with their values as conversion leaves them."""
    out, stacks = {}, {}
    for name, values in tensors.items():
        if arch == "llama" and name.endswith(("q_proj.weight", "q_proj.bias")):
            values = paired(values, config["num_attention_heads"])
        if arch == "llama" and name.endswith(("k_proj.weight", "k_proj.bias")):
            values = paired(values, config["num_key_value_heads"])
        if arch in ("gemma", "gemma2") and name.endswith("norm.weight"):
            values = values + 1
        if arch == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            values = values.T
        if ".experts." in name:
            before, rest = name.split(".experts.")
            number, projection = rest.split(".")[:2]
            stacks.setdefault((before, projection), {})[int(number)] = values
            continue
        if name.endswith("kv_b_proj.weight"):
            heads, keys = config["num_attention_heads"], config["qk_nope_head_dim"]
            each = values.reshape(heads, keys + config["v_head_dim"], -1)
            out[name.replace("kv_b_proj", "k_b_proj")] = each[:, :keys].swapaxes(1, 2)
            out[name.replace("kv_b_proj", "v_b_proj")] = each[:, keys:]
            continue
        if name.endswith("e_score_correction_bias"):
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        if name.endswith("shared_expert_gate.weight"):
            values = values.reshape(-1)
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        out[name] = values
    for (before, projection), rows in stacks.items():
        layer = before.split(".")[2]
        mixtral = before.endswith("block_sparse_moe")
        name = f"layers.{layer}.feed_forward.experts.{projection}.weight" if mixtral else f"{before}.experts.{projection}.weight"
        out[name] = np.stack([rows[i] for i in range(len(rows))])
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        factors = []
        for i in range(0, size, 2):
            wave = 2 * math.pi * rope["rope_theta"] ** (i / size)
            turns = rope["original_max_position_embeddings"] / wave
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            share = min(max((turns - low) / (high - low), 0), 1)
            factors.append(1 / ((1 - share) / rope["factor"] + share))
        out["rope_freqs.weight"] = np.array(factors, np.float32)
    return out


def model(folder: pathlib.Path, arch: str, out: pathlib.Path) -> dict:
    config = json.loads((folder / "config.json").read_text())
    layers = config.get("num_hidden_layers") or config["n_layer"]
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    table = gguf.get_tensor_name_map(kind, layers)
    # Qwen's mixtures have dense layers in transformers and none in llama.cpp; they get the names that Llama's have.
    plain = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "model.gguf"
        writer = gguf.GGUFWriter(path, arch)
        writer.add_name(folder.name)
        keys(writer, arch, config)
        checks = {}
        for name, values in converted(arch, config, safetensors(folder / "model.safetensors")).items():
            new = name if name == "rope_freqs.weight" else table.get_name(name, try_suffixes=(".weight", ".bias"))
            if new is None and arch.endswith("moe"):
                new = plain.get_name(name, try_suffixes=(".weight", ".bias"))
            assert new is not None, f"{folder.name}: the package has no name for {name}"
            values = np.ascontiguousarray(values, np.float32)
            writer.add_tensor(new, values)
            checks[new] = zlib.crc32(values.tobytes())
        finish(writer)
        data = path.read_bytes()
        start = int(gguf.GGUFReader(path).data_offset)
        (out / f"{folder.name}.header").write_bytes(data[:start])
    return {"file": zlib.crc32(data), "bytes": len(data), "tensors": checks}


def main() -> None:
    fixtures = pathlib.Path(sys.argv[1])
    out = fixtures / "gguf"
    out.mkdir(exist_ok=True)
    blocks(out / "blocks.gguf")
    checks = {name: model(fixtures / "decoder" / name, arch, out) for name, arch in ARCHITECTURES.items()}
    (out / "checks.json").write_text(json.dumps(checks, indent=1, sort_keys=True) + "\n")
    print(f"{len(checks)} models, {sum(p.stat().st_size for p in out.iterdir())} bytes")


if __name__ == "__main__":
    main()

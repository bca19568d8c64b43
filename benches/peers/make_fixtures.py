#!/usr/bin/env python3
"""Writes the fixtures of `fixtures/decoder` that are listed below: tiny random checkpoints with the numbers of transformers.

    python make_fixtures.py [--out fixtures/decoder] [NAME...]   # all by default, a second each
    python make_fixtures.py --check [NAME...]                         # do config.json and config_v4.json of a folder give the recorded logits?

Made with torch 2.15.0, transformers 5.23.0, safetensors 0.8.0 on the CPU with one thread. Nothing is downloaded. `deepseek_v3_fp8` and
`llama_sharded` take the weights of `deepseek_v3` and `llama_gqa_untied`, which must be in the folder.

A folder is laid out as `dump_parity.py` says, plus config_v4.json: the same model in the fields found on the hub, from the time before
transformers 5. The seed is moved on until no greedy choice is a near tie. Weights are wide on purpose, so that a wrong scale, norm or
rotation shows.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import dump_parity as parity
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2] / "fixtures/decoder"
STEPS, TRIES, FP8_BLOCK, FP8_MAX = 16, 40, (16, 16), 448.0

TOKENS = dict(vocab_size=128, bos_token_id=1, eos_token_id=2)
LLAMA = dict(
    TOKENS, pad_token_id=0, hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1e4),
)  # fmt: skip
FALCON = dict(
    TOKENS, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, bias=False, alibi=False, multi_query=True, parallel_attn=True,
    rope_parameters=dict(rope_type="default", rope_theta=1e4),
)  # fmt: skip
NEOX = dict(TOKENS, hidden_size=48, intermediate_size=192, num_hidden_layers=3, max_position_embeddings=64)


def rope(theta, **more):
    return dict(rope_type="default", rope_theta=theta, **more)


# name: model_type, its config, the dtype it is stored in
MODELS = {
    "falcon": ("falcon", FALCON, torch.float32),
    "falcon_new": ("falcon", FALCON | dict(new_decoder_architecture=True, num_kv_heads=2), torch.float32),
    # Heads of 16 of which a quarter turns, as in Pythia; then heads of 12 of which a half does, with a base of its own.
    "gpt_neox": ("gpt_neox", NEOX | dict(num_attention_heads=3, rope_parameters=rope(1e4, partial_rotary_factor=0.25)), torch.float32),
    "gpt_neox_sequential": (
        "gpt_neox",
        NEOX | dict(num_attention_heads=4, use_parallel_residual=False, rope_parameters=rope(25e3, partial_rotary_factor=0.5)),
        torch.float32,
    ),
    "qwen2_moe": (
        "qwen2_moe",
        LLAMA
        | dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40, decoder_sparse_step=1)
        | dict(mlp_only_layers=[1], norm_topk_prob=False, rms_norm_eps=1e-6, rope_parameters=rope(1e6)),
        torch.float32,
    ),
    "olmo2": ("olmo2", LLAMA | dict(rms_norm_eps=1e-6, rope_parameters=rope(5e5)), torch.float32),
    "mistral_v3": ("mistral", LLAMA | dict(num_hidden_layers=2, sliding_window=None, rope_parameters=rope(1e6)), torch.float32),
    "llama_bf16": ("llama", LLAMA, torch.bfloat16),
}

# What the hub's files of the family do not have, and what they have besides.
FALCON_UNSAID = ["activation", "ffn_hidden_size", "max_position_embeddings", "num_ln_in_parallel_attn", "pad_token_id", "tie_word_embeddings"]
NEOX_UNSAID = ["attention_bias", "attention_dropout", "classifier_dropout", "hidden_dropout", "is_decoder", "pad_token_id"]
UNSAID = {
    "falcon": [*FALCON_UNSAID, "rope_theta", "num_kv_heads"],
    "falcon_new": [*FALCON_UNSAID, "rope_theta"],
    "gpt_neox": NEOX_UNSAID,
    "gpt_neox_sequential": NEOX_UNSAID,
    "qwen2_moe": ["layer_types", "qkv_bias", "pad_token_id"],
    "mistral_v3": ["head_dim", "pad_token_id"],
    "llama_bf16": ["head_dim", "mlp_bias", "pad_token_id"],
}
SAID = {
    "falcon": {"apply_residual_connection_post_layernorm": False},
    "falcon_new": {"apply_residual_connection_post_layernorm": False},
    "qwen2_moe": {"sliding_window": 4096},  # without effect: use_sliding_window is false
}


def older_config(name, config):
    """config.json of transformers 5 in the spelling of transformers 4, as the hub has it."""
    old = json.loads(json.dumps(config))
    turn = old.pop("rope_parameters")
    if old["model_type"] == "gpt_neox":
        old |= {"rotary_emb_base": int(turn["rope_theta"]), "rotary_pct": turn["partial_rotary_factor"]}
    else:
        old["rope_theta"] = turn["rope_theta"]
    old["torch_dtype"] = old.pop("dtype")
    if "num_local_experts" in old:
        old["num_experts"] = old.pop("num_local_experts")
    old |= SAID.get(name, {}) | {"transformers_version": "4.40.0"}
    return {key: old[key] for key in sorted(old) if key not in UNSAID.get(name, [])}


@torch.no_grad()
def fill(model, seed):
    """Random weights in the order of the names: norms about 1, biases about 0, embeddings of width 1, matrices of width 0.2."""
    generator, done = torch.Generator().manual_seed(seed), set()
    for name, parameter in sorted(model.named_parameters()):
        if id(parameter) in done:
            continue
        done.add(id(parameter))
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            noise = 0.1 * noise if name.endswith("bias") else 1 + 0.2 * noise
        elif "embed" not in name:
            noise *= 0.2
        parameter.copy_(noise)
    return model


def add_hub_buffers(folder, config):
    """Pythia's files hold buffers that are no weights: causal masks, a fill value, rotary frequencies. A loader must pass them by."""
    tensors, length = parity.weights(folder), config["max_position_embeddings"]
    turning = int(config["hidden_size"] // config["num_attention_heads"] * config["rope_parameters"]["partial_rotary_factor"])
    for layer in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{layer}.attention."
        tensors[at + "bias"] = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        tensors[at + "masked_bias"] = torch.tensor(-1e9)
        tensors[at + "rotary_emb.inv_freq"] = config["rope_parameters"]["rope_theta"] ** -(torch.arange(0, turning, 2) / turning)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def fair(expected, meta):
    """Whether greedy tokens are a test: clear margins, and transformers agrees with itself."""
    agree = all(meta[b]["greedy_fair"] and meta[b]["hf_generate_equal"] and meta[b]["cached_vs_uncached_tokens_equal"] for b in ("plain", "left_pad"))
    return agree and all(torch.isfinite(tensor).all() for tensor in expected.values())


def make_model(name, folder):
    kind, fields, dtype = MODELS[name]
    config = transformers.AutoConfig.for_model(kind, **fields)
    for attempt in range(TRIES):
        seed = zlib.crc32(name.encode()) % 100_000 + 100_003 * attempt
        fill(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32), seed).to(dtype).save_pretrained(folder)
        written = parity.read_json(folder / "config.json")
        parity.write_json(folder / "config_v4.json", older_config(name, written))
        if name == "gpt_neox":
            add_hub_buffers(folder, written)
        length = 24 if kind in ("falcon", "gpt_neox") else 16
        inputs, expected, meta = parity.measure(folder, parity.random_batches(config.vocab_size, seed + 1, length=length), STEPS)
        if fair(expected, meta):
            parity.write(folder, inputs, expected, meta | {"seed": seed, "stored_dtype": str(dtype).removeprefix("torch.")})
            return
    sys.exit(f"{name}: no seed with clear greedy choices")


def make_fp8(folder):
    """deepseek_v3 as DeepSeek publishes it: float8 projections with a scale per block, the rest in bfloat16, the router's bias in float32.

    The blocks are 16 x 16 instead of 128 x 128, and some are partial (24 or 72 rows), as the 576 rows of the real kv_a_proj_with_mqa."""
    source, tensors = ROOT / "deepseek_v3", {}
    for name, weight in parity.weights(source).items():
        if weight.ndim == 2 and not any(part in name for part in ("embed_tokens", "lm_head", "mlp.gate.")):
            padded = F.pad(weight, (0, -weight.shape[1] % FP8_BLOCK[1], 0, -weight.shape[0] % FP8_BLOCK[0]))
            blocks = padded.unflatten(1, (-1, FP8_BLOCK[1])).unflatten(0, (-1, FP8_BLOCK[0]))
            scale = blocks.abs().amax((1, 3)) / FP8_MAX
            tensors[name] = (weight / parity.spread(scale, FP8_BLOCK, weight.shape)).to(torch.float8_e4m3fn)
            tensors[name + "_scale_inv"] = scale
        else:
            tensors[name] = weight if name.endswith("e_score_correction_bias") else weight.bfloat16()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    quantization = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": FP8_BLOCK}
    for file, key in (("config.json", "dtype"), ("config_v4.json", "torch_dtype")):
        parity.write_json(folder / file, parity.read_json(source / file) | {key: "bfloat16", "quantization_config": quantization})
    shutil.copyfile(source / "generation_config.json", folder / "generation_config.json")
    for seed in range(1, TRIES):
        inputs, expected, meta = parity.measure(folder, parity.random_batches(128, seed, length=40), STEPS)
        if fair(expected, meta):
            note = "expected: the float32 model of the expanded weights (float8 value times the scale of its block, both in float32)"
            parity.write(folder, inputs, expected, meta | {"seed": seed, "stored_dtype": "float8_e4m3fn", "weights_of": "../deepseek_v3", "note": note})
            return
    sys.exit("deepseek_v3_fp8: no seed with clear greedy choices")


def make_sharded(folder):
    source = ROOT / "llama_gqa_untied"
    parity.load(source).save_pretrained(folder, max_shard_size="80KB")
    shutil.copyfile(source / "config_v4.json", folder / "config_v4.json")
    note = "model files only: inputs.json and expected.safetensors are those of ../llama_gqa_untied"
    meta = {"family": "llama", "weights_of": "../llama_gqa_untied", "expected_in": "../llama_gqa_untied", "shards": len(parity.weight_files(folder))}
    parity.write_json(folder / "meta.json", meta | {"note": note})


OTHERS = {"deepseek_v3_fp8": make_fp8, "llama_sharded": make_sharded}


def make(name, out):
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        OTHERS[name](folder) if name in OTHERS else make_model(name, folder)
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(folder, out / name)
    (out / name).chmod(0o755)
    for path in (out / name).iterdir():
        path.chmod(0o644)
    meta, size = parity.read_json(out / name / "meta.json"), sum(f.stat().st_size for f in (out / name).iterdir())
    noise = meta.get("plain", {}).get("fp32_vs_fp64_rel")
    margins = [round(meta[b]["greedy_min_margin"], 3) for b in ("plain", "left_pad") if b in meta]
    print(f"{name:22} {size / 1e3:5.0f} kB  noise {noise}  margins {margins}", flush=True)


@torch.no_grad()
def check(name, out):
    """True when both configs give the recorded logits, and the last recorded hidden state is that behind the final norm.

    Prints the largest difference over the largest logit."""
    folder, worst, got = out / name, {}, {}
    numbers = folder / parity.read_json(folder / "meta.json").get("expected_in", ".")
    expected = parity.load_file(numbers / "expected.safetensors")
    for config in ("config.json", "config_v4.json"):
        model = parity.load(folder, config=config)
        for batch in parity.read_json(numbers / "inputs.json")["batches"]:
            ids, mask, place = (torch.tensor(batch[key]) for key in ("input_ids", "attention_mask", "position_ids"))
            logits = model(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=False).logits * mask[..., None]
            got.setdefault(batch["name"], []).append(logits)
            worst[config] = max(worst.get(config, 0), parity.relative(logits, expected[batch["name"] + ".logits"]))
    last = max((key for key in expected if key.startswith("plain.hidden.")), key=lambda key: int(key.rsplit(".", 1)[1]))
    from_hidden = model.get_output_embeddings()(expected[last])
    if (cap := getattr(model.config, "final_logit_softcapping", None)) is not None:
        from_hidden = cap * torch.tanh(from_hidden / cap)
    worst["last hidden"] = parity.relative(from_hidden, expected["plain.logits"])
    equal = all(torch.equal(*both) for both in got.values())
    print(f"{name:26}", *(f"{what} {value:.1e} " for what, value in worst.items()), "configs equal" if equal else "CONFIGS DIFFER", flush=True)
    return equal and max(worst.values()) <= 1e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*MODELS, *OTHERS]))
    parser.add_argument("--out", type=pathlib.Path, default=ROOT, help="folder of the fixtures")
    parser.add_argument("--check", action="store_true", help="only compare what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    names = args.names or ([d.name for d in sorted(args.out.iterdir())] if args.check else [*MODELS, *OTHERS])
    if not args.check and (unknown := [name for name in names if name not in MODELS and name not in OTHERS]):
        sys.exit(f"not made here: {unknown}")
    failed = [name for name in names if args.check and not check(name, args.out)]
    if failed:
        sys.exit(f"different: {failed}")
    if not args.check:
        for name in names:
            make(name, args.out)


if __name__ == "__main__":
    main()

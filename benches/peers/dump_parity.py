#!/usr/bin/env python3
"""Numbers of any causal language model of transformers, in the layout that `llm-arch parity` reads.

    python dump_parity.py MODEL --out DUMP [--prompt TEXT ... | --tokens 1,2,3 ...]
    llm-arch parity DUMP

MODEL is a folder with config.json and safetensors, e.g. a checkpoint of yours or a downloaded one. DUMP becomes:

    config.json, generation_config.json    copies
    *.safetensors, *.index.json            links to the weights; copies with --copy-weights
    inputs.json                            {"batches": [{name, input_ids, attention_mask, position_ids}], "greedy_steps"}
    expected.safetensors                   <batch>.logits [B,T,V], 0 at padding; <batch>.greedy_tokens [B,steps], no end token
                                           plain.hidden.<i> [B,T,D]: 0 = embeddings, then each layer, the last after the final norm
                                           plain.greedy_logits [B,steps,V]
    meta.json                              margins of the greedy choice, noise of the reference itself, versions

Two batches: `plain` has no padding (prompts are cut to the shortest), `left_pad` has the whole prompts padded on the left; where all
are equally long, the first loses its first third. Without prompts: two rows of random tokens from --seed. The reference is the eager
implementation of transformers on the CPU. Checkpoints in blockwise float8 (DeepSeek-V3) are expanded to float32 first.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
import transformers
from safetensors.torch import load_file, save_file

transformers.utils.logging.disable_progress_bar()
NOISE_UP_TO = 500_000_000  # parameters; a second copy in float64 costs eight bytes each
FAIR_MARGIN = 1e-3  # of the largest logit; below it, equal greedy tokens are luck


def read_json(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_json(path, value):
    text = json.dumps(value, separators=(",", ":"), default=lambda tensor: tensor.tolist(), allow_nan=False)
    pathlib.Path(path).write_text(text + "\n", encoding="utf-8")


def weight_files(folder):
    """The safetensors of a model folder. `expected.safetensors` of a fixture or dump is not one of them."""
    files = sorted(f for f in pathlib.Path(folder).glob("*.safetensors") if f.name not in ("expected.safetensors", "inputs.safetensors"))
    if not files:
        sys.exit(f"{folder}: no safetensors in it; open it in transformers and write it again with save_pretrained()")
    return files


def weights(folder):
    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}


def fp8_block(folder):
    """`weight_block_size` of a checkpoint in blockwise float8, else None."""
    quantization = read_json(pathlib.Path(folder) / "config.json").get("quantization_config") or {}
    return quantization.get("weight_block_size") if quantization.get("quant_method") == "fp8" else None


def spread(scale, block, shape):
    """A scale per block to a scale per element; blocks at the lower and right edge may be partial."""
    return scale.repeat_interleave(block[0], 0)[: shape[0]].repeat_interleave(block[1], 1)[:, : shape[1]]


def expand_fp8(tensors, block):
    """float32 in place of every float8 tensor: times the scale of its block."""
    plain = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float8_e4m3fn:
            if (scale := tensors.get(name + "_scale_inv")) is None:
                sys.exit(f"{name}: is float8, but {name}_scale_inv is not in the checkpoint")
            tensor = tensor.float() * spread(scale, block, tensor.shape)
        if not name.endswith("_scale_inv"):
            plain[name] = tensor
    return plain


def load(folder, dtype=torch.float32, config="config.json"):
    """The model, read under a config file of the folder; a missing, unexpected or ill-shaped tensor is an end, not a warning.

    float8 is expanded here, not by transformers, whose own expansion (5.23) refuses partial blocks."""
    folder = pathlib.Path(folder)
    if (block := fp8_block(folder)) is not None:
        return load_as(folder, expand_fp8(weights(folder), block), dtype, config)
    settings = transformers.AutoConfig.from_pretrained(folder / config)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=settings, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    problems = {kind: sorted(map(str, found)) for kind, found in info.items() if found}
    if problems:
        sys.exit(f"{folder}: transformers does not take the folder as it is: {problems}")
    return model.eval()


def load_as(folder, tensors, dtype=torch.float32, config="config.json"):
    """As `load`, with these tensors instead of the folder's, none of them in float8."""
    with tempfile.TemporaryDirectory() as scratch:
        save_file(tensors, f"{scratch}/model.safetensors", {"format": "pt"})
        fields = read_json(pathlib.Path(folder) / config)
        write_json(f"{scratch}/config.json", {key: value for key, value in fields.items() if key != "quantization_config"})
        return load(scratch, dtype)


def positions(mask):
    return (mask.cumsum(-1) - 1).clamp(min=0)


def batches(prompts, pad):
    """[(name, ids, mask)] from lists of ids, see the header."""
    shortest, longest = min(map(len, prompts)), max(map(len, prompts))
    plain = torch.tensor([ids[:shortest] for ids in prompts])
    whole = [prompts[0][max(1, shortest // 3) :], *prompts[1:]] if shortest == longest else prompts
    padded = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in whole])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in whole])
    return [("plain", plain, torch.ones_like(plain)), ("left_pad", padded, mask)]


def random_batches(vocab, seed, rows=2, length=16, pads=(6, 0), lowest=3):
    """As `batches`, of random ids from `lowest` up; the first row of `left_pad` begins with pads[0] zeros, and so on."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randint(lowest, vocab, (rows, length), generator=generator)
    plain, padded = draw(), draw()
    mask = (torch.arange(length) >= torch.tensor(pads)[:, None]).long()
    return [("plain", plain, torch.ones_like(plain)), ("left_pad", padded * mask, mask)]


def relative(a, b):
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


@torch.no_grad()
def greedy(model, ids, mask, steps, cached):
    """Most likely tokens [B,steps], no stop at an end token, and the logits [B,steps,V] they were taken from."""
    tokens, logits, cache = [], [], None
    for _ in range(steps):
        place, new = positions(mask), ids if cache is None else ids[:, -1:]
        out = model(input_ids=new, attention_mask=mask, position_ids=place[:, -new.shape[1] :], past_key_values=cache, use_cache=cached)
        cache = out.past_key_values if cached else None
        last = out.logits[:, -1].float()
        best = last.argmax(-1, keepdim=True)
        tokens.append(best)
        logits.append(last)
        ids, mask = torch.cat([ids, best], 1), torch.cat([mask, torch.ones_like(best)], 1)
    return torch.cat(tokens, 1), torch.stack(logits, 1)


@torch.no_grad()
def measure(folder, rows, steps, dtype=torch.float32):
    """(inputs, expected, meta) of a model folder on `rows` as `batches` gives them."""
    fresh = lambda kind=dtype: load(folder, kind)  # dynamic rope keeps state between calls
    model = fresh()
    count = sum(parameter.numel() for parameter in model.parameters())
    dynamic = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope")
    inputs, expected, meta = [], {}, {"family": model.config.model_type, "params": count}
    for name, ids, mask in rows:
        place, seen = positions(mask), mask.bool()
        model = fresh() if dynamic else model
        out = model(input_ids=ids, attention_mask=mask, position_ids=place, output_hidden_states=True, use_cache=False)
        logits, noise = out.logits.float(), None
        expected[f"{name}.logits"] = logits * mask[..., None]
        if name == "plain":
            expected |= {f"plain.hidden.{i}": hidden.float() for i, hidden in enumerate(out.hidden_states)}
            if dtype == torch.float32 and count <= NOISE_UP_TO:
                double = fresh(torch.float64)(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=False)
                noise = relative(logits, double.logits)
        model = fresh() if dynamic else model
        tokens, chosen_from = greedy(model, ids, mask, steps, cached=True)
        expected[f"{name}.greedy_tokens"] = tokens
        if name == "plain":
            expected["plain.greedy_logits"] = chosen_from
        model = fresh() if dynamic else model
        again, uncached = greedy(model, ids, mask, steps, cached=False)
        if dynamic:
            expected |= {f"{name}.greedy_tokens_nocache": again, f"{name}.greedy_logits_nocache": uncached}
        model = fresh() if dynamic else model
        model.generation_config.eos_token_id = None
        options = {"max_new_tokens": steps, "min_new_tokens": steps, "do_sample": False, "pad_token_id": 0}
        library = model.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :]
        best = chosen_from.topk(2, -1).values
        margin = float((best[..., 0] - best[..., 1]).min())
        same = torch.equal(tokens, again)
        inputs.append({"name": name, "input_ids": ids, "attention_mask": mask, "position_ids": place})
        meta[name] = {
            "logits_std": float(logits[seen].std()),
            "logits_absmax": float(logits[seen].abs().max()),
            "fp32_vs_fp64_rel": noise,
            "cached_vs_uncached_tokens_equal": same,
            "cached_vs_uncached_logits_rel": relative(chosen_from, uncached) if same else None,
            "greedy_min_margin": margin,
            "greedy_fair": margin >= FAIR_MARGIN * float(chosen_from.abs().max()),
            "hf_generate_equal": torch.equal(library, tokens),
            "distinct_greedy": int(tokens.unique().numel()),
        }
    meta["versions"] = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"batches": inputs, "greedy_steps": steps}, expected, meta


def write(out, inputs, expected, meta):
    save_file({name: tensor.contiguous().clone() for name, tensor in expected.items()}, pathlib.Path(out) / "expected.safetensors")
    write_json(pathlib.Path(out) / "inputs.json", inputs)
    write_json(pathlib.Path(out) / "meta.json", meta)


def prompt_ids(args):
    """The lists of ids that the user asked for, None for none."""
    if args.tokens:
        try:
            return [[int(number) for number in row.split(",")] for row in args.tokens]
        except ValueError:
            sys.exit("--tokens: expected ids with commas between, such as 1,42,17")
    if args.prompt:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        return [tokenizer(text)["input_ids"] for text in args.prompt]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="model folder")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write; must not exist or be empty")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt, again for more; encoded by the folder's tokenizer")
    parser.add_argument("--tokens", action="append", metavar="IDS", help="a prompt as ids with commas between, again for more")
    parser.add_argument("--seed", type=int, default=0, help="of the random prompts where none are given [0]")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default="float32", help="to compute in [float32]")
    parser.add_argument("--greedy-steps", type=int, default=16, help="tokens to generate [16]")
    parser.add_argument("--copy-weights", action="store_true", help="copy the weights instead of linking to them")
    args = parser.parse_args()
    files = weight_files(args.model)
    if args.out.exists() and any(args.out.iterdir()):
        sys.exit(f"{args.out}: is not empty")
    vocab = transformers.AutoConfig.from_pretrained(args.model).get_text_config().vocab_size
    prompts = prompt_ids(args)
    if prompts is None:
        rows = random_batches(vocab, args.seed)
    elif not all(prompts) or not all(0 <= token < vocab for ids in prompts for token in ids):
        sys.exit(f"prompts must not be empty, and ids must lie in 0..{vocab}")
    else:
        rows = batches(prompts, pad=0)
    if rows[0][1].shape[1] < 2:
        sys.exit("the shortest prompt has one token; give at least two")
    inputs, expected, meta = measure(args.model, rows, args.greedy_steps, getattr(torch, args.dtype))
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out, inputs, expected, meta | {"dtype": args.dtype})
    for file in [*files, *args.model.glob("*.safetensors.index.json")]:
        if args.copy_weights:
            shutil.copyfile(file, args.out / file.name)
        else:
            (args.out / file.name).symlink_to(file.resolve())
    for name in ("config.json", "generation_config.json"):
        if (args.model / name).exists():
            shutil.copyfile(args.model / name, args.out / name)
    for name in (row[0] for row in rows):
        if not meta[name]["greedy_fair"]:
            print(f"warning: {name}: two tokens are within {meta[name]['greedy_min_margin']:.2g}; greedy tokens may differ for no fault")
    print(f"{args.out}: {meta['params']:,} parameters, {len(inputs['batches'])} batches of {tuple(rows[0][1].shape)} and {tuple(rows[1][1].shape)}")


if __name__ == "__main__":
    main()

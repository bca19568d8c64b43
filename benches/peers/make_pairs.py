#!/usr/bin/env python3
"""Writes fixtures/vision/{clip_pair,clip_pair_eos2,siglip_pair}: tiny random CLIPModel and SiglipModel folders with the numbers of transformers.

    python make_pairs.py [--out fixtures/vision] [NAME...]          # all by default, a second each
    python make_pairs.py --check SAVED [SAVED ...]                  # does transformers open a pair that we saved, and is it the fixture?

Made with torch 2.15.0, transformers 5.23.0, safetensors 0.8.0 on the CPU with one thread. Nothing is downloaded.

    config.json, model.safetensors    as save_pretrained writes them
    inputs.safetensors                pixel_values [B, C, H, W]
    inputs.json                       input_ids [B, L]; attention_mask [B, L] of the batch `masked`
    expected.safetensors              image_features, text_features [B, E], not normalised; logits_per_image [B, B]; loss [1]; text_last_hidden_state
                                      [B, L, D]; masked.text_features; grad.NAME of a few tensors; grad_norm.NAME [1] of all

--check compares SAVED with the fixture of the same name: every tensor bit for bit, no missing or unexpected key, features and logits equal.
Ends with status 1 at a difference.
"""

import argparse
import json
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2] / "fixtures/vision"
TEXT = dict(vocab_size=96, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=12)
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8)
END, PAD, BATCH, LENGTH = 95, 0, 4, 10

CLIP = dict(projection_dim=20, text_config=TEXT | dict(projection_dim=20), vision_config=VISION | dict(projection_dim=20))
# name: class, configuration, id of the end token
PAIRS = {
    "clip_pair": ("CLIP", CLIP, END),
    "clip_pair_eos2": ("CLIP", CLIP, 2),
    "siglip_pair": ("Siglip", dict(text_config=TEXT | dict(projection_size=32), vision_config=VISION), END),
}
# Whole gradients are kept of these, of all others the norm.
GRADIENTS = {
    "logit_scale", "logit_bias", "text_model.embeddings.position_embedding.weight", "text_model.encoder.layers.0.self_attn.q_proj.weight",
    "vision_model.embeddings.patch_embedding.weight", "visual_projection.weight", "vision_model.head.probe", "text_model.head.weight",
}  # fmt: skip


def opened(folder, kind):
    model, report = getattr(transformers, f"{kind}Model").from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), report


def features(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def make(name, out):
    kind, config, end = PAIRS[name]
    config = json.loads(json.dumps(config))
    config["text_config"] |= dict(eos_token_id=end, pad_token_id=PAD, bos_token_id=1)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config))
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in key and key.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)
            elif key == "logit_scale":
                tensor.fill_(1.7)
            elif key == "logit_bias":
                tensor.fill_(-2.3)
            else:
                tensor.copy_((0.3 if "embedding" in key else 0.15) * noise)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    model, _ = opened(folder, kind)

    pixels = torch.randn(BATCH, 3, VISION["image_size"], VISION["image_size"], generator=generator)
    ids = torch.randint(3, END, (BATCH, LENGTH), generator=generator)
    lengths = [LENGTH, 5, 7, 8]
    mask = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, length - 1] = END
        ids[row, length:] = END if name == "clip_pair" and row == 1 else PAD  # CLIP's own padding is its end token
        mask[row, :length] = 1
    outputs = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    outputs.loss.backward()
    expected = {
        "image_features": features(model.get_image_features(pixel_values=pixels)),
        "text_features": features(model.get_text_features(input_ids=ids)),
        "masked.text_features": features(model.get_text_features(input_ids=ids, attention_mask=mask)),
        "text_last_hidden_state": outputs.text_model_output.last_hidden_state,
        "logits_per_image": outputs.logits_per_image,
        "loss": outputs.loss.reshape(1),
    }
    for key, tensor in model.named_parameters():
        if tensor.grad is None:
            sys.exit(f"{name}: {key} has no gradient")
        expected[f"grad_norm.{key}"] = tensor.grad.norm().reshape(1)
        if key in GRADIENTS:
            expected[f"grad.{key}"] = tensor.grad.reshape(-1) if tensor.dim() == 0 else tensor.grad
    save_file({key: tensor.detach().contiguous() for key, tensor in expected.items()}, folder / "expected.safetensors")
    save_file({"pixel_values": pixels}, folder / "inputs.safetensors")
    inputs = dict(input_ids=ids.tolist(), attention_mask=mask.tolist(), note="attention_mask belongs to masked.text_features alone")
    (folder / "inputs.json").write_text(json.dumps(inputs, separators=(",", ":")) + "\n", encoding="utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: loss {outputs.loss.item():.4f}, {size / 1e3:.0f} kB")


@torch.no_grad()
def check(saved):
    name = saved.resolve().name
    if name not in PAIRS:
        sys.exit(f"{saved}: its name must be one of {', '.join(PAIRS)}")
    fixture, kind, faults = ROOT / name, PAIRS[name][0], []
    theirs, ours = load_file(fixture / "model.safetensors"), load_file(saved / "model.safetensors")
    for key in sorted(theirs.keys() | ours.keys()):
        if key not in theirs or key not in ours:
            faults.append(f"{key} is only in {'ours' if key in ours else 'theirs'}")
        elif theirs[key].shape != ours[key].shape or not torch.equal(theirs[key], ours[key]):
            faults.append(f"{key} differs")
    (model, report), (reference, _) = opened(saved, kind), opened(fixture, kind)
    faults += [f"{what}: {keys}" for what, keys in report.items() if keys]
    left, right = model.config.to_dict(), reference.config.to_dict()
    for part in ("text_config", "vision_config"):
        for key in left[part].keys() | right[part].keys():
            if left[part].get(key) != right[part].get(key) and key not in ("dtype", "torch_dtype", "transformers_version", "architectures", "_name_or_path"):
                faults.append(f"{part}.{key}: {right[part].get(key)} became {left[part].get(key)}")
    inputs = json.loads((fixture / "inputs.json").read_text(encoding="utf-8"))
    ids, pixels = torch.tensor(inputs["input_ids"]), load_file(fixture / "inputs.safetensors")["pixel_values"]
    ours, theirs = (m(input_ids=ids, pixel_values=pixels).logits_per_image for m in (model, reference))
    if not torch.equal(ours, theirs):
        faults.append(f"logits differ by up to {(ours - theirs).abs().max():.3g}")
    print("\n".join([f"{saved}: {'equal' if not faults else 'DIFFERENT'}", *faults]))
    return not faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.check:
        sys.exit(not all([check(pathlib.Path(name)) for name in args.names]))
    for name in args.names or PAIRS:
        make(name, args.out)

#!/usr/bin/env python3
"""Numbers of a vision tower, an image-text pair or a LLaVA model of transformers, in the layout that `llm-vision parity` reads.

    python dump_vision.py MODEL --out DUMP [--seed N]
    llm-vision parity DUMP

MODEL is a folder with config.json and safetensors: a checkpoint of yours, or one that llm-vision saved. It must open in transformers with
no missing, unexpected or ill-shaped key. DUMP becomes:

    config.json, *.safetensors, ...     copies
    inputs.safetensors                  pixel_values
    inputs.json                         input_ids, attention_mask (left padding for LLaVA), image_token_counts, greedy_steps
    image0.png, image1.png              LLaVA with a preprocessor_config.json: pixel_values are what its processor makes of them
    expected.safetensors                towers: hidden.I, last_hidden_state, pooler_output, select_layer_minus2_patch
                                        pairs: image_features, text_features, masked.text_features, text_last_hidden_state, logits_per_image, loss
                                        LLaVA: image_features, hidden.I, logits, greedy_tokens (ids below the placeholder)

The reference is the eager implementation of transformers on the CPU; images go through its Pillow processors.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
import transformers
from safetensors.torch import save_file

STEPS, PREFIX, FAIR_MARGIN = 16, (4, 3), 1e-3
CLASSES = {
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "llava": "LlavaForConditionalGeneration",
}


def opened(folder, kind):
    if kind not in CLASSES:
        sys.exit(f"{folder}: model_type {kind}; expected one of {', '.join(CLASSES)}")
    model, report = getattr(transformers, CLASSES[kind]).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    faults = {what: sorted(map(str, keys)) for what, keys in report.items() if keys}
    if faults:
        sys.exit(f"{folder}: transformers finds {faults}")
    return model.eval()


def pooled(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def noise(generator, config, images):
    return torch.randn(images, config.num_channels, config.image_size, config.image_size, generator=generator)


def tower(model, generator):
    pixels = noise(generator, model.config, 2)
    output = model(pixel_values=pixels, output_hidden_states=True)
    expected = {f"hidden.{i}": state for i, state in enumerate(output.hidden_states)}
    expected["last_hidden_state"] = output.last_hidden_state
    if output.pooler_output is not None:
        expected["pooler_output"] = output.pooler_output
    first = model.config.model_type == "clip_vision_model"
    expected["select_layer_minus2_patch"] = output.hidden_states[-2][:, first:]
    return expected, pixels, {}


def pair(model, generator):
    text, batch = model.config.text_config, 4
    length, end = min(text.max_position_embeddings, 12), text.eos_token_id
    ids = torch.randint(0, text.vocab_size, (batch, length), generator=generator)
    if model.config.model_type == "clip":
        ids[ids == end] = (end + 1) % text.vocab_size
    mask = torch.zeros_like(ids)
    for row in range(batch):
        last = length - 1 - row
        ids[row, last] = end if end != 2 else text.vocab_size - 1
        mask[row, : last + 1] = 1
    pixels = noise(generator, model.config.vision_config, batch)
    output = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    expected = {
        "image_features": pooled(model.get_image_features(pixel_values=pixels)),
        "text_features": pooled(model.get_text_features(input_ids=ids)),
        "masked.text_features": pooled(model.get_text_features(input_ids=ids, attention_mask=mask)),
        "text_last_hidden_state": output.text_model_output.last_hidden_state,
        "logits_per_image": output.logits_per_image,
        "loss": output.loss.reshape(1),
    }
    return expected, pixels, dict(input_ids=ids.tolist(), attention_mask=mask.tolist())


def pictures(folder, out, seed):
    """What the folder's own processor makes of two pictures that are not square."""
    import numpy
    from PIL import Image

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    if "Pil" not in type(processor).__name__:
        sys.exit(f"{folder}: {type(processor).__name__} is not a processor with Pillow's resampling")
    images, random = [], numpy.random.default_rng(seed)
    for i, (width, height) in enumerate([(71, 53), (40, 64)]):
        y, x = numpy.mgrid[0:height, 0:width]
        waves = numpy.stack([128 + 120 * numpy.sin(0.11 * x), 255 * y / height, 128 + 90 * numpy.cos(0.07 * x * y / 9)], -1)
        image = Image.fromarray(numpy.clip(waves + random.integers(-20, 21, waves.shape), 0, 255).astype(numpy.uint8))
        image.save(out / f"image{i}.png")
        images.append(image)
    return torch.as_tensor(numpy.asarray(processor(images, return_tensors="pt")["pixel_values"]))


def greedy(model, ids, mask, pixels, steps, limit):
    """Tokens below the placeholder, recomputed at every step, and the smallest lead of a choice."""
    tokens, margin = [], float("inf")
    for _ in range(steps):
        logits = model(input_ids=ids[None], attention_mask=mask[None], pixel_values=pixels).logits[0, -1, :limit]
        best = logits.topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]) / float(logits.abs().max()))
        tokens.append(int(best.indices[0]))
        ids, mask = torch.cat([ids, best.indices[:1]]), torch.cat([mask, mask.new_ones(1)])
    return tokens, margin


def llava(model, generator, folder, out, seed):
    config = model.config
    image, vision = config.image_token_id, config.vision_config
    if (folder / "preprocessor_config.json").exists():
        pixels = pictures(folder, out, seed)
    else:
        pixels = noise(generator, vision, 2)
    features = pooled(model.get_image_features(pixel_values=pixels))
    features = torch.cat(list(features)) if not isinstance(features, torch.Tensor) else features.flatten(0, -2)
    tokens = features.shape[0] // 2
    words = lambda n: torch.randint(3, image, (n,), generator=generator)  # noqa: E731
    # The first row holds an image, the second another one and one word less in front.
    rows = [torch.cat([words(n), torch.full((tokens,), image), words(5)]) for n in PREFIX]
    length = max(map(len, rows))
    ids, mask = torch.zeros(2, length, dtype=torch.long), torch.zeros(2, length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :], mask[i, length - len(row) :] = row, 1
    output = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, output_hidden_states=True)
    expected = {f"hidden.{i}": state for i, state in enumerate(output.hidden_states)}
    expected |= {"image_features": features, "logits": output.logits}
    chosen = [greedy(model, row, torch.ones_like(row), pixels[i : i + 1], STEPS, image) for i, row in enumerate(rows)]
    expected["greedy_tokens"] = torch.tensor([tokens for tokens, _ in chosen])
    margin = min(margin for _, margin in chosen)
    print(f"smallest lead of a greedy choice: {margin:.1e} of the largest logit" + (", a near tie" if margin < FAIR_MARGIN else ""))
    return expected, pixels, dict(
        input_ids=ids.tolist(), attention_mask=mask.tolist(), image_token_counts=[tokens, tokens], greedy_steps=STEPS
    )


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kind = json.loads((args.model / "config.json").read_text(encoding="utf-8")).get("model_type")
    model = opened(args.model, kind)
    args.out.mkdir(parents=True, exist_ok=True)
    for file in args.model.iterdir():
        if file.is_file() and file.name not in ("expected.safetensors", "inputs.safetensors", "inputs.json"):
            shutil.copyfile(file, args.out / file.name)
    generator = torch.Generator().manual_seed(args.seed)
    if kind == "llava":
        expected, pixels, inputs = llava(model, generator, args.model, args.out, args.seed)
    else:
        expected, pixels, inputs = (tower if kind.endswith("vision_model") else pair)(model, generator)
    save_file({name: tensor.clone().contiguous() for name, tensor in expected.items()}, args.out / "expected.safetensors")
    save_file({"pixel_values": pixels.contiguous()}, args.out / "inputs.safetensors")
    (args.out / "inputs.json").write_text(json.dumps(inputs, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(expected)} tensors of {type(model).__name__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes `fixtures/sampling/beams.json`: what transformers' beam search finds with the models of `fixtures/decoder`.

    python make_beam_fixtures.py [--out fixtures/sampling/beams.json]

Made with torch 2.15.0 and transformers 5.23.0 on the CPU with one thread. Nothing is downloaded. A case whose order hangs on less than
`MARGIN` of log-probability is left out, and the script says so: two programs may round it differently.
"""

import argparse
import itertools
import json
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2] / "fixtures"
MODELS = ["llama_gqa_untied", "qwen3", "gpt2", "gemma2", "mixtral"]
MARGIN = 5e-4

# The end tokens are chosen so that these random models do end: the ones that they say often.
SETTINGS = [
    dict(num_beams=1, num_return_sequences=1, length_penalty=1.0, early_stopping=False, max_tokens=12),
    dict(num_beams=4, num_return_sequences=4, length_penalty=1.0, early_stopping=False, max_tokens=24),
    dict(num_beams=4, num_return_sequences=4, length_penalty=1.0, early_stopping=True, max_tokens=24),
    dict(num_beams=4, num_return_sequences=2, length_penalty=1.0, early_stopping="never", max_tokens=24),
    dict(num_beams=3, num_return_sequences=3, length_penalty=0.0, early_stopping="never", max_tokens=20),
    dict(num_beams=5, num_return_sequences=5, length_penalty=2.0, early_stopping=False, max_tokens=20),
    dict(num_beams=5, num_return_sequences=5, length_penalty=2.0, early_stopping="never", max_tokens=20),
    dict(num_beams=3, num_return_sequences=3, length_penalty=-1.0, early_stopping=False, max_tokens=20),
    dict(num_beams=8, num_return_sequences=8, length_penalty=0.7, early_stopping=True, max_tokens=30),
]


@torch.no_grad()
def common_tokens(model, prompt, n):
    """The tokens that short samples of the model have most of."""
    torch.manual_seed(0)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    ids = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=24, num_return_sequences=16, pad_token_id=0)
    ids = ids[:, len(prompt) :]
    counts = torch.bincount(ids.flatten(), minlength=model.config.vocab_size)
    return counts.argsort(descending=True, stable=True)[:n].tolist()


@torch.no_grad()
def search(model, prompt, ends, settings):
    model.generation_config.eos_token_id = ends or None
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        num_beams=settings["num_beams"],
        num_return_sequences=settings["num_return_sequences"],
        length_penalty=settings["length_penalty"],
        early_stopping=settings["early_stopping"],
        max_new_tokens=settings["max_tokens"],
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    beams = []
    if settings["num_beams"] == 1:
        # Greedy search has no score: the sum of log p over the length.
        tokens = out.sequences[0, len(prompt) :].tolist()
        logprobs = [torch.log_softmax(s[0].float(), -1)[t].item() for s, t in zip(out.scores, tokens)]
        return [dict(tokens=tokens, score=sum(logprobs) / len(logprobs) ** settings["length_penalty"])]
    for sequence, score in zip(out.sequences[:, len(prompt) :].tolist(), out.sequences_scores.tolist()):
        found = [i for i, token in enumerate(sequence) if token in ends]
        beams.append(dict(tokens=sequence[: found[0] + 1] if found else sequence, score=score))
    return beams


def apart(a, b, penalty):
    """The difference of two scores in log-probability."""
    return (a["score"] - b["score"]) * min(len(a["tokens"]) ** penalty, len(b["tokens"]) ** penalty)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "sampling/beams.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for name in MODELS:
        model = transformers.AutoModelForCausalLM.from_pretrained(ROOT / "decoder" / name, dtype=torch.float32).eval()
        inputs = json.loads((ROOT / "decoder" / name / "inputs.json").read_text())
        prompts = inputs["batches"][0]["input_ids"][:1]
        for prompt, number in itertools.product(prompts, (0, 1, 3)):
            ends = common_tokens(model, prompt, number)
            for settings in SETTINGS:
                beams = search(model, prompt, ends, settings)
                penalty = settings["length_penalty"]
                if any(apart(a, b, penalty) < MARGIN for a, b in itertools.pairwise(beams)):
                    print(f"{name}, {number} ends, {settings}: left out, scores {[beam['score'] for beam in beams]}")
                    continue
                cases.append(dict(model=name, prompt=prompt, ends=ends, **settings, beams=beams))
    versions = dict(torch=torch.__version__, transformers=transformers.__version__)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    args.out.write_text(f'{{"versions":{json.dumps(versions)},"cases":[\n{lines}\n]}}\n')
    print(f"{len(cases)} cases, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

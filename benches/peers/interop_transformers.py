#!/usr/bin/env python3
"""Does Python transformers compute what we compute? Logits and greedy tokens of one model folder, side by side.

    python interop_transformers.py prompts > prompts.json              # 1. what both sides are asked
    llm-eval logits --model MODEL --prompts prompts.json > ours.json   # 2. our numbers
    python interop_transformers.py compare MODEL ours.json             # 3. theirs, and the difference
    python interop_transformers.py fixture FOLDER                      # is this Python setup itself sound?

`MODEL` is a model folder of a run, e.g. `runs/quickstart/grpo/model`. Everything runs in float32 on the CPU. `compare` ends
with status 1 when an id or a greedy token differs, or a logit by more than `--tolerance`; `--json FILE` keeps the numbers.

The exchange file, written by our side (prompts.json has only `text` and `max_tokens`):

    {"prompts": [{
        "text":    the prompt,
        "ids":     [bos, then the ids of the text; special tokens inside the text are not recognised],
        "logits":  [[V floats] for every id of `ids`, or one row: that of the last id],
        "greedy":  [at most max_tokens ids, each the most likely one; ends early only before an end token, which is left out]
    }], "max_tokens": 32}
"""

import argparse
import json
import pathlib
import sys

import torch
import transformers

PROMPTS = [
    "The borrow checker makes sure that",
    "In a small village near the sea there lived",
    "Anna hat 12 Äpfel und kauft 30 weitere. Sie hat jetzt",
    "El río pasa por la ciudad y después",
    "fn main() {\n    let mut numbers = Vec::new();\n    for i in 0..10 {\n",
    "def add(a: int, b: int) -> int:\n    return",
    "日本語 😀 naïve — 3.14159\t\r\n",
]
MAX_TOKENS = 32


def load(folder):
    """The model alone: a missing, unexpected or ill-shaped tensor is an end, not a warning."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    problems = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if problems:
        sys.exit(f"{folder}: transformers does not take the folder as it is: {problems}")
    return model.eval()


@torch.no_grad()
def greedy(model, ids, steps, ends):
    """Most likely tokens one by one with the key/value cache; also the margin over the second best at each step."""
    tokens, margins, cache, now = [], [], None, torch.tensor([ids])
    for _ in range(steps):
        out = model(now, past_key_values=cache, use_cache=True)
        cache, top = out.past_key_values, out.logits[0, -1].topk(2)
        token = int(top.indices[0])
        if token in ends:
            break
        tokens.append(token)
        margins.append(float(top.values[0] - top.values[1]))
        now = torch.tensor([[token]])
    return tokens, margins


@torch.no_grad()
def generate(model, ids, steps, ends):
    """The library's own loop, without its end token."""
    ids = torch.tensor([ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=steps)[0, ids.shape[1] :].tolist()
    return out[:-1] if out and out[-1] in ends else out


def prompts():
    entries = [{"text": text} for text in PROMPTS]
    json.dump({"prompts": entries, "max_tokens": MAX_TOKENS}, sys.stdout, ensure_ascii=False, indent=1)
    print()


@torch.no_grad()
def compare(folder, ours_file, tolerance, report):
    ours = json.loads(pathlib.Path(ours_file).read_text(encoding="utf-8"))
    if not ours.get("prompts"):
        sys.exit(f"{ours_file}: no prompts in it")
    model, tokenizer = load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    steps, rows, failures = ours.get("max_tokens", MAX_TOKENS), [], []
    print(f"{'prompt':<32} {'ids':>4} {'rows':>4} {'max |logit|':>11} {'max |diff|':>11} {'relative':>9} {'greedy':>9} {'least margin':>12}")
    for number, entry in enumerate(ours["prompts"], 1):
        where = f"prompt {number} ({entry['text'][:24]!r})"
        ids = [tokenizer.bos_token_id, *tokenizer.encode(entry["text"], add_special_tokens=False)]
        if ids != entry["ids"]:
            failures.append(f"{where}: ids differ: ours {entry['ids']}, theirs {ids}")
        theirs = model(torch.tensor([entry["ids"]])).logits[0].double()
        mine = torch.tensor(entry["logits"], dtype=torch.float64)
        if mine.ndim != 2 or mine.shape[1] != theirs.shape[1] or mine.shape[0] not in (1, theirs.shape[0]):
            sys.exit(f"{where}: logits have shape {list(mine.shape)}, expected {list(theirs.shape)} or one row of it")
        theirs = theirs[-mine.shape[0] :]
        difference, largest = float((mine - theirs).abs().max()), float(theirs.abs().max())
        # `nan <= x` is false, so a NaN on either side fails too.
        if not difference <= tolerance:
            failures.append(f"{where}: logits differ by {difference:.3g}, allowed is {tolerance:g}")
        tokens, margins = greedy(model, entry["ids"], steps, ends)
        library = generate(model, entry["ids"], steps, ends)
        if tokens != library:
            failures.append(f"{where}: transformers disagrees with itself: {tokens} by hand, {library} by generate()")
        same = tokens == entry["greedy"]
        if not same:
            at = next((i for i, (a, b) in enumerate(zip(tokens, entry["greedy"])) if a != b), min(len(tokens), len(entry["greedy"])))
            margin = f", where the best two logits are {margins[at]:.3g} apart" if at < len(margins) else ""
            failures.append(f"{where}: greedy tokens differ from token {at + 1} on{margin}: ours {entry['greedy'][at:]}, theirs {tokens[at:]}")
        least = min(margins, default=float("nan"))
        equal = f"{len(tokens)} equal" if same else "DIFFER"
        label = entry["text"].encode("unicode_escape").decode()[:32]
        print(f"{label:<32} {len(ids):>4} {len(mine):>4} {largest:>11.4f} {difference:>11.2e} {difference / largest:>9.1e} {equal:>9} {least:>12.4f}")
        row = {"text": entry["text"], "ids": len(ids), "rows": len(mine), "max_abs_logit": largest, "max_abs_diff": difference}
        rows.append(row | {"greedy_tokens": len(tokens), "greedy_equal": same, "least_margin": least})
    worst = max(row["max_abs_diff"] for row in rows)
    tokens = sum(row["greedy_tokens"] for row in rows)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}
    if report:
        result = {"model": str(folder), "tolerance": tolerance, "max_abs_diff": worst, "equal": not failures, "prompts": rows, "versions": versions}
        pathlib.Path(report).write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if failures:
        sys.exit("DIFFERENT\n  " + "\n  ".join(failures))
    print(f"equal: {len(rows)} prompts, logits within {worst:.2e}, {tokens} greedy tokens the same; {versions}")


@torch.no_grad()
def fixture(folder):
    """A folder of fixtures/decoder: the numbers that came with it must come out again."""
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    model, expected = load(folder), load_file(folder / "expected.safetensors")
    spec = json.loads((folder / "inputs.json").read_text())
    batch = next(b for b in spec["batches"] if b["name"] == "plain")
    logits = model(torch.tensor(batch["input_ids"])).logits
    difference = float((logits - expected["plain.logits"]).abs().max())
    tokens = [greedy(model, ids, spec["greedy_steps"], ())[0] for ids in batch["input_ids"]]
    if tokens != expected["plain.greedy_tokens"].tolist() or not difference <= 1e-4 * float(expected["plain.logits"].abs().max()):
        sys.exit(f"{folder}: logits differ by {difference:.3g}, or greedy tokens do")
    print(f"sound: {folder.name}: logits within {difference:.2e}, {sum(map(len, tokens))} greedy tokens the same")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prompts", help="print the prompts")
    command = commands.add_parser("compare", help="compare our numbers with those of transformers")
    command.add_argument("model", help="model folder")
    command.add_argument("ours", help="our numbers, as described above")
    command.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a logit [1e-4]")
    command.add_argument("--json", metavar="FILE", help="write the result there")
    command = commands.add_parser("fixture", help="recompute a folder of fixtures/decoder")
    command.add_argument("folder")
    args = parser.parse_args()
    if args.command == "prompts":
        prompts()
    elif args.command == "compare":
        compare(args.model, args.ours, args.tolerance, args.json)
    else:
        fixture(args.folder)


if __name__ == "__main__":
    main()

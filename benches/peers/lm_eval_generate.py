#!/usr/bin/env python3
"""Does llm-eval generate and count what lm-evaluation-harness generates and counts?

    pip install lm_eval[math]==0.4.13 torch transformers accelerate pyarrow
    python benches/peers/lm_eval_generate.py --model runs/quickstart/grpo/model --llm-eval target/debug/llm-eval --data ../shared/data/benchmarks

Both run the same generation tasks, greedily, on the same files and the same model folder: the harness through its Hugging Face
backend in float32. Compared are, per document, the prompt as text and as token ids (what is left of them where the context is too
short), the generated text, what every filter extracted, and what was counted; per task the mean. Ends with status 1 at a difference.

Where the two most likely tokens are equal but for rounding, greedy decoding may take either: a text that differs is shown with the
difference of the two logits, as the harness's own model computes them, and is a difference unless that is below 1e-4.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import lm_eval
import lm_eval_local
import pyarrow.parquet
import torch
from lm_eval.models.huggingface import HFLM

NEAR = 1e-4


def gsm8k(data):
    return {"train": lm_eval_local.jsonl(f"{data}/gsm8k/train_first2000.jsonl"), "test": lm_eval_local.jsonl(f"{data}/gsm8k/test.jsonl")}


def mgsm(lang):
    def load(data):
        with open(f"{data}/mgsm/mgsm_{lang}.tsv", encoding="utf-8") as file:
            rows = [line.rstrip("\n").split("\t") for line in file]
        rows = [{"question": q, "answer": None, "answer_number": int(a.replace(",", "")), "equation_solution": None} for q, a in rows]
        return {"test": rows}

    return load


def bbh(name):
    def load(data):
        with open(f"{data}/bbh/{name}.json", encoding="utf-8") as file:
            return {"test": json.load(file)["examples"]}

    return load


def math500(data):
    return {"test": lm_eval_local.jsonl(f"{data}/math/math500_test.jsonl")}


TEST = {"training_split": None, "test_split": "test"}
lm_eval_local.TASKS |= {
    "gsm8k": ("gsm8k/gsm8k.yaml", gsm8k, {}),
    "hendrycks_math500": ("hendrycks_math/hendrycks_math500.yaml", math500, TEST),
    **{f"mgsm_direct_{lang}": (f"mgsm/direct/mgsm_direct_{lang}.yaml", mgsm(lang), TEST) for lang in ("en", "de", "es")},
    **{f"mgsm_native_cot_{lang}": (f"mgsm/native_cot/mgsm_native_cot_{lang}.yaml", mgsm(lang), TEST) for lang in ("en", "de", "es")},
    **{
        f"bbh_cot_fewshot_{name}": (f"bbh/cot_fewshot/{name}.yaml", bbh(name), TEST)
        for name in ("boolean_expressions", "navigate", "object_counting", "snarks", "word_sorting")
    },
}
DEFAULT = "gsm8k hendrycks_math500 mgsm_direct_de mgsm_native_cot_es mgsm_native_cot_en bbh_cot_fewshot_boolean_expressions bbh_cot_fewshot_navigate bbh_cot_fewshot_snarks"


class Recorder(HFLM):
    """The Hugging Face backend, keeping the token ids of its prompts."""

    def __init__(self, *args, **kwargs):
        self.seen = {}
        super().__init__(*args, **kwargs)

    def tok_batch_encode(self, strings, *args, **kwargs):
        ids, mask = super().tok_batch_encode(strings, *args, **kwargs)
        for text, row, keep in zip(strings, ids.tolist(), mask.tolist()):
            self.seen[text] = [i for i, k in zip(row, keep) if k]
        return ids, mask


def harness(args):
    model = Recorder(pretrained=args.model, dtype="float32", device="cpu", batch_size=args.batch_size)
    tasks = {name: lm_eval_local.task(name, args.data, args.num_fewshot) for name in args.tasks}
    for task in tasks.values():
        task.set_config("generation_kwargs", {"max_gen_toks": args.max_gen_toks}, update=True)
    start = time.perf_counter()
    results = lm_eval.evaluate(lm=model, task_dict=tasks, limit=args.limit, bootstrap_iters=0, log_samples=True)
    return time.perf_counter() - start, results, model


def ours(args, out):
    settings = {"model": args.model, "data": args.data, "tasks": json.dumps(args.tasks), "limit": args.limit, "device": "cpu", "resamples": 2}
    settings |= {"max_gen_toks": args.max_gen_toks} | ({} if args.num_fewshot is None else {"num_fewshot": args.num_fewshot})
    command = [args.llm_eval, "run", "--out", out]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    start = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "RAYON_NUM_THREADS": os.environ["OMP_NUM_THREADS"]})
    return time.perf_counter() - start, json.load(open(f"{out}/results.json")), pyarrow.parquet.read_table(f"{out}/samples.parquet").to_pylist()


def margin(model, prompt, left, right):
    """Where two continuations part, how far apart are the logits of their next tokens?"""
    a, b = (model.tokenizer.encode(text, add_special_tokens=False) for text in (left, right))
    same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    with torch.no_grad():
        logits = model.model(torch.tensor([prompt + a[:same]])).logits[0, -1]
    first, second = torch.topk(logits, 2).values.tolist()
    return first - second


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--llm-eval", required=True, help="the program")
    parser.add_argument("--data", required=True, help="folder of the benchmark files")
    parser.add_argument("--tasks", nargs="+", default=DEFAULT.split())
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--num-fewshot", type=int)
    parser.add_argument("--max-gen-toks", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", help="write the table here")
    args = parser.parse_args()
    args.data = os.path.abspath(args.data)
    with tempfile.TemporaryDirectory() as scratch:
        seconds, results, rows = ours(args, f"{scratch}/out")
    print(f"ours: {seconds:.1f} s", flush=True)
    their_seconds, theirs, model = harness(args)
    print(f"harness: {their_seconds:.1f} s at batch size {args.batch_size}", flush=True)

    differences, ties, table = [], 0, []

    def check(equal, where, left, right):
        if not equal:
            differences.append(where)
            if len(differences) <= 10:
                print(f"DIFFERENT: {where}\n  harness {left!r:.300}\n  ours    {right!r:.300}")

    for name in args.tasks:
        full = next(key for key in results["tasks"] if key.startswith(f"{name}@lm-eval@"))
        mine = [row for row in rows if row["task"] == full]
        samples = theirs["samples"][name]
        check(len(mine) == len({s["doc_id"] for s in samples}), f"{name}: documents", len(samples), len(mine))
        equal_texts, tied = 0, set()
        for sample in sorted(samples, key=lambda s: s["doc_id"]):
            row, filter_name = mine[sample["doc_id"]], sample["filter"]
            where = f"{name} {row['id']} {filter_name}"
            prompt, _ = sample["arguments"][0] if isinstance(sample["arguments"], list) else (sample["arguments"]["gen_args_0"]["arg_0"], None)
            check(prompt == row["prompt"], f"{where}: prompt", prompt, row["prompt"])
            ids = model.seen[prompt]
            check(ids == row["prompt_tokens"][-len(ids) :], f"{where}: ids", ids, row["prompt_tokens"])
            cut = model.max_length - args.max_gen_toks
            check(len(ids) == min(cut, len(row["prompt_tokens"])), f"{where}: length of the prompt", len(ids), len(row["prompt_tokens"]))
            text = sample["resps"][0][0]
            if text != row["response"] and row["id"] not in tied:
                apart = margin(model, ids, text, row["response"])
                if apart < NEAR:
                    tied.add(row["id"])
                    ties += 1
                    print(f"{where}: two tokens within {apart:.1e}")
                else:
                    check(False, f"{where}: text, {apart:.1e} apart", text, row["response"])
            if row["id"] in tied:
                continue
            equal_texts += text == row["response"]
            extracted = sample["filtered_resps"][0]
            key = filter_name if filter_name != "none" else None
            if key is not None:
                ours_extracted = json.loads(row["filtered"])[key]
                check(extracted == ours_extracted, f"{where}: extracted", extracted, ours_extracted)
            metric = "exact_match" if key is None else f"exact_match,{key}"
            check(float(sample["exact_match"]) == json.loads(row["metrics"])[metric], f"{where}: counted", sample["exact_match"], row["metrics"])
        for metric, value in results["tasks"][full]["metrics"].items():
            reference = theirs["results"][name].get(metric if "," in metric else f"{metric},none")
            if reference is None:
                continue  # a filter that the harness does not have
            if not tied:
                check(abs(reference - value["value"]) < 1e-12, f"{name}: {metric}", reference, value["value"])
            table.append({"task": full, "metric": metric, "documents": len(mine), "harness": float(reference), "ours": value["value"], "ties": len(tied)})
            print(f"{full:<48} {metric:<30} {len(mine):>4} documents  harness {reference:.4f}  ours {value['value']:.4f}  ties {len(tied)}")
    report = {"tasks": table, "max_gen_toks": args.max_gen_toks, "harness_seconds": their_seconds, "seconds": seconds, "ties": ties, "differences": len(differences)}
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)
    print(f"harness {their_seconds:.1f} s, ours {seconds:.1f} s, {ties} ties, {len(differences)} differences")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Does llm-eval measure what lm-evaluation-harness measures, and how much faster?

    pip install lm_eval==0.4.13 torch transformers accelerate pyarrow
    python benches/peers/lm_eval_parity.py --model runs/quickstart/sft/model --llm-eval target/debug/llm-eval --data ../shared/data/benchmarks
    python benches/peers/lm_eval_parity.py --tiny fixtures/decoder/llama_tied --llm-eval ... --data ...

Both run the same tasks on the same files and the same model folder: the harness through its Hugging Face backend in float32. Compared
are, per document, the prompt as text and as token ids, the tokens of every continuation, its log-likelihood (within 1e-4; beyond a
hundred nats within 1e-6 of it), whether it is greedy, and the metrics; per task the mean. Ends with status 1 at a difference.

`--tiny` takes a checkpoint without a tokenizer (the parity fixtures: random weights, a vocabulary of 144) and puts a byte-level BPE of 144
tokens beside it, learnt from LAMBADA; bytes it does not know are `<unk>` on both sides. Such a vocabulary makes long texts, so the
fixture's context of 128, which some answers alone exceed (an error on both sides), is set to 384: rotary positions have no weights.
Most longer prompts are still cut from the left.

Compared is a run of the harness whose softmax is in float64 (its own `softmax_dtype`): in float32 it rounds a sum of hundreds of nats by
1e-4. Timed are runs with its defaults. Times are wall and processor times of the same machine and the same number of threads, one after
the other: the harness's from the tasks' documents to its results with the best of `--batch-sizes`, without its imports and without
loading the model; ours of the whole process. On a busy machine the processor times are the ones to read.
"""

import argparse
import json
import os
import resource
import shutil
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
import tokenizers
from lm_eval.models.huggingface import HFLM

DEFAULT = "hellaswag arc_easy piqa truthfulqa_mc1 truthfulqa_mc2 lambada_openai xcopa_it mmlu_anatomy mmlu_formal_logic mmlu_high_school_psychology"
TOLERANCE = 1e-4
TINY_CONTEXT = 384


class Recorder(HFLM):
    """The Hugging Face backend, keeping the token ids it is given."""

    def __init__(self, *args, **kwargs):
        self.seen = {}
        super().__init__(*args, **kwargs)

    def _loglikelihood_tokens(self, requests, **kwargs):
        for texts, context, continuation in requests:
            self.seen[texts] = (context, continuation)
        return super()._loglikelihood_tokens(requests, **kwargs)


def tiny(checkpoint, data, out):
    """The checkpoint with a tokenizer that fits it."""
    config = json.load(open(f"{checkpoint}/config.json"))
    config["max_position_embeddings"] = TINY_CONTEXT
    with open(f"{out}/config.json", "w") as file:
        json.dump(config, file)
    for name in ("generation_config.json", "model.safetensors"):
        if os.path.exists(f"{checkpoint}/{name}"):
            shutil.copy(f"{checkpoint}/{name}", out)
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    texts = [row["text"] for row in lm_eval_local.lambada(data)["validation"]]
    alphabet = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    printable = alphabet.pre_tokenize_str("".join(map(chr, range(32, 127))) + "\n")[0][0]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=config["vocab_size"], special_tokens=special, initial_alphabet=list(printable), limit_alphabet=len(printable), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.save(f"{out}/tokenizer.json")
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    with open(f"{out}/tokenizer_config.json", "w") as file:
        json.dump({**names, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}, file)
    assert tokenizer.get_vocab_size() <= config["vocab_size"], tokenizer.get_vocab_size()
    return out


def harness(folder, names, args, size, **more):
    """Results, the tokens seen, wall seconds and processor seconds."""
    model = Recorder(pretrained=folder, dtype="float32", device="cpu", batch_size=size, **more)
    tasks = {name: lm_eval_local.task(name, args.data, args.num_fewshot) for name in names}
    start, busy = time.perf_counter(), time.process_time()
    results = lm_eval.evaluate(lm=model, task_dict=tasks, limit=args.limit, bootstrap_iters=0, log_samples=True)
    return results, model.seen, time.perf_counter() - start, time.process_time() - busy


def ours(folder, names, args, out):
    settings = {"model": folder, "data": args.data, "tasks": json.dumps(names), "limit": args.limit, "device": "cpu", "resamples": 2}
    if args.num_fewshot is not None:
        settings["num_fewshot"] = args.num_fewshot
    command = [args.llm_eval, "run", "--out", out]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    start, busy = time.perf_counter(), used()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "RAYON_NUM_THREADS": os.environ["OMP_NUM_THREADS"]})
    seconds, busy = time.perf_counter() - start, used() - busy
    rows = pyarrow.parquet.read_table(f"{out}/samples.parquet").to_pylist()
    return seconds, busy, json.load(open(f"{out}/results.json")), rows


def allowed(log_p):
    """1e-4, and 1e-6 of sums beyond a hundred nats: there two float32 passes of one library differ by as much."""
    return TOLERANCE * max(1.0, abs(log_p) / 100)


class Differences:
    def __init__(self):
        self.count = 0
        self.sums = 0
        self.beyond = []

    def count_log_p(self, difference, log_p):
        self.sums += 1
        if difference > TOLERANCE:
            self.beyond.append((difference, log_p))

    def check(self, equal, where, left, right):
        if not equal:
            self.count += 1
            if self.count <= 10:
                print(f"DIFFERENT: {where}\n  harness {left!r:.300}\n  ours    {right!r:.300}")


def compare(name, samples, seen, rows, found):
    """One task; the largest difference of a log-likelihood."""
    found.check(len(samples) == len(rows), f"{name}: documents", len(samples), len(rows))
    largest = 0.0
    for sample, row in zip(sorted(samples, key=lambda s: s["doc_id"]), rows):
        where = f"{name} {row['id']}"
        pairs = [tuple(arguments) for arguments in sample["arguments"]]
        found.check(pairs[0][0] == row["prompt"], f"{where}: prompt", pairs[0][0], row["prompt"])
        found.check([p[1] for p in pairs] == row["choices"], f"{where}: continuations", [p[1] for p in pairs], row["choices"])
        found.check(seen[pairs[0]][0] == row["prompt_tokens"], f"{where}: prompt ids", seen[pairs[0]][0], row["prompt_tokens"])
        ids = [seen[pair][1] for pair in pairs]
        found.check(ids == row["choice_tokens"], f"{where}: continuation ids", ids, row["choice_tokens"])
        for i, (log_p, greedy) in enumerate(sample["filtered_resps"]):
            difference = abs(log_p - row["log_likelihoods"][i])
            largest = max(largest, difference)
            found.count_log_p(difference, log_p)
            found.check(difference <= allowed(log_p), f"{where}: log p of {i}", log_p, row["log_likelihoods"][i])
            found.check(greedy == row["greedy"][i], f"{where}: greedy {i}", greedy, row["greedy"][i])
        metrics = json.loads(row["metrics"])
        for metric in sample["metrics"]:
            equal = abs(float(sample[metric]) - metrics[metric]) <= TOLERANCE
            found.check(equal, f"{where}: {metric}", sample[metric], metrics[metric])
    return largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="model folder")
    which.add_argument("--tiny", help="checkpoint without a tokenizer, e.g. fixtures/decoder/llama_tied")
    parser.add_argument("--llm-eval", required=True, help="the program")
    parser.add_argument("--data", required=True, help="folder of the benchmark files")
    parser.add_argument("--tasks", nargs="+", default=DEFAULT.split(), choices=sorted(lm_eval_local.TASKS))
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--num-fewshot", type=int)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[32], help="of the timed runs of the harness; none: not timed")
    parser.add_argument("--json", help="write the table here")
    args = parser.parse_args()
    args.data = os.path.abspath(args.data)

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model
        if args.tiny:
            folder = f"{scratch}/{os.path.basename(os.path.normpath(args.tiny))}"
            os.mkdir(folder)
            tiny(args.tiny, args.data, folder)
        seconds, busy, results, rows = ours(folder, args.tasks, args, f"{scratch}/out")
        print(f"ours: {seconds:.1f} s, {busy:.1f} s of processor time", flush=True)
        times = []
        for size in args.batch_sizes:
            *_, wall, cpu = harness(folder, args.tasks, args, size)
            times.append((wall, cpu, size))
            print(f"harness, batch size {size}: {wall:.1f} s, {cpu:.1f} s of processor time", flush=True)
        # In float32 a sum of hundreds of nats is rounded by as much as the tolerance.
        theirs, seen, *_ = harness(folder, args.tasks, args, min(times)[2] if times else 16, softmax_dtype="float64")

    found = Differences()
    table = []
    print(f"{'task':<32} {'docs':>5} {'metric':>9} {'harness':>9} {'ours':>9}  largest difference of log p")
    for name in args.tasks:
        full = next(key for key in results["tasks"] if key.startswith(f"{name}@lm-eval@"))
        mine = [row for row in rows if row["task"] == full]
        largest = compare(name, theirs["samples"][name], seen, mine, found)
        for metric, value in results["tasks"][full]["metrics"].items():
            reference = theirs["results"][name][f"{metric},none"]
            found.check(abs(reference - value["value"]) <= TOLERANCE * max(1, abs(reference)), f"{name}: {metric}", reference, value["value"])
            table.append({"task": full, "metric": metric, "documents": len(mine), "harness": float(reference), "ours": value["value"], "log_p": largest})
            print(f"{name:<32} {len(mine):>5} {metric:>9.9} {reference:>9.4f} {value['value']:>9.4f}  {largest:.1e}")
    print(f"{found.sums} log-likelihoods, {len(found.beyond)} differ by more than {TOLERANCE:.0e}", end="")
    print(f", the shortest of them {min(abs(log_p) for _, log_p in found.beyond):.0f} nats" if found.beyond else "")
    report = {"tasks": table, "log_likelihoods": found.sums, "beyond": len(found.beyond), "differences": found.count, "threads": os.environ["OMP_NUM_THREADS"], "seconds": seconds, "processor_seconds": busy}
    if times:
        wall, cpu, size = min(times)
        print(f"harness {wall:.1f} s (processor {cpu:.1f} s) at batch size {size}, ours {seconds:.1f} s ({busy:.1f} s)", end=": ")
        print(f"{wall / seconds:.1f} times as fast ({cpu / busy:.1f} by processor time), {os.environ['OMP_NUM_THREADS']} threads")
        report |= {"harness_seconds": wall, "harness_processor_seconds": cpu, "batch_size": size, "ratio": wall / seconds, "processor_ratio": cpu / busy}
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)
    if found.count:
        sys.exit(f"{found.count} differences")
    print("no differences")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Learned models against the reference fastText and KenLM: the same answers? how fast? In one run on one machine.

    pip install fasttext-wheel==0.9.2 kenlm==0.3.0 'numpy<3'
    python benches/peers/fasttext_kenlm.py LLM_DATA CORPORA [--lid lid.176.ftz ...] [--json benches/results/learned.json]

LLM_DATA is the program `llm-data`, CORPORA the folder with `langid/`, `web/`, `en/`, `de/`, `es/`. Times are processor time (user and
system) of either side, because the machine is shared. Ends with status 1 when answers differ. (Not named after fastText: Python would
import this file in its place.)
"""

import argparse
import json
import os
import pathlib
import random
import re
import resource
import subprocess
import sys
import tempfile
import time

import fasttext
import kenlm

fasttext.FastText.eprint = lambda *args, **kwargs: None


def ours(program: str, *arguments: str) -> tuple[list[dict], float]:
    """Output lines as JSON, and processor seconds of the child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = out.decode().splitlines() if arguments[0] == "score" else []
    return [json.loads(line) for line in lines], seconds


def predict(model, lines: list[str], k: int) -> tuple[list, float]:
    start = time.process_time()
    found = [model.f.predict(line + "\n", k, 0.0, "strict") for line in lines]
    return found, time.process_time() - start


def compare_fasttext(program: str, path: str, text: pathlib.Path, lines: list[str]) -> dict:
    """Labels and probabilities of one model file on the same lines."""
    model = fasttext.load_model(path)
    # Loading is part of our process: taken off by a run on one line.
    one = text.with_suffix(".one")
    one.write_text(lines[0] + "\n", encoding="utf-8")
    _, load = ours(program, "score", "--fasttext", path, str(one))
    mine, seconds = ours(program, "score", "--fasttext", path, "--labels", "2", str(text))
    theirs, their_seconds = predict(model, lines, 2)
    assert len(mine) == len(theirs), (len(mine), len(theirs))
    worst, labels = 0.0, 0
    for a, b in zip(mine, theirs):
        worst = max([worst] + [abs(p - q[0]) for p, q in zip(a["probabilities"], b)])
        top_tied = len(b) > 1 and abs(b[0][0] - b[1][0]) < 1e-6
        labels += bool(b) and not top_tied and "__label__" + a["labels"][0] != b[0][1]
    megabytes = text.stat().st_size / 1e6
    return {"lines": len(lines), "bytes_of_model": os.path.getsize(path), "largest_difference": worst, "other_labels": labels,
            "mb_per_s": megabytes / max(seconds - load, 1e-9), "fasttext_mb_per_s": megabytes / their_seconds,
            "ratio": their_seconds / max(seconds - load, 1e-9)}


def texts(corpora: pathlib.Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Documents of about 2,000 characters, and labelled sentences of 30 languages."""
    documents = [" ".join(json.loads(line)["text"].split()) for line in (corpora / "web/c4_demo.jsonl").open(encoding="utf-8")]
    for name in ["en/pride_and_prejudice.txt", "de/hesse_siddhartha.txt", "es/cervantes_don_quijote.txt"]:
        words = " ".join((corpora / name).read_text(encoding="utf-8").split())
        documents += [words[i:i + 2000] for i in range(0, len(words), 2000)]
    sentences = []
    for file in sorted((corpora / "langid/lingua_sentences").glob("*.txt")):
        sentences += [(file.stem, line.strip()) for line in file.open(encoding="utf-8") if line.strip()]
    return documents, sentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("corpora", type=pathlib.Path)
    parser.add_argument("--lid", nargs="*", default=[])
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    documents, sentences = texts(args.corpora)
    results: dict = {"fasttext": {}, "kenlm": {}}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        lines = [s for _, s in sentences] + documents
        everything = folder / "lines.txt"
        everything.write_text("\n".join(lines) + "\n", encoding="utf-8")

        training = [(l, s) for i, (l, s) in enumerate(sentences) if i % 5]
        held = [(l, s) for i, (l, s) in enumerate(sentences) if i % 5 == 0]
        # fastText takes the examples in the order of the file.
        random.Random(1).shuffle(training)
        train_file = folder / "train.txt"
        train_file.write_text("".join(f"__label__{l} {s}\n" for l, s in training), encoding="utf-8")
        settings = dict(dim=16, lr=0.5, epoch=10, minCount=2, wordNgrams=2, minn=1, maxn=4, bucket=100_000)
        start = time.process_time()
        theirs = fasttext.train_supervised(str(train_file), thread=1, verbose=0, **settings)
        their_training = time.process_time() - start
        theirs.save_model(str(folder / "theirs.bin"))
        start = time.process_time()
        theirs.quantize(str(train_file), qnorm=True, verbose=0)
        their_quantising = time.process_time() - start
        theirs.save_model(str(folder / "theirs.ftz"))
        for loss in ["hs", "ova"]:
            model = fasttext.train_supervised(str(train_file), thread=1, verbose=0, loss=loss, **settings)
            model.save_model(str(folder / f"theirs_{loss}.bin"))

        rows = folder / "train.jsonl"
        rows.write_text("".join(json.dumps({"text": s, "label": l}) + "\n" for l, s in training), encoding="utf-8")
        flags = {"inputs": f'[{{path="{rows}"}}]', "positive": '"de"', "calibration": "0.0", "test": "0.0", "target": "{threshold=0.5}",
                 "model": "{dim=16, lr=0.5, epoch=10, min_count=2, word_ngrams=2, minn=1, maxn=4, bucket=100000}"}
        sets = [part for name, value in flags.items() for part in ("--set", f"{name}={value}")]
        _, our_training = ours(args.program, "train-classifier", "--out", str(folder / "ours_bin"), *sets)
        _, our_quantising = ours(args.program, "train-classifier", "--out", str(folder / "ours"), *sets, "--set", "quantise={norms=true}")
        our_quantising -= our_training

        models = {"reference .bin": "theirs.bin", "reference .ftz": "theirs.ftz", "reference hs": "theirs_hs.bin",
                  "reference ova": "theirs_ova.bin", "ours .bin": "ours/model.bin", "ours .ftz": "ours/model.ftz"}
        paths = {name: str(folder / path) for name, path in models.items()} | {os.path.basename(p): p for p in args.lid}
        for name, path in paths.items():
            results["fasttext"][name] = found = compare_fasttext(args.program, path, everything, lines)
            print(f"{name:16} {found['largest_difference']:.1e} largest difference, {found['other_labels']} other labels of {found['lines']}; "
                  f"{found['mb_per_s']:.1f} MB/s, fastText {found['fasttext_mb_per_s']:.1f}, {found['ratio']:.2f}x")

        def accuracy(path: str) -> float:
            model = fasttext.load_model(path)
            return sum(model.f.predict(s + "\n", 1, 0.0, "strict")[0][1] == "__label__" + l for l, s in held) / len(held)

        results["training"] = {"examples": len(training), "settings": settings, "seconds": our_training, "fasttext_seconds": their_training,
                               "quantise_seconds": our_quantising, "fasttext_quantise_seconds": their_quantising,
                               "accuracy": accuracy(paths["ours .bin"]), "fasttext_accuracy": accuracy(paths["reference .bin"]),
                               "accuracy_ftz": accuracy(paths["ours .ftz"]), "fasttext_accuracy_ftz": accuracy(paths["reference .ftz"])}
        print("training:", json.dumps(results["training"]))

        book = folder / "book.txt"
        words = " ".join((args.corpora / "en/pride_and_prejudice.txt").read_text(encoding="utf-8").lower().split())
        book.write_text("\n".join(re.split(r"(?<=[.!?]) ", words)) + "\n", encoding="utf-8")
        ours(args.program, "read", "--out", f"{folder}/read", "--set", 'sources=["paths"]', "--set", f'paths.include=["{book}"]')
        _, seconds = ours(args.program, "train-ngram", "--out", f"{folder}/lm", "--set", f'input="{folder}/read"', "--set", "reference=0.0",
                          "--set", "arpa=true", "--set", "units.normalise=false", "--set", "model.order=5")
        results["kenlm"]["train_seconds_per_mb"] = seconds / (book.stat().st_size / 1e6)
        asked = [line.lower() for line in lines]
        (folder / "asked.txt").write_text("\n".join(asked) + "\n", encoding="utf-8")
        for name in ["model.arpa", "model.kenlm"]:
            model = kenlm.Model(f"{folder}/lm/{name}")
            (folder / "one").write_text(asked[0] + "\n", encoding="utf-8")
            _, load = ours(args.program, "score", "--ngram", f"{folder}/lm/{name}", f"{folder}/one")
            mine, seconds = ours(args.program, "score", "--ngram", f"{folder}/lm/{name}", f"{folder}/asked.txt")
            start = time.process_time()
            for line in asked:
                model.score(line)
            their_seconds = time.process_time() - start
            # `score` adds in single precision; the terms do not.
            theirs = [sum(p for p, _, _ in model.full_scores(line)) for line in asked]
            worst = max(abs(a["log10"] - b) for a, b in zip(mine, theirs))
            relative = max(abs(a["log10"] - b) / a["tokens"] for a, b in zip(mine, theirs))
            megabytes = os.path.getsize(folder / "asked.txt") / 1e6
            results["kenlm"][name] = {"lines": len(asked), "largest_difference": worst, "largest_difference_per_token": relative,
                                      "mb_per_s": megabytes / max(seconds - load, 1e-9), "kenlm_mb_per_s": megabytes / their_seconds,
                                      "ratio": their_seconds / max(seconds - load, 1e-9)}
            print(f"{name}:", json.dumps(results["kenlm"][name]))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    wrong = [n for n, r in results["fasttext"].items() if r["largest_difference"] > 1e-5 or r["other_labels"]]
    wrong += [n for n, r in results["kenlm"].items() if isinstance(r, dict) and r["largest_difference_per_token"] > 1e-4]
    if wrong:
        sys.exit(f"DIFFERENT: {', '.join(wrong)}")


if __name__ == "__main__":
    main()

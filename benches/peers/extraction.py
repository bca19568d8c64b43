"""The gold sets of `crates/llm-data/examples/extraction.rs` with Python's trafilatura: the same pages, the same measures.

    pip install trafilatura==2.3.1
    python benches/peers/extraction.py DATA        # DATA: article_extraction, trafilatura and readability
"""

import collections
import gzip
import json
import pathlib
import re
import sys
import time

import trafilatura


def extract(html):
    return trafilatura.extract(html, include_comments=False) or ""


def shingles(text):
    words = re.findall(r"\w+", text)
    n = min(4, max(1, len(words)))
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def overlap(found, gold):
    found, gold = shingles(found), shingles(gold)
    keys = found.keys() | gold.keys()
    counts = [
        sum(min(found[k], gold[k]) for k in keys),
        sum(max(0, found[k] - gold[k]) for k in keys),
        sum(max(0, gold[k] - found[k]) for k in keys),
    ]
    total = sum(counts)
    return [c / total for c in counts] if total else [1.0, 0.0, 0.0]


def line(name, pages, tp, fp, fn, seconds):
    f1 = 2 * tp / (2 * tp + fp + fn)
    ms = 1e3 * seconds / max(1, pages)
    print(f"| {name} | {pages} | Python trafilatura {trafilatura.__version__} | {tp / (tp + fp):.3f} | {tp / (tp + fn):.3f} | {f1:.3f} | {ms:.1f} |")


def article(root):
    truth = json.loads((root / "ground-truth.json").read_text())
    total, pages = [0.0, 0.0, 0.0], 0
    start = time.perf_counter()
    for key, row in truth.items():
        path = root / "html" / f"{key}.html.gz"
        if path.is_file():
            counts = overlap(extract(gzip.decompress(path.read_bytes())), row["articleBody"])
            total = [a + b for a, b in zip(total, counts)]
            pages += 1
    line("article bodies", pages, *total, time.perf_counter() - start)


def sentences(root):
    truth = json.loads((root / "evaldata.json").read_text())
    tp = fp = fn = pages = 0
    start = time.perf_counter()
    for row in truth.values():
        path = root / "html" / row["file"]
        if not path.is_file():
            continue
        pages += 1
        text = " ".join(extract(path.read_bytes()).split())
        held = [" ".join(s.split()) in text for s in row["with"]]
        tp, fn = tp + sum(held), fn + len(held) - sum(held)
        fp += sum(" ".join(s.split()) in text for s in row["without"])
    line("trafilatura", pages, tp, fp, fn, time.perf_counter() - start)


def main():
    root = pathlib.Path(sys.argv[1])
    article(root / "article_extraction")
    sentences(root / "trafilatura")


if __name__ == "__main__":
    main()

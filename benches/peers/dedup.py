#!/usr/bin/env python3
"""Are our MinHash signatures those of datatrove, and how much faster are they?

    pip install datatrove==0.10.1 spacy tokenizers regex 'xxhash<4'
    cargo build --package llm-data --example dedup_bench
    python benches/peers/dedup.py DATA target/debug/examples/dedup_bench [--documents 2000] [--json FILE]

DATA is any folder: the `text` of its .jsonl files and pieces of its .txt and .html files are the documents, spread evenly over all
files. datatrove and the example sign the same documents in this one run, on one thread each; speed is bytes of text per second of
processor time, so that other work on the machine matters little. Ends with status 1 when one bit differs.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig

PIECE = 4000


def pieces(path: pathlib.Path):
    """Texts of a JSONL file, or a plain file cut at line ends."""
    if path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and isinstance(row.get("text"), str):
                yield row["text"]
        return
    part = ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        part += line
        if len(part) >= PIECE:
            yield part
            part = ""
    if part:
        yield part


def documents(folder: pathlib.Path, most: int) -> list[str]:
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".txt", ".jsonl", ".html"} and p.is_file())
    readers, chosen = [pieces(f) for f in files], []
    while readers and len(chosen) < most:
        still = []
        for reader in readers:
            text = next(reader, None)
            if text is not None:
                # Lone surrogates from escaped JSON are no text.
                chosen.append(text.encode("utf-8", "replace").decode("utf-8"))
                still.append(reader)
        readers = still
    return chosen[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("example")
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()

    texts = documents(args.data, args.documents)
    size = sum(len(t.encode()) for t in texts)
    result = {"documents": len(texts), "bytes": size, "profiles": {}}
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "documents.jsonl")
        with open(source, "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)

        def ours(profile: str, repeat: int):
            out = os.path.join(folder, "out")
            command = [args.example, "signatures", "--input", source, "--profile", profile, "--repeat", str(repeat), "--out", out]
            summary = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            return summary["megabytes_per_processor_second"], np.fromfile(out, dtype="<u8")

        peer = 0.0
        for name in ("xxhash", "sha1"):
            config = MinhashConfig(hash_config=HashConfig(precision=64, hash_fc=name))
            step = MinhashDedupSignature(folder, config)
            step.get_shingles("Warm up: the tokenizer is made at the first call.")
            signatures = []
            start = time.process_time()
            for text in texts:
                shingles = step.get_shingles(text)
                signatures.append(step.get_signature(shingles) if shingles.size else [])
            seconds = time.process_time() - start
            peer = size / 1e6 / seconds
            speed, words = ours(f"datatrove:{name}", 3)
            at = wrong = 0
            for index, theirs in enumerate(signatures):
                flat = [v for bucket in theirs for v in bucket]
                count = int(words[at])
                if count != len(flat) or words[at + 1 : at + 1 + count].tolist() != flat:
                    wrong += 1
                    if wrong <= 5:
                        print(f"DIFFERENT ({name}): document {index}: {texts[index]!r:.200}", file=sys.stderr)
                at += 1 + count
            different += wrong
            result["profiles"][f"datatrove:{name}"] = {"datatrove_mb_s": peer, "ours_mb_s": speed, "ratio": speed / peer, "different": wrong}
        speed, _ = ours("words", 20)
        result["profiles"]["words"] = {"datatrove_mb_s": peer, "ours_mb_s": speed, "ratio": speed / peer}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()

"""Personal data and decontamination: speed and agreement with datatrove, on the same documents, one process each.

    pip install datatrove==0.10.0 pyarrow spacy xxhash regex
    python benches/peers/content.py LLM_DATA DOCUMENTS BENCHMARKS > content.json

DOCUMENTS is the output of `llm-data read`, BENCHMARKS a folder that `llm-data contamination-index` takes. Times are processor
time (user and system): ours of the whole command on one thread, reading and writing Parquet included; datatrove's of the step
alone, on texts that are in memory. datatrove's index is built from the same questions with its own hash function.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import xxhash
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontFilter
from datatrove.pipeline.formatters.pii import PIIFormatter


def rows(folder):
    parts = sorted(Path(folder).glob("**/documents/*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def ours(program, out, *args):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    subprocess.run([program, *args, "--out", str(out)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    program, documents, benchmarks = sys.argv[1:4]
    texts = rows(documents)
    size = sum(len(row["text"].encode()) for row in texts) / 1e6
    result = {"documents": len(texts), "megabytes": size}
    with tempfile.TemporaryDirectory() as temp:
        temp = Path(temp)
        seconds = ours(program, temp / "redacted", "redact", "--set", f"input={documents}", "--set", "pii.profile=datatrove")
        # A new formatter for every document: ours starts the rotation of replacements anew as well.
        begun = time.process_time()
        theirs = [PIIFormatter().format(row["text"]) for row in texts]
        peer = time.process_time() - begun
        same = sum(a["text"] == b for a, b in zip(rows(temp / "redacted"), theirs))
        result["pii"] = {"ours_mb_s": size / seconds, "datatrove_mb_s": size / peer, "ratio": peer / seconds, "same_text": same}

        subprocess.run([program, "contamination-index", "--set", f'benchmarks=["{benchmarks}"]', "--out", str(temp / "index")], check=True, stdout=subprocess.DEVNULL)
        index = temp / "index/contamination.idx"
        seconds = ours(program, temp / "clean", "decontaminate", "--set", f"input={documents}", "--set", f"decontaminate.index={index}", "--set", "decontaminate.action=report")
        step = NGramsDecontFilter(str(temp))
        step._index_hashes = {}
        # xxhash 3.6 wants bytes.
        step.hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
        subset = texts[:: max(1, len(texts) // 400)]
        begun = time.process_time()
        for row in subset:
            step.filter(Document(text=row["text"], id=row["id"]))
        peer = time.process_time() - begun
        part = sum(len(row["text"].encode()) for row in subset) / 1e6
        result["decontamination"] = {"ours_mb_s": size / seconds, "datatrove_mb_s": part / peer, "ratio": size / seconds / (part / peer)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

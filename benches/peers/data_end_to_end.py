#!/usr/bin/env python3
"""From a web archive to clean, deduplicated documents: llm-data against datatrove, the same steps on the same archive.

    pip install 'datatrove[processing]==0.10.1' spacy trafilatura warcio fasttext-numpy2-wheel fasteners faust-cchardet python-magic
    python data_end_to_end.py --llm-data target/debug/llm-data --data ../shared/data/corpora \\
        --html "$(rustc --print sysroot)/share/doc/rust/html" [--out benches/results/data_end_to_end.json]
    python data_end_to_end.py ... --threads-only      # one thread and two: wall time, on an idle machine

The archive is written here from real pages (the gold pages of the extraction sets, every n-th page of --html, one in ten of them twice) and the pages
of the archives under DATA/warc. Steps: read, main text, language (one fastText model, trained here on the sentences of
DATA/langid), Gopher repetition, Gopher quality, C4, FineWeb, MinHash (signatures, buckets, clusters, filter), personal data, write.
datatrove: one process, one task, its own executor and steps; ours: `process`, `dedup`, `redact` with one thread.
Processor time (user and system, children included) of the work; start-up of Python and its imports are not counted, ours are.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time


def used():
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        r = resource.getrusage(who)
        total += r.ru_utime + r.ru_stime
    return total


def pages(data, html, count):
    """(address, bytes) of real pages."""
    from warcio.archiveiterator import ArchiveIterator

    for path in sorted(data.glob("html_eval/**/*.html*")):
        raw = path.read_bytes()
        yield f"https://gold.example/{path.name}", gzip.decompress(raw) if path.suffix == ".gz" else raw
    for path in sorted(data.glob("warc/*/*.warc.gz")):
        with open(path, "rb") as file, contextlib.suppress(Exception):
            for record in ArchiveIterator(file):
                kind = record.http_headers and record.http_headers.get_header("Content-Type", "")
                if record.rec_type == "response" and kind and "html" in kind:
                    yield record.rec_headers.get_header("WARC-Target-URI"), record.content_stream().read()
    if html:
        everything = [p for p in sorted(html.rglob("*.html")) if 4_000 < p.stat().st_size < 200_000]
        random.Random(4).shuffle(everything)
        for i, path in enumerate(everything[:count]):
            raw = path.read_bytes()
            yield f"https://docs.example/{path.relative_to(html)}", raw
            if i % 10 == 0:
                yield f"https://mirror.example/{path.relative_to(html)}", raw


def write_archive(path, items):
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    number = size = 0
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=True)
        for uri, raw in items:
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            writer.write_record(writer.create_warc_record(uri, "response", payload=io.BytesIO(raw), http_headers=headers))
            number, size = number + 1, size + len(raw)
    return number, size


def language_model(data, path):
    import fasttext

    lines = []
    for file in sorted((data / "langid/lingua_sentences").glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip():
                lines.append(f"__label__{file.stem.split('_')[0][:2]} {line.strip()}")
    random.Random(1).shuffle(lines)
    text = path.with_suffix(".txt")
    text.write_text("\n".join(lines), encoding="utf-8")
    model = fasttext.train_supervised(str(text), dim=16, minn=2, maxn=4, epoch=25, lr=0.5, bucket=100_000, thread=1, verbose=0)
    model.save_model(str(path))
    return sorted({line.split()[0][9:] for line in lines})


LANGUAGES = ["en", "de", "es"]


def datatrove(archive, model, out):
    """Runs in a process of its own and prints its seconds per stage."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter, LanguageFilter
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils import lid
    from datatrove.utils.logging import logger
    from fasttext.FastText import _FastText

    logger.remove()
    lid.FastTextLID.model = property(lambda self: self.__dict__.setdefault("_loaded", _FastText(model)))
    GopherQualityFilter().filter(__import__("datatrove.data", fromlist=["Document"]).Document(text="Load the tokenizer first.", id="x"))
    out = pathlib.Path(out)
    config = MinhashConfig()
    seconds, kept = {}, {}

    def stage(name, pipeline):
        before = used()
        LocalPipelineExecutor(pipeline=pipeline, tasks=1, workers=1, logging_dir=str(out / "logs" / name)).run()
        seconds[name] = used() - before

    stage("read, extract, language, filters", [
        WarcReader(str(pathlib.Path(archive).parent), glob_pattern="*.warc.gz"),
        Trafilatura(favour_precision=True, timeout=10),
        LanguageFilter(LANGUAGES, language_threshold=0.65),
        GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter(),
        JsonlWriter(str(out / "filtered")),
    ])
    stage("deduplicate", [JsonlReader(str(out / "filtered")), MinhashDedupSignature(str(out / "signatures"), config=config)])
    first = seconds["deduplicate"]
    before = used()
    LocalPipelineExecutor(pipeline=[MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=config)],
                          tasks=config.num_buckets, workers=1, logging_dir=str(out / "logs/buckets")).run()
    LocalPipelineExecutor(pipeline=[MinhashDedupCluster(str(out / "buckets"), str(out / "clusters"), config=config)], tasks=1, workers=1,
                          logging_dir=str(out / "logs/clusters")).run()
    seconds["deduplicate"] = first + used() - before
    stage("remove, personal data, write", [JsonlReader(str(out / "filtered")), MinhashDedupFilter(str(out / "clusters")), PIIFormatter(),
                                           JsonlWriter(str(out / "final"))])
    stats = json.loads((out / "logs/read, extract, language, filters/stats.json").read_text())
    kept["read"] = next(int(s["stats"]["documents"]["total"]) for s in stats if "READER" in s["name"])
    for name in ("filtered", "final"):
        kept[name] = sum(sum(1 for _ in gzip.open(p, "rt")) for p in (out / name).glob("*.jsonl.gz"))
    print(json.dumps({"seconds": seconds, "kept": kept}))


CONFIG = """
input = ["{archive}"]
threads = 1
[paths]
on_error = "skip"
[[step]]
kind = "language"
model = "{model}"
languages = ["en", "de", "es"]
[[step]]
kind = "gopher:datatrove"
[[step]]
kind = "c4"
terminal_punctuation = false
[[step]]
kind = "fineweb"
"""


def rows(folder):
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(p).num_rows for p in pathlib.Path(folder).glob("*.parquet"))


def ours(program, archive, model, out):
    """Seconds of processor time per command, and documents read and kept."""
    config = out / "process.toml"
    config.write_text(CONFIG.format(archive=archive, model=model))
    seconds = {}
    for name, command in {
        "read, extract, language, filters": ["process", "--config", config, "--out", out / "process"],
        "deduplicate": ["dedup", "--set", f"input={out / 'process'}", "--set", "methods=['minhash']", "--out", out / "dedup"],
        "remove, personal data, write": ["redact", "--set", f"input={out / 'dedup'}", "--set", "pii.profile=datatrove", "--out", out / "final"],
    }.items():
        before = used()
        done = subprocess.run([program, *map(str, command)], capture_output=True, text=True, env=os.environ | {"RAYON_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(f"{name}: {done.stderr}")
        seconds[name] = used() - before
    read = json.loads((out / "process/funnel.json").read_text())["documents_in"]
    return seconds, {"read": read, "filtered": rows(out / "process/documents"), "final": rows(out / "final/documents")}


def threads(program, data, scratch):
    """Wall time of the filter chain and of MinHash as whole commands, with one thread and with two, over 200 MB of pieces of books."""
    rng = random.Random(1)
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in sorted(data.glob("*/*.txt")) if "raw" not in p.name]
    size, source = 0, scratch / "pieces.jsonl"
    with open(source, "w", encoding="utf-8") as file:
        while size < 40_000_000:
            text, length = rng.choice(texts), rng.randrange(1500, 8000)
            at = rng.randrange(max(1, len(text) - length))
            size += len(text[at : at + length].encode())
            file.write(json.dumps({"text": text[at : at + length]}, ensure_ascii=False) + "\n")

    def run(n, *command):
        start = time.time()
        subprocess.run([program, *map(str, command)], check=True, capture_output=True, env=os.environ | {"RAYON_NUM_THREADS": str(n)})
        return time.time() - start

    run(2, "read", "--set", "sources=['paths']", "--set", f"paths.include=['{source}']", "--out", scratch / "pieces")
    big = scratch / "pieces-x5"
    big.mkdir()
    for k in range(5):
        for part in (scratch / "pieces/documents").glob("*.parquet"):
            shutil.copy(part, big / f"part-{k:05}.parquet")
    chain = ["filter", "--set", f"input='{big}'", "--set", "profiles=['gopher:datatrove','c4','fineweb']", "--set", "c4.terminal_punctuation=false"]
    commands = {"filter chain": chain, "dedup, MinHash": ["dedup", "--set", f"input='{big}'", "--set", "methods=['minhash']"]}
    result = {}
    print(f"{'wall seconds':<36} {'1 thread':>10} {'2 threads':>10} {'ratio':>7}")
    for name, command in commands.items():
        best = {1: 1e9, 2: 1e9}
        for n in (1, 2) * 3:
            shutil.rmtree(scratch / "out", ignore_errors=True)
            best[n] = min(best[n], run(n, *command, "--out", scratch / "out"))
        result[name] = {"1": best[1], "2": best[2], "ratio": best[1] / best[2]}
        print(f"{name:<36} {best[1]:>10.2f} {best[2]:>10.2f} {best[1] / best[2]:>7.2f}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm-data", help="the program")
    parser.add_argument("--data", type=pathlib.Path, help="folder of corpora")
    parser.add_argument("--html", type=pathlib.Path, help="a folder of HTML pages")
    parser.add_argument("--pages", type=int, default=600, help="how many of them")
    parser.add_argument("--out", type=pathlib.Path, help="write the figures as JSON")
    parser.add_argument("--threads-only", action="store_true")
    parser.add_argument("--datatrove", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.datatrove:
        return datatrove(*args.datatrove)
    program = str(pathlib.Path(args.llm_data).resolve())
    with tempfile.TemporaryDirectory() as temp:
        temp = pathlib.Path(temp)
        (temp / "in").mkdir()
        model = temp / "lid.bin"
        language_model(args.data, model)
        result = {}
        if not args.threads_only:
            number, size = write_archive(temp / "in/pages.warc.gz", pages(args.data, args.html, args.pages))
            print(f"{number} pages, {size / 1e6:.1f} MB of HTML")
            (temp / "ours").mkdir()
            mine, kept = ours(program, temp / "in/pages.warc.gz", model, temp / "ours")
            done = subprocess.run([sys.executable, __file__, "--datatrove", temp / "in/pages.warc.gz", model, temp / "theirs"], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            peer = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{'processor seconds':<36} {'datatrove':>10} {'llm-data':>10} {'ratio':>7}")
            lines = [(name, peer["seconds"][name], mine[name]) for name in mine]
            lines.append(("all", sum(peer["seconds"].values()), sum(mine.values())))
            for name, a, b in lines:
                print(f"{name:<36} {a:>10.2f} {b:>10.2f} {a / b:>7.1f}")
            print(f"read: {peer['kept']['read']} and {kept['read']} pages")
            print(f"kept after the filters: {peer['kept']['filtered']} and {kept['filtered']}; at the end: {peer['kept']['final']} and {kept['final']}")
            result = {"pages": number, "html_bytes": size, "datatrove": peer, "ours": {"seconds": mine, "kept": kept},
                      "ratio": lines[-1][1] / lines[-1][2], "unit": "processor time, one process, one thread"}
        result["threads"] = threads(program, args.data, temp)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

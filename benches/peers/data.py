#!/usr/bin/env python3
"""The filters of llm-data against datatrove on the same documents: verdicts, reasons and processor time.

    pip install 'datatrove[processing]==0.10.1' spacy pyarrow
    python data.py --llm-data target/debug/llm-data --data ../shared/data/corpora [--html FOLDER ...] [--out REPORT.json]

Documents are cut from real texts: whole pages, chapters and rows, and pieces of them of 8 to 1500 words at fixed random places, so that
many lie near a limit; nothing is made up. --html adds folders of documentation pages, which go through `llm-data read`, as do the
WARC files. Both sides get the same JSON lines.

Agreement is per filter on the unfiltered text (gopher repetition and quality, C4 with and without terminal punctuation, FineWeb) and
for the chain of the four, where C4 has changed the text before FineWeb sees it; for C4 the changed text is compared as well. Speed
is the chain, one process each, processor time (user and system) of the work without start-up and reading: datatrove's own filters called
on documents in memory; ours is `llm-data filter` from Parquet to Parquet with one thread, its reading and writing included.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter

CHAIN = ["gopher:datatrove", "c4", "fineweb"]
REASONS = {
    "empty": "chars",
    "top_2_gram": "top_2_gram",
    "top_3_gram": "top_3_gram",
    "top_4_gram": "top_4_gram",
    **{f"duplicated_{n}_n_grams": f"dup_{n}_gram" for n in range(5, 11)},
    "gopher_short_doc": "words",
    "gopher_long_doc": "words",
    "gopher_below_avg_threshold": "mean_word_chars",
    "gopher_above_avg_threshold": "mean_word_chars",
    "gopher_too_many_hashes": "hash_ratio",
    "gopher_too_many_ellipsis": "ellipsis_ratio",
    "gopher_too_many_bullets": "bullet_lines",
    "gopher_too_many_end_ellipsis": "ellipsis_lines",
    "gopher_below_alpha_threshold": "alpha_words",
    "gopher_enough_stop_words": "stop_words",
    "too_few_sentences": "sentences",
    "line_punct_ratio": "line_punct",
    "short_line_ratio": "short_lines",
    "char_dup_ratio": "dup_line_char_frac",
    "list_ratio": "newlines_per_word",
}


def whole_texts(data, program, html, scratch):
    """(name, text) of everything: files, rows, pages through our extractor."""
    for path in sorted(data.glob("*/*.txt")):
        if "raw" not in path.name:
            yield f"{path.parent.name}/{path.name}", path.read_text(encoding="utf-8", errors="replace")
    for path in sorted(data.glob("*/*.jsonl")):
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            text = row.get("text") or "\n".join(str(row[k]) for k in ("question", "answer", "informal_statement", "informal_proof") if row.get(k))
            if text:
                yield f"{path.parent.name}/{path.name}#{i}", text
    inputs = sorted(data.glob("warc/*/*.warc.gz")) + [pathlib.Path(h) for h in html]
    for i, path in enumerate(inputs):
        out = scratch / f"read{i}"
        sets = ["sources=['paths']", f"paths.include=['{path}']"]
        done = subprocess.run([program, "read", "--out", out, *[a for s in sets for a in ("--set", s)]], capture_output=True, text=True)
        if done.returncode:
            print(f"{path}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        for row in table(out / "documents").select(["id", "text"]).to_pylist():
            yield row["id"], row["text"]


def table(folder):
    import pyarrow
    import pyarrow.parquet

    return pyarrow.concat_tables([pyarrow.parquet.read_table(p) for p in sorted(pathlib.Path(folder).glob("*.parquet"))])


def documents(texts, seed=11, per_megabyte=260, most_bytes=60_000):
    """Whole texts where they are short, and pieces cut at line or word boundaries."""
    rng = random.Random(seed)
    for name, text in texts:
        if len(text) <= most_bytes:
            yield f"{name}", text
        if len(text) < 300:
            continue
        for i in range(max(1, int(len(text) * per_megabyte / 1e6))):
            size = int(60 * 2 ** (rng.random() * 7.5))
            start = rng.randrange(max(1, len(text) - size))
            # From the beginning of a line or a word to the end of one.
            at = text.rfind("\n" if rng.random() < 0.7 else " ", 0, start) + 1
            end = text.find("\n" if rng.random() < 0.7 else " ", at + size)
            piece = text[at : end if end > 0 else len(text)]
            if piece.strip() and len(piece) <= most_bytes:
                yield f"{name}@{i}", piece


def drawn(docs, count, seed=5):
    """`count` documents, every folder of the data having the same chance while it lasts."""
    rng, folders = random.Random(seed), {}
    for name, text in docs:
        folders.setdefault("/".join(name.split("/")[:2]).split("#")[0].split("@")[0], []).append((name, text))
    for folder in folders.values():
        rng.shuffle(folder)
    result = []
    while len(result) < count and folders:
        for name in list(folders):
            result.append(folders[name].pop())
            if not folders[name]:
                del folders[name]
    return result[:count]


def processor():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def datatrove_filters():
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    return {
        "gopher repetition": GopherRepetitionFilter(),
        "gopher quality": GopherQualityFilter(),
        "c4": C4QualityFilter(),
        "c4 (no terminal punctuation)": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": FineWebQualityFilter(),
    }


def ask(peer, text):
    """(verdict, reason, text after) of one datatrove filter."""
    from datatrove.data import Document

    document = Document(text=text, id="x")
    result = peer.filter(document)
    if isinstance(result, tuple):
        return result[0], REASONS.get(result[1], result[1]), document.text
    return bool(result), None, document.text


def theirs(texts):
    """Verdict per filter and document, and of the chain."""
    filters = datatrove_filters()
    verdicts = {name: [] for name in filters}
    for text in texts:  # all filters on one text: datatrove remembers the words of the last five
        for name, peer in filters.items():
            verdicts[name].append(ask(peer, text))
    chain = []
    for i, text in enumerate(texts):
        state = (True, None, text)
        for name in ["gopher repetition", "gopher quality", "c4 (no terminal punctuation)"]:
            state = verdicts[name][i]
            if not state[0]:
                break
        chain.append(ask(filters["fineweb"], state[2]) if state[0] else state)
    return verdicts | {"chain": chain}


def chain_time(texts):
    """Processor seconds of datatrove's chain; its words are cached between filters as in its own pipelines."""
    filters = datatrove_filters()
    chain = [filters[n] for n in ["gopher repetition", "gopher quality", "c4 (no terminal punctuation)", "fineweb"]]
    ask(chain[1], "Load the tokenizer first.")
    from datatrove.data import Document

    documents = [Document(text=t, id="x") for t in texts]
    start = processor()
    for document in documents:
        for peer in chain:
            result = peer.filter(document)
            if result is not True:
                break
    return processor() - start


OURS = {
    "gopher repetition": ["profiles=['gopher:datatrove']", "gopher:datatrove.quality=false"],
    "gopher quality": ["profiles=['gopher:datatrove']", "gopher:datatrove.repetition=false"],
    "c4": ["profiles=['c4']"],
    "c4 (no terminal punctuation)": ["profiles=['c4']", "c4.terminal_punctuation=false"],
    "fineweb": ["profiles=['fineweb']"],
    "chain": [f"profiles={CHAIN}", "c4.terminal_punctuation=false"],
}


def ours(program, folder, sets, scratch, signals=False):
    """id -> (verdict, reason, text after), and the processor seconds of the command."""
    out = scratch / "filter"
    command = [program, "filter", "--out", out]
    for s in [f"input='{folder}'", *sets, *(["signals=true"] if signals else [])]:
        command += ["--set", s]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"RAYON_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = {row["id"]: (True, None, row["text"]) for row in table(out / "documents").select(["id", "text"]).to_pylist()}
    for line in (out / "dropped.jsonl").read_bytes().splitlines():  # bytes: texts may hold U+2028
        row = json.loads(line)
        result[row["id"]] = (False, row["step"].split("/")[-1], None)
    return result, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm-data", required=True, help="the program")
    parser.add_argument("--data", required=True, type=pathlib.Path, help="folder of corpora")
    parser.add_argument("--html", nargs="*", default=[], help="folders of HTML pages")
    parser.add_argument("--out", type=pathlib.Path, help="write the report as JSON")
    parser.add_argument("--keep", type=pathlib.Path, help="keep the documents as JSON lines here")
    parser.add_argument("--speed-bytes", type=int, default=2_000_000, help="bytes of documents for the chain of datatrove")
    parser.add_argument("--most-bytes", type=int, default=60_000, help="longest document")
    parser.add_argument("--documents", type=int, default=3000, help="how many documents")
    args = parser.parse_args()
    program = str(pathlib.Path(args.llm_data).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        report = compare(args, program, pathlib.Path(scratch))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def compare(args, program, scratch):
    docs = list(dict(documents(whole_texts(args.data, program, args.html, scratch), most_bytes=args.most_bytes)).items())
    print(f"{len(docs)} pieces of real texts, of which {min(args.documents, len(docs))} are drawn")
    docs = drawn(docs, args.documents)
    rows = [{"id": f"d{i:05}", "text": text} for i, (_, text) in enumerate(docs)]
    source = args.keep or scratch / "docs.jsonl"
    source.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    folder = scratch / "docs"
    sets = ["sources=['paths']", f"paths.include=['{source}']"]
    subprocess.run([program, "read", "--out", folder, *[a for s in sets for a in ("--set", s)]], check=True, capture_output=True)
    # What `read` makes of the texts (normal line ends and the like) is what both sides get.
    read = table(folder / "documents").select(["id", "text"]).to_pylist()
    ids, texts = [r["id"] for r in read], [r["text"] for r in read]
    size = sum(len(t.encode()) for t in texts)
    print(f"{len(texts)} documents, {size / 1e6:.2f} MB")
    peer = theirs(texts)
    report = {"documents": len(texts), "bytes": size, "filters": {}}
    print(f"{'filter':<30} {'kept':>6} {'dropped':>8} {'verdicts agree':>15} {'reasons agree':>14} {'texts equal':>12}")
    for name, sets in OURS.items():
        mine, _ = ours(program, folder, sets, scratch)
        missing = [i for i in ids if i not in mine]
        if missing:
            sys.exit(f"{name}: {len(missing)} documents are in neither folder nor record, e.g. {missing[0]}")
        differ, reasons, both_drop, same_text, both_keep = [], 0, 0, 0, 0
        for i, expected in zip(ids, peer[name]):
            got = mine[i]
            if got[0] != expected[0]:
                differ.append({"id": i, "source": docs[int(i[-5:])][0] if i[-5:].isdigit() else i, "datatrove": expected[1] or "keep", "ours": got[1] or "keep"})
            elif got[0]:
                both_keep += 1
                same_text += got[2] == expected[2]
            else:
                both_drop += 1
                reasons += got[1] == expected[1]
        agree = 1 - len(differ) / len(ids)
        entry = {"agreement": agree, "kept": both_keep, "dropped": both_drop, "same_reason": reasons, "same_text": same_text, "differences": differ}
        report["filters"][name] = entry
        print(f"{name:<30} {both_keep:>6} {both_drop:>8} {agree:>14.3%} {reasons / max(both_drop, 1):>13.2%} {same_text / max(both_keep, 1):>11.2%}")
        for d in differ[:20]:
            print(f"    {d['id']} ({d['source']}): datatrove {d['datatrove']}, ours {d['ours']}")
    report["speed"] = speed(args, program, folder, texts, size, scratch)
    return report


def speed(args, program, folder, texts, size, scratch):
    part, total = [], 0
    order = list(range(len(texts)))
    random.Random(3).shuffle(order)
    for i in order:
        if total >= args.speed_bytes:
            break
        part.append(texts[i])
        total += len(texts[i].encode())
    seconds = chain_time(part)
    peer_rate = total / seconds / 1e6
    # Ours on the whole set, repeated so that start-up does not count: time per copy from the difference of 9 and 1 copies.
    import pyarrow.parquet

    one = table(folder / "documents")
    times = {}
    for copies in (1, 9):
        big = scratch / f"x{copies}"
        big.mkdir()
        for k in range(copies):
            pyarrow.parquet.write_table(one, big / f"part-{k:05}.parquet", compression="zstd", row_group_size=4096)
        times[copies] = min(ours(program, big, OURS["chain"], scratch)[1] for _ in range(3))
    mine = (times[9] - times[1]) / 8
    our_rate = size / mine / 1e6
    print(f"chain: datatrove {peer_rate:.3f} MB/s ({total / 1e6:.2f} MB), ours {our_rate:.1f} MB/s with Parquet in and out: {our_rate / peer_rate:.0f}x")
    return {"datatrove_mb_per_s": peer_rate, "ours_mb_per_s": our_rate, "ratio": our_rate / peer_rate, "unit": "processor time, one process, one thread"}


if __name__ == "__main__":
    start = time.time()
    main()
    print(f"{time.time() - start:.0f} s")

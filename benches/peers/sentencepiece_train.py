#!/usr/bin/env python3
"""Training SentencePiece-style vocabularies beside SentencePiece itself, each in its own process: BPE and Unigram.

    pip install sentencepiece==0.2.3 tokenizers
    python3 benches/peers/sentencepiece_train.py --bin target/debug/llm-tokenizer --out benches/results/sentencepiece_train.json

Makes a text of about `--megabytes` (books and articles, then code and pages, from ../shared/data/corpora; every 50th line is held out), trains
the same vocabulary with both, and notes how many pieces are the same (F1; special tokens and byte tokens, which are given, do
not count), bytes per token on the held-out lines, wall time, processor time and peak memory. Ends with status 1 if an F1 is below
`--bar`.
"""

import argparse
import glob
import json
import os
import re
import sys
import time

KINDS = {"bpe": "sentencepiece_bpe", "unigram": "unigram"}
FOLDERS = ["en", "de", "es", "web", "math", "code", "quality", "langid", "html_eval"]
GIVEN = 3 + 256


def lines(corpora, megabytes):
    """Lines of text with the folder they are from, in a fixed order."""
    left = megabytes * 1_000_000
    for folder in FOLDERS:
        for path in sorted(glob.glob(os.path.join(corpora, folder, "**", "*"), recursive=True)):
            if not path.endswith((".txt", ".jsonl", ".md", ".py", ".rs", ".tex")) or ".raw." in path:
                continue
            with open(path, encoding="utf-8", errors="ignore") as f:
                for line in f:
                    text = line
                    if path.endswith(".jsonl"):
                        row = json.loads(line)
                        text = "\n".join(value for value in row.values() if isinstance(value, str))
                    for part in text.splitlines():
                        # SentencePiece takes several blanks as one, we do not: one is the same text to both.
                        part = re.sub(" +", " ", part.strip())
                        if not part:
                            continue
                        left -= len(part.encode()) + 1
                        if left < 0:
                            return
                        yield folder, part


def make_text(corpora, work, megabytes):
    train, held = os.path.join(work, "train.txt"), os.path.join(work, "held.txt")
    made_of = {}
    with open(train, "w") as t, open(held, "w") as h:
        for i, (folder, line) in enumerate(lines(corpora, megabytes)):
            (h if i % 50 == 7 else t).write(line + "\n")
            made_of[folder] = made_of.get(folder, 0) + len(line.encode()) + 1
    return train, held, made_of


def sentencepiece(train, out, kind, vocab, threads):
    """The defaults of our trainer; lines of any length."""
    import sentencepiece as spm

    spm.SentencePieceTrainer.train(
        input=train, model_prefix=out, model_type=kind, vocab_size=int(vocab), byte_fallback=True, normalization_rule_name="identity",
        num_threads=int(threads), max_sentence_length=1 << 24, minloglevel=1,
    )


def measured(argv, env=None):
    start = time.time()
    pid = os.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, {**os.environ, **(env or {})})
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"failed: {argv}")
    return {"wall_s": round(time.time() - start, 2), "cpu_s": round(used.ru_utime + used.ru_stime, 2), "peak_mb": round(used.ru_maxrss / 1024)}


def their_pieces(model):
    return [model.id_to_piece(i) for i in range(GIVEN, model.get_piece_size())]


def our_pieces(path):
    vocab = json.load(open(path))["model"]["vocab"]
    names = [piece for piece, _ in vocab] if isinstance(vocab, list) else sorted(vocab, key=vocab.get)
    return names[GIVEN:]


def compare(ours, theirs):
    both = set(ours) & set(theirs)
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    f1 = 2 * len(both) / (len(ours) + len(theirs))
    return {"ours": len(ours), "theirs": len(theirs), "same": len(both), "f1": round(f1, 4), "same_from_the_start": first}


def main():
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--bin", default="target/debug/llm-tokenizer")
    a.add_argument("--data", default=os.path.join(root, "..", "shared", "data"), help="folder with corpora/ in it")
    a.add_argument("--work", default="/tmp/sentencepiece_train")
    a.add_argument("--megabytes", type=float, default=9)
    a.add_argument("--vocab", type=int, default=8000)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--bar", type=float, default=0.98)
    a.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    a.add_argument("--show", type=int, default=0, help="print so many pieces that only one has")
    a.add_argument("--out")
    a.add_argument("--child", nargs=5)
    a = a.parse_args()
    if a.child:
        sentencepiece(*a.child)
        return
    import sentencepiece as spm
    from tokenizers import Tokenizer

    os.makedirs(a.work, exist_ok=True)
    train, held, made_of = make_text(os.path.join(a.data, "corpora"), a.work, a.megabytes)
    test = open(held).read().splitlines()
    size = sum(len(line.encode()) for line in test)
    result = {"train_bytes": os.path.getsize(train), "held_out_bytes": size, "made_of_bytes": made_of, "vocab_size": a.vocab, "threads": a.threads,
              "sentencepiece": spm.__version__}
    for kind in a.kinds:
        folder, prefix = f"{a.work}/ours_{kind}", f"{a.work}/theirs_{kind}"
        argv = [a.bin, "train", "--out", folder, "--set", f'documents=["{train}"]', "--set", f"model={KINDS[kind]}", "--set", f"vocab_size={a.vocab}"]
        ours = measured(argv, {"RAYON_NUM_THREADS": str(a.threads)})
        theirs = measured([sys.executable, os.path.abspath(__file__), "--child", train, prefix, kind, str(a.vocab), str(a.threads)])
        model = spm.SentencePieceProcessor(model_file=f"{prefix}.model")
        mine, other = our_pieces(f"{folder}/tokenizer.json"), their_pieces(model)
        tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        encoded = tokenizer.encode_batch(test, add_special_tokens=False)
        back = [tokenizer.decode(e.ids, skip_special_tokens=False) for e in encoded]
        ours["bytes_per_token"] = round(size / sum(len(e.ids) for e in encoded), 4)
        theirs["bytes_per_token"] = round(size / sum(len(ids) for ids in model.encode(test)), 4)
        result[kind] = {"pieces": compare(mine, other), "round_trip": sum(b == t for b, t in zip(back, test)) / len(test),
                        "llm-tokenizer": ours, "sentencepiece": theirs}
        if a.show:
            for name, only in [("ours", set(mine) - set(other)), ("theirs", set(other) - set(mine))]:
                print(kind, "only", name, sorted(only)[: a.show], file=sys.stderr)
    print(json.dumps(result, indent=1))
    if a.out:
        with open(a.out, "w") as f:
            f.write(json.dumps(result, indent=1) + "\n")
    if any(result[kind]["pieces"]["f1"] < a.bar for kind in a.kinds):
        sys.exit(1)


if __name__ == "__main__":
    main()

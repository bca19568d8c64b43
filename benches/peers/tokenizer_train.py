"""Training a tokenizer beside Hugging Face's `tokenizers` and `rustbpe`, each in its own process.

    python3 benches/peers/tokenizer_train.py --bin target/debug/llm-tokenizer --work /tmp/train --out benches/results/tokenizer_train.json

Makes a text of `--megabytes` (books, code and pages from ../shared/data/corpora, then the sources of the crates in Cargo's
registry, largest crates first; every 50th row is held out), trains the same vocabulary with each, and notes wall time, processor time
and peak memory, whether merges are the same, and bytes per token on the held-out rows.
Needs: pip install tokenizers rustbpe
"""

import argparse, glob, json, os, random, resource, subprocess, sys, time

PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def rows(root, megabytes):
    """Texts with what they are, deterministic in order."""
    shared = os.path.join(root, "..", "shared", "data", "corpora")
    budget = megabytes * 1000 * 1000
    seen = {}
    for folder in ["de", "en", "es", "code", "math", "web", "html_eval"]:
        for path in sorted(glob.glob(os.path.join(shared, folder, "**", "*"), recursive=True)):
            if not path.endswith((".txt", ".md", ".py", ".rs", ".tex", ".jsonl")) or not os.path.isfile(path):
                continue
            text = open(path, encoding="utf-8", errors="ignore").read()
            for start in range(0, len(text), 4000):
                part = text[start : start + 4000]
                budget -= len(part.encode())
                seen[folder] = seen.get(folder, 0) + len(part.encode())
                yield {"text": part, "lang": folder, "domain": folder}
    for path in sorted(glob.glob(os.path.expanduser("~/.cargo/registry/src/*/*/**/*"), recursive=True)):
        if budget <= 0:
            break
        if not path.endswith((".rs", ".md", ".toml", ".c", ".h", ".txt", ".py")) or os.path.getsize(path) > 400_000:
            continue
        text = open(path, encoding="utf-8", errors="ignore").read()
        for start in range(0, len(text), 4000):
            part = text[start : start + 4000]
            budget -= len(part.encode())
            seen["crates"] = seen.get("crates", 0) + len(part.encode())
            yield {"text": part, "lang": "crates", "domain": "code"}
    print("text:", {k: f"{v / 1e6:.1f} MB" for k, v in seen.items()}, file=sys.stderr)
    rows.made_of = seen


def make_text(root, work, megabytes):
    train, held = os.path.join(work, "train.jsonl"), os.path.join(work, "held.jsonl")
    made = os.path.join(work, "made_of.json")
    if not os.path.exists(made):
        with open(train, "w") as t, open(held, "w") as h:
            for i, row in enumerate(rows(root, megabytes)):
                (h if i % 50 == 7 else t).write(json.dumps(row, ensure_ascii=False) + "\n")
        json.dump(rows.made_of, open(made, "w"))
    return train, held, json.load(open(made))


def texts(path):
    with open(path) as f:
        for line in f:
            yield json.loads(line)["text"]


def hf(train, out, vocab, kind):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT2 if kind == "gpt2" else PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=[])
    t.train_from_iterator(texts(train), trainer)
    t.save(out)


def rustbpe(train, out, vocab, kind):
    import rustbpe as r

    t = r.Tokenizer()
    t.train_from_iterator(texts(train), vocab, pattern=GPT2 if kind == "gpt2" else PATTERN)
    json.dump([list(b) for b, _ in sorted(t.get_mergeable_ranks(), key=lambda x: x[1])], open(out, "w"))


def measured(argv, env=None):
    start = time.time()
    pid = os.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, {**os.environ, "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true", **(env or {})})
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"failed: {argv}")
    return {"wall_s": round(time.time() - start, 2), "cpu_s": round(used.ru_utime + used.ru_stime, 2), "peak_mb": round(used.ru_maxrss / 1024)}


def merges(path):
    return [m if isinstance(m, list) else m.split(" ") for m in json.load(open(path))["model"]["merges"]]


def bytes_per_token(path, held):
    from tokenizers import Tokenizer

    t = Tokenizer.from_file(path)
    parts = list(texts(held))
    return sum(len(p.encode()) for p in parts) / sum(len(e.ids) for e in t.encode_batch(parts, add_special_tokens=False))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--bin", default="target/debug/llm-tokenizer")
    a.add_argument("--work", default="/tmp/tokenizer_train")
    a.add_argument("--megabytes", type=int, default=200)
    a.add_argument("--vocab", type=int, default=32768)
    a.add_argument("--out")
    a.add_argument("--child", nargs=5)
    a = a.parse_args()
    if a.child:
        name, train, out, vocab, kind = a.child
        {"hf": hf, "rustbpe": rustbpe}[name](train, out, int(vocab), kind)
        return
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    os.makedirs(a.work, exist_ok=True)
    train, held, made_of = make_text(root, a.work, a.megabytes)
    result = {"train_bytes": os.path.getsize(train), "made_of_bytes": made_of, "vocab_size": a.vocab, "threads": 2}
    me = [sys.executable, os.path.abspath(__file__), "--child"]

    def ours(out, *sets, threads="2", text=train):
        argv = [a.bin, "train", "--out", out, "--set", f'documents=["{text}"]']
        for s in sets:
            argv += ["--set", s]
        return measured(argv, {"RAYON_NUM_THREADS": threads})

    plain = ["special_tokens=[]", 'bos_token=""', 'eos_token=""', 'pad_token=""', "pretokenizer=llama3", "byte_order=gpt2", f"vocab_size={a.vocab}", "max_token_bytes=1000000"]
    bpe = {"llm-tokenizer": ours(f"{a.work}/ours", *plain), "tokenizers": measured(me + ["hf", train, f"{a.work}/hf.json", str(a.vocab), "llama3"])}
    # Before this process grows: a child's peak counts from the moment it is forked.
    result["capped"] = ours(f"{a.work}/capped", *plain, "memory=64MiB")
    try:
        import rustbpe as _

        bpe["rustbpe"] = measured(me + ["rustbpe", train, f"{a.work}/rustbpe.json", str(a.vocab), "llama3"])
    except ImportError:
        print("rustbpe is not installed", file=sys.stderr)
    o, h = bpe["llm-tokenizer"], bpe["tokenizers"]
    result["bpe"] = bpe
    result["bpe_ratio"] = {k: round(h[k] / o[k], 2) for k in o}
    mine, theirs = merges(f"{a.work}/ours/tokenizer.json"), merges(f"{a.work}/hf.json")
    same = next((i for i, (x, y) in enumerate(zip(mine, theirs)) if x != y), min(len(mine), len(theirs)))
    result["merges"] = {"ours": len(mine), "tokenizers": len(theirs), "same_prefix": same, "shared": len({tuple(m) for m in mine} & {tuple(m) for m in theirs})}
    result["bytes_per_token"] = {"llm-tokenizer": round(bytes_per_token(f"{a.work}/ours/tokenizer.json", held), 4), "tokenizers": round(bytes_per_token(f"{a.work}/hf.json", held), 4)}
    shuffled = os.path.join(a.work, "shuffled.jsonl")
    lines = open(train).readlines()
    random.Random(5).shuffle(lines)
    open(shuffled, "w").writelines(lines)
    del lines
    expected = open(f"{a.work}/ours/tokenizer.json").read()
    result["identical"] = {}
    for threads in ["1", "8"]:
        ours(f"{a.work}/ours{threads}", *plain, threads=threads, text=shuffled)
        result["identical"][f"{threads} threads, shuffled"] = open(f"{a.work}/ours{threads}/tokenizer.json").read() == expected
    result["identical"]["memory=64MiB"] = open(f"{a.work}/capped/tokenizer.json").read() == expected
    print(json.dumps(result, indent=1))
    if a.out:
        with open(a.out, "w") as f:
            f.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

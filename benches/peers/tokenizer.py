"""Encoding beside Hugging Face's `tokenizers`, `tiktoken` and `sentencepiece`: the same ids, and how fast.

    python3 benches/peers/tokenizer.py --bin target/debug/llm-tokenizer --work /tmp/tokenizer --out benches/results/tokenizer.json

`ids`: `--megabytes` of text (books, code, pages, the sources of the crates in Cargo's registry, and as much again as --fuzz says of the same
with characters deleted, doubled, swapped and thrown in) go through every vocabulary of ../shared/data/tokenizers, in our program and in the
library it belongs to; ids and decoded text are compared row by row.
`speed`: one thread, GPT-2's and Llama 3's vocabulary, English, German, Spanish and code, texts of about 4 kB, a call for each text, best of
`--repeat`; libraries in one process each, one after the other. `worst`: 10 MB of one word, of blanks, of one emoji.
Needs: pip install tokenizers tiktoken sentencepiece
"""

import argparse, glob, json, os, pathlib, random, subprocess, sys, time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/data"
VOCABULARIES = {
    "gpt2": ("gpt2", "tiktoken"),
    "llama3": ("tiktoken/llama3_tokenizer.model", "tiktoken"),
    "cl100k": ("tiktoken/cl100k_base.tiktoken", "tiktoken"),
    "gpt2 (json)": ("gpt2", "tokenizers"),
    "llama3 (json)": ("tiktoken/llama3_tokenizer.model", "tokenizers"),
    "gpt_neox (json)": ("kitoken/tokenizers/gpt_neox.json", "tokenizers"),
    "minimind (json)": ("minimind/tokenizer.json", "tokenizers"),
    "llama2": ("llama2/tokenizer.model", "sentencepiece"),
    "mistral v3": ("mistral/mistral_instruct_tokenizer_240323.model.v3", "sentencepiece"),
    "unigram ja": ("sentencepiece/test_ja_model.model", "sentencepiece"),
    "unigram en": ("sentencepiece/test_model.model", "sentencepiece"),
    "llama2 (json)": ("llama2/tokenizer.model", "tokenizers"),
}


def tiktoken_of(name):
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks, load_tiktoken_bpe
    from tiktoken_ext import openai_public as public

    folder = SHARED / "tokenizers"
    gpt2 = public.r50k_pat_str
    if name.startswith("gpt2"):
        ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "gpt2/vocab.bpe"), str(folder / "gpt2/encoder.json"))
        return tiktoken.Encoding("gpt2", pat_str=gpt2, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    if name.startswith("llama3"):
        pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        return tiktoken.Encoding("llama3", pat_str=pattern, mergeable_ranks=load_tiktoken_bpe(str(folder / "tiktoken/llama3_tokenizer.model")), special_tokens={})
    pattern = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    return tiktoken.Encoding("cl100k", pat_str=pattern, mergeable_ranks=load_tiktoken_bpe(str(folder / "tiktoken/cl100k_base.tiktoken")), special_tokens={})


def peer(name, kind, hf):
    """encode(text) -> ids and decode(ids) -> text of the library."""
    if kind == "tiktoken":
        e = tiktoken_of(name)
        return e.encode_ordinary, e.decode
    if kind == "sentencepiece":
        import sentencepiece

        m = sentencepiece.SentencePieceProcessor(model_file=str(SHARED / "tokenizers" / VOCABULARIES[name][0]))
        return m.encode, m.decode
    from tokenizers import Tokenizer

    t = Tokenizer.from_file(hf)
    t.encode_special_tokens = True
    return lambda text: t.encode(text, add_special_tokens=False).ids, lambda ids: t.decode(ids)


def sources():
    for path in sorted(SHARED.glob("corpora/*/*.txt")):
        yield path.read_text(encoding="utf-8", errors="replace")
    for path in sorted(SHARED.glob("corpora/*/*.jsonl")):
        for line in open(path, encoding="utf-8", errors="replace"):
            row = json.loads(line)
            if isinstance(row, dict):
                yield "\n".join(v for v in row.values() if isinstance(v, str))
    for path in sorted(SHARED.glob("tokenizers/kitoken/*_input.txt")):
        yield path.read_text(encoding="utf-8")
    crates = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo")) / "registry/src"
    for path in sorted(glob.glob(f"{crates}/*/*/src/**/*.rs", recursive=True)):
        yield pathlib.Path(path).read_text(encoding="utf-8", errors="replace")


def fuzzed(text, rng):
    odd = " \u00a0\u3000\u200b\u0301\n\r\t'ſ0٣½Ⅷ漢あ한ع😀👨‍👩\U0001f9ff\ufffd\x00\x85▁<>|[]"
    out = []
    for c in text:
        r = rng.random()
        if r < 0.02:
            continue
        out.append(c)
        if r < 0.04:
            out.append(rng.choice(odd))
        elif r < 0.05:
            out.append(c * rng.randrange(2, 9))
        elif r < 0.055:
            out.append(chr(rng.choice([rng.randrange(0x80, 0xD800), rng.randrange(0xE000, 0x11000), rng.randrange(0x10000, 0x11000), rng.randrange(0x1F000, 0x20000)])))
        elif r < 0.06:
            out.append(c.swapcase())
    return "".join(out)


def make_rows(path, megabytes, fuzz):
    if path.exists() and abs(path.stat().st_size - megabytes * 1e6) < 0.4 * megabytes * 1e6:
        return
    rng = random.Random(1)
    size = 0
    texts = iter(sources())
    with open(path, "w", encoding="utf-8") as file:
        for text in texts:
            at = 0
            while at < len(text) and size < megabytes * 1_000_000:
                length = rng.randrange(200, 20_000)
                piece = text[at : at + length]
                at += length
                for row in [piece] + ([fuzzed(piece, rng)] if rng.random() < fuzz else []):
                    size += len(row.encode())
                    file.write(json.dumps({"text": row}, ensure_ascii=False) + "\n")
    print(f"{size / 1e6:.0f} MB of text", file=sys.stderr)


def rows_of(path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def check_ids(program, work, megabytes, fuzz):
    rows = work / "rows.jsonl"
    make_rows(rows, megabytes, fuzz)
    result = {}
    for name, (file, kind) in VOCABULARIES.items():
        path = SHARED / "tokenizers" / file
        hf = work / "hf"
        if kind == "tokenizers":
            subprocess.run([program, "convert", "--tokenizer", path, "--to", "hf", "--out", hf], check=True, capture_output=True)
            path = hf
        out = work / "ids.txt"
        subprocess.run([program, "encode", "--tokenizer", path, "--rows", rows, "--out", out], check=True)
        encode, decode = peer(name, kind, str(hf / "tokenizer.json"))
        seen = {"rows": 0, "bytes": 0, "tokens": 0, "different": 0}
        decoded = work / "decoded.jsonl"
        subprocess.run([program, "decode", "--tokenizer", path, "--skip-special", "--rows", out, "--out", decoded], check=True)
        with open(out) as lines, open(decoded, encoding="utf-8") as texts:
            for text, line, back in zip(rows_of(rows), lines, texts):
                ids = list(map(int, line.split()))
                theirs = encode(text)
                seen["rows"] += 1
                seen["bytes"] += len(text.encode())
                seen["tokens"] += len(ids)
                if ids != theirs or json.loads(back)["text"] != decode(theirs):
                    seen["different"] += 1
                    if seen["different"] <= 3:
                        at = next((i for i, (a, b) in enumerate(zip(ids, theirs)) if a != b), min(len(ids), len(theirs)))
                        print(f"{name}: row {seen['rows']}: token {at}: {ids[at:at + 6]} and {theirs[at:at + 6]}: {decode(theirs[max(0, at - 3):at + 4])!r}", file=sys.stderr)
        result[name] = {"library": kind} | seen
        print(f"{name:<18} {kind:<14} {seen['rows']:>7} rows {seen['bytes'] / 1e6:>7.1f} MB {seen['tokens']:>10} tokens  {seen['different']} different", flush=True)
    return result


def speed_texts():
    """By kind of text, pieces of about 4 kB."""
    books = SHARED / "corpora/books"
    kinds = {
        "English": sorted(SHARED.glob("corpora/*en*/*.txt")) or sorted(books.glob("*en*.txt")),
        "German": sorted(SHARED.glob("corpora/*de*/*.txt")) or sorted(books.glob("*de*.txt")),
        "Spanish": sorted(SHARED.glob("corpora/*es*/*.txt")) or sorted(books.glob("*es*.txt")),
    }
    texts = {k: "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in v)[:4_000_000] for k, v in kinds.items()}
    code = []
    crates = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo")) / "registry/src"
    for path in sorted(glob.glob(f"{crates}/*/*/src/**/*.rs", recursive=True)):
        code.append(pathlib.Path(path).read_text(encoding="utf-8", errors="replace"))
        if sum(map(len, code)) > 4_000_000:
            break
    texts["code"] = "\n".join(code)[:4_000_000]
    return {kind: [text[i : i + 4096] for i in range(0, len(text), 4096)] for kind, text in texts.items()}


def timed(encode, texts, repeat):
    best = 1e9
    for _ in range(repeat):
        start = time.perf_counter()
        for text in texts:
            encode(text)
        best = min(best, time.perf_counter() - start)
    return sum(len(t.encode()) for t in texts) / 1e6 / best


def child(kind, name, work, repeat):
    encode, decode = peer(name, kind, str(work / "hf" / "tokenizer.json"))
    print(json.dumps({k: timed(encode, texts, repeat) for k, texts in speed_texts().items()}))


def check_speed(program, work, repeat):
    files = {}
    for kind, texts in speed_texts().items():
        files[kind] = work / f"speed-{kind}.jsonl"
        with open(files[kind], "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)
    result = {}
    for name in ["gpt2", "llama3"]:
        path = SHARED / "tokenizers" / VOCABULARIES[name][0]
        hf = work / "hf"
        subprocess.run([program, "convert", "--tokenizer", path, "--to", "hf", "--out", hf], check=True, capture_output=True)
        ours = {}
        for kind, file in files.items():
            done = subprocess.run([program, "bench", "--json", "--repeat", str(repeat), "--tokenizer", path, file], check=True, capture_output=True, text=True)
            ours[kind] = json.loads(done.stdout)
        theirs = {}
        for library in ["tiktoken", "tokenizers"]:
            done = subprocess.run([sys.executable, __file__, "--child", library, name, "--work", work, "--repeat", str(max(1, repeat // 2))], check=True, capture_output=True, text=True)
            theirs[library] = json.loads(done.stdout)
        result[name] = {}
        for kind in files:
            mine = ours[kind]["encode_mb_per_s"]
            entry = {"llm-tokenizer": mine, "two_threads": ours[kind]["encode_batch_mb_per_s"], "decode_mtokens_per_s": ours[kind]["decode_mtokens_per_s"]}
            for library in theirs:
                entry[library] = theirs[library][kind]
                entry[f"times_{library}"] = mine / theirs[library][kind]
            result[name][kind] = entry
            print(f"{name:<8} {kind:<8} {mine:>7.1f} MB/s   tiktoken {entry['tiktoken']:>6.1f} ({entry['times_tiktoken']:.1f}x)   "
                  f"tokenizers {entry['tokenizers']:>5.1f} ({entry['times_tokenizers']:.1f}x)   two threads {entry['two_threads']:.1f}   decode {entry['decode_mtokens_per_s']:.0f} M tokens/s", flush=True)
    return result


def check_worst(program, work):
    result = {}
    for name in ["gpt2", "llama3", "llama2", "unigram en"]:
        path = SHARED / "tokenizers" / VOCABULARIES[name][0]
        for what, unit in {"word": "a", "word of CJK": "日本語天気", "word of many letters": "abcdefghijklmnopqrstuvwxyzöäü", "blanks": " ", "emoji": "😀", "line ends": "\n"}.items():
            seconds = []
            for size in [1_000_000, 10_000_000]:
                file = work / "worst.jsonl"
                file.write_text(json.dumps({"text": unit * (size // len(unit.encode()))}, ensure_ascii=False) + "\n", encoding="utf-8")
                done = subprocess.run([program, "bench", "--json", "--repeat", "1", "--tokenizer", path, file], check=True, capture_output=True, text=True)
                report = json.loads(done.stdout)
                seconds.append(report["bytes"] / 1e6 / report["encode_mb_per_s"])
            result[f"{name}, {what}"] = {"1 MB": seconds[0], "10 MB": seconds[1], "ratio": seconds[1] / seconds[0]}
            print(f"{name:<12} {what:<22} 1 MB {seconds[0]:>7.3f} s   10 MB {seconds[1]:>7.3f} s   {seconds[1] / seconds[0]:.1f} times", flush=True)
    return result


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--bin", default=str(ROOT / "target/debug/llm-tokenizer"))
    a.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/tokenizer"))
    a.add_argument("--megabytes", type=int, default=100)
    a.add_argument("--fuzz", type=float, default=0.5)
    a.add_argument("--repeat", type=int, default=5)
    a.add_argument("--only", default="ids,speed,worst")
    a.add_argument("--out", type=pathlib.Path)
    a.add_argument("--child", nargs=2, metavar=("LIBRARY", "VOCABULARY"))
    a = a.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    if a.child:
        return child(*a.child, a.work, a.repeat)
    result = json.loads(a.out.read_text()) if a.out and a.out.exists() else {}
    parts = {"ids": lambda: check_ids(a.bin, a.work, a.megabytes, a.fuzz), "speed": lambda: check_speed(a.bin, a.work, a.repeat), "worst": lambda: check_worst(a.bin, a.work)}
    for part in a.only.split(","):
        result[part] = parts[part]()
    if a.out:
        a.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    wrong = sum(v["different"] for v in result.get("ids", {}).values())
    sys.exit(f"{wrong} rows differ" if wrong else 0)


if __name__ == "__main__":
    main()
